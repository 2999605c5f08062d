//! Decides how to drain a node whose termination a lifecycle hook delays.
//!
//! The rules are those of `kubectl drain`, with two exceptions: pods without a controller and pods with an `emptyDir`
//! are evicted too. The termination ends them anyway; an eviction gives them their termination grace period.

mod pods;

use jiff::Timestamp;

pub use self::pods::{Drain, Evicted, Left, Next, Pod, PodId, Why};
use crate::{
    case::Case,
    condition::ConditionType,
    ident::{GroupName, InstanceId},
    timestamp,
};

/// A termination that a lifecycle hook delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The hook's name.
    pub name: String,
    /// The Auto Scaling group that terminates the instance.
    pub group: GroupName,
    /// The instance that is being terminated.
    pub instance_id: InstanceId,
    /// The lifecycle action token: identifies this action of the hook.
    pub token: String,
    /// Since when the termination waits.
    pub since: Timestamp,
}

/// The part of a Node object that a drain needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The instance in its `spec.providerID`.
    pub instance_id: Option<InstanceId>,
    /// The status of its condition Ready: `True`, `False` or `Unknown`. None if it was never reported.
    pub ready: Option<String>,
    /// `spec.unschedulable`: new pods are not scheduled on it.
    pub cordoned: bool,
}

/// Why a drain is skipped: the node cannot run an eviction, or is not this instance's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dead {
    /// The case has recorded that the instance is gone.
    #[error("its instance is gone since {at}: {how}")]
    Gone {
        /// Since when, as text.
        at: String,
        /// The cause, as one clause.
        how: String,
    },
    /// It is repaired for a hardware fault with this reason: its pods hang and do not end.
    #[error("its hardware failed ({0})")]
    Hardware(String),
    /// The name of its Node object is not known.
    #[error("it never had a node")]
    Nameless,
    /// The Node object is gone.
    #[error("its node object is gone")]
    Deleted,
    /// The Node object of this name belongs to another instance.
    #[error("the node of its name is another instance's")]
    AnothersNode,
    /// Its condition Ready has this status: its kubelet does not end pods.
    #[error("its condition Ready is {0}")]
    NotReady(String),
}

/// Why the drain is skipped according to the case, if it is.
pub fn dead_by_case(case: &Case) -> Option<Dead> {
    // Of a departure that is known by a call, that is usually the termination that the hook delays.
    if let Some(departure) = case.departure().filter(|departure| !departure.is_certain()) {
        return Some(Dead::Gone { at: timestamp::seconds(departure.at), how: departure.how.clone() });
    }
    let fault = case.repair().map(|repair| repair.fault())?;
    (fault.condition == ConditionType::AcceleratedHardwareReady).then(|| Dead::Hardware(fault.reason.clone()))
}

/// Why the drain is skipped according to the Node object, if it is.
pub fn dead_by_node(node: Option<&Node>, instance_id: &InstanceId) -> Option<Dead> {
    let Some(node) = node else { return Some(Dead::Deleted) };
    // Node names are reused. A node without an instance id can belong to any instance.
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
        case::{Claim, Departure, Evidence, Fault, Source, TransitionContext},
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
            arrived: None,
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
        let claim = Claim { fault: &fault, action: RepairAction::Replace, verification: None };
        let _ = case.claim(&mut group, claim, &ctx).expect("a claim");
        case
    }

    #[test]
    fn a_drain_is_skipped_for_a_gone_instance_and_for_a_hardware_fault() {
        assert_eq!(dead_by_case(&case()), None);
        let mut gone = case();
        gone.depart(at(5), "EC2 says that its instance is terminated".to_owned());
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
    fn a_termination_that_is_known_by_its_call_does_not_skip_the_drain() {
        let mut called = case();
        called.learn_departure(Departure {
            at: at(5),
            how: "the autoscaler terminated it".to_owned(),
            foreign: false,
            evidence: Evidence::Caller,
            called: true,
            node_deletion: None,
        });
        assert_eq!(dead_by_case(&called), None);
    }

    #[test]
    fn only_a_ready_node_of_the_same_instance_is_drained() {
        let node = |number: u8, ready: Option<&str>| Node {
            instance_id: Some(instance(number)),
            ready: ready.map(ToOwned::to_owned),
            cordoned: false,
        };
        let without_instance = Node { instance_id: None, ..node(1, Some("True")) };
        for (node, expected) in [
            (Some(node(1, Some("True"))), None),
            (Some(node(1, Some("False"))), Some("its condition Ready is False")),
            (Some(node(1, Some("Unknown"))), Some("its condition Ready is Unknown")),
            (Some(node(1, None)), Some("its condition Ready is missing")),
            (Some(node(2, Some("True"))), Some("the node of its name is another instance's")),
            (Some(without_instance), Some("the node of its name is another instance's")),
            (None, Some("its node object is gone")),
        ] {
            let dead = dead_by_node(node.as_ref(), &instance(1)).map(|dead| dead.to_string());
            assert_eq!(dead.as_deref(), expected, "{node:?}");
        }
    }
}
