//! Turns the name of an incident into what a node says and doesn't say, live.

use std::time::Duration;

use clap::ValueEnum;
use jiff::SignedDuration;
use nodemend_domain::{condition::ConditionType, ident::InstanceId, policy::Policy};
use tokio::time::sleep;

use super::{
    fleet::{Fleet, FleetError},
    node::Node,
};

/// From the blocked metadata service to the silent kubelet it is a quarter of an hour; nobody wants to watch that.
const TOKEN_LASTS: Duration = Duration::from_millis(1_500);

/// An incident that can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// An iptables rule cuts a node off from its metadata service; its kubelet falls silent. Replaced.
    #[value(name = "01-metadata-service-blocked", alias = "01", alias = "metadata-service-blocked")]
    MetadataServiceBlocked,
    /// An interface goes down and comes back within the grace. Nothing is done.
    #[value(name = "02-transient-interface-loss", alias = "02", alias = "transient-interface-loss")]
    TransientInterfaceLoss,
    /// The GPU fell off the bus. Replaced.
    #[value(name = "06-xid-79-replace", alias = "06", alias = "xid-79-replace")]
    Xid79,
    /// An uncontained ECC error of a GPU. Rebooted, and well.
    #[value(name = "07-xid-95-reboot-cures", alias = "07", alias = "xid-95-reboot-cures")]
    Xid95,
}

/// How the incident is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a repair that CloudTrail confirms.
    Repaired,
    /// With none.
    Recovered,
}

impl Fault {
    /// Its incident's name.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How it is to end.
    pub fn ending(self) -> Ending {
        match self {
            Self::TransientInterfaceLoss => Ending::Recovered,
            Self::MetadataServiceBlocked | Self::Xid79 | Self::Xid95 => Ending::Repaired,
        }
    }

    /// The condition that is repaired, with the reason.
    fn cause(self) -> (ConditionType, &'static str) {
        match self {
            Self::MetadataServiceBlocked => (ConditionType::Ready, "NodeStatusUnknown"),
            Self::TransientInterfaceLoss => (ConditionType::NetworkingReady, "InterfaceNotUp"),
            Self::Xid79 => (ConditionType::AcceleratedHardwareReady, "NvidiaXID79Error"),
            Self::Xid95 => (ConditionType::AcceleratedHardwareReady, "NvidiaXID95Error"),
        }
    }

    /// How long this policy waits before it repairs it.
    pub fn grace(self, policy: &Policy) -> SignedDuration {
        let (condition, reason) = self.cause();
        policy.default_rules().remedy(&condition, reason).map_or(SignedDuration::ZERO, |remedy| remedy.grace)
    }

    /// Lets it happen to a node.
    pub async fn inject(
        self,
        fleet: &Fleet,
        node: &InstanceId,
        grace: SignedDuration,
    ) -> Result<(), FleetError> {
        let (condition, reason) = self.cause();
        match self {
            Self::MetadataServiceBlocked => {
                let event = |reason, message| {
                    move |node: &mut Node, now| {
                        node.event(ConditionType::NetworkingReady, reason, message, now)
                    }
                };
                let rule = "filter/OUTPUT: -A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP";
                fleet.agent_says(node, event("UnexpectedRejectRule", rule)).await?;
                let blocked = "the instance metadata service is unreachable: filter/OUTPUT: -A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP";
                fleet.agent_says(node, event("MetadataServiceBlocked", blocked)).await?;
                sleep(TOKEN_LASTS).await;
                fleet.cut_off(node).await
            }
            Self::TransientInterfaceLoss => {
                let down = condition.clone();
                fleet.agent_says(node, |node, now| node.fail(down, reason, "eth1 is down", now)).await?;
                // As in the incident: seven of thirty minutes.
                sleep((grace / 4).unsigned_abs()).await;
                fleet.agent_says(node, |node, now| node.recover(condition, now)).await
            }
            Self::Xid79 | Self::Xid95 => {
                let message = if self == Self::Xid79 {
                    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus."
                } else {
                    "NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=python, Uncontained ECC error"
                };
                fleet.agent_says(node, |node, now| node.fail(condition, reason, message, now)).await
            }
        }
    }
}
