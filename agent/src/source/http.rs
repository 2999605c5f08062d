//! An HTTP client for servers on this node: the instance metadata service, the kubelet and the VPC CNI's daemon.
//!
//! One time limit covers the whole exchange, because a server that sends a byte now and then outlasts any timeout of a
//! single read. The body has a limit, because another program may listen on the port.

use std::{error::Error as _, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime::Builder,
    time::{Instant, timeout_at},
};

pub use http::{Method, StatusCode};

use crate::causes;

/// A response is a line of text, or an error page.
const MAX_RESPONSE: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: StatusCode,
    /// The body, without leading and trailing whitespace.
    pub body: String,
}

/// Sends a request. `within` limits the whole exchange; a body that is longer or later is cut.
pub fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    header: Option<(&str, &str)>,
    within: Duration,
) -> io::Result<HttpResponse> {
    let (status, body, _) = exchange(address, method, path, header, MAX_RESPONSE, within)?;
    Ok(HttpResponse { status, body: String::from_utf8_lossy(&body).trim().to_owned() })
}

/// The body at a path. An error if the status is not 200, or if the response is not complete within the time or
/// exceeds `limit` bytes.
pub fn get(address: SocketAddr, path: &str, limit: usize, within: Duration) -> io::Result<Vec<u8>> {
    let (status, body, ended) = exchange(address, Method::GET, path, None, limit, within)?;
    ended?;
    if status != StatusCode::OK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("status {status}")));
    }
    Ok(body)
}

/// The status, the body, and how reading the body ended.
fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
    header: Option<(&str, &str)>,
    limit: usize,
    within: Duration,
) -> io::Result<(StatusCode, Vec<u8>, io::Result<()>)> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.ip().to_string())
        .header(header::CONNECTION, "close");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(io::Error::other)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let end = Instant::now() + within;
        let mut response = timeout_at(end, send(address, request)).await??;
        let mut body = Vec::new();
        let ended = timeout_at(end, read(response.body_mut(), limit, &mut body)).await;
        Ok((response.status(), body, ended.unwrap_or_else(|elapsed| Err(elapsed.into()))))
    })
}

async fn send(address: SocketAddr, request: Request<Empty<Bytes>>) -> io::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(into_io)?;
    // The task ends with the runtime. Its errors are those of the response.
    drop(tokio::spawn(connection));
    sender.send_request(request).await.map_err(into_io)
}

async fn read(body: &mut Incoming, limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        // A frame without data has trailers.
        let data = frame.map_err(into_io)?.into_data().unwrap_or_default();
        let left = limit - out.len();
        out.extend_from_slice(&data[..data.len().min(left)]);
        if data.len() > left {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a response longer than {limit} bytes"),
            ));
        }
    }
    Ok(())
}

/// The error of the socket; else `UnexpectedEof` if the server closed the connection, and `InvalidData` if it does not
/// speak HTTP.
fn into_io(error: hyper::Error) -> io::Error {
    let socket = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    let kind = match socket {
        Some(kind) => kind,
        None if error.is_parse() => io::ErrorKind::InvalidData,
        None => io::ErrorKind::UnexpectedEof,
    };
    io::Error::new(kind, causes::chain(&error))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;

    /// A server that returns this response to each request, and closes the connection unless `hold` is set.
    fn server(response: &'static [u8], hold: bool) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 512];
                let length = stream.read(&mut request).expect("a request");
                assert!(request[..length].starts_with(b"GET /v1/enis HTTP/1.1\r\n"));
                stream.write_all(response).expect("a response");
                if hold {
                    held.push(stream);
                }
            }
        });
        address
    }

    /// A body of 101 bytes.
    const LONG: &[u8] = b"HTTP/1.0 200 OK\r\n\r\n\
        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

    fn body_of(response: &'static [u8], hold: bool) -> Result<Vec<u8>, io::ErrorKind> {
        get(server(response, hold), "/v1/enis", 100, Duration::from_millis(300)).map_err(|error| error.kind())
    }

    #[test]
    fn the_body_of_a_200_response_is_returned() {
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}\r\n\r\n", false), Ok(b"{}\r\n\r\n".to_vec()));
        assert_eq!(body_of(b"HTTP/1.1 200 OK\r\n\r\n", false), Ok(Vec::new()));
    }

    #[test]
    fn the_body_of_a_chunked_response_is_returned() {
        let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n";
        assert_eq!(body_of(response, true), Ok(b"{}\n".to_vec()));
    }

    #[test]
    fn a_request_fits_on_the_small_stack_of_a_probe() {
        let address = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true);
        let probe = thread::Builder::new().stack_size(256 * 1024);
        let within = Duration::from_secs(30);
        let probe = probe.spawn(move || request(address, Method::GET, "/v1/enis", None, within));
        let response = probe.expect("a thread").join().expect("an end").expect("a response");
        assert_eq!((response.status, response.body.as_str()), (StatusCode::OK, "ok"));
    }

    #[test]
    fn a_request_returns_the_part_of_the_body_that_arrived_in_time() {
        let address = server(b"HTTP/1.0 500 Oh no\r\n\r\n[-]sync failed\n", true);
        let response = request(address, Method::GET, "/v1/enis", None, Duration::from_millis(300));
        let response = response.expect("a status");
        assert_eq!((response.status.as_u16(), response.body.as_str()), (500, "[-]sync failed"));
    }

    #[test]
    fn any_other_response_is_an_error() {
        for (response, hold, kind) in [
            (&b"HTTP/1.0 404 Not Found\r\n\r\n{}"[..], false, io::ErrorKind::InvalidData),
            (b"HTTP/1.0 2000 Odd\r\n\r\n{}", false, io::ErrorKind::InvalidData),
            (b"SSH-2.0-OpenSSH 200\r\n\r\n", false, io::ErrorKind::InvalidData),
            (b"HTTP/1.0 200 OK\r\n", false, io::ErrorKind::UnexpectedEof),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", false, io::ErrorKind::UnexpectedEof),
            (b"", false, io::ErrorKind::UnexpectedEof),
            (LONG, false, io::ErrorKind::FileTooLarge),
            (b"HTTP/1.0 200 OK\r\n\r\n{", true, io::ErrorKind::TimedOut),
            (b"HTTP/1.0 200 OK\r\n", true, io::ErrorKind::TimedOut),
        ] {
            assert_eq!(body_of(response, hold), Err(kind), "{}", String::from_utf8_lossy(response));
        }
    }
}
