//! Finds a container runtime that does not respond, from a CRI call and its systemd unit.
//!
//! The response decides: a runtime that responds is healthy, no matter which unit started it. The unit's state counts only
//! without a response, or if no socket is known.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, settings};
use crate::{
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::{
        cri::{self, CriError},
        systemd::{self, SystemdError, Unit},
    },
};

const NOT_RESPONDING: &str = "ContainerRuntimeNotResponding";
const CONTAINERD: &str = "containerd.service";
/// The subject of a finding from the CRI call; the unit's name is the other one.
const BY_RESPONSE: &str = "socket";
const SOCKETS: [&str; 2] = ["run/containerd/containerd.sock", "run/crio/crio.sock"];

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Each response restarts the count, so the window only limits the distance between readings.
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_mins(5) };
const TWO_MINUTES: Debounce = Debounce::Lasting(SignedDuration::from_mins(2));

pub(super) struct ContainerRuntime {
    root: PathBuf,
    timeout: Duration,
    /// A socket that existed at an earlier reading: a service that stops removes it.
    known: Option<PathBuf>,
    /// Separate latches, so that neither clears the other's findings.
    response: ConditionLatch,
    service: ConditionLatch,
}

impl ContainerRuntime {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            timeout: TIMEOUT,
            known: None,
            response: ConditionLatch::default(),
            service: ConditionLatch::default(),
        }
    }

    fn socket(&mut self) -> Option<PathBuf> {
        if let Some(configured) = settings::runtime_socket(&self.root) {
            return Some(configured);
        }
        let found = SOCKETS.iter().map(|socket| self.root.join(socket)).find(|path| path.exists());
        if found.is_some() {
            self.known = found;
        }
        self.known.clone()
    }
}

impl Probe for ContainerRuntime {
    fn name(&self) -> &'static str {
        "container-runtime"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_RESPONDING]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        if !settings::has_kubelet(&self.root) {
            return Err(not_checkable("this node has no kubelet, so no container runtime is expected"));
        }
        let socket = self.socket();
        let response = match &socket {
            Some(path) => RuntimeResponse::of(cri::version(path, self.timeout)),
            None => RuntimeResponse::Unknown("no container runtime socket is known".to_owned()),
        };
        // A node with another runtime may have an unused containerd.
        let is_containerd = socket.as_ref().is_none_or(|path| path.to_string_lossy().contains("containerd"));
        let unit = if response != RuntimeResponse::Received && is_containerd {
            Some(systemd::unit(&self.root, CONTAINERD))
        } else {
            None
        };
        let path = socket.as_deref().unwrap_or(Path::new("")).display().to_string();
        let evaluated = evaluate(&path, response, unit)?;
        let mut changes = self.response.update(evaluated.response.into_iter().collect(), now);
        changes.extend(self.service.update(evaluated.service.into_iter().collect(), now));
        Ok(changes)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RuntimeResponse {
    Received,
    /// The error, as a clause.
    Missing(String),
    /// The state is unknown; the cause, as a clause.
    Unknown(String),
}

impl RuntimeResponse {
    fn of(result: Result<(), CriError>) -> Self {
        match result {
            Ok(()) => Self::Received,
            Err(CriError::Connect(error)) => match error.kind() {
                ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::NotFound
                | ErrorKind::TimedOut => Self::Missing(format!("does not accept connections: {error}")),
                _ => Self::Unknown(format!("failed to connect to the container runtime: {error}")),
            },
            Err(error @ CriError::NoResponse(_)) => Self::Missing(format!("does not respond: {error}")),
            Err(error @ CriError::Protocol(_)) => {
                Self::Missing(format!("does not respond to a call: {error}"))
            }
        }
    }
}

/// The evaluation of the response and of the unit; `None` if unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct RuntimeEvaluation {
    response: Option<Evaluation>,
    service: Option<Evaluation>,
}

fn evaluate(
    path: &str,
    response: RuntimeResponse,
    unit: Option<Result<Unit, SystemdError>>,
) -> Result<RuntimeEvaluation, NotCheckable> {
    let by_response =
        |problem| Some(Evaluation::new(NOT_RESPONDING, problem).about(BY_RESPONSE).after(THREE_TIMES));
    let by_unit =
        |problem| Some(Evaluation::new(NOT_RESPONDING, problem).about(CONTAINERD).after(TWO_MINUTES));
    if response == RuntimeResponse::Received {
        return Ok(RuntimeEvaluation { response: by_response(None), service: by_unit(None) });
    }
    let service = match unit {
        Some(Ok(unit)) if unit.is_expected() => by_unit((!unit.is_active()).then(|| unit.to_string())),
        _ => None,
    };
    match response {
        RuntimeResponse::Unknown(why) if service.is_none() => Err(not_checkable(why)),
        RuntimeResponse::Received | RuntimeResponse::Unknown(_) => {
            Ok(RuntimeEvaluation { response: None, service })
        }
        RuntimeResponse::Missing(problem) => {
            let problem = format!("the container runtime at {path} {problem}");
            Ok(RuntimeEvaluation { response: by_response(Some(problem)), service })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;
    use crate::source::{cri::fake, systemd::fake as systemd_fake};

    fn unit(active: &str, file: &str) -> Unit {
        Unit {
            active_state: active.to_owned(),
            file_state: file.to_owned(),
            active_enter: None,
            ..systemd_fake::running(CONTAINERD)
        }
    }

    /// Whether the response and the unit are unhealthy, if known.
    fn problem(
        response: RuntimeResponse,
        unit: Option<Result<Unit, SystemdError>>,
    ) -> Option<(Option<bool>, Option<bool>)> {
        let evaluation = evaluate("/run/x.sock", response, unit).ok()?;
        let problem = |evaluated: Option<Evaluation>| evaluated.map(|evaluated| evaluated.is_unhealthy());
        Some((problem(evaluation.response), problem(evaluation.service)))
    }

    #[test]
    fn a_response_decides_and_the_unit_only_without_one() {
        let missing = || RuntimeResponse::Missing("does not accept connections".to_owned());
        let unknown = || RuntimeResponse::Unknown("no socket is known".to_owned());
        let rejected = || Err(SystemdError::Io(ErrorKind::NotFound.into()));
        for (response, unit, expected) in [
            (RuntimeResponse::Received, None, Some((Some(false), Some(false)))),
            (missing(), None, Some((Some(true), None))),
            (missing(), Some(rejected()), Some((Some(true), None))),
            (missing(), Some(Ok(unit("active", "enabled"))), Some((Some(true), Some(false)))),
            (missing(), Some(Ok(unit("failed", "enabled"))), Some((Some(true), Some(true)))),
            (missing(), Some(Ok(unit("activating", "enabled"))), Some((Some(true), Some(true)))),
            (unknown(), Some(Ok(unit("inactive", "enabled"))), Some((None, Some(true)))),
            (unknown(), Some(Ok(unit("reloading", "enabled"))), Some((None, Some(false)))),
            // Installed, but not enabled.
            (unknown(), Some(Ok(unit("inactive", "disabled"))), None),
            (unknown(), Some(rejected()), None),
            (unknown(), None, None),
        ] {
            let case = format!("{response:?} {unit:?}");
            assert_eq!(problem(response, unit), expected, "{case}");
        }
    }

    #[test]
    fn a_permission_error_is_unknown() {
        let result = |kind: ErrorKind| RuntimeResponse::of(Err(CriError::Connect(kind.into())));
        assert!(matches!(result(ErrorKind::PermissionDenied), RuntimeResponse::Unknown(_)));
        assert!(matches!(result(ErrorKind::InvalidInput), RuntimeResponse::Unknown(_)), "a path too long");
        assert!(matches!(result(ErrorKind::ConnectionRefused), RuntimeResponse::Missing(_)));
        assert!(matches!(
            RuntimeResponse::of(Err(CriError::NoResponse(TIMEOUT))),
            RuntimeResponse::Missing(_)
        ));
    }

    fn reported(changes: &[FindingChange]) -> Vec<String> {
        let one = |change: &FindingChange| match change {
            FindingChange::Raised(finding) => format!("+{}", finding.subject.as_deref().unwrap_or_default()),
            FindingChange::Cleared { subject, .. } => format!("-{}", subject.as_deref().unwrap_or_default()),
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn a_runtime_that_stops_is_not_responding_and_one_that_returns_is() {
        let root = tempfile::tempdir().expect("a directory");
        let mut probe = ContainerRuntime::new(root.path());
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no kubelet");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a directory");
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no socket, and no systemd");

        let path = root.path().join(SOCKETS[0]);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        let start = || fake::serve(UnixListener::bind(&path).expect("a socket"), "0");
        let server = start();
        let mut read = || reported(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading"));
        assert_eq!(read(), ["-socket", "-containerd.service"]);
        server.join().expect("a server");

        assert_eq!(read(), ["+socket"], "the connection is refused");
        systemd_fake::start(root.path(), vec![unit("failed", "enabled")]);
        fs::remove_file(&path).expect("a socket");
        assert_eq!(read(), ["+socket", "+containerd.service"], "it removed its socket");

        let server = start();
        assert_eq!(read(), ["-socket", "-containerd.service"]);
        server.join().expect("a server");
    }

    #[test]
    fn a_runtime_that_hangs_is_not_responding() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a directory");
        let path = root.path().join("run/elsewhere.sock");
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(
            root.path().join("var/lib/kubelet/config.yaml"),
            "containerRuntimeEndpoint: unix:///run/elsewhere.sock\n",
        )
        .expect("a file");
        let _listener = UnixListener::bind(&path).expect("a socket");
        let mut probe = ContainerRuntime::new(root.path());
        probe.timeout = Duration::from_millis(50);
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Raised(finding)] if finding.debounce == THREE_TIMES),
            "{changes:?}"
        );
    }
}
