//! A container runtime of a test's own, that answers once.

use std::{
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
};

use http::Response;
use tokio::runtime::Builder;

/// What it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Answers one call with a gRPC status.
pub(crate) fn serve(listener: UnixListener, status: &'static str) -> JoinHandle<Seen> {
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        stream.set_nonblocking(true).expect("a mode");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            let (request, mut answers) = connection.accept().await.expect("a call").expect("a call");
            let (parts, mut body) = request.into_parts();
            let mut seen = Seen { path: parts.uri.path().to_owned(), body: Vec::new() };
            let read = async {
                while let Some(data) = body.data().await {
                    seen.body.extend_from_slice(&data.expect("data"));
                }
                let answer = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", status)
                    .body(())
                    .expect("an answer");
                answers.send_response(answer, true).expect("an answer");
                seen
            };
            // The connection is what moves the data.
            let (seen, ()) = tokio::join!(read, async { while connection.accept().await.is_some() {} });
            seen
        })
    })
}
