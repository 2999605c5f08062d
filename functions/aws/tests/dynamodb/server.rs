//! A DynamoDB in this process, and a wire to it that can swallow answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_config::Region;
use aws_sdk_dynamodb::{Client, config::Credentials};
use dynoxide::Database;
use nodemend_aws::{
    dynamodb::{DynamoStore, Tables, create_tables},
    sdk,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Runs a test to its end, and its servers with it.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test)
}

pub(crate) fn tables() -> Tables {
    Tables { state: "nodemend-state".to_owned(), audit: "nodemend-audit-log".to_owned() }
}

/// A store that holds nothing.
pub(crate) async fn fresh() -> DynamoStore {
    DynamoStore::new(client(&serve().await).await, tables())
}

/// An address at which there are empty tables.
pub(crate) async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let database = Database::memory().expect("a database");
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    create_tables(&client(&address).await, &tables()).await.expect("tables");
    address
}

/// A client just as the functions have it, but for whom it asks.
pub(crate) async fn client(address: &str) -> Client {
    let config = sdk::defaults()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "a test"))
        .load()
        .await;
    Client::new(&config)
}

/// A wire to a server: it passes requests on, counts them by operation, and loses the answers that it is told to.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    writes: Arc<AtomicUsize>,
    queries: Arc<AtomicUsize>,
    to_lose: Arc<AtomicUsize>,
}

impl Wire {
    /// A wire to this address, and its own.
    pub(crate) async fn to(server: &str) -> (Self, String) {
        let wire = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (server, accepting) = (server.to_owned(), wire.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.expect("a server");
                tokio::spawn(accepting.clone().carry(near, far));
            }
        });
        (wire, address)
    }

    /// Loses the answers to the next so many writes, which the server has made by then.
    pub(crate) fn mark_unanswered(&self, answers: usize) {
        self.to_lose.store(answers, Ordering::SeqCst);
    }

    /// How many writes came along.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// How many queries came along.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    async fn carry(self, near: TcpStream, far: TcpStream) {
        let (mut near, mut far) = (BufReader::new(near), BufReader::new(far));
        while let Some(request) = message(&mut near).await {
            far.write_all(&request).await.expect("a server");
            let answer = message(&mut far).await.expect("an answer");
            let asks = |operation: &str| {
                let name = format!("DynamoDB_20120810.{operation}");
                request.windows(name.len()).any(|window| window == name.as_bytes())
            };
            if asks("Query") {
                self.queries.fetch_add(1, Ordering::SeqCst);
            }
            if asks("TransactWriteItems") || asks("PutItem") {
                self.writes.fetch_add(1, Ordering::SeqCst);
                let left =
                    self.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if left.is_ok() {
                    return;
                }
            }
            if near.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

/// One message of HTTP/1.1 with a `content-length`; none at the end.
async fn message(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        message.extend_from_slice(line.as_bytes());
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let head = message.len();
    message.resize(head + length, 0);
    stream.read_exact(&mut message[head..]).await.ok()?;
    Some(message)
}
