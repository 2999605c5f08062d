//! EC2's status checks of an instance. EC2 publishes no event of them: they are polled.

use jiff::Timestamp;

use crate::{
    case::notice::{ATTACHED_EBS_IMPAIRED, INSTANCE_IMPAIRED, Notice, SYSTEM_IMPAIRED},
    ident::InstanceId,
    timestamp,
};

/// What a status check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusCheck {
    /// The host, its power and its network.
    System,
    /// The instance itself: whether it answers.
    Instance,
    /// Whether its EBS volumes can be reached.
    AttachedEbs,
}

/// A status check that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStatusCheck {
    /// The instance.
    pub instance_id: InstanceId,
    /// Which of its checks.
    pub check: StatusCheck,
    /// Since when, by EC2.
    pub since: Option<Timestamp>,
}

impl StatusCheck {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::System, Self::Instance, Self::AttachedEbs];

    /// The reason of its notice in the catalogue.
    pub fn reason(self) -> &'static str {
        match self {
            Self::System => SYSTEM_IMPAIRED,
            Self::Instance => INSTANCE_IMPAIRED,
            Self::AttachedEbs => ATTACHED_EBS_IMPAIRED,
        }
    }

    /// Its name, as EC2's documentation has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system status check",
            Self::Instance => "instance status check",
            Self::AttachedEbs => "attached EBS status check",
        }
    }
}

impl FailedStatusCheck {
    /// The notice of it. As long as it fails, each poll has the same.
    pub fn notice(&self, now: Timestamp) -> Notice {
        let since = self.since.map(|since| format!(" since {}", timestamp::seconds(since)));
        Notice {
            reason: self.check.reason(),
            at: self.since.unwrap_or(now),
            effective: self.since.unwrap_or(Timestamp::UNIX_EPOCH),
            message: format!("EC2's {} fails{}", self.check.name(), since.unwrap_or_default()),
        }
    }
}
