//! A person asks for the repair of a node. It is due at once, without a grace period; the guards decide as for any fault.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Case, IllegalTransition, Source,
    fault::{FaultView, Planned},
};
use crate::{
    condition::{ConditionType, Health, RepairAction},
    timestamp,
};

/// The reason of the fault that a request stands for.
const REPAIR_REQUESTED: &str = "RepairRequested";
static OPERATOR_REQUEST: LazyLock<ConditionType> =
    LazyLock::new(|| ConditionType::Other("OperatorRequest".into()));

/// Who asks for the repair of a node, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairRequest {
    /// Who asks.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// Until when it counts: what guards block for longer is not repaired later, when nobody expects it any more.
    #[serde(with = "timestamp")]
    pub until: Timestamp,
}

impl RepairRequest {
    /// The most bytes of each text.
    pub const MAX_TEXT: usize = 256;
}

impl Case {
    /// Makes the replacement of this node due now, as a person asks. A repair that is under way goes on instead.
    pub fn request_repair(&mut self, request: RepairRequest) -> Result<(), IllegalTransition> {
        if self.closed.is_some() || self.repair.is_some() {
            return Err(self.refused("request the repair of"));
        }
        self.request = Some(request);
        // What blocked a fault of the node was another question: the next run asks all guards, and publishes their answer.
        self.blocked = None;
        Ok(())
    }

    /// Takes the request back. Returns whether there was one. A call that was made is not undone.
    pub fn cancel_request(&mut self, now: Timestamp) -> bool {
        self.request.take().is_some_and(|request| now < request.until)
    }

    /// The request that counts now.
    pub fn request(&self, now: Timestamp) -> Option<&RepairRequest> {
        self.request.as_ref().filter(|request| now < request.until)
    }

    pub(super) fn requested(&self, now: Timestamp) -> Option<FaultView<'_>> {
        let request = self.request(now)?;
        let planned = Planned::at_once(RepairAction::Replace, request.at);
        let (source, health) = (Source::Operator, Health::Bad);
        let view =
            FaultView::new(&OPERATOR_REQUEST, REPAIR_REQUESTED, source, health, request.at, Some(planned));
        Some(view.with_message(format!("{}: {}", request.owner, request.reason)))
    }
}
