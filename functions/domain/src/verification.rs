//! Verification: whether the fault that a repair rests on is still there, read right before the call.
//!
//! What was read is applied to the case like any report, so a node that is healthy ends the repair by the ordinary rules.
//! What is left here is the record of the reading, and why it was not enough, if it was not.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{instance_traits::InstanceTraits, timestamp};

/// A call leaves within this time after its verification, or is verified again.
pub const VALID_FOR: SignedDuration = SignedDuration::from_secs(10);

/// Where the state of a node was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifiedBy {
    /// The Node object, by a consistent read of the Kubernetes API.
    KubernetesApi,
    /// The control plane's audit log.
    ControlPlaneLog,
    /// The log stream of the node's own agent.
    AgentLog,
    /// The person who asks for the repair.
    Operator,
}

/// A verification of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// When it was read, by our clock: nothing later is in it.
    #[serde(with = "timestamp")]
    pub at: Timestamp,
    /// The source.
    pub by: VerifiedBy,
    /// What was read, as one clause: `Node ip-10-0-1-26.ec2.internal: Ready=Unknown since 10:00:40`.
    pub read: String,
    /// What that proves about the fault.
    #[serde(flatten)]
    pub result: VerificationResult,
    /// The instance by EC2, if it answered: evidence. A status check that passes proves nothing about a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceStatus>,
}

/// What was read proves this about the fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "why")]
pub enum VerificationResult {
    /// The fault is still there.
    FaultPresent,
    /// It could not be read, or not to the end, and why.
    NotVerified(String),
    /// The fault is not there, and what shows it.
    Contradicted(String),
}

impl VerificationResult {
    /// The result of two readings: a contradiction outweighs what could not be read.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::FaultPresent, _) | (Self::NotVerified(_), Self::Contradicted(_)) => other,
            _ => self,
        }
    }
}

/// An instance as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its state: `running`.
    pub state: String,
    /// When it was launched or last started.
    #[serde(default, with = "timestamp::option", skip_serializing_if = "Option::is_none")]
    pub launched: Option<Timestamp>,
    /// The status check of the system it runs on: `ok`, `impaired`, `initializing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_status: Option<String>,
    /// The status check of the instance itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_status: Option<String>,
    /// What it was launched from, and where.
    #[serde(flatten)]
    pub traits: InstanceTraits,
}
