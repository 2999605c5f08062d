//! Turns log groups on AWS into a part of the history: page by page, as they are read, and never more than one page in memory.

use std::{
    cell::RefCell,
    io::{self, Read},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudwatchlogs::{Client, config::Builder, error::DisplayErrorContext};
use jiff::Timestamp;
use nodemend_adapters::{
    aws,
    filter_pattern::our_patterns::{AGENT, CONTROL_PLANE},
};
use nodemend_domain::log_source::{AUDIT_STREAMS, LogSource};
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    BacktestError, Options,
    files::File,
    progress::Bar,
    read::Reading,
    shape::{Asked, Reader},
};

/// A page may take AWS long: it searches much and finds little.
const PATIENCE: Duration = Duration::from_secs(60);
/// An account has a few of these calls a second, for everybody: whoever is throttled waits and tries again.
const MAX_ATTEMPTS: u32 = 10;

/// Reads the log groups that were asked for, after the files.
pub(super) fn add(
    options: &Options,
    asked: Asked,
    mut read: Reading,
    mut files: Vec<File>,
) -> Result<(Reading, Vec<File>), BacktestError> {
    let Some(first) = options.log_group.first() else { return Ok((read, files)) };
    let begun = Instant::now();
    let refuse = |group: &str, why: String| BacktestError::LogGroup { group: group.to_owned(), why };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| refuse(first, error.to_string()))?;
    let shared = runtime.block_on(aws::load()).map_err(|error| refuse(first, error.to_string()))?;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
    let config = Builder::from(&shared)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .build();
    let client = Client::from_conf(config);
    let mut reader = Reader::new(asked);
    for group in &options.log_group {
        let source = LogSource::of(group)
            .ok_or_else(|| refuse(group, "is neither an agent's nor a control plane's".to_owned()))?;
        let failed = Rc::new(RefCell::new(None));
        let pages = Pages {
            runtime: &runtime,
            client: &client,
            group,
            source,
            asked,
            next: None,
            ended: false,
            page: io::Cursor::default(),
            failed: failed.clone(),
            bar: Bar::on_terminal(),
            begun,
            bytes: 0,
        };
        let file = File { path: PathBuf::from(group), bytes: 0, stream: None };
        let index = u32::try_from(files.len()).map_err(|_| BacktestError::TooManyFiles)?;
        reader.file(index, &file, pages).map_err(BacktestError::Spill)?;
        if let Some(why) = failed.take() {
            return Err(refuse(group, why));
        }
        files.push(file);
    }
    let (spill, counts) = reader.into_parts();
    read.counts.add(counts);
    read.history.add(spill);
    read.took += begun.elapsed();
    Ok((read, files))
}

/// One log group as one stream of JSON lines.
struct Pages<'a> {
    runtime: &'a Runtime,
    client: &'a Client,
    group: &'a str,
    source: LogSource,
    asked: Asked,
    next: Option<String>,
    ended: bool,
    page: io::Cursor<Vec<u8>>,
    failed: Rc<RefCell<Option<String>>>,
    bar: Option<Bar>,
    begun: Instant,
    bytes: u64,
}

impl Pages<'_> {
    /// The next page, which may be empty though others follow.
    fn turn(&mut self) -> Result<Vec<u8>, String> {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millisecond);
        // What the subscription of the installation would have let through, and nothing else.
        let (pattern, streams) = match self.source {
            LogSource::Agents(_) => (AGENT, None),
            LogSource::ControlPlane(_) => (CONTROL_PLANE, Some(AUDIT_STREAMS.to_owned())),
        };
        let call = self
            .client
            .filter_log_events()
            .log_group_name(self.group)
            .filter_pattern(pattern)
            .set_log_stream_name_prefix(streams)
            .set_start_time(millis(self.asked.since))
            .set_end_time(millis(self.asked.until))
            .set_next_token(self.next.take());
        let answer = self
            .runtime
            .block_on(async { Box::pin(call.send()).await })
            .map_err(|error| DisplayErrorContext(&error).to_string())?;
        let mut page = Vec::new();
        let mut last = None;
        for event in answer.events() {
            let line = json!({
                "logStreamName": event.log_stream_name(),
                "timestamp": event.timestamp(),
                "ingestionTime": event.ingestion_time(),
                "message": event.message().unwrap_or_default(),
            });
            last = event.timestamp().or(last);
            page.extend_from_slice(line.to_string().as_bytes());
            page.push(b'\n');
        }
        self.bytes += page.len() as u64;
        self.next = answer.next_token().map(str::to_owned);
        self.ended = self.next.is_none();
        if let (Some(bar), Some(last), Some(since), Some(until)) =
            (&mut self.bar, last, millis(self.asked.since), millis(self.asked.until))
        {
            let part = (last - since) as f64 / (until - since).max(1) as f64;
            bar.draw(part, self.bytes, self.begun.elapsed());
        }
        Ok(page)
    }
}

impl Read for Pages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.page.read(buffer)?;
            if read > 0 || self.ended {
                if self.ended
                    && read == 0
                    && let Some(bar) = self.bar.take()
                {
                    bar.clear();
                }
                return Ok(read);
            }
            match self.turn() {
                Ok(page) => self.page = io::Cursor::new(page),
                Err(why) => {
                    self.failed.replace(Some(why.clone()));
                    return Err(io::Error::other(why));
                }
            }
        }
    }
}
