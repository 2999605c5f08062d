//! Answers `GET /healthz` and `GET /metrics` on loopback.
//!
//! Two pages for two known readers, one request a connection: a web framework would be most of the binary.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::metrics::Metrics;

/// A request line and a few headers.
const MAX_REQUEST: usize = 8 * 1024;
/// A reader that says nothing must not keep the others waiting for long.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Says whether the agent is well, and why not.
pub trait Health: Send + Sync + 'static {
    /// Nothing when it is well.
    fn complaint(&self) -> Option<String>;
}

/// Listens from now on, on a thread of its own; the address that it listens on.
pub fn serve(address: SocketAddr, metrics: Arc<Metrics>, health: impl Health) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("endpoint".to_owned()).stack_size(64 * 1024).spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever hangs up early has no claim to an answer.
            let _ = answer(stream, &metrics, &health);
        }
    })?;
    Ok(address)
}

fn answer(mut stream: TcpStream, metrics: &Metrics, health: &impl Health) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = head(&mut stream)?;
    let mut words = request.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", "text/plain; version=0.0.4", metrics.page()),
        (Some("GET"), Some("/healthz")) => match health.complaint() {
            None => ("200 OK", "text/plain", "ok\n".to_owned()),
            Some(why) => ("503 Service Unavailable", "text/plain", format!("{why}\n")),
        },
        (Some("GET"), _) => ("404 Not Found", "text/plain", "there are /healthz and /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The request up to its empty line.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1_024];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        if read == 0 || bytes.len() + read > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Switch(Arc<AtomicBool>);

    impl Health for Switch {
        fn complaint(&self) -> Option<String> {
            self.0.load(Ordering::Relaxed).then(|| "the spool can't be written".to_owned())
        }
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        // A refused request ends without an answer.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn two_pages_are_served_and_nothing_else() {
        let metrics = Arc::new(Metrics::default());
        metrics.reports.add(5);
        let health = Switch::default();
        let address = serve(([127, 0, 0, 1], 0).into(), metrics, health.clone()).expect("a listener");
        assert!(ask(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("nodemend_agent_reports_total 5\n"));
        assert!(ask(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\nok\n"));
        health.0.store(true, Ordering::Relaxed);
        let answer = ask(address, "GET /healthz HTTP/1.1\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("the spool can't be written\n"),
            "{answer}"
        );
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert_eq!(ask(address, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_REQUEST))), "");
        assert!(
            ask(address, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503 "),
            "it still serves"
        );
    }
}
