//! Serves `GET /healthz` and `GET /metrics` on loopback.
//!
//! There are two pages and two kinds of client, and one request a connection. A web framework would be most of the
//! binary.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::metrics::{self, Metrics};

/// A request line and a few headers.
const MAX_REQUEST: usize = 8 * 1024;
/// A client that sends nothing must not block the others for long.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Reports whether the agent is healthy.
pub trait HealthCheck: Send + Sync + 'static {
    /// The current problem; `None` if the agent is healthy.
    fn problem(&self) -> Option<String>;
}

/// Starts the server on a thread of its own. Returns the address that it listens on.
pub fn serve(address: SocketAddr, metrics: Arc<Metrics>, health: impl HealthCheck) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("endpoint".to_owned()).stack_size(64 * 1024).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that disconnects early gets no response.
            let _ = response(stream, &metrics, &health);
        }
    })?;
    Ok(address)
}

fn response(mut stream: TcpStream, metrics: &Metrics, health: &impl HealthCheck) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = head(&mut stream)?;
    let mut words = request.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", metrics::MEDIA_TYPE, metrics.page()),
        (Some("GET"), Some("/healthz")) => match health.problem() {
            None => ("200 OK", "text/plain", "ok\n".to_owned()),
            Some(why) => ("503 Service Unavailable", "text/plain", format!("{why}\n")),
        },
        (Some("GET"), _) => {
            ("404 Not Found", "text/plain", "not found: only /healthz and /metrics exist\n".to_owned())
        }
        _ => ("405 Method Not Allowed", "text/plain", "only GET is allowed\n".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Reads the request up to its empty line.
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
    struct FakeHealth(Arc<AtomicBool>);

    impl HealthCheck for FakeHealth {
        fn problem(&self) -> Option<String> {
            self.0.load(Ordering::Relaxed).then(|| "the spool cannot be written".to_owned())
        }
    }

    fn request(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut response = String::new();
        // The server closes the connection of a rejected request without a response.
        let _ = stream.read_to_string(&mut response);
        response
    }

    #[test]
    fn only_healthz_and_metrics_are_served() {
        let metrics = Arc::new(Metrics::default());
        metrics.reports.inc_by(5);
        let health = FakeHealth::default();
        let address = serve(([127, 0, 0, 1], 0).into(), metrics, health.clone()).expect("a listener");
        assert!(
            request(address, "GET /metrics HTTP/1.1\r\n\r\n").contains("nodemend_agent_reports_total 5\n")
        );
        assert!(request(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\nok\n"));
        health.0.store(true, Ordering::Relaxed);
        let response = request(address, "GET /healthz HTTP/1.1\r\n\r\n");
        assert!(
            response.starts_with("HTTP/1.1 503 ") && response.ends_with("the spool cannot be written\n"),
            "{response}"
        );
        assert!(request(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(request(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert_eq!(request(address, &format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MAX_REQUEST))), "");
        assert!(
            request(address, "GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503 "),
            "it still serves"
        );
    }
}
