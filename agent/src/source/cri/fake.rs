//! A container runtime for tests that responds to one call.

use std::{
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
};

use http::Response;
use tokio::runtime::Builder;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReceivedCall {
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Responds to one call with this gRPC status.
pub(crate) fn serve(listener: UnixListener, status: &'static str) -> JoinHandle<ReceivedCall> {
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a caller");
        stream.set_nonblocking(true).expect("a mode");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            let (request, mut responses) = connection.accept().await.expect("a call").expect("a call");
            let (parts, mut body) = request.into_parts();
            let mut call = ReceivedCall { path: parts.uri.path().to_owned(), body: Vec::new() };
            let read = async {
                while let Some(data) = body.data().await {
                    call.body.extend_from_slice(&data.expect("data"));
                }
                let response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", status)
                    .body(())
                    .expect("a response");
                responses.send_response(response, true).expect("a response");
                call
            };
            // Polling the connection moves the data.
            let (call, ()) = tokio::join!(read, async { while connection.accept().await.is_some() {} });
            call
        })
    })
}
