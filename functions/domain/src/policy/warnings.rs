//! Warns of settings that are valid, and hardly what their author meant: that stop every repair, hasten repairs beyond what
//! their sources deliver, or never apply.
//!
//! A warning names the field, and what to do. It refuses nothing: a policy that was applied once stays usable.

mod names;
mod numbers;

use jiff::{SignedDuration, Timestamp};

use super::{GroupRule, Hold, Mode, NodeRepairConfig, Policy, rules::wildcard};
use crate::{ident::ClusterName, timestamp};

/// A hold that lasts longer is forgotten before it ends.
const LONG_HOLD: SignedDuration = SignedDuration::from_hours(24 * 30);

/// One setting to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWarning {
    /// The field, as a path.
    pub field: String,
    /// What it does, and what to do.
    pub why: String,
}

/// Collects the warnings of a policy.
#[derive(Debug, Default)]
struct Warnings(Vec<PolicyWarning>);

impl Warnings {
    fn add(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.0.push(PolicyWarning { field: field.into(), why: why.into() });
    }
}

impl Policy {
    /// The settings to look at again, in the order of the fields. Holds are judged at `now`, and by the name of the cluster
    /// that the policy is for, if that is known.
    pub fn warnings(&self, now: Timestamp, cluster: Option<&ClusterName>) -> Vec<PolicyWarning> {
        let mut warnings = Warnings::default();
        self.warn_of_repair_disabled(&mut warnings);
        numbers::warn(self, &mut warnings);
        names::warn(self, &mut warnings);
        for (n, rule) in self.groups.iter().enumerate() {
            self.warn_of_group(n, rule, &mut warnings);
        }
        for (n, hold) in self.holds.iter().enumerate() {
            warn_of_hold(&format!("holds[{n}]"), hold, now, cluster, &mut warnings);
        }
        warnings.0
    }

    /// The mode alone repairs nothing, and neither does `enabled` alone.
    fn warn_of_repair_disabled(&self, warnings: &mut Warnings) {
        let rules = || self.groups.iter().map(|rule| self.rules(Some(rule))).chain([self.default_rules()]);
        let repairs = |mode: Mode| mode == Mode::Repair;
        if rules().any(|rules| repairs(rules.mode)) && rules().all(|rules| !rules.node_repair_config.enabled)
        {
            warnings.add(
                "nodeRepairConfig.enabled",
                "is false for every group, which is EKS's default: no node is repaired, whatever the mode; set it to true",
            );
        }
    }

    fn warn_of_group(&self, n: usize, rule: &GroupRule, warnings: &mut Warnings) {
        let path = format!("groups[{n}]");
        if let Some(first) = self.groups[..n].iter().position(|earlier| earlier.covers(rule)) {
            let what = describe(&self.groups[first]);
            warnings.add(
                &path,
                format!(
                    "never applies: groups[{first}] ({what}) matches all its groups, and the first rule that matches applies; put the narrower rule first"
                ),
            );
        }
        if rule.changes_nothing() {
            warnings.add(
                &path,
                "changes nothing: set mode, nodeRepairConfig, grace or maintenanceWindows, or remove the rule",
            );
        }
        let effective = self.rules(Some(rule));
        if let Some(config) = rule.node_repair_config.as_ref().filter(|config| !config.enabled)
            && (rule.mode == Some(Mode::Repair) || *config != NodeRepairConfig::default())
        {
            warnings.add(
                format!("{path}.nodeRepairConfig.enabled"),
                "is false: the block replaces the policy's, and these groups are not repaired; set it to true in this block, too",
            );
        } else if rule.mode == Some(Mode::Repair) && !effective.node_repair_config.enabled {
            warnings.add(
                format!("{path}.mode"),
                "repair has no effect: nodeRepairConfig.enabled is false for these groups",
            );
        }
    }
}

impl GroupRule {
    /// Whether this rule matches every group that the other one matches. A `*` of the other's pattern can only be matched by
    /// one of ours.
    fn covers(&self, other: &Self) -> bool {
        let name = match (&self.name, &other.name) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => wildcard(ours, theirs),
            (Some(ours), None) => !ours.is_empty() && ours.bytes().all(|byte| byte == b'*'),
        };
        let tag = |(key, ours): (&String, &String)| {
            other.tags.get(key).is_some_and(|theirs| wildcard(ours, theirs))
        };
        name && self.tags.iter().all(tag)
    }

    fn changes_nothing(&self) -> bool {
        self.mode.is_none()
            && self.node_repair_config.is_none()
            && self.grace.is_none()
            && self.maintenance_windows.is_none()
    }
}

fn describe(rule: &GroupRule) -> String {
    let tags = rule.tags.iter().map(|(key, value)| format!("tag {key}={value}"));
    let name = rule.name.iter().map(|name| format!("name {name}"));
    name.chain(tags).collect::<Vec<_>>().join(", ")
}

fn warn_of_hold(
    path: &str,
    hold: &Hold,
    now: Timestamp,
    cluster: Option<&ClusterName>,
    warnings: &mut Warnings,
) {
    let Hold { from, until, .. } = hold;
    if from.is_some_and(|from| from >= *until) {
        warnings.add(
            format!("{path}.from"),
            format!(
                "is not before the end at {}: the hold never applies; exchange the two",
                timestamp::seconds(*until)
            ),
        );
    } else if *until <= now {
        warnings.add(
            format!("{path}.until"),
            format!("the hold ended at {}; remove it or set a later end", timestamp::seconds(*until)),
        );
    } else if until.duration_since(from.unwrap_or(now)) > LONG_HOLD {
        let days = until.duration_since(from.unwrap_or(now)).as_hours() / 24;
        warnings.add(
            format!("{path}.until"),
            format!(
                "the hold lasts {days} days; to repair nothing for good, set mode: observe or enabled: false"
            ),
        );
    }
    if let (Some(only), Some(cluster)) = (&hold.cluster, cluster)
        && only != cluster
    {
        warnings.add(
            format!("{path}.cluster"),
            format!("{only} is not this policy's cluster, {cluster}: the hold never applies"),
        );
    }
    if let Some(group) = hold.group.as_ref().filter(|group| group.as_str().contains('*')) {
        warnings.add(
            format!("{path}.group"),
            format!("{group} is compared as it is: a hold's group takes no wildcard, name each group"),
        );
    }
}

#[cfg(test)]
mod tests;
