//! Reads log groups within limits: their quota is shared with everybody in the account, and a run waits for them.
//!
//! - FilterLogEvents reads forward only, and returns empty pages while it searches: the lines of a query can be many pages
//!   away.
//! - A reading that reaches its limits is never taken for one that found nothing: it returns where to go on.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{log_source::AUDIT_STREAMS, timestamp};

use super::{ClusterReader, LogLine, LogQuery, ReadError, Streams};
use crate::clock::Clock;

/// Audit streams with a line this recently must go on: an API server writes at every moment.
const STREAM_ALIVE: SignedDuration = SignedDuration::from_hours(1);

/// The streams that are checked at the same time: less than the account's quota of five pages a second.
const AT_ONCE: usize = 4;

/// The limits of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The pages of one query.
    pub pages: usize,
    /// The time of all queries together: no page is requested after it.
    pub time: SignedDuration,
}

/// Why a query was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundedError {
    /// A page could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has more pages than the limit.
    #[error("{what} has more than {pages} pages to read")]
    TooManyPages {
        /// The log group.
        what: String,
        /// The limit.
        pages: usize,
    },
    /// It took longer than the limit.
    #[error("reading {what} took longer than {}", timestamp::duration(*.time))]
    TookTooLong {
        /// The log group.
        what: String,
        /// The limit.
        time: SignedDuration,
    },
}

/// Why not every audit stream is known to be written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamsError {
    /// They could not be read.
    #[error(transparent)]
    Read(#[from] BoundedError),
    /// There is none.
    #[error("no stream {AUDIT_STREAMS}* of {0} has a line of the last hour")]
    None(String),
    /// One is behind: it may lack the line that reports a node healthy.
    #[error("the newest line of stream {stream} in {group} is older than {}", timestamp::duration(*.settling))]
    Behind {
        /// The stream.
        stream: String,
        /// Its log group.
        group: String,
        /// The age that it may have.
        settling: SignedDuration,
    },
}

/// Reads log groups within limits, which begin to count when it is created.
#[derive(Debug)]
pub struct BoundedReader<'r, C, K> {
    reader: &'r C,
    clock: &'r K,
    limits: Limits,
    begun: Timestamp,
}

impl<'r, C: ClusterReader, K: Clock> BoundedReader<'r, C, K> {
    /// A reader that begins now.
    pub fn new(reader: &'r C, clock: &'r K, limits: Limits) -> Self {
        Self { reader, clock, limits, begun: clock.now() }
    }

    /// When it began, by our clock. Its limit of time counts from then.
    pub fn begun(&self) -> Timestamp {
        self.begun
    }

    /// The pages of a query, none of which has been read yet.
    pub fn pages<'q>(&'q self, query: &'q LogQuery) -> Pages<'q, C, K> {
        Pages { reader: self, query, next: Next::Page(None), count: 0, read_to: None }
    }

    /// The time of the first line of a query; none if it has no line.
    pub async fn first_line(&self, query: &LogQuery) -> Result<Option<Timestamp>, BoundedError> {
        let mut pages = self.pages(query);
        while let Some(lines) = pages.next().await? {
            if let Some(line) = lines.first() {
                return Ok(Some(line.timestamp));
            }
        }
        Ok(None)
    }

    /// The audit streams that have been written to lately, if every one of them is still written to: each has a line that is
    /// younger than the settling time. Lines are read after it, never before: what is older can be read by then.
    pub async fn live_audit_streams(
        &self,
        group: &str,
        settling: SignedDuration,
    ) -> Result<BTreeSet<String>, StreamsError> {
        let at = self.clock.now();
        let streams =
            self.reader.streams(group, AUDIT_STREAMS, at - STREAM_ALIVE).await.map_err(BoundedError::Read)?;
        if streams.is_empty() {
            return Err(StreamsError::None(group.to_owned()));
        }
        for some in streams.chunks(AT_ONCE) {
            let newest = join_all(some.iter().map(async |stream| {
                let query = LogQuery::new(group, Streams::Named(stream.clone()), at - settling, at).first();
                self.first_line(&query).await
            }));
            for (stream, newest) in some.iter().zip(newest.await) {
                if newest?.is_none() {
                    let (stream, group) = (stream.clone(), group.to_owned());
                    return Err(StreamsError::Behind { stream, group, settling });
                }
            }
        }
        Ok(streams.into_iter().collect())
    }
}

/// The pages of one query.
#[derive(Debug)]
pub struct Pages<'q, C, K> {
    reader: &'q BoundedReader<'q, C, K>,
    query: &'q LogQuery,
    next: Next,
    count: usize,
    read_to: Option<Timestamp>,
}

/// What a query has left.
#[derive(Debug)]
enum Next {
    Page(Option<String>),
    End,
}

impl<C: ClusterReader, K: Clock> Pages<'_, C, K> {
    /// The lines of the next page; none after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<LogLine>>, BoundedError> {
        let Next::Page(token) = &self.next else { return Ok(None) };
        let (Limits { pages, time }, what) = (self.reader.limits, || self.query.group.clone());
        if self.count >= pages {
            return Err(BoundedError::TooManyPages { what: what(), pages });
        }
        if self.reader.clock.now().duration_since(self.reader.begun) > time {
            return Err(BoundedError::TookTooLong { what: what(), time });
        }
        let page = self.reader.reader.log_page(self.query, token.as_deref()).await?;
        self.count += 1;
        self.next = page.next.map_or(Next::End, |next| Next::Page(Some(next)));
        self.read_to = page.lines.last().map(|last| last.timestamp).max(self.read_to);
        Ok(Some(page.lines))
    }

    /// The time of the last line that was read: a reading that ended early goes on from there.
    pub fn read_to(&self) -> Option<Timestamp> {
        self.read_to
    }
}

#[cfg(test)]
mod tests {
    use nodemend_domain::{
        case::Consistency,
        ident::{ClusterName, NodeName},
        node_snapshot::NodeSnapshot,
    };

    use super::{super::LogPage, *};
    use crate::clock::VirtualClock;

    const GROUP: &str = "/aws/eks/prod/cluster";

    /// A log group whose pages are the given lines, each a page that takes a second. Stream `b` has no line at all.
    struct Paged<'c> {
        clock: &'c VirtualClock,
        pages: &'c [&'c [i64]],
        streams: &'c [&'c str],
    }

    impl ClusterReader for Paged<'_> {
        async fn node(&self, _: &ClusterName, _: &NodeName) -> Result<Option<NodeSnapshot>, ReadError> {
            panic!("only log groups are read")
        }

        async fn nodes(&self, _: &ClusterName, _: Consistency) -> Result<Vec<NodeSnapshot>, ReadError> {
            panic!("only log groups are read")
        }

        async fn log_page(&self, query: &LogQuery, next: Option<&str>) -> Result<LogPage, ReadError> {
            self.clock.advance_to(self.clock.now() + SignedDuration::from_secs(1));
            if query.streams == Streams::Named("b".to_owned()) {
                return Ok(LogPage::default());
            }
            let number: usize = next.map_or(0, |next| next.parse().expect("our own token"));
            let line = |second: &i64| LogLine {
                stream: "a".to_owned(),
                timestamp: at(*second),
                ingested: at(*second),
                message: String::new(),
            };
            let lines = self.pages[number].iter().map(line).collect();
            let next = (number + 1 < self.pages.len()).then(|| (number + 1).to_string());
            Ok(LogPage { lines, next })
        }

        async fn streams(&self, _: &str, _: &str, _: Timestamp) -> Result<Vec<String>, ReadError> {
            Ok(self.streams.iter().map(|name| (*name).to_owned()).collect())
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).expect("a time")
    }

    fn query() -> LogQuery {
        LogQuery::new(GROUP, Streams::Prefix(AUDIT_STREAMS.to_owned()), at(0), at(100))
    }

    /// Reads all pages within limits: the lines, where it goes on, and why it ended early.
    fn read(pages: &[&[i64]], limits: Limits) -> (usize, Option<Timestamp>, Option<BoundedError>) {
        let clock = VirtualClock::default();
        let group = Paged { clock: &clock, pages, streams: &[] };
        let (reader, query) = (BoundedReader::new(&group, &clock, limits), query());
        let mut read = reader.pages(&query);
        let mut count = 0;
        loop {
            match pollster::block_on(read.next()) {
                Ok(Some(lines)) => count += lines.len(),
                Ok(None) => return (count, read.read_to(), None),
                Err(error) => return (count, read.read_to(), Some(error)),
            }
        }
    }

    const LIMITS: Limits = Limits { pages: 3, time: SignedDuration::from_secs(10) };

    #[test]
    fn a_query_is_read_to_its_end_through_empty_pages() {
        assert_eq!(read(&[&[], &[1, 2], &[5]], LIMITS), (3, Some(at(5)), None));
    }

    #[test]
    fn a_reading_that_reaches_its_limits_says_where_to_go_on() {
        let (count, read_to, error) = read(&[&[1], &[2], &[3], &[4]], LIMITS);
        assert_eq!((count, read_to), (3, Some(at(3))));
        let what = || GROUP.to_owned();
        assert_eq!(error, Some(BoundedError::TooManyPages { what: what(), pages: 3 }));

        let time = SignedDuration::from_secs(1);
        let (count, read_to, error) = read(&[&[1], &[2], &[3]], Limits { time, ..LIMITS });
        assert_eq!((count, read_to), (2, Some(at(2))));
        assert_eq!(error, Some(BoundedError::TookTooLong { what: what(), time }));
    }

    #[test]
    fn a_search_that_reaches_its_limits_has_not_found_that_there_is_no_line() {
        let first = |pages: &[&[i64]]| {
            let clock = VirtualClock::default();
            let group = Paged { clock: &clock, pages, streams: &[] };
            pollster::block_on(BoundedReader::new(&group, &clock, LIMITS).first_line(&query()))
        };
        assert_eq!(first(&[&[], &[], &[7]]), Ok(Some(at(7))));
        assert_eq!(first(&[&[], &[], &[]]), Ok(None));
        assert!(matches!(first(&[&[], &[], &[], &[7]]), Err(BoundedError::TooManyPages { .. })));
    }

    #[test]
    fn streams_are_alive_only_if_each_of_them_has_a_young_line() {
        let live = |streams: &[&str]| {
            let clock = VirtualClock::default();
            let group = Paged { clock: &clock, pages: &[&[1]], streams };
            let reader = BoundedReader::new(&group, &clock, LIMITS);
            pollster::block_on(reader.live_audit_streams(GROUP, SignedDuration::from_mins(10)))
        };
        assert_eq!(live(&["a"]), Ok(["a".to_owned()].into()));
        assert_eq!(live(&[]), Err(StreamsError::None(GROUP.to_owned())));
        assert!(matches!(live(&["a", "b"]), Err(StreamsError::Behind { stream, .. }) if stream == "b"));
    }
}
