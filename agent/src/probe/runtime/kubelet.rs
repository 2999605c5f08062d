//! Turns what the kubelet says of its own health into whether it is healthy.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
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
    source::http::{self, Answer},
};

const NOT_HEALTHY: &str = "KubeletNotHealthy";
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Each healthy reading starts the count anew, so that the length is only how far apart readings may be.
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_mins(5) };
/// Of what it says of itself, that which goes into a message.
const MAX_BODY: usize = 200;

pub(super) struct Kubelet {
    root: PathBuf,
    address: SocketAddr,
    timeout: Duration,
    standing: Standing,
}

impl Kubelet {
    pub(super) fn new(root: &Path, address: SocketAddr) -> Self {
        Self { root: root.to_owned(), address, timeout: TIMEOUT, standing: Standing::default() }
    }
}

impl Probe for Kubelet {
    fn name(&self) -> &'static str {
        "kubelet-health"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_HEALTHY]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        if !settings::has_kubelet(&self.root) {
            return Err(not_checkable("there is no kubelet on this node"));
        }
        let mut address = self.address;
        match settings::healthz_port(&self.root) {
            Some(0) => return Err(not_checkable("the kubelet is configured not to speak of its health")),
            Some(port) => address.set_port(port),
            None => {}
        }
        let wrong = judge(http::request(&address, "GET", "/healthz", "", self.timeout))?;
        let wrong = wrong.map(|wrong| format!("http://{address}/healthz {wrong}"));
        let judged = Judged::when(NOT_HEALTHY, wrong).after(THREE_TIMES);
        Ok(self.standing.update(vec![judged], now))
    }
}

/// What is wrong, in a clause.
fn judge(answer: io::Result<Answer>) -> Result<Option<String>, NotCheckable> {
    match answer {
        Ok(answer) if answer.is_ok() => Ok(None),
        Ok(answer) => {
            let body = answer.body.lines().next().unwrap_or_default();
            let body = &body[..body.floor_char_boundary(MAX_BODY)];
            Ok(Some(format!("answers \"{}\": {body}", answer.status)))
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof => Ok(Some(format!("does not answer: {error}"))),
            _ => Err(not_checkable(format!("the kubelet's health can't be asked for: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader, Write},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;

    #[test]
    fn whatever_is_not_200_is_wrong() {
        let answer =
            |status: &str, body: &str| Ok(Answer { status: status.to_owned(), body: body.to_owned() });
        assert_eq!(judge(answer("HTTP/1.0 200 OK", "ok")), Ok(None));
        let wrong = judge(answer("HTTP/1.0 500 Internal Server Error", "[+]ping ok\n[-]syncloop failed"));
        assert_eq!(wrong, Ok(Some("answers \"HTTP/1.0 500 Internal Server Error\": [+]ping ok".to_owned())));
        assert!(judge(answer("", "")).expect("a reading").is_some());
        assert!(judge(answer("HTTP/1.0 2000 OK", "")).expect("a reading").is_some());
        for kind in [ErrorKind::ConnectionRefused, ErrorKind::TimedOut, ErrorKind::UnexpectedEof] {
            assert!(judge(Err(kind.into())).expect("a reading").is_some(), "{kind}");
        }
        judge(Err(ErrorKind::PermissionDenied.into())).expect_err("that says nothing of the kubelet");
    }

    #[test]
    fn a_node_without_kubelet_has_none_to_be_unhealthy() {
        let root = tempfile::tempdir().expect("a folder");
        let mut probe = Kubelet::new(root.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no kubelet");
    }

    #[test]
    fn a_kubelet_that_answers_is_well_and_one_that_refuses_or_hangs_is_not() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a folder");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut probe = Kubelet::new(root.path(), address);
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a caller");
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            stream.read_line(&mut first).expect("a request");
            stream.get_mut().write_all(b"HTTP/1.0 200 OK\r\n\r\nok").expect("an answer");
            (first, listener)
        });
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(matches!(&changes[..], [Change::Cleared { .. }]), "{changes:?}");
        let (first, listener) = server.join().expect("a server");
        assert_eq!(first, "GET /healthz HTTP/1.0\r\n");

        let is_raised = |changes: &[Change]| matches!(changes, [Change::Raised(finding)] if finding.debounce == THREE_TIMES);
        // Taken into the queue, and never answered.
        probe.timeout = Duration::from_millis(50);
        assert!(is_raised(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading")));
        drop(listener);
        assert!(is_raised(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading")));
    }
}
