//! Injects an incident into a simulated node: the node writes the log lines of the incident, or stops
//! writing.

use std::time::Duration;

use clap::ValueEnum;
use jiff::SignedDuration;
use nodemend_domain::{condition::ConditionType, ident::InstanceId, policy::Policy};
use tokio::time::sleep;

use super::{
    aws_proxy::Capacity,
    fleet::{Fleet, FleetError, GROUP},
    node::Node,
};

/// How long the kubelet reports after the metadata service is blocked: until its token expires. A real token
/// lasts a quarter of an hour; shortened here.
const TOKEN_LIFETIME: Duration = Duration::from_millis(1_500);
/// How long EC2 has no capacity after the second grace period. Real outages last hours; shortened here.
const OUTAGE: SignedDuration = SignedDuration::from_secs(15);

/// An incident that can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// An iptables rule blocks the instance metadata service, and the kubelet stops reporting. The node is
    /// replaced.
    #[value(name = "01-metadata-service-blocked", alias = "01", alias = "metadata-service-blocked")]
    MetadataServiceBlocked,
    /// A network interface goes down and recovers within the grace period. The node is not repaired.
    #[value(name = "02-transient-interface-loss", alias = "02", alias = "transient-interface-loss")]
    TransientInterfaceLoss,
    /// A GPU has fallen off the bus (Xid 79). The node is replaced.
    #[value(name = "06-xid-79-replace", alias = "06", alias = "xid-79-replace")]
    Xid79,
    /// A GPU has an uncontained ECC error (Xid 95). The node is rebooted and recovers.
    #[value(name = "07-xid-95-reboot-cures", alias = "07", alias = "xid-95-reboot-cures")]
    Xid95,
    /// A GPU has fallen off the bus (Xid 79). An instance of the group's warm pool replaces the node.
    #[value(name = "warm-pool")]
    WarmPool,
    /// Two GPUs fall off the bus (Xid 79), one after the other, and EC2 has no capacity for a while. The first node is
    /// replaced late, and the second one only then.
    #[value(name = "capacity-outage")]
    CapacityOutage,
}

/// How an incident is expected to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedEnd {
    /// The node is repaired once, and CloudTrail confirms the call.
    Repaired,
    /// The node recovers without a repair.
    Recovered,
}

impl Fault {
    /// The name of the incident, as `--fault` takes it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How many nodes it is injected into.
    pub fn nodes(self) -> usize {
        if self == Self::CapacityOutage { 2 } else { 1 }
    }

    /// How long repairs can be delayed after the grace period.
    pub fn delay(self, grace: SignedDuration) -> SignedDuration {
        if self == Self::CapacityOutage { grace / 2 + OUTAGE } else { SignedDuration::ZERO }
    }

    /// How the incident is expected to end.
    pub fn expected_end(self) -> ExpectedEnd {
        match self {
            Self::TransientInterfaceLoss => ExpectedEnd::Recovered,
            Self::MetadataServiceBlocked
            | Self::Xid79
            | Self::Xid95
            | Self::WarmPool
            | Self::CapacityOutage => ExpectedEnd::Repaired,
        }
    }

    /// The condition that becomes bad, and the reason.
    fn condition_and_reason(self) -> (ConditionType, &'static str) {
        match self {
            Self::MetadataServiceBlocked => (ConditionType::Ready, "NodeStatusUnknown"),
            Self::TransientInterfaceLoss => (ConditionType::NetworkingReady, "InterfaceNotUp"),
            Self::Xid79 | Self::WarmPool | Self::CapacityOutage => {
                (ConditionType::AcceleratedHardwareReady, "NvidiaXID79Error")
            }
            Self::Xid95 => (ConditionType::AcceleratedHardwareReady, "NvidiaXID95Error"),
        }
    }

    /// The grace period that this policy has for the condition.
    pub fn grace(self, policy: &Policy) -> SignedDuration {
        let (condition, reason) = self.condition_and_reason();
        policy.default_rules().remedy(&condition, reason).map_or(SignedDuration::ZERO, |remedy| remedy.grace)
    }

    /// Injects the incident into as many nodes as it needs.
    pub async fn inject(
        self,
        fleet: &Fleet,
        capacity: &Capacity,
        nodes: &[InstanceId],
        grace: SignedDuration,
    ) -> Result<(), FleetError> {
        match self {
            Self::WarmPool => capacity.create_warm_pool(GROUP).await?,
            Self::CapacityOutage => capacity.exhaust(),
            _ => {}
        }
        for (place, node) in nodes.iter().enumerate() {
            if place > 0 {
                // It is due when it is known that the first launch has failed.
                sleep((grace / 2).unsigned_abs()).await;
            }
            self.break_node(fleet, node, grace).await?;
        }
        if self == Self::CapacityOutage {
            sleep((grace + OUTAGE).unsigned_abs()).await;
            capacity.restore(GROUP).await?;
        }
        Ok(())
    }

    async fn break_node(
        self,
        fleet: &Fleet,
        node: &InstanceId,
        grace: SignedDuration,
    ) -> Result<(), FleetError> {
        let (condition, reason) = self.condition_and_reason();
        match self {
            Self::MetadataServiceBlocked => {
                let event = |reason, message| {
                    move |node: &mut Node, now| {
                        node.event(ConditionType::NetworkingReady, reason, message, now)
                    }
                };
                let rule = "filter/OUTPUT: -A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP";
                fleet.log_agent(node, event("UnexpectedRejectRule", rule)).await?;
                let blocked = "the instance metadata service is unreachable: filter/OUTPUT: -A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP";
                fleet.log_agent(node, event("MetadataServiceBlocked", blocked)).await?;
                sleep(TOKEN_LIFETIME).await;
                fleet.disconnect(node).await
            }
            Self::TransientInterfaceLoss => {
                let down = condition.clone();
                fleet.log_agent(node, |node, now| node.fail(down, reason, "eth1 is down", now)).await?;
                // In the recorded incident, the interface was down for seven of the thirty minutes.
                sleep((grace / 4).unsigned_abs()).await;
                fleet.log_agent(node, |node, now| node.recover(condition, now)).await
            }
            Self::Xid79 | Self::Xid95 | Self::WarmPool | Self::CapacityOutage => {
                let message = if self == Self::Xid95 {
                    "NVRM: Xid (PCI:0000:3b:00): 95, pid=1204, name=python, Uncontained ECC error"
                } else {
                    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python, GPU has fallen off the bus."
                };
                fleet.log_agent(node, |node, now| node.fail(condition, reason, message, now)).await
            }
        }
    }
}
