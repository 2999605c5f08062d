//! Bounded reads of log groups: their quota is shared with everybody in the account, and other repairs wait for the run.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{log_source::AUDIT_STREAMS, timestamp};
use nodemend_ports::{
    audit_log::AuditLog,
    cause::chain,
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{LogQuery, ReadError, Streams},
    store::Store,
};

use crate::Repairer;

/// Pages of one query: at five a second, the account's quota, eight seconds.
const MAX_PAGES: usize = 40;
/// A verification that takes longer has failed: others wait for the same run.
const MAX_TIME: SignedDuration = SignedDuration::from_secs(20);
/// Audit streams with a line this recently must go on: an API server writes at every moment.
const STREAM_ALIVE: SignedDuration = SignedDuration::from_hours(1);

impl<S: Store + AuditLog + Clone, C: Cloud, K: Clock + Clone> Repairer<S, C, K> {
    /// Whether every audit stream that has been written to lately is still written to. One that is behind may hold the line
    /// that says that the node is healthy.
    pub(super) async fn streams_are_alive(
        &self,
        group: &str,
        settling: SignedDuration,
        at: Timestamp,
    ) -> Result<(), String> {
        let streams = self
            .cloud
            .streams(group, AUDIT_STREAMS, at - STREAM_ALIVE)
            .await
            .map_err(|error| chain(&error))?;
        if streams.is_empty() {
            return Err(format!("no stream {AUDIT_STREAMS}* of {group} has a line of the last hour"));
        }
        for stream in streams {
            self.refuse_after_max_time(group, at)?;
            let query = LogQuery::new(group, Streams::Named(stream.clone()), at - settling, at).first();
            if self.first_line(&query).await.map_err(|error| chain(&error))?.is_none() {
                let behind = timestamp::duration(settling);
                return Err(format!("the newest line of stream {stream} in {group} is older than {behind}"));
            }
        }
        Ok(())
    }

    /// A verification has one time limit for all that it reads: other repairs wait for the same run.
    fn refuse_after_max_time(&self, what: &str, begun: Timestamp) -> Result<(), String> {
        if self.clock.now().duration_since(begun) > MAX_TIME {
            return Err(format!("reading {what} took longer than {}", timestamp::duration(MAX_TIME)));
        }
        Ok(())
    }

    /// The time of the first line of a query.
    pub(super) async fn first_line(&self, query: &LogQuery) -> Result<Option<Timestamp>, ReadError> {
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = self.cloud.log_page(query, next.as_deref()).await?;
            if let Some(line) = page.lines.first() {
                return Ok(Some(line.timestamp));
            }
            if page.next.is_none() {
                return Ok(None);
            }
            next = page.next;
        }
        Ok(None)
    }

    /// Reads all lines of a query; an error says why it did not come to the end.
    pub(super) async fn read_lines(
        &self,
        query: &LogQuery,
        begun: Timestamp,
        mut line: impl FnMut(Timestamp, &str),
    ) -> Result<(), String> {
        let mut next = None;
        for _ in 0..MAX_PAGES {
            self.refuse_after_max_time(&query.group, begun)?;
            let page = self.cloud.log_page(query, next.as_deref()).await.map_err(|error| chain(&error))?;
            for found in &page.lines {
                line(found.timestamp, &found.message);
            }
            if page.next.is_none() {
                return Ok(());
            }
            next = page.next;
        }
        Err(format!("{} has more than {MAX_PAGES} pages to read", query.group))
    }
}
