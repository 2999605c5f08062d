//! Turns one call of a container runtime into whether it answers.
//!
//! The kubelet speaks gRPC to it: HTTP/2 on a Unix socket, and protocol buffers in it. One call of one field needs no
//! gRPC client; HTTP/2 is left to the library that the sink's client brings anyway.

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
/// Uncompressed, four bytes long: a `VersionRequest` whose field 1 is "v1".
const QUESTION: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, b'v', b'1'];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// Nobody takes the connection.
    #[error("{0}")]
    Connect(io::Error),
    /// It was taken, and nothing followed.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// It speaks something else, or hung up.
    #[error("{0}")]
    Broken(Box<str>),
}

/// Asks a runtime for its version. Whatever it says to that, an error included, it has answered.
pub fn version(path: &Path, within: Duration) -> Result<(), CriError> {
    let (stream, left) =
        socket::unix(path, within).and_then(socket::Timed::into_parts).map_err(CriError::Connect)?;
    let broken = |error: &dyn std::fmt::Display| CriError::Broken(error.to_string().into());
    stream.set_nonblocking(true).map_err(CriError::Connect)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(CriError::Connect)?;
    runtime.block_on(async {
        let stream = UnixStream::from_std(stream).map_err(CriError::Connect)?;
        match timeout(left, ask(stream)).await {
            Ok(Ok(StatusCode::OK)) => Ok(()),
            Ok(Ok(status)) => Err(broken(&format_args!("HTTP status {status}"))),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(CriError::Silent(within)),
        }
    })
}

async fn ask(stream: UnixStream) -> Result<StatusCode, h2::Error> {
    let (requests, connection) = h2::client::handshake(stream).await?;
    let answer = async {
        let mut requests = requests.ready().await?;
        let request = Request::post(VERSION)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(Bytes::from_static(QUESTION), true)?;
        // gRPC's status comes with these headers or after them; that any come is the answer.
        response.await.map(|response| response.status())
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    poll_fn(|context| {
        // The connection moves what the answer waits for; once it has ended, nothing more can come.
        let ended = connection.as_mut().poll(context);
        match (answer.as_mut().poll(context), ended) {
            (Poll::Ready(answer), _) => Poll::Ready(answer),
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
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("containerd.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        (folder, path, listener)
    }

    #[test]
    fn a_runtime_that_answers_is_well_on_as_small_a_stack_as_probes_have() {
        for status in ["0", "12"] {
            let (_folder, path, listener) = listener();
            let server = fake::serve(listener, status);
            let probe = thread::Builder::new().stack_size(256 * 1024);
            let probe = probe.spawn(move || version(&path, AMPLE)).expect("a thread");
            probe.join().expect("an end").expect("an answer");
            let seen = server.join().expect("a server");
            assert_eq!(seen.path, "/runtime.v1.RuntimeService/Version");
            assert_eq!(seen.body, QUESTION);
        }
    }

    #[test]
    fn a_runtime_that_takes_a_connection_and_says_nothing_does_not_answer() {
        let (_folder, path, _listener) = listener();
        let within = Duration::from_millis(50);
        let error = version(&path, within).expect_err("no answer");
        assert!(matches!(error, CriError::Silent(_)), "{error}");
    }

    #[test]
    fn a_runtime_that_speaks_http_2_and_goes_no_further_does_not_answer() {
        let (_folder, path, listener) = listener();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            // An empty SETTINGS frame, and then silence until the caller hangs up.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("settings");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = version(&path, Duration::from_millis(200)).expect_err("no answer");
        assert!(matches!(error, CriError::Silent(_)), "{error}");
        server.join().expect("a server");
    }

    #[test]
    fn whoever_speaks_something_else_or_hangs_up_is_broken() {
        for word in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (_folder, path, listener) = listener();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a caller");
                let _ = stream.write_all(word.as_bytes());
            });
            let error = version(&path, AMPLE).expect_err("no answer");
            assert!(matches!(error, CriError::Broken(_)), "{error}");
            server.join().expect("a server");
        }
    }

    #[test]
    fn a_socket_without_listener_and_none_at_all_refuse() {
        let (folder, path, listener) = listener();
        drop(listener);
        for (path, kind) in
            [(path, io::ErrorKind::ConnectionRefused), (folder.path().join("none"), io::ErrorKind::NotFound)]
        {
            let error = version(&path, AMPLE).expect_err("nobody");
            assert!(matches!(&error, CriError::Connect(error) if error.kind() == kind), "{error}");
        }
    }
}
