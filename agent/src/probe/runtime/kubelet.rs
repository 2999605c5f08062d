//! Finds an unhealthy kubelet, from its health endpoint.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
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
    source::http::{self, HttpResponse, Method, StatusCode},
};

const NOT_HEALTHY: &str = "KubeletNotHealthy";
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Each healthy reading restarts the count, so the window only limits the distance between readings.
const THREE_TIMES: Debounce = Debounce::Times { count: 3, window: SignedDuration::from_mins(5) };
/// The maximum length of the response body in a message, in bytes.
const MAX_BODY: usize = 200;

pub(super) struct Kubelet {
    root: PathBuf,
    address: SocketAddr,
    timeout: Duration,
    latch: ConditionLatch,
}

impl Kubelet {
    pub(super) fn new(root: &Path, address: SocketAddr) -> Self {
        Self { root: root.to_owned(), address, timeout: TIMEOUT, latch: ConditionLatch::default() }
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

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        if !settings::has_kubelet(&self.root) {
            return Err(not_checkable("this node has no kubelet"));
        }
        let mut address = self.address;
        match settings::healthz_port(&self.root) {
            Some(0) => {
                return Err(not_checkable("the kubelet's health endpoint is turned off (healthzPort: 0)"));
            }
            Some(port) => address.set_port(port),
            None => {}
        }
        let problem = evaluate(http::request(address, Method::GET, "/healthz", None, self.timeout))?;
        let problem = problem.map(|problem| format!("http://{address}/healthz {problem}"));
        let evaluated = Evaluation::new(NOT_HEALTHY, problem).after(THREE_TIMES);
        Ok(self.latch.update(vec![evaluated], now))
    }
}

/// The problem, as a clause.
fn evaluate(response: io::Result<HttpResponse>) -> Result<Option<String>, NotCheckable> {
    match response {
        Ok(response) if response.status == StatusCode::OK => Ok(None),
        Ok(response) => {
            let body = response.body.lines().next().unwrap_or_default();
            let body = &body[..body.floor_char_boundary(MAX_BODY)];
            Ok(Some(format!("returned {}: {body}", response.status)))
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof
            // Not HTTP.
            | ErrorKind::InvalidData => Ok(Some(format!("does not respond: {error}"))),
            _ => Err(not_checkable(format!("failed to query the kubelet's health: {error}"))),
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
    fn any_status_other_than_200_is_unhealthy() {
        let response = |status, body: &str| Ok(HttpResponse { status, body: body.to_owned() });
        assert_eq!(evaluate(response(StatusCode::OK, "ok")), Ok(None));
        let problem = evaluate(response(StatusCode::INTERNAL_SERVER_ERROR, "[+]ping ok\n[-]syncloop failed"));
        assert_eq!(problem, Ok(Some("returned 500 Internal Server Error: [+]ping ok".to_owned())));
        assert!(evaluate(response(StatusCode::NO_CONTENT, "")).expect("a reading").is_some());
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::TimedOut,
            ErrorKind::UnexpectedEof,
            ErrorKind::InvalidData,
        ] {
            assert!(evaluate(Err(kind.into())).expect("a reading").is_some(), "{kind}");
        }
        evaluate(Err(ErrorKind::PermissionDenied.into())).expect_err("an unrelated error");
    }

    #[test]
    fn a_node_without_kubelet_has_none_to_be_unhealthy() {
        let root = tempfile::tempdir().expect("a directory");
        let mut probe = Kubelet::new(root.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        probe.read(Timestamp::UNIX_EPOCH).expect_err("no kubelet");
    }

    #[test]
    fn a_kubelet_that_responds_is_healthy_and_one_that_refuses_or_hangs_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("var/lib/kubelet")).expect("a directory");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut probe = Kubelet::new(root.path(), address);
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a caller");
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            stream.read_line(&mut first).expect("a request");
            stream.get_mut().write_all(b"HTTP/1.0 200 OK\r\n\r\nok").expect("a response");
            (first, listener)
        });
        let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(matches!(&changes[..], [FindingChange::Cleared { .. }]), "{changes:?}");
        let (first, listener) = server.join().expect("a server");
        assert_eq!(first, "GET /healthz HTTP/1.1\r\n");

        let is_raised = |changes: &[FindingChange]| matches!(changes, [FindingChange::Raised(finding)] if finding.debounce == THREE_TIMES);
        // The connection is accepted into the backlog, but gets no response.
        probe.timeout = Duration::from_millis(50);
        assert!(is_raised(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading")));
        drop(listener);
        assert!(is_raised(&probe.read(Timestamp::UNIX_EPOCH).expect("a reading")));
    }
}
