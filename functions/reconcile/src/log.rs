//! Reads the control plane's log group again, and looks for the newest line of a log group.
//!
//! Every reading is bounded, and goes on from its mark in the next run.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    control_plane_log::{self, ParsedEvent},
    ident::InstanceId,
    log_source::{AUDIT_STREAMS, LogSource},
    observation::Observation,
    sources::{AppliedLog, CURRENT, ClusterSources},
};
use nodemend_ports::{
    clock::Clock,
    cloud::Cloud,
    cluster_reader::{
        ClusterReader, Lines, LogLine, LogQuery, ReadError, Streams,
        bounded::{BoundedError, BoundedReader, Limits, StreamsError},
    },
    instance_of::Instances,
    store::Store,
    write::Target,
};

use crate::{ReconcileError, ReconcileReport, Run};

/// Of one run: the pages are at most half a minute of the account's quota of five a second.
const LIMITS: Limits = Limits { pages: 150, time: SignedDuration::from_secs(60) };
/// Of one search for a line.
const SEARCH: Limits = Limits { pages: 10, time: SignedDuration::from_secs(60) };
/// Where the first run begins, and how far back a stream is read that was behind.
const FIRST: SignedDuration = SignedDuration::from_hours(1);
/// A line is written a little before or after what it reports, and clocks differ.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);
/// Doublings of the settling time that are looked through for the newest line.
const DOUBLINGS: i32 = 3;

impl<S: Store, C: Cloud, K: Clock> Run<'_, S, C, K> {
    /// Applies the lines since the mark, and those before it that may have arrived since.
    pub(crate) async fn reconcile_log(&self, report: &mut ReconcileReport) -> Result<(), ReconcileError> {
        let reader = BoundedReader::new(self.cloud, self.clock, LIMITS);
        let (begun, settling) = (reader.begun(), self.policy.settling_time);
        let group = LogSource::ControlPlane(self.cluster.clone()).to_string();
        // Before any line is read: only then is everything that is older than the settling time among the lines.
        let streams = match reader.live_audit_streams(&group, settling).await {
            Ok(streams) => Some(streams),
            // A source that is behind is known by the age of its newest line.
            Err(StreamsError::None(_) | StreamsError::Behind { .. }) => None,
            // There is no audit log yet.
            Err(StreamsError::Read(BoundedError::Read(ReadError::NotConfigured(_)))) => return Ok(()),
            // Without the streams its lines still heal.
            Err(StreamsError::Read(error)) => {
                report.failures.push(error.into());
                None
            }
        };
        let from = report.sources.log_continues_at.unwrap_or(since(&report.sources, begun, settling));
        // A list of Nodes has healed what was written before it: a log group that is read only while the API is away is not
        // read again from its last mark on, which may be a month ago.
        let listed = report.sources.listed_at.map(|at| at - settling - MARGIN);
        let from = listed.map_or(from, |listed| from.max(listed));
        let prefix = Streams::Prefix(AUDIT_STREAMS.to_owned());
        let query = LogQuery::new(&group, prefix, from, begun).lines(Lines::Subscribed);
        let (mut pages, mut read_streams) = (reader.pages(&query), BTreeSet::new());
        loop {
            match pages.next().await {
                Ok(Some(lines)) => {
                    report.lines += lines.len();
                    if !self.apply_lines(&lines, report).await? {
                        return Ok(());
                    }
                    read_streams.extend(lines.into_iter().map(|line| line.stream));
                }
                Ok(None) => break,
                Err(BoundedError::Read(ReadError::NotConfigured(_))) => return Ok(()),
                Err(BoundedError::Read(error)) => {
                    report.failures.push(error.into());
                    return Ok(());
                }
                Err(BoundedError::TooManyPages { .. } | BoundedError::TookTooLong { .. }) => {
                    let read_to = pages.read_to().unwrap_or(from);
                    report.sources.log_continues_at = Some(read_to);
                    report.failures.push(ReconcileError::Unfinished(group, read_to));
                    return Ok(());
                }
            }
        }
        (report.sources.log_read_to, report.sources.log_continues_at) = (Some(begun), None);
        // The names of streams are eventually consistent: one that was not among them may be behind.
        if let Some(streams) = streams.filter(|streams| read_streams.is_subset(streams)) {
            let reading = AppliedLog::of_reading(from, begun, settling, streams);
            report.sources.log_applied = Some(reading.after(report.sources.log_applied.as_ref()));
        }
        Ok(())
    }

    /// Applies the lines of one page, each node's with one write. Returns whether all of them are applied.
    async fn apply_lines(
        &self,
        lines: &[LogLine],
        report: &mut ReconcileReport,
    ) -> Result<bool, ReconcileError> {
        let mut by_instance: BTreeMap<InstanceId, Vec<Observation>> = BTreeMap::new();
        let mut instances = Instances::new(self.store, self.cluster);
        for line in lines {
            // A line that cannot be read is intake's to report.
            let Ok(ParsedEvent::Observations(observations)) = control_plane_log::read(&line.message) else {
                continue;
            };
            for observation in observations {
                if let Some(instance_id) = instances.of(&observation).await? {
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

/// From where a run reads that no other one left unfinished.
fn since(sources: &ClusterSources, begun: Timestamp, settling: SignedDuration) -> Timestamp {
    let mark = sources.log_read_to.map_or(begun - FIRST, |mark| mark - settling);
    // A stream that was behind may have caught up: what it lacked is older than the mark.
    let applied = sources.log_applied.as_ref().map(AppliedLog::to).filter(|to| *to >= begun - FIRST);
    applied.unwrap_or(mark).min(mark) - MARGIN
}

/// How far back [`newest_line`] looks.
pub(crate) fn looked_back(settling: SignedDuration) -> SignedDuration {
    settling.max(CURRENT) * 2_i32.pow(DOUBLINGS.unsigned_abs())
}

/// The time of a line that is not much older than the newest one; none if it is older than [`looked_back`]. Where there is
/// a line within the settling time, this is one of them.
pub(crate) async fn newest_line<C: ClusterReader, K: Clock>(
    cloud: &C,
    clock: &K,
    group: &str,
    streams: &str,
    settling: SignedDuration,
) -> Result<Option<Timestamp>, ReadError> {
    let reader = BoundedReader::new(cloud, clock, SEARCH);
    let now = reader.begun();
    let doubled = (0..=DOUBLINGS).map(|n| settling.max(CURRENT) * 2_i32.pow(n.unsigned_abs()));
    for window in std::iter::once(CURRENT).chain(doubled) {
        let query = LogQuery::new(group, Streams::Prefix(streams.to_owned()), now - window, now).first();
        match reader.first_line(&query).await {
            Ok(Some(line)) => return Ok(Some(line)),
            // As far as it was searched there is none.
            Ok(None) | Err(BoundedError::TooManyPages { .. } | BoundedError::TookTooLong { .. }) => {}
            Err(BoundedError::Read(error)) => return Err(error),
        }
    }
    Ok(None)
}
