//! The local Runtime API host treats the real functions as Lambda does: errors are tried twice more, what crashes is
//! replaced, and what can't start says why.

use std::{path::Path, time::Duration};

use nodemend_stack::{
    child::Launcher,
    lambda::{Failure, Function, NodeUpdate, Process, Spec},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PATIENCE: Duration = Duration::from_secs(30);

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

/// A function of ours, beside the `nodemend` under test, whose AWS is nowhere.
fn function(name: &str, unset: &str) -> (Function, UnboundedReceiver<(String, NodeUpdate)>) {
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
    let (words, first_seen) = unbounded_channel();
    (Function::new(spec, Launcher::new(nodemend), words), first_seen)
}

/// An event of EventBridge's that is about nothing of ours.
const IRRELEVANT: &str = r#"{"detail-type":"another","detail":{}}"#;

#[test]
fn an_invocation_is_answered_and_the_next_one_by_the_same_process() {
    run(async {
        let (audit, _heard) = function("nodemend-confirm", "");
        let answer = audit.invoke(IRRELEVANT.into()).await.expect("an answer");
        assert_eq!(answer, r#"{"relevant":false,"steps":0}"#);
        let first = audit.processes();
        audit.invoke(IRRELEVANT.into()).await.expect("an answer");
        assert_eq!((first.len(), audit.processes()), (1, first));
        audit.stop().await;
        assert_eq!(audit.processes(), []);
        assert_eq!(audit.invoke(IRRELEVANT.into()).await, Err(Failure::Stopped));
    });
}

#[test]
fn two_at_once_have_a_process_each() {
    run(async {
        let (audit, _heard) = function("nodemend-confirm", "");
        let (one, other) = tokio::join!(audit.invoke(IRRELEVANT.into()), audit.invoke(IRRELEVANT.into()));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        assert_eq!(audit.processes().len(), 2);
    });
}

#[test]
fn an_event_that_fails_is_tried_twice_more_and_given_up() {
    run(async {
        let (audit, mut first_seen) = function("nodemend-confirm", "");
        audit.send("{}".into());
        let mut tries = Vec::new();
        while tries.len() < 3 {
            let (name, word) = first_seen.recv().await.expect("a word");
            assert_eq!(name, "nodemend-confirm");
            if let NodeUpdate::Failed { why: Failure::Error(why), again } = word {
                assert!(why.contains("not an EventBridge event"), "{why}");
                tries.push(again.map(|wait| wait.as_millis()));
            }
        }
        assert_eq!(tries, [Some(1), Some(2), None]);
        assert_eq!(audit.processes().len(), 1, "an error costs no process");
    });
}

fn kill(process: &Process) {
    let pid = Pid::from_raw(process.pid.try_into().expect("an id")).expect("an id");
    kill_process(pid, Signal::KILL).expect("a signal");
}

#[test]
fn a_process_that_died_is_replaced() {
    run(async {
        let (audit, _heard) = function("nodemend-confirm", "");
        audit.invoke(IRRELEVANT.into()).await.expect("an answer");
        let dead = audit.processes();
        kill(&dead[0]);
        // Its death may show only in the middle of the next invocation, as with Lambda.
        while audit.invoke(IRRELEVANT.into()).await.is_err() {}
        assert_eq!(audit.processes().len(), 1);
        assert_ne!(audit.processes(), dead);
    });
}

#[test]
fn a_process_that_dies_over_an_event_fails_it() {
    run(async {
        // Nothing listens where its store should be: it is busy for as long as it tries.
        let (repair, mut first_seen) = function("nodemend-intake", "");
        let payload = nodemend_ports::subscription::envelope(
            r#"{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"/nodemend/a/nodes","logStream":"s","subscriptionFilters":[],"logEvents":[{"id":"1","timestamp":1,"message":"x"}]}"#,
        );
        repair.send(payload.into());
        let mut killed = None;
        let failure = loop {
            tokio::select! {
                word = first_seen.recv() => if let Some((_, NodeUpdate::Failed { why, .. })) = word { break why },
                () = tokio::time::sleep(Duration::from_millis(1)), if killed.is_none() => {
                    killed = repair.processes().first().cloned().inspect(kill);
                }
            }
        };
        // Killed before it was handed the event, or after its store was found missing, it may say so itself.
        assert!(matches!(failure, Failure::Crashed(_) | Failure::Error(_)), "{failure:?}");
        assert!(killed.is_some());
        repair.stop().await;
    });
}

#[test]
fn what_cannot_start_says_why() {
    run(async {
        let (audit, mut first_seen) = function("nodemend-confirm", "NODEMEND_STATE_TABLE");
        let failure = audit.invoke(IRRELEVANT.into()).await.expect_err("no start");
        assert!(matches!(failure, Failure::Init(_)), "{failure:?}");
        loop {
            let (_, word) = first_seen.recv().await.expect("a word");
            if matches!(word, NodeUpdate::Stderr(line) if line.contains("NODEMEND_STATE_TABLE is not set")) {
                break;
            }
        }
        assert_eq!(audit.processes(), []);
    });
}
