//! The rules of the policy that apply to one group, and the remedy that they give for a reason.
//!
//! The first matching group rule applies. Each field that it leaves out has the policy's value.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{Grace, GroupRule, MaintenanceWindow, Mode, NodeRepairConfig, Policy};
use crate::{
    catalogue,
    condition::{ConditionType, RepairAction},
    ident::GroupName,
};

impl Policy {
    /// The rules that apply to a group, by its name and tags.
    pub fn rules_for(&self, name: &GroupName, tags: &BTreeMap<String, String>) -> Rules<'_> {
        let rule = self.groups.iter().find(|rule| rule.matches(name, tags));
        self.rules(rule)
    }

    /// The rules of groups that no group rule matches.
    pub fn default_rules(&self) -> Rules<'_> {
        self.rules(None)
    }

    /// All rules that can apply to a node whose group is unknown. Group rules with the default remedies are left out,
    /// because they give the same result.
    pub fn all_rules(&self) -> impl Iterator<Item = Rules<'_>> {
        let default = self.rules(None);
        let groups = self.groups.iter().map(|rule| self.rules(Some(rule)));
        groups.filter(move |rules| !rules.has_same_remedies(&default)).chain([default])
    }

    pub(super) fn rules<'p>(&'p self, rule: Option<&'p GroupRule>) -> Rules<'p> {
        Rules {
            mode: rule.and_then(|rule| rule.mode).unwrap_or(self.mode),
            node_repair_config: rule
                .and_then(|rule| rule.node_repair_config.as_ref())
                .unwrap_or(&self.node_repair_config),
            grace: rule.and_then(|rule| rule.grace.as_ref()).unwrap_or(&self.grace),
            maintenance_windows: rule
                .and_then(|rule| rule.maintenance_windows.as_deref())
                .unwrap_or(&self.maintenance_windows),
        }
    }
}

impl GroupRule {
    fn matches(&self, name: &GroupName, tags: &BTreeMap<String, String>) -> bool {
        let name_fits = self.name.as_ref().is_none_or(|pattern| wildcard(pattern, name.as_str()));
        let tags_fit = self
            .tags
            .iter()
            .all(|(key, pattern)| tags.get(key).is_some_and(|value| wildcard(pattern, value)));
        name_fits && tags_fit
    }
}

/// Whether the text matches the pattern, in which `*` matches any characters.
pub(super) fn wildcard(pattern: &str, text: &str) -> bool {
    let Some((first, remainder)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let Some((middle, last)) = remainder.rsplit_once('*') else {
        return text.ends_with(remainder);
    };
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// The rules that apply to one group.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'p> {
    /// Whether calls are made.
    pub mode: Mode,
    /// EKS's `nodeRepairConfig`.
    pub node_repair_config: &'p NodeRepairConfig,
    grace: &'p Grace,
    /// When calls may be made.
    pub maintenance_windows: &'p [MaintenanceWindow],
}

impl Rules<'_> {
    /// The action and the grace period for a reason of a condition. None: it is never repaired.
    pub fn remedy(&self, condition: &ConditionType, reason: &str) -> Option<Remedy> {
        if let Some(found) = self.node_repair_config.override_for(condition, reason) {
            return Remedy::of(found.repair_action, found.min_repair_wait_time);
        }
        let grace = self.grace_for(condition, reason)?;
        // A reason that is not in the catalogue, of a condition that is, comes from the user's own rules or from third
        // parties. The condition's default applies.
        let action = catalogue::lookup(reason).map_or(RepairAction::Replace, |found| found.action);
        Remedy::of(action, grace)
    }

    /// Whether every reason has the same remedy under both.
    fn has_same_remedies(&self, other: &Self) -> bool {
        self.node_repair_config.overrides == other.node_repair_config.overrides && self.grace == other.grace
    }

    /// The grace period of a promoted reason: that of its override, or as for every other.
    pub(crate) fn wait_for(&self, condition: &ConditionType, reason: &str) -> Option<SignedDuration> {
        let overridden = self.node_repair_config.override_for(condition, reason);
        overridden.map(|found| found.min_repair_wait_time).or_else(|| self.grace_for(condition, reason))
    }

    /// The grace period of a reason, whatever its action. None: the condition is never repaired.
    pub fn grace_for(&self, condition: &ConditionType, reason: &str) -> Option<SignedDuration> {
        let ours = self.grace.reasons.get(reason).or_else(|| self.grace.conditions.get(condition));
        ours.copied().or_else(|| catalogue::default_grace(condition))
    }
}

/// The repair action for a reason, and its grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// Reboot or Replace.
    pub action: RepairAction,
    /// How long its condition must be bad first.
    pub grace: SignedDuration,
}

impl Remedy {
    fn of(action: RepairAction, grace: SignedDuration) -> Option<Self> {
        (action != RepairAction::NoAction).then_some(Self { action, grace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupName {
        GroupName::new(name).expect("a name")
    }

    #[test]
    fn the_first_group_rule_that_matches_applies() {
        let policy: Policy = serde_json::from_str(
            r#"{"mode":"repair","groups":[{"name":"gpu-*","mode":"observe"},{"tags":{"team":"*data*"},"nodeRepairConfig":{"enabled":true}}]}"#,
        )
        .expect("a policy");
        let no_tags = BTreeMap::new();
        let tags = BTreeMap::from([("team".to_owned(), "big-data-1".to_owned())]);
        assert_eq!(policy.rules_for(&group("gpu-a"), &tags).mode, Mode::Observe);
        assert!(policy.rules_for(&group("cpu"), &tags).node_repair_config.enabled);
        assert!(!policy.rules_for(&group("cpu"), &no_tags).node_repair_config.enabled);
    }

    #[test]
    fn for_an_unknown_group_only_rules_with_different_remedies_are_tried() {
        let policy: Policy = serde_json::from_str(
            r#"{"groups":[{"name":"a","mode":"repair"},{"name":"b","nodeRepairConfig":{"enabled":true}},{"name":"c","grace":{"conditions":{"Ready":"3m"}}},{"name":"d","nodeRepairConfig":{"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"A","minRepairWaitTimeMins":1,"repairAction":"Reboot"}]}}]}"#,
        )
        .expect("a policy");
        let waits =
            |rules: Rules<'_>| rules.remedy(&ConditionType::Ready, "A").map(|remedy| remedy.grace.as_mins());
        assert_eq!(policy.all_rules().map(waits).collect::<Vec<_>>(), [Some(3), Some(1), Some(30)]);
    }

    #[test]
    fn the_most_specific_grace_period_applies() {
        let policy: Policy = serde_json::from_str(
            r#"{"nodeRepairConfig":{"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"A","minRepairWaitTimeMins":1,"repairAction":"Reboot"},{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"Never","minRepairWaitTimeMins":1,"repairAction":"NoAction"}]},"grace":{"conditions":{"Ready":"3m"},"reasons":{"A":"9m","B":"2m"}}}"#,
        )
        .expect("a policy");
        let rules = policy.default_rules();
        let remedy =
            |condition, reason| rules.remedy(&condition, reason).map(|r| (r.action, r.grace.as_mins()));
        assert_eq!(remedy(ConditionType::Ready, "A"), Some((RepairAction::Reboot, 1)));
        assert_eq!(remedy(ConditionType::Ready, "B"), Some((RepairAction::Replace, 2)));
        assert_eq!(remedy(ConditionType::Ready, "C"), Some((RepairAction::Replace, 3)));
        assert_eq!(remedy(ConditionType::KernelReady, "C"), Some((RepairAction::Replace, 30)));
        assert_eq!(
            remedy(ConditionType::AcceleratedHardwareReady, "NvidiaXID95Error"),
            Some((RepairAction::Reboot, 10))
        );
        assert_eq!(remedy(ConditionType::Ready, "Never"), None);
        assert_eq!(remedy(ConditionType::Other("DiskPressure".into()), "KubeletHasDiskPressure"), None);
    }

    #[test]
    fn wildcards_match_any_characters() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c", "abc", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("**", "x", true),
            ("*ab*ab", "ab", false),
            ("*ab*ab", "abab", true),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }
}
