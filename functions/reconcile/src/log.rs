//! Reads the control plane's log group again, and looks for the newest line of a log group.
//!
//! FilterLogEvents reads forward only, shares its quota with everybody in the account, and returns empty pages while it
//! searches. So every reading is bounded, and goes on from its mark in the next run.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    control_plane_log::{self, ParsedEvent},
    ident::InstanceId,
    log_source::{AUDIT_STREAMS, LogSource},
    observation::Observation,
    sources::CURRENT,
};
use nodemend_ports::{
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{ClusterReader, Lines, LogLine, LogQuery, ReadError, Streams},
    instance_of::instance_of,
    store::Store,
    write::Target,
};

use crate::{ReconcileError, ReconcileReport, Run};

/// Pages of one run: at most half a minute of the account's quota of five a second.
const MAX_PAGES: usize = 150;
/// The time of one run for the log group.
const MAX_TIME: SignedDuration = SignedDuration::from_secs(60);
/// Where the first run begins.
const FIRST: SignedDuration = SignedDuration::from_hours(1);
/// A line is written a little before or after what it reports, and clocks differ.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);
/// Doublings of the settling time that are looked through for the newest line.
const DOUBLINGS: i32 = 3;
/// Pages of one search for a line.
const MAX_SEARCH_PAGES: usize = 10;

impl<S: Store, C: Cloud, K: Clock> Run<'_, S, C, K> {
    /// Applies the lines since the mark, and those before it that may have arrived since.
    pub(crate) async fn reconcile_log(&self, report: &mut ReconcileReport) -> Result<(), ReconcileError> {
        let begun = self.clock.now();
        let group = LogSource::ControlPlane(self.cluster.clone()).to_string();
        let mark = report.sources.log_read_to;
        let since = mark.map_or(begun - FIRST, |mark| mark - self.policy.settling_time) - MARGIN;
        let from = report.sources.log_continues_at.unwrap_or(since);
        // A list of Nodes has healed what was written before it: a log group that is read only while the API is away is not
        // read again from its last mark on, which may be a month ago.
        let listed = report.sources.listed_at.map(|at| at - self.policy.settling_time - MARGIN);
        let from = listed.map_or(from, |listed| from.max(listed));
        let streams = Streams::Prefix(AUDIT_STREAMS.to_owned());
        let query = LogQuery::new(&group, streams, from, begun).lines(Lines::Subscribed);
        let (mut next, mut read_to) = (None, from);
        for _ in 0..MAX_PAGES {
            if self.clock.now().duration_since(begun) > MAX_TIME {
                break;
            }
            let page = match self.cloud.log_page(&query, next.as_deref()).await {
                Ok(page) => page,
                // There is no audit log yet.
                Err(ReadError::NotConfigured(_)) => return Ok(()),
                Err(error) => {
                    report.failures.push(error.into());
                    return Ok(());
                }
            };
            report.lines += page.lines.len();
            if !self.apply_lines(&page.lines, report).await? {
                return Ok(());
            }
            read_to = page.lines.last().map_or(read_to, |last| last.timestamp.max(read_to));
            if page.next.is_none() {
                (report.sources.log_read_to, report.sources.log_continues_at) = (Some(begun), None);
                return Ok(());
            }
            next = page.next;
        }
        report.sources.log_continues_at = Some(read_to);
        report.failures.push(ReconcileError::Unfinished(group, read_to));
        Ok(())
    }

    /// Applies the lines of one page, each node's with one write. Returns whether all of them are applied.
    async fn apply_lines(
        &self,
        lines: &[LogLine],
        report: &mut ReconcileReport,
    ) -> Result<bool, ReconcileError> {
        let mut by_instance: BTreeMap<InstanceId, Vec<Observation>> = BTreeMap::new();
        for line in lines {
            // A line that cannot be read is intake's to report.
            let Ok(ParsedEvent::Observations(observations)) = control_plane_log::read(&line.message) else {
                continue;
            };
            for observation in observations {
                if let Some(instance_id) = instance_of(self.store, self.cluster, &observation).await? {
                    by_instance.entry(instance_id).or_default().push(observation);
                }
            }
        }
        let mut complete = true;
        for (instance_id, observations) in &by_instance {
            let (key, at) = (self.key(instance_id), self.clock.now());
            let apply = |case: &mut Case| {
                let each = |observation| case.apply_observation(observation, at, self.policy);
                observations.iter().flat_map(each).collect()
            };
            let result = self.apply(Target::case(&key).or_new(), at, apply).await;
            complete &= report.applied(result);
        }
        Ok(complete)
    }
}

/// How far back [`newest_line`] looks.
pub(crate) fn looked_back(settling: SignedDuration) -> SignedDuration {
    settling.max(CURRENT) * 2_i32.pow(DOUBLINGS.unsigned_abs())
}

/// The time of a line that is not much older than the newest one; none if it is older than [`looked_back`]. Where there is
/// a line within the settling time, this is one of them.
pub(crate) async fn newest_line<C: ClusterReader>(
    cloud: &C,
    group: &str,
    streams: &str,
    now: Timestamp,
    settling: SignedDuration,
) -> Result<Option<Timestamp>, ReadError> {
    let doubled = (0..=DOUBLINGS).map(|n| settling.max(CURRENT) * 2_i32.pow(n.unsigned_abs()));
    for window in std::iter::once(CURRENT).chain(doubled) {
        let query = LogQuery::new(group, Streams::Prefix(streams.to_owned()), now - window, now).first();
        let mut next = None;
        for _ in 0..MAX_SEARCH_PAGES {
            let page = cloud.log_page(&query, next.as_deref()).await?;
            if let Some(line) = page.lines.first() {
                return Ok(Some(line.timestamp));
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(None)
}
