//! Lets a test crash a function's process at any await, and set its clock.
//!
//! - Every request to AWS and every line of telemetry has a number in the process: between two of them, nothing outside
//!   of the process changes.
//! - Compiled only with the feature `failpoints`, and inactive without its variables. No deployed binary has it.

use std::{
    cell::RefCell,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_smithy_runtime_api::client::{
    connector_metadata::ConnectorMetadata,
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use jiff::Timestamp;

use nodemend_ports::config::environment::Environment;

/// The point at which the process crashes: `before:12` or `after:12`.
pub const AT: &str = "NODEMEND_FAILPOINT";
/// The file to which each await is written as `12 name`, and a crash as `died`. A process that finds `died` in it does
/// not crash again, and continues the numbers.
pub const LOG: &str = "NODEMEND_FAILPOINT_LOG";
/// The file that holds the time, for a process whose clock a test sets.
pub const CLOCK: &str = "NODEMEND_FAILPOINT_CLOCK";
/// The line of a crash.
pub const DIED: &str = "died";

/// A side of an await.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Before it: it has no effect yet.
    Before,
    /// After it: it has its effect, which this process does not use.
    After,
}

/// A point at which the process can crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The await's number, from 1.
    pub number: u64,
    /// Before or after the await.
    pub side: Side,
}

impl Point {
    /// Reads `before:12`.
    pub fn read(text: &str) -> Option<Self> {
        let (side, number) = text.split_once(':')?;
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            _ => return None,
        };
        Some(Self { number: number.parse().ok()?, side })
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        write!(f, "{side}:{}", self.number)
    }
}

/// The configuration of this process.
struct Plan {
    at: Option<Point>,
    log: PathBuf,
    count: AtomicU64,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let read = || {
        let environment = Environment::of_process();
        let log = PathBuf::from(environment.text(LOG).ok()?);
        let known = fs::read_to_string(&log).unwrap_or_default();
        let crashed = known.lines().any(|line| line == DIED);
        let at = environment.text(AT).ok().and_then(|text| Point::read(&text)).filter(|_| !crashed);
        Some(Plan { at, log, count: AtomicU64::new(0) })
    };
    PLAN.get_or_init(read).as_ref()
}

/// An await that has begun.
#[must_use]
#[derive(Debug)]
pub struct Begun(u64);

/// Begins an await. May crash the process.
pub fn begin(what: &str) -> Begun {
    let Some(plan) = plan() else { return Begun(0) };
    let number = plan.count.fetch_add(1, Ordering::Relaxed) + 1;
    plan.note(&format!("{number} {what}"));
    plan.reach(Point { number, side: Side::Before });
    Begun(number)
}

impl Begun {
    /// Ends an await. May crash the process.
    pub fn end(self) {
        if let Some(plan) = plan() {
            plan.reach(Point { number: self.0, side: Side::After });
        }
    }
}

impl Plan {
    fn reach(&self, point: Point) {
        if self.at == Some(point) {
            self.note(DIED);
            // Like a kill by the kernel: nothing unwinds, and nothing is reported.
            std::process::abort();
        }
    }

    fn note(&self, line: &str) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        // If the log cannot be written, the test that set it finds nothing in it.
        let _ = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
    }
}

thread_local! {
    static CLOCK_OF_THREAD: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Sets this thread's clock to the one in a file, for a test's own thread.
pub fn use_clock(path: &Path) {
    CLOCK_OF_THREAD.with_borrow_mut(|clock| *clock = Some(path.to_owned()));
}

fn clock() -> Option<PathBuf> {
    static OF_PROCESS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let of_process = || Environment::of_process().text(CLOCK).ok().map(PathBuf::from);
    CLOCK_OF_THREAD.with_borrow(Clone::clone).or_else(|| OF_PROCESS.get_or_init(of_process).clone())
}

/// The time that a test has set, if any.
pub(crate) fn now() -> Option<Timestamp> {
    fs::read_to_string(clock()?).ok()?.parse().ok()
}

/// Advances the time that a test has set. Returns whether there is one.
pub fn pass_to(at: Timestamp) -> bool {
    let Some(path) = clock() else { return false };
    if now().is_none_or(|now| now < at) {
        // Atomic, because other processes read it.
        let next = path.with_extension("next");
        let set = fs::write(&next, at.to_string()).and_then(|()| fs::rename(&next, &path));
        return set.is_ok();
    }
    true
}

/// A client that numbers its requests.
pub(crate) fn numbered(client: SharedHttpClient) -> SharedHttpClient {
    if plan().is_none() {
        return client;
    }
    SharedHttpClient::new(Numbered(client))
}

#[derive(Debug)]
struct Numbered<C>(C);

impl HttpClient for Numbered<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Numbered(self.0.http_connector(settings, components)))
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

impl HttpConnector for Numbered<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, what) = (self.0.clone(), name(&request));
        HttpConnectorFuture::new(async move {
            let begun = begin(&what);
            let answer = connector.call(request).await;
            begun.end();
            answer
        })
    }
}

/// The name of a request: its target, its form's action, or its path.
fn name(request: &HttpRequest) -> String {
    if let Some(target) = request.headers().get("x-amz-target") {
        return target.rsplit('.').next().unwrap_or(target).to_owned();
    }
    let form = request.body().bytes().and_then(|body| str::from_utf8(body).ok()).unwrap_or_default();
    let action = form.split('&').find_map(|field| field.strip_prefix("Action="));
    action.map_or_else(|| path(request.uri()), ToOwned::to_owned)
}

fn path(uri: &str) -> String {
    uri.split_once("://")
        .and_then(|(_, after)| after.split_once('/'))
        .map_or("/", |(_, path)| path)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_reads_back_as_written() {
        for text in ["before:1", "after:212"] {
            assert_eq!(Point::read(text).map(|point| point.to_string()).as_deref(), Some(text));
        }
        for text in ["", "12", "during:1", "before:x", "before:-1"] {
            assert_eq!(Point::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_threads_clock_in_a_file_never_goes_back() {
        use nodemend_ports::clock::Clock;

        use crate::clock::SystemClock;
        let path = std::env::temp_dir().join(format!("nodemend-clock-{}", std::process::id()));
        let at = |second| Timestamp::from_second(second).expect("a time");
        use_clock(&path);
        assert!(pass_to(at(1_800_000_000)) && pass_to(at(1_700_000_000)));
        assert_eq!(SystemClock.now(), at(1_800_000_000));
        let of_another = std::thread::spawn(|| SystemClock.now()).join().expect("a time");
        assert_ne!(of_another, at(1_800_000_000));
        fs::remove_file(&path).expect("removed");
    }
}
