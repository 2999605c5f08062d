//! An account whose log groups cannot be read as they should.

use jiff::Timestamp;
use nodemend_ports::{
    cloud::MemoryCloud,
    cluster_reader::{ClusterReader, LogPage, LogQuery, ReadError, Streams},
};
use nodemend_testkit::{
    CloudOverrides,
    fixture::{AUDIT_STREAM, CONTROL_PLANE_LOGS},
};

/// What is wrong with the log groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The account's quota is used up.
    Throttled,
    /// The stream of an API server has had no line for longer than the settling time.
    StaleStream,
    /// The API server's streams have had no line for an hour, as where audit logs are not enabled.
    NoStream,
    /// DescribeLogStreams, which is eventually consistent, knows only one stream.
    HiddenStream,
}

fn throttled() -> ReadError {
    ReadError::Throttled {
        what: CONTROL_PLANE_LOGS.to_owned(),
        source: "ThrottlingException: Rate exceeded".into(),
    }
}

impl CloudOverrides<MemoryCloud> for Defect {
    async fn log_page(
        &self,
        cloud: &MemoryCloud,
        query: &LogQuery,
        next: Option<&str>,
    ) -> Result<LogPage, ReadError> {
        match self {
            Self::Throttled => Err(throttled()),
            Self::StaleStream if query.streams == Streams::Named(AUDIT_STREAM.to_owned()) => {
                Ok(LogPage::default())
            }
            Self::StaleStream | Self::NoStream | Self::HiddenStream => cloud.log_page(query, next).await,
        }
    }

    async fn streams(
        &self,
        cloud: &MemoryCloud,
        group: &str,
        prefix: &str,
        since: Timestamp,
    ) -> Result<Vec<String>, ReadError> {
        match self {
            Self::Throttled => Err(throttled()),
            Self::StaleStream => cloud.streams(group, prefix, since).await,
            Self::NoStream => Ok(Vec::new()),
            Self::HiddenStream => Ok(vec![AUDIT_STREAM.to_owned()]),
        }
    }
}
