//! The local host of the Runtime API treats the real functions as Lambda does: errors are retried twice, crashed processes
//! are replaced, and a failed start has its reason.

use std::{path::Path, time::Duration};

use nodemend_stack::{
    child::Launcher,
    lambda::{Failure, Function, FunctionUpdate, Process, Spec},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

/// A function from the directory of the `nodemend` under test. Its AWS does not exist.
fn function(name: &str, unset: &str) -> (Function, UnboundedReceiver<(String, FunctionUpdate)>) {
    let nodemend = Path::new(env!("CARGO_BIN_EXE_nodemend"));
    let program = nodemend.with_file_name(name);
    assert!(program.is_file(), "{} is not built", program.display());
    let environment = [
        ("NODEMEND_STATE_TABLE", "state"),
        ("NODEMEND_AUDIT_LOG_TABLE", "audit"),
        ("NODEMEND_REPAIR_ROLE", "arn:aws:iam::123456789012:role/nodemend-repair"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ];
    let environment = environment.into_iter().filter(|(variable, _)| *variable != unset);
    let spec = Spec {
        name: name.to_owned(),
        program,
        environment: environment.map(|(variable, value)| (variable.to_owned(), value.to_owned())).collect(),
        timeout: Duration::from_secs(10),
        concurrency: 2,
        retries: vec![Duration::from_millis(1), Duration::from_millis(2)],
    };
    let (sender, updates) = unbounded_channel();
    (Function::new(spec, Launcher::new(nodemend), sender), updates)
}

/// An event of EventBridge that concerns no node of ours.
const IRRELEVANT: &str = r#"{"detail-type":"another","detail":{}}"#;

#[test]
fn a_process_answers_one_invocation_after_the_other() {
    run(async {
        let (confirm, _updates) = function("nodemend-confirm", "");
        let answer = confirm.invoke(IRRELEVANT.into()).await.expect("an answer");
        assert_eq!(answer, r#"{"relevant":false,"steps":0}"#);
        let first = confirm.processes();
        confirm.invoke(IRRELEVANT.into()).await.expect("an answer");
        assert_eq!((first.len(), confirm.processes()), (1, first));
        confirm.stop().await;
        assert_eq!(confirm.processes(), []);
        assert_eq!(confirm.invoke(IRRELEVANT.into()).await, Err(Failure::Stopped));
    });
}

#[test]
fn concurrent_invocations_have_a_process_each() {
    run(async {
        let (confirm, _updates) = function("nodemend-confirm", "");
        let (one, other) = tokio::join!(confirm.invoke(IRRELEVANT.into()), confirm.invoke(IRRELEVANT.into()));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        assert_eq!(confirm.processes().len(), 2);
    });
}

#[test]
fn a_failed_event_is_retried_twice_and_then_dropped() {
    run(async {
        let (confirm, mut updates) = function("nodemend-confirm", "");
        confirm.send("{}".into());
        let mut tries = Vec::new();
        while tries.len() < 3 {
            let (name, update) = updates.recv().await.expect("an update");
            assert_eq!(name, "nodemend-confirm");
            if let FunctionUpdate::Failed { why: Failure::Error(why), retry_in } = update {
                assert!(why.contains("not an EventBridge event"), "{why}");
                tries.push(retry_in.map(|wait| wait.as_millis()));
            }
        }
        assert_eq!(tries, [Some(1), Some(2), None]);
        assert_eq!(confirm.processes().len(), 1, "an error does not end the process");
    });
}

fn kill(process: &Process) {
    let pid = Pid::from_raw(process.pid.try_into().expect("an id")).expect("an id");
    kill_process(pid, Signal::KILL).expect("a signal");
}

#[test]
fn a_crashed_process_is_replaced() {
    run(async {
        let (confirm, _updates) = function("nodemend-confirm", "");
        confirm.invoke(IRRELEVANT.into()).await.expect("an answer");
        let dead = confirm.processes();
        kill(&dead[0]);
        // As in Lambda, the crash may be noticed only during the next invocation.
        while confirm.invoke(IRRELEVANT.into()).await.is_err() {}
        assert_eq!(confirm.processes().len(), 1);
        assert_ne!(confirm.processes(), dead);
    });
}

#[test]
fn a_process_that_crashes_during_an_event_fails_it() {
    run(async {
        // There is no store: the function is busy while it retries.
        let (intake, mut updates) = function("nodemend-intake", "");
        let payload = nodemend_ports::subscription::envelope(
            r#"{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"/nodemend/a/nodes","logStream":"s","subscriptionFilters":[],"logEvents":[{"id":"1","timestamp":1,"message":"x"}]}"#,
        );
        intake.send(payload.into());
        let mut killed = None;
        let failure = loop {
            tokio::select! {
                update = updates.recv() => if let Some((_, FunctionUpdate::Failed { why, .. })) = update { break why },
                () = tokio::time::sleep(Duration::from_millis(1)), if killed.is_none() => {
                    killed = intake.processes().first().cloned().inspect(kill);
                }
            }
        };
        // If it is killed before it gets the event, or after its retries, it reports an error instead.
        assert!(matches!(failure, Failure::Crashed(_) | Failure::Error(_)), "{failure:?}");
        assert!(killed.is_some());
        intake.stop().await;
    });
}

#[test]
fn a_failed_start_has_its_reason() {
    run(async {
        let (confirm, mut updates) = function("nodemend-confirm", "NODEMEND_STATE_TABLE");
        let failure = confirm.invoke(IRRELEVANT.into()).await.expect_err("no start");
        assert!(matches!(failure, Failure::Init(_)), "{failure:?}");
        loop {
            let (_, update) = updates.recv().await.expect("an update");
            if matches!(update, FunctionUpdate::Stderr(line) if line.contains("NODEMEND_STATE_TABLE is not set"))
            {
                break;
            }
        }
        assert_eq!(confirm.processes(), []);
    });
}
