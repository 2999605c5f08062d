//! DynamoDB in this process, and a proxy in front of it that can lose answers.

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
use nodemend_testkit::http::read_message;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Runs a test on a runtime of its own, which ends with its servers.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test)
}

pub(crate) fn tables() -> Tables {
    Tables { state: "nodemend-state".to_owned(), audit: "nodemend-audit-log".to_owned() }
}

/// An empty store.
pub(crate) async fn fresh() -> DynamoStore {
    DynamoStore::new(client(&serve().await).await, tables())
}

/// Starts DynamoDB with empty tables; its address.
pub(crate) async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let database = Database::memory().expect("a database");
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    create_tables(&client(&address).await, &tables()).await.expect("tables");
    address
}

/// A client like the one of the functions, with other credentials.
pub(crate) async fn client(address: &str) -> Client {
    let config = sdk::defaults()
        .endpoint_url(format!("http://{address}"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "a test"))
        .load()
        .await;
    Client::new(&config)
}

/// A proxy in front of a server. It forwards requests, counts them by operation, and loses some answers.
#[derive(Clone, Default)]
pub(crate) struct Proxy {
    writes: Arc<AtomicUsize>,
    queries: Arc<AtomicUsize>,
    to_lose: Arc<AtomicUsize>,
}

impl Proxy {
    /// A proxy in front of this address, and its own address.
    pub(crate) async fn to(server: &str) -> (Self, String) {
        let proxy = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (server, accepting) = (server.to_owned(), proxy.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.expect("a server");
                tokio::spawn(accepting.clone().forward(near, far));
            }
        });
        (proxy, address)
    }

    /// Loses the answers to so many further writes, which the server makes all the same.
    pub(crate) fn lose_answers(&self, answers: usize) {
        self.to_lose.store(answers, Ordering::SeqCst);
    }

    /// How many writes were forwarded.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// How many queries were forwarded.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    async fn forward(self, near: TcpStream, far: TcpStream) {
        let (mut near, mut far) = (BufReader::new(near), BufReader::new(far));
        while let Some(request) = read_message(&mut near).await {
            far.write_all(&request).await.expect("a server");
            let answer = read_message(&mut far).await.expect("an answer");
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
