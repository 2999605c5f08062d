//! Decides whether production's subscription would deliver an input to intake.
//!
//! Captured files have every line of a log group, or those that somebody kept. Intake gets only what the filter pattern of
//! its subscription matches, and verification reads the log group by the same pattern.

use nodemend_domain::{
    control_plane_log::{self, ParsedEvent},
    log_source::AUDIT_STREAMS,
    observation::{Observation, Removed, What},
};
use nodemend_ports::subscription::our_patterns;

use super::input::{Input, LogGroup, Payload};

/// What becomes of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// A handler gets it.
    Delivered,
    /// The pattern does not match it.
    Dropped {
        /// Whether intake would have changed a case by it. A kubelet's heartbeat, which the pattern drops on purpose, changes
        /// none.
        concerns_a_case: bool,
    },
}

/// A captured payload of a subscription was delivered, and what intake cannot read is reported as unreadable.
pub(super) fn delivery(input: &Input) -> Delivery {
    let Payload::Log { group, stream, message, .. } = &input.payload else { return Delivery::Delivered };
    let of_control_plane = match group {
        LogGroup::AnyControlPlane => true,
        LogGroup::Named(name) => name.starts_with("/aws/eks/"),
    };
    if !of_control_plane || !stream.starts_with(AUDIT_STREAMS) || our_patterns::control_plane_matches(message)
    {
        return Delivery::Delivered;
    }
    match control_plane_log::read(message) {
        Ok(ParsedEvent::Observations(observations)) => {
            Delivery::Dropped { concerns_a_case: observations.iter().any(concerns_a_case) }
        }
        Ok(ParsedEvent::Irrelevant(_)) | Err(_) => Delivery::Delivered,
    }
}

fn concerns_a_case(observation: &Observation) -> bool {
    match &observation.what {
        What::Conditions { conditions, removed, .. } => {
            !conditions.is_empty() || *removed != Removed::default() || observation.boot_id.is_some()
        }
        What::Registered { .. } | What::Created { .. } | What::Marked { .. } | What::Deleted { .. } => true,
    }
}
