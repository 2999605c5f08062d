//! The policy of a cluster: grace periods, actions, thresholds, maintenance windows and holds.
//!
//! `nodeRepairConfig` has EKS's own fields, so that a block from EKS or from an eksctl ClusterConfig works unchanged. A
//! policy is validated once, when it is read.

mod limits;
mod rules;
mod warnings;
mod window;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::{
    limits::{Limit, NodeRepairConfig, Override},
    rules::{Remedy, Rules},
    warnings::PolicyWarning,
    window::{MaintenanceWindow, next_opening},
};
use crate::{
    condition::{ConditionType, RepairAction},
    ident::{AccountId, ClusterName, GroupName, NodeName},
    node_marks::NodeHold,
    timestamp,
};

/// No instance boots and registers sooner.
const MIN_JOIN_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// The settings of one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// `repair` makes calls; `observe` only reports what it would do.
    pub mode: Mode,
    /// The cluster's AWS account, if it is not nodemend's own. Events from other accounts for this cluster name are
    /// ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// EKS's `nodeRepairConfig`, for every group without its own.
    pub node_repair_config: NodeRepairConfig,
    /// Grace periods that differ from EKS's, for every group.
    pub grace: Grace,
    /// When calls can be made. Without any: always.
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// Rules for some groups. The first rule that matches a group applies.
    pub groups: Vec<GroupRule>,
    /// Requests not to repair, each with a scope and an end.
    pub holds: Vec<Hold>,
    /// Whose annotation `nodemend.io/hold` on a Node holds it: `any`, `people` (a user of the cluster whose write the
    /// control-plane audit log shows, and neither a kubelet nor an account of the system) or `none`.
    pub node_holds: NodeHolds,
    /// Whether a cordoned node is left alone. A cordon is read from the Kubernetes API; without access to it, only one that a
    /// user of the cluster set is known, from the control-plane audit log.
    pub respect_cordon: bool,
    /// Events that count as conditions, and conditions that count though they recover again and again.
    pub promotions: Vec<Promotion>,
    /// When an Availability Zone counts as impaired.
    pub zones: ZonePolicy,
    /// When the log pipeline, not the nodes, counts as down.
    pub silence: SilencePolicy,
    /// When many unhealthy nodes count as one outage, and how repairs begin.
    pub outage: OutagePolicy,
    /// How long a node must stay healthy before its recovery counts.
    pub recovery_hold: SignedDuration,
    /// How long what was written can take to arrive. A repair waits this long after the first report of its fault arrived,
    /// whatever its grace period, so that a recovery that was reported meanwhile can arrive, too.
    pub settling_time: SignedDuration,
    /// What a repair needs before its call.
    pub verification: VerificationPolicy,
    /// How long a rebooted node can take to become healthy. Then it is replaced.
    pub reboot_timeout: SignedDuration,
    /// How long a launched instance can take to register as a node: 30 seconds or more. `0s`: forever.
    pub join_timeout: SignedDuration,
    /// How long a replacement can take, from the call, before the repair counts as failed.
    pub replacement_timeout: SignedDuration,
    /// The backoff of a group after a replacement that failed to join. It doubles with each failure.
    pub failure_backoff: SignedDuration,
    /// How long to wait for CloudTrail's event of a call.
    pub confirmation_timeout: SignedDuration,
    /// A group with a tag of this name is not repaired, unless its value is `enabled` or `true`.
    pub opt_out_tag: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            account: None,
            node_repair_config: NodeRepairConfig::default(),
            grace: Grace::default(),
            maintenance_windows: Vec::new(),
            groups: Vec::new(),
            holds: Vec::new(),
            node_holds: NodeHolds::Any,
            respect_cordon: false,
            promotions: Vec::new(),
            zones: ZonePolicy::default(),
            silence: SilencePolicy::default(),
            outage: OutagePolicy::default(),
            recovery_hold: SignedDuration::from_mins(2),
            settling_time: SignedDuration::from_mins(10),
            verification: VerificationPolicy::Required,
            reboot_timeout: SignedDuration::from_mins(15),
            join_timeout: SignedDuration::from_mins(15),
            replacement_timeout: SignedDuration::from_mins(60),
            failure_backoff: SignedDuration::from_mins(15),
            confirmation_timeout: SignedDuration::from_mins(30),
            opt_out_tag: "nodemend/repair".to_owned(),
        }
    }
}

/// Whose annotation on a Node holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeHolds {
    /// Anybody's who may write the Node; its own kubelet may.
    #[default]
    Any,
    /// A user's whom the audit log names, and who is neither a kubelet nor an account of the system.
    People,
    /// Nobody's: the annotation is ignored.
    None,
}

impl NodeHolds {
    /// Whether such a hold holds its node.
    pub fn heeds(self, hold: &NodeHold) -> bool {
        match self {
            Self::Any => true,
            Self::People => hold.by_a_person,
            Self::None => false,
        }
    }
}

/// Whether a repair needs its fault to be verified right before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerificationPolicy {
    /// A fault that cannot be verified is not repaired.
    #[default]
    Required,
    /// A fault that cannot be verified is repaired all the same; one that is read to be over is not.
    Preferred,
}

/// Whether calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No calls are made. The audit log records which call would have been.
    #[default]
    Observe,
    /// Calls are made.
    Repair,
}

impl Mode {
    /// The name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Repair => "repair",
        }
    }
}

/// Grace periods that differ from EKS's defaults. `nodeRepairConfigOverrides` takes precedence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grace {
    /// By condition type.
    pub conditions: BTreeMap<ConditionType, SignedDuration>,
    /// By reason. Takes precedence over the condition's.
    pub reasons: BTreeMap<String, SignedDuration>,
}

/// Settings that differ for some groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupRule {
    /// Matches groups by name. `*` matches any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Matches groups by tags: all must be present with these values. `*` matches any characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Overrides the policy's field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Overrides the policy's field: the whole block, not merged with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_repair_config: Option<NodeRepairConfig>,
    /// Overrides the policy's field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Grace>,
    /// Overrides the policy's field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_windows: Option<Vec<MaintenanceWindow>>,
}

/// A request not to repair. It has an owner, a reason and an end, so that none is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hold {
    /// Only this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    /// Only this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Only this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Who requested it.
    pub owner: String,
    /// Why, for other operators.
    pub reason: String,
    /// The start. Default: at once.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// The end.
    #[serde(with = "timestamp")]
    pub until: Timestamp,
}

/// An event that counts as a condition after `count` occurrences within `window`; or a reason of a condition that became
/// bad so often. A flapping node is repaired while it is bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Promotion {
    /// The reason of the event or the condition.
    pub reason: String,
    /// The number of occurrences. Of a condition, at most 16 are kept.
    pub count: u64,
    /// The time within which they must occur.
    pub window: SignedDuration,
    /// The repair action.
    #[serde(default = "replace")]
    pub repair_action: RepairAction,
}

fn replace() -> RepairAction {
    RepairAction::Replace
}

/// An Availability Zone counts as impaired when all three limits are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ZonePolicy {
    /// The minimum number of unhealthy nodes in the zone.
    pub min_unhealthy: usize,
    /// The minimum percentage of the zone's nodes that are unhealthy.
    pub zone_percentage: usize,
    /// The minimum percentage of the cluster's unhealthy nodes that are in the zone.
    pub share_percentage: usize,
}

impl Default for ZonePolicy {
    fn default() -> Self {
        Self { min_unhealthy: 3, zone_percentage: 50, share_percentage: 75 }
    }
}

/// The log pipeline counts as down when many agents stop reporting at about the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SilencePolicy {
    /// An agent that has not reported for this long is silent. `null`: never.
    pub agent_silent_after: Option<SignedDuration>,
    /// The minimum number of silent nodes.
    pub min_silent: usize,
    /// The minimum percentage of the cluster's nodes that are silent.
    pub percentage: usize,
    /// The time within which they must have stopped reporting.
    pub within: SignedDuration,
}

impl Default for SilencePolicy {
    fn default() -> Self {
        Self {
            // Three heartbeats of five minutes, and one minute for delivery.
            agent_silent_after: Some(SignedDuration::from_mins(16)),
            min_silent: 3,
            percentage: 50,
            within: SignedDuration::from_mins(10),
        }
    }
}

/// Many nodes that are unhealthy at once have one cause, which replacing them does not remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OutagePolicy {
    /// Repairs stop while more nodes than this, and more than `percentage` of the cluster's, are unhealthy.
    pub max_unhealthy: usize,
    /// The percentage of the cluster's nodes, across all groups.
    pub percentage: usize,
    /// After such a stop, of a group, a zone or the cluster: how long no node of a group must have recovered before the next
    /// repair in it.
    pub cooldown: SignedDuration,
    /// Whether the repairs of a group for one reason begin with one, and go on with 2, 4, … at a time as replacements become
    /// Ready. `false`: as many at once as `nodeRepairConfig` allows, like EKS.
    pub gradual: bool,
    /// In a group, and in a cluster, of at most this many nodes, repairs go one at a time (if `gradual`).
    pub small: usize,
    /// The shortest time between the starts of two repairs in a group.
    pub pause: SignedDuration,
}

impl Default for OutagePolicy {
    fn default() -> Self {
        Self {
            max_unhealthy: 3,
            percentage: 45,
            cooldown: SignedDuration::from_mins(10),
            gradual: true,
            small: 5,
            pause: SignedDuration::ZERO,
        }
    }
}

/// Why a policy was refused, field first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct PolicyError {
    /// The field, as a path.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Policy {
    /// EKS's defaults, with repair enabled for every group.
    pub fn eks_defaults() -> Self {
        Self {
            mode: Mode::Repair,
            node_repair_config: NodeRepairConfig { enabled: true, ..NodeRepairConfig::default() },
            ..Self::default()
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// The first field that is not valid, and why.
    pub fn check(&self) -> Result<(), PolicyError> {
        let refuse = |field: String, why: &str| Err(PolicyError { field, why: why.to_owned() });
        for (field, duration) in [
            ("recoveryHold", self.recovery_hold),
            ("settlingTime", self.settling_time),
            ("rebootTimeout", self.reboot_timeout),
            ("joinTimeout", self.join_timeout),
            ("replacementTimeout", self.replacement_timeout),
            ("failureBackoff", self.failure_backoff),
            ("confirmationTimeout", self.confirmation_timeout),
            ("silence.agentSilentAfter", self.silence.agent_silent_after.unwrap_or_default()),
            ("silence.within", self.silence.within),
            ("outage.cooldown", self.outage.cooldown),
            ("outage.pause", self.outage.pause),
        ] {
            if !(SignedDuration::ZERO..=SignedDuration::from_hours(24 * 7)).contains(&duration) {
                return refuse(field.to_owned(), "not between 0 and 7 days");
            }
        }
        if !self.join_timeout.is_zero() && self.join_timeout < MIN_JOIN_TIMEOUT {
            return refuse(
                "joinTimeout".to_owned(),
                "is shorter than 30s, in which no instance can boot; 0s turns it off",
            );
        }
        for (n, rule) in self.groups.iter().enumerate() {
            if rule.name.is_none() && rule.tags.is_empty() {
                return refuse(format!("groups[{n}]"), "needs a name or tags to match by");
            }
        }
        for (n, hold) in self.holds.iter().enumerate() {
            if hold.owner.trim().is_empty() {
                return refuse(format!("holds[{n}].owner"), "is empty: say who asked for it");
            }
            if hold.reason.trim().is_empty() {
                return refuse(format!("holds[{n}].reason"), "is empty: say why");
            }
        }
        for (n, promotion) in self.promotions.iter().enumerate() {
            if promotion.count == 0 {
                return refuse(format!("promotions[{n}].count"), "must be 1 or more");
            }
            if promotion.window <= SignedDuration::ZERO {
                return refuse(format!("promotions[{n}].window"), "must be longer than nothing");
            }
        }
        let graces = self.groups.iter().filter_map(|rule| rule.grace.as_ref()).chain([&self.grace]);
        for grace in graces {
            let waits = grace.reasons.iter().map(|(name, wait)| (name.as_str(), wait));
            let waits = waits.chain(grace.conditions.iter().map(|(name, wait)| (name.as_str(), wait)));
            for (name, wait) in waits {
                if *wait < SignedDuration::ZERO {
                    return refuse(format!("grace.{name}"), "is negative");
                }
            }
        }
        Ok(())
    }

    /// Whether events about the cluster from this account are used. `own` is nodemend's account, which counts if the
    /// policy names none. If either account is unknown, as for events from files, they are used.
    pub fn accepts_account(&self, account: Option<&AccountId>, own: Option<&AccountId>) -> bool {
        match (account, self.account.as_ref().or(own)) {
            (Some(account), Some(expected)) => account == expected,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_deployment_is_in_observe_mode() {
        let policy: Policy = serde_json::from_str("{}").expect("a policy");
        assert_eq!(policy.mode, Mode::Observe);
        assert!(!policy.node_repair_config.enabled);
    }

    #[test]
    fn check_names_the_field_that_is_not_valid() {
        for (json, expected) in [
            (r#"{"groups":[{"mode":"repair"}]}"#, "groups[0]: needs a name or tags"),
            (
                r#"{"holds":[{"owner":" ","reason":"x","until":"2026-01-01T00:00:00Z"}]}"#,
                "holds[0].owner: is empty",
            ),
            (r#"{"promotions":[{"reason":"OOMKilling","count":0,"window":"5m"}]}"#, "promotions[0].count"),
            (r#"{"promotions":[{"reason":"OOMKilling","count":1,"window":"-5m"}]}"#, "promotions[0].window"),
            (r#"{"silence":{"within":"-1m"}}"#, "silence.within: not between 0 and 7 days"),
            (r#"{"recoveryHold":"300h"}"#, "recoveryHold: not between 0 and 7 days"),
            (r#"{"grace":{"reasons":{"A":"-5m"}}}"#, "grace.A: is negative"),
            (r#"{"joinTimeout":"1s"}"#, "joinTimeout: is shorter than 30s"),
            (r#"{"joinTimeout":"29s"}"#, "joinTimeout: is shorter than 30s"),
        ] {
            let policy: Policy = serde_json::from_str(json).expect(json);
            let error = policy.check().expect_err(json).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert_eq!(Policy::eks_defaults().check(), Ok(()));
        for join_timeout in [0, 30] {
            let join_timeout = SignedDuration::from_secs(join_timeout);
            assert_eq!(Policy { join_timeout, ..Policy::default() }.check(), Ok(()));
        }
    }
}
