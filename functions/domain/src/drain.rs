//! Turns what is known of a node that is being terminated, and of its pods, into what a drain does next.
//!
//! The rules are those of `kubectl drain`, but for two that protect what a termination takes anyway: pods that nobody
//! will start again, and pods with an `emptyDir`, are evicted too. Warned and given their time is the best they can get.

mod pods;

use jiff::Timestamp;

pub use self::pods::{Drain, Evicted, Left, Next, Pod, PodId, Why};
use crate::{
    case::Case,
    condition::ConditionType,
    ident::{GroupName, InstanceId},
    timestamp,
};

/// A termination that a lifecycle hook holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The hook's name.
    pub name: String,
    /// The group that terminates an instance.
    pub group: GroupName,
    /// The instance.
    pub instance_id: InstanceId,
    /// What Auto Scaling knows this one action by.
    pub token: String,
    /// Since when it is held.
    pub since: Timestamp,
}

/// A Node object, as far as a drain asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The instance that it says it is.
    pub instance_id: Option<InstanceId>,
    /// Its condition Ready: `True`, `False`, `Unknown`; none where nobody ever said.
    pub ready: Option<String>,
    /// No pod is scheduled on it any more.
    pub cordoned: bool,
}

/// Why there is nothing to drain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dead {
    /// Our case says that the instance is no more.
    #[error("its instance is gone since {at}: {how}")]
    Gone {
        /// Since when.
        at: String,
        /// How we know.
        how: String,
    },
    /// It is repaired for its hardware: what runs on it hangs.
    #[error("its hardware failed ({0})")]
    Hardware(String),
    /// Nobody knows under which name it ever registered.
    #[error("it never had a node")]
    Nameless,
    /// The Node object is gone.
    #[error("its node object is gone")]
    Deleted,
    /// The Node object with its name is another instance's.
    #[error("the node of its name is another instance's")]
    AnothersNode,
    /// Its kubelet carries nothing out any more, an eviction least of all.
    #[error("its condition Ready is {0}")]
    NotReady(String),
}

/// What our own case says against a drain.
pub fn dead_by_case(case: &Case) -> Option<Dead> {
    // A foreign departure is a call that somebody made: the very termination, as a rule, that is being held.
    if let Some(departure) = case.departure().filter(|departure| !departure.foreign) {
        return Some(Dead::Gone { at: timestamp::seconds(departure.at), how: departure.how.clone() });
    }
    let fault = case.repair().map(|repair| repair.fault())?;
    (fault.condition == ConditionType::AcceleratedHardwareReady).then(|| Dead::Hardware(fault.reason.clone()))
}

/// What Kubernetes says against one.
pub fn dead_by_node(node: Option<&Node>, instance_id: &InstanceId) -> Option<Dead> {
    let Some(node) = node else { return Some(Dead::Deleted) };
    // Names come again. A node that doesn't say whose it is may be anybody's.
    if node.instance_id.as_ref() != Some(instance_id) {
        return Some(Dead::AnothersNode);
    }
    match node.ready.as_deref() {
        Some("True") => None,
        other => Some(Dead::NotReady(other.unwrap_or("missing").to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit_log::Caller,
        case::{Fault, Source, TransitionContext},
        condition::{Health, RepairAction},
        group::GroupState,
        ident::ClusterName,
        policy::Policy,
    };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
    }

    fn instance(number: u8) -> InstanceId {
        InstanceId::new(format!("i-000000000000000{number:02x}")).expect("an id")
    }

    fn case() -> Case {
        Case::new(ClusterName::new("prod").expect("a name"), instance(1))
    }

    fn repaired_for(condition: ConditionType) -> Case {
        let fault = Fault {
            condition,
            reason: "NvidiaXID79".to_owned(),
            message: String::new(),
            source: Source::Agent,
            health: Health::Bad,
            since: at(0),
            heals_at: None,
            action: RepairAction::Replace,
            deadline: Some(at(10)),
            rebooted: false,
        };
        let mut case = case();
        let name = GroupName::new("workers").expect("a name");
        let mut group = GroupState::new(case.cluster().clone(), name);
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/repair/repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let ctx = TransitionContext { policy: &Policy::eks_defaults(), caller: &caller, now: at(10) };
        let _ = case.claim(&mut group, &fault, RepairAction::Replace, &ctx).expect("a claim");
        case
    }

    #[test]
    fn a_case_says_against_a_drain_what_it_knows_of_the_instance() {
        assert_eq!(dead_by_case(&case()), None);
        let mut gone = case();
        gone.depart(at(5), "EC2 says that its instance is terminated".to_owned(), false);
        let dead = dead_by_case(&gone).expect("gone").to_string();
        assert_eq!(
            dead,
            "its instance is gone since 2026-09-21T14:18:20Z: EC2 says that its instance is terminated"
        );
        let dead = dead_by_case(&repaired_for(ConditionType::AcceleratedHardwareReady));
        assert_eq!(dead, Some(Dead::Hardware("NvidiaXID79".to_owned())));
        assert_eq!(dead_by_case(&repaired_for(ConditionType::KernelReady)), None);
    }

    #[test]
    fn a_call_of_somebody_elses_is_the_termination_itself_and_not_its_end() {
        let mut called = case();
        called.depart(at(5), "the autoscaler terminated it".to_owned(), true);
        assert_eq!(dead_by_case(&called), None);
    }

    #[test]
    fn only_a_ready_node_of_this_very_instance_is_drained() {
        let node = |number: u8, ready: Option<&str>| Node {
            instance_id: Some(instance(number)),
            ready: ready.map(ToOwned::to_owned),
            cordoned: false,
        };
        let nobodys = Node { instance_id: None, ..node(1, Some("True")) };
        for (node, expected) in [
            (Some(node(1, Some("True"))), None),
            (Some(node(1, Some("False"))), Some("its condition Ready is False")),
            (Some(node(1, Some("Unknown"))), Some("its condition Ready is Unknown")),
            (Some(node(1, None)), Some("its condition Ready is missing")),
            (Some(node(2, Some("True"))), Some("the node of its name is another instance's")),
            (Some(nobodys), Some("the node of its name is another instance's")),
            (None, Some("its node object is gone")),
        ] {
            let dead = dead_by_node(node.as_ref(), &instance(1)).map(|dead| dead.to_string());
            assert_eq!(dead.as_deref(), expected, "{node:?}");
        }
    }
}
