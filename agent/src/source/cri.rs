//! Calls a container runtime's CRI to find out whether it responds.
//!
//! CRI is gRPC: HTTP/2 over a Unix socket, with protocol buffers. One call with one field needs no gRPC client; `h2`
//! is a dependency of the sink's client anyway.

use std::{
    future::{Future, poll_fn},
    io,
    path::Path,
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::{net::UnixStream, runtime::Builder, time::timeout};

use super::socket;

/// <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>
const VERSION: &str = "http://localhost/runtime.v1.RuntimeService/Version";
/// An uncompressed gRPC message of four bytes: a `VersionRequest` whose field 1 is "v1".
const MESSAGE: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, b'v', b'1'];

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error("{0}")]
    Connect(io::Error),
    /// The connection was accepted, but there was no response.
    #[error("no response within {0:?}")]
    NoResponse(Duration),
    /// The server speaks another protocol or closed the connection.
    #[error("{0}")]
    Protocol(Box<str>),
}

/// Requests the runtime's version. Any response counts, including a gRPC error.
pub fn version(path: &Path, within: Duration) -> Result<(), CriError> {
    let (stream, left) =
        socket::unix(path, within).and_then(socket::TimedStream::into_parts).map_err(CriError::Connect)?;
    let broken = |error: &dyn std::fmt::Display| CriError::Protocol(error.to_string().into());
    stream.set_nonblocking(true).map_err(CriError::Connect)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(CriError::Connect)?;
    runtime.block_on(async {
        let stream = UnixStream::from_std(stream).map_err(CriError::Connect)?;
        match timeout(left, call_version(stream)).await {
            Ok(Ok(StatusCode::OK)) => Ok(()),
            Ok(Ok(status)) => Err(broken(&format_args!("HTTP status {status}"))),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(CriError::NoResponse(within)),
        }
    })
}

async fn call_version(stream: UnixStream) -> Result<StatusCode, h2::Error> {
    let (requests, connection) = h2::client::handshake(stream).await?;
    let response = async {
        let mut requests = requests.ready().await?;
        let request = Request::post(VERSION)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(Bytes::from_static(MESSAGE), true)?;
        // gRPC's status is in these headers or in the trailers; receiving headers is enough.
        response.await.map(|response| response.status())
    };
    let (mut response, mut connection) = (pin!(response), pin!(connection));
    poll_fn(|context| {
        // The connection future moves the data that the response waits for. Once it has ended, there is no response.
        let ended = connection.as_mut().poll(context);
        match (response.as_mut().poll(context), ended) {
            (Poll::Ready(response), _) => Poll::Ready(response),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(h2::Reason::NO_ERROR.into())),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        thread,
    };

    use tempfile::TempDir;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(60);

    fn listener() -> (TempDir, std::path::PathBuf, UnixListener) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("containerd.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        (directory, path, listener)
    }

    #[test]
    fn a_runtime_that_responds_is_healthy_on_a_probes_small_stack() {
        for status in ["0", "12"] {
            let (_directory, path, listener) = listener();
            let server = fake::serve(listener, status);
            let probe = thread::Builder::new().stack_size(256 * 1024);
            let probe = probe.spawn(move || version(&path, AMPLE)).expect("a thread");
            probe.join().expect("an end").expect("a response");
            let call = server.join().expect("a server");
            assert_eq!(call.path, "/runtime.v1.RuntimeService/Version");
            assert_eq!(call.body, MESSAGE);
        }
    }

    #[test]
    fn a_runtime_that_only_accepts_a_connection_does_not_respond() {
        let (_directory, path, _listener) = listener();
        let within = Duration::from_millis(50);
        let error = version(&path, within).expect_err("no response");
        assert!(matches!(error, CriError::NoResponse(_)), "{error}");
    }

    #[test]
    fn a_runtime_that_only_starts_http_2_does_not_respond() {
        let (_directory, path, listener) = listener();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            // An empty SETTINGS frame, then nothing until the client closes the connection.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("settings");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = version(&path, Duration::from_millis(200)).expect_err("no response");
        assert!(matches!(error, CriError::NoResponse(_)), "{error}");
        server.join().expect("a server");
    }

    #[test]
    fn another_protocol_or_a_closed_connection_is_an_error() {
        for bytes in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (_directory, path, listener) = listener();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a caller");
                let _ = stream.write_all(bytes.as_bytes());
            });
            let error = version(&path, AMPLE).expect_err("no response");
            assert!(matches!(error, CriError::Protocol(_)), "{error}");
            server.join().expect("a server");
        }
    }

    #[test]
    fn a_socket_without_listener_and_none_at_all_refuse() {
        let (directory, path, listener) = listener();
        drop(listener);
        for (path, kind) in [
            (path, io::ErrorKind::ConnectionRefused),
            (directory.path().join("none"), io::ErrorKind::NotFound),
        ] {
            let error = version(&path, AMPLE).expect_err("no listener");
            assert!(matches!(&error, CriError::Connect(error) if error.kind() == kind), "{error}");
        }
    }
}
