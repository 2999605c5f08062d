//! Turns the container runtime's answers, and the state of its service, into whether it responds.
//!
//! Its answer decides: a runtime that answers responds, whatever unit it was started by. That its service does not run
//! counts where there is no answer, and where nobody knows whom to ask.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{not_checkable, settings};
use crate::{
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::{
        cri::{self, CriError},
        systemd::{self, SystemdError, Unit},
    },
};

const NOT_RESPONDING: &str = "ContainerRuntimeNotResponding";
const CONTAINERD: &str = "containerd.service";
/// What a finding is about: the answer, or the service.
const BY_ANSWER: &str = "socket";
const SOCKETS: [&str; 2] = ["run/containerd/containerd.sock", "run/crio/crio.sock"];

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Each answer starts the count anew, so that the length is only how far apart readings may be.
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_mins(5) };
const TWO_MINUTES: Debounce = Debounce::Lasting(SignedDuration::from_mins(2));

pub(super) struct ContainerRuntime {
    root: PathBuf,
    timeout: Duration,
    /// A socket that was there once: a service that stops takes it away.
    known: Option<PathBuf>,
    /// Apart, so that neither ends what the other found.
    answer: Standing,
    service: Standing,
}

impl ContainerRuntime {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            timeout: TIMEOUT,
            known: None,
            answer: Standing::default(),
            service: Standing::default(),
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        if !settings::has_kubelet(&self.root) {
            return Err(not_checkable(
                "there is no kubelet on this node that a container runtime would serve",
            ));
        }
        let socket = self.socket();
        let answer = match &socket {
            Some(path) => Answer::of(cri::version(path, self.timeout)),
            None => Answer::Unknown("no container runtime's socket is known".to_owned()),
        };
        // Another runtime's node may have a containerd that nobody uses.
        let is_containerd = socket.as_ref().is_none_or(|path| path.to_string_lossy().contains("containerd"));
        let unit = if answer != Answer::Given && is_containerd {
            Some(systemd::unit(&self.root, CONTAINERD))
        } else {
            None
        };
        let path = socket.as_deref().unwrap_or(Path::new("")).display().to_string();
        let judged = judge(&path, answer, unit)?;
        let mut changes = self.answer.update(judged.answer.into_iter().collect(), now);
        changes.extend(self.service.update(judged.service.into_iter().collect(), now));
        Ok(changes)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Given,
    /// In a clause.
    Missing(String),
    /// It can't be said; why, in a clause.
    Unknown(String),
}

impl Answer {
    fn of(tried: Result<(), CriError>) -> Self {
        match tried {
            Ok(()) => Self::Given,
            Err(CriError::Connect(error)) => match error.kind() {
                ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::NotFound
                | ErrorKind::TimedOut => Self::Missing(format!("takes no connection: {error}")),
                _ => Self::Unknown(format!("the container runtime can't be asked: {error}")),
            },
            Err(error @ CriError::Silent(_)) => Self::Missing(format!("does not answer: {error}")),
            Err(error @ CriError::Broken(_)) => Self::Missing(format!("does not answer a call: {error}")),
        }
    }
}

/// What can be said of either; none where nothing can.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Both {
    answer: Option<Judged>,
    service: Option<Judged>,
}

fn judge(path: &str, answer: Answer, unit: Option<Result<Unit, SystemdError>>) -> Result<Both, NotCheckable> {
    let by_answer = |wrong| Some(Judged::when(NOT_RESPONDING, wrong).about(BY_ANSWER).after(THREE_TIMES));
    let by_unit = |wrong| Some(Judged::when(NOT_RESPONDING, wrong).about(CONTAINERD).after(TWO_MINUTES));
    if answer == Answer::Given {
        return Ok(Both { answer: by_answer(None), service: by_unit(None) });
    }
    let service = match unit {
        Some(Ok(unit)) if unit.is_wanted() => by_unit((!unit.is_active()).then(|| unit.to_string())),
        _ => None,
    };
    match answer {
        Answer::Unknown(why) if service.is_none() => Err(not_checkable(why)),
        Answer::Given | Answer::Unknown(_) => Ok(Both { answer: None, service }),
        Answer::Missing(wrong) => {
            let wrong = format!("the container runtime at {path} {wrong}");
            Ok(Both { answer: by_answer(Some(wrong)), service })
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

    /// Whether the answer and the service are wrong, if that can be said.
    fn wrong(
        answer: Answer,
        unit: Option<Result<Unit, SystemdError>>,
    ) -> Option<(Option<bool>, Option<bool>)> {
        let both = judge("/run/x.sock", answer, unit).ok()?;
        let wrong = |judged: Option<Judged>| judged.map(|judged| judged.is_wrong());
        Some((wrong(both.answer), wrong(both.service)))
    }

    #[test]
    fn an_answer_decides_and_the_service_speaks_where_there_is_none() {
        let missing = || Answer::Missing("takes no connection".to_owned());
        let unknown = || Answer::Unknown("no socket is known".to_owned());
        let refused = || Err(SystemdError::Io(ErrorKind::NotFound.into()));
        for (answer, unit, expected) in [
            (Answer::Given, None, Some((Some(false), Some(false)))),
            (missing(), None, Some((Some(true), None))),
            (missing(), Some(refused()), Some((Some(true), None))),
            (missing(), Some(Ok(unit("active", "enabled"))), Some((Some(true), Some(false)))),
            (missing(), Some(Ok(unit("failed", "enabled"))), Some((Some(true), Some(true)))),
            (missing(), Some(Ok(unit("activating", "enabled"))), Some((Some(true), Some(true)))),
            (unknown(), Some(Ok(unit("inactive", "enabled"))), Some((None, Some(true)))),
            (unknown(), Some(Ok(unit("reloading", "enabled"))), Some((None, Some(false)))),
            // Installed, and never meant to run.
            (unknown(), Some(Ok(unit("inactive", "disabled"))), None),
            (unknown(), Some(refused()), None),
            (unknown(), None, None),
        ] {
            let case = format!("{answer:?} {unit:?}");
            assert_eq!(wrong(answer, unit), expected, "{case}");
        }
    }

    #[test]
    fn who_may_not_ask_knows_nothing() {
        let tried = |kind: ErrorKind| Answer::of(Err(CriError::Connect(kind.into())));
        assert!(matches!(tried(ErrorKind::PermissionDenied), Answer::Unknown(_)));
        assert!(matches!(tried(ErrorKind::InvalidInput), Answer::Unknown(_)), "a path too long");
        assert!(matches!(tried(ErrorKind::ConnectionRefused), Answer::Missing(_)));
        assert!(matches!(Answer::of(Err(CriError::Silent(TIMEOUT))), Answer::Missing(_)));
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let one = |change: &Change| match change {
            Change::Raised(finding) => format!("+{}", finding.subject.as_deref().unwrap_or_default()),
            Change::Cleared { subject, .. } => format!("-{}", subject.as_deref().unwrap_or_default()),
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn a_runtime_that_stops_is_not_responding_and_one_that_returns_is() {
        let root = tempfile::tempdir().expect("a folder");
        let mut probe = ContainerRuntime::new(root.path());
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no kubelet");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a folder");
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no socket, and no systemd");

        let path = root.path().join(SOCKETS[0]);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        let start = || fake::serve(UnixListener::bind(&path).expect("a socket"), "0");
        let server = start();
        let mut read = || told(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading"));
        assert_eq!(read(), ["-socket", "-containerd.service"]);
        server.join().expect("a server");

        assert_eq!(read(), ["+socket"], "it refuses");
        systemd_fake::start(root.path(), vec![unit("failed", "enabled")]);
        fs::remove_file(&path).expect("a socket");
        assert_eq!(read(), ["+socket", "+containerd.service"], "it took its socket away");

        let server = start();
        assert_eq!(read(), ["-socket", "-containerd.service"]);
        server.join().expect("a server");
    }

    #[test]
    fn a_runtime_that_hangs_is_not_responding() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a folder");
        let path = root.path().join("run/elsewhere.sock");
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
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
            matches!(&changes[..], [Change::Raised(finding)] if finding.debounce == THREE_TIMES),
            "{changes:?}"
        );
    }
}
