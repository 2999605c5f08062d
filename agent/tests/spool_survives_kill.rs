//! An agent that is killed under load loses no stored report and repeats only unacknowledged ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use jiff::Timestamp;
use nodemend_agent::outbox::Outbox;
use nodemend_domain::{
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, Report},
};

/// The environment variable with the spool directory of a child process.
const DIRECTORY: &str = "NODEMEND_TEST_SPOOL";
const LIMIT: u64 = 64 * 1024 * 1024;
const KILLS: u64 = 40;

fn report(seq: u64) -> Report<'static> {
    Report {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
        seq,
        at: Timestamp::from_second(1_790_000_000).expect("a time"),
        agent: "test".into(),
        body: if seq.is_multiple_of(5) {
            Body::Heartbeat(Vec::new())
        } else {
            Body::Event {
                condition: nodemend_domain::condition::ConditionType::KernelReady,
                findings: Vec::new(),
            }
        },
    }
}

fn open(directory: &Path) -> Outbox {
    Outbox::open(directory, LIMIT).expect("an outbox").0
}

/// Stores and delivers until it is killed, and prints each completed step. The test below runs it as a child.
#[test]
#[ignore = "a child of the test below"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let mut outbox = open(&PathBuf::from(directory));
    let mut out = std::io::stdout().lock();
    let mut print = |verb: &str, number: u64| {
        writeln!(out, "\n{verb} {number}").and_then(|()| out.flush()).expect("a parent that listens");
    };
    // Numbers continue after those of the last child, whose last record may still be waiting.
    let mut seq = outbox.peek(usize::MAX, usize::MAX).last().map_or(0, |record| record.number) + 1_000_000;
    for step in 0u64.. {
        let number = 1 + step % 4;
        let reports: Vec<_> = (seq..seq + number).map(report).collect();
        outbox.store(&reports).expect("stored");
        seq += number;
        let waiting = outbox.waiting();
        let last = outbox.peek(usize::MAX, usize::MAX).last().expect("what was just stored").number;
        for stored in last + 1 - number..=last {
            print("stored", stored);
        }
        if waiting > 20 {
            let records = outbox.peek(15, usize::MAX);
            for record in &records {
                print("delivered", record.number);
            }
            let last = records.last().expect("a record").number;
            outbox.ack(last).expect("acknowledged");
            print("acknowledged", last);
        }
    }
}

#[test]
fn a_killed_agent_loses_nothing_stored_and_repeats_only_what_was_not_acknowledged() {
    let directory = std::env::temp_dir().join(format!("nodemend-kill-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    let mut delivered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut stored: BTreeSet<u64> = BTreeSet::new();
    let (mut acknowledged, mut repeated) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        // Each child is killed after another number of steps.
        let (last_step, mut steps) = (20 + kill * 7, 0);
        let mut line = String::new();
        while out.read_line(&mut line).expect("its output") > 0 {
            let parsed = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
            if let Some((verb, number)) = parsed
                && let Ok(number) = number.parse::<u64>()
            {
                match verb {
                    "stored" => {
                        stored.insert(number);
                    }
                    "acknowledged" => acknowledged = number,
                    "delivered" => {
                        assert!(number > acknowledged, "{number} was acknowledged and comes again");
                        let times = delivered.entry(number).or_default();
                        *times += 1;
                        repeated += u64::from(*times > 1);
                    }
                    _ => {}
                }
                steps += 1;
                if steps == last_step {
                    child.kill().expect("killed");
                }
            }
            line.clear();
        }
        assert!(!child.wait().expect("an end").success());
        assert!(steps >= last_step, "the child ended by itself after {steps} words");
    }
    let mut outbox = open(&directory);
    assert_eq!(outbox.losses().damaged, 0);
    for record in outbox.peek(usize::MAX, usize::MAX) {
        assert!(record.number > acknowledged);
        Report::decode(&record.text).expect("a whole report");
        delivered.entry(record.number).or_default();
    }
    assert!(stored.len() > 1_000);
    let missing: Vec<u64> = stored.into_iter().filter(|number| !delivered.contains_key(number)).collect();
    assert_eq!(missing, Vec::<u64>::new(), "stored and lost");
    assert!(repeated <= KILLS * 15, "{repeated} repeated of {}", delivered.len());
    fs::remove_dir_all(&directory).expect("a removed directory");
}
