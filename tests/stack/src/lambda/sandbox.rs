//! One process of a function, with a Runtime API server of its own.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpListener,
    process::Child,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Failure, FunctionUpdate, INIT_TIMEOUT, Process, Spec,
    api::{self, FirstRequest, Invocation, Reply},
};
use crate::child::{self, Launcher};

#[derive(Debug)]
pub(super) struct Sandbox {
    child: Child,
    process: Process,
    invocations: mpsc::Sender<Invocation>,
    server: JoinHandle<()>,
}

impl Sandbox {
    /// Starts a process and waits until it requests its first invocation.
    pub(super) async fn start(
        spec: &Spec,
        launcher: &Launcher,
        updates: impl Fn(FunctionUpdate) + Clone + Send + 'static,
    ) -> Result<Self, Failure> {
        let init_failure = |error: std::io::Error| Failure::Init(error.to_string());
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.map_err(init_failure)?;
        let address = listener.local_addr().map_err(init_failure)?.to_string();
        let (invocations, pending) = mpsc::channel(1);
        let (first_sender, mut first_request) = oneshot::channel();
        let server = tokio::spawn(api::serve(listener, spec.name.clone(), pending, first_sender));
        let started = Instant::now();
        let mut child = launcher
            .command(&spec.program)
            .envs(environment(spec, &address))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(init_failure)?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(lines(stdout, FunctionUpdate::Log, updates.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(lines(stderr, FunctionUpdate::Stderr, updates));
        }
        let failure = tokio::select! {
            first = &mut first_request => match first {
                Ok(FirstRequest::Next) => {
                    let pid = child.id().unwrap_or_default();
                    let process = Process { pid, init: started.elapsed() };
                    return Ok(Self { child, process, invocations, server });
                }
                Ok(FirstRequest::Error(why)) => why,
                Err(_) => "its Runtime API server ended".to_owned(),
            },
            status = child.wait() => match status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            () = tokio::time::sleep(INIT_TIMEOUT) => {
                format!("it requested no invocation within {}s", INIT_TIMEOUT.as_secs())
            }
        };
        child::kill(&mut child).await;
        server.abort();
        Err(Failure::Init(failure))
    }

    pub(super) fn process(&self) -> Process {
        self.process.clone()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Passes one event to the process and waits for its answer.
    pub(super) async fn invoke(&mut self, payload: Bytes, timeout: Duration) -> Result<Bytes, Failure> {
        let (reply, mut answer) = oneshot::channel();
        if self.invocations.send(Invocation { payload, timeout, reply }).await.is_err() {
            return Err(Failure::Crashed("its Runtime API server ended".to_owned()));
        }
        tokio::select! {
            // An answer that has arrived counts, even if the process ended right after it.
            biased;
            answer = &mut answer => match answer {
                Ok(Reply::Response(body)) => Ok(body),
                Ok(Reply::Error(why)) => Err(Failure::Error(why)),
                Err(_) => Err(Failure::Crashed("the invocation was dropped without an answer".to_owned())),
            },
            status = self.child.wait() => {
                Err(Failure::Crashed(status.map_or_else(|error| error.to_string(), |status| status.to_string())))
            }
            () = tokio::time::sleep(timeout) => Err(Failure::TimedOut(timeout)),
        }
    }

    /// Kills the process without a warning, as Lambda does.
    pub(super) async fn end(mut self) {
        child::kill(&mut self.child).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The environment of a process: Lambda's variables, and those of the function.
fn environment(spec: &Spec, address: &str) -> Vec<(String, String)> {
    let name = &spec.name;
    let own = [
        ("AWS_LAMBDA_RUNTIME_API", address.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "local".to_owned()),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023".to_owned()),
    ];
    let own = own.into_iter().map(|(variable, value)| (variable.to_owned(), value));
    own.chain(spec.environment.iter().cloned()).collect()
}

async fn lines(
    stream: impl AsyncRead + Unpin,
    kind: fn(String) -> FunctionUpdate,
    report: impl Fn(FunctionUpdate),
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        report(kind(line));
    }
}
