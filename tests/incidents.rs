//! The right calls of incidents, apart from their goldens: a golden can be rewritten with a wrong repair in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// The first incident whose calls must be listed.
const FIRST: &str = "40";

/// An incident, all of its calls, and a part of what is said on a node that is not called.
struct Expected {
    incident: &'static str,
    calls: &'static [(&'static str, &'static str)],
    blocked: Option<&'static str>,
}

const fn none(incident: &'static str) -> Expected {
    Expected { incident, calls: &[], blocked: None }
}

const fn blocked(incident: &'static str, why: &'static str) -> Expected {
    Expected { incident, calls: &[], blocked: Some(why) }
}

const fn called(incident: &'static str, calls: &'static [(&'static str, &'static str)]) -> Expected {
    Expected { incident, calls, blocked: None }
}

const EXPECTED: [Expected; 38] = [
    // The nodes are healthy: what was reported came late, or its end was lost.
    none("40-late-lines-of-healthy-nodes"),
    none("41-lost-recovery"),
    // No report shortens the grace period. All of these nodes recover within it.
    none("42-reports-with-false-times"),
    none("43-since-in-1970-on-most-nodes"),
    none("44-false-reports-one-node-after-another"),
    blocked("45-two-nodes-unknown-while-their-agents-report", "2 of 2 nodes became unreachable within 10m"),
    blocked("46-instances-that-are-no-nodes", "no instance of group egress-proxies has ever registered"),
    // A boot ID or a time of the future hides no later report: 10 minutes after the first report of the fault.
    called("47-forged-boot-id", &[("i-08736224042c4e002", "2026-08-20T10:16:00")]),
    called("48-forged-boot-id-with-control-plane", &[("i-08736224042c4e002", "2026-08-20T10:16:00")]),
    called("49-silent-agents-hide-no-fault", &[("i-08736224042c4e00f", "2026-08-20T12:10:00")]),
    blocked("50-all-nodes-unknown", "4 of 4 nodes of the cluster are unhealthy"),
    Expected {
        incident: "51-nodes-of-no-group",
        calls: &[("i-08736224042c4e002", "2026-08-20T08:40:00")],
        blocked: Some("i-0bbbbccccddddeeee is in no Auto Scaling group"),
    },
    blocked("52-every-node-of-small-groups", "9 of 9 nodes of the cluster are unhealthy"),
    // When the recovery has held for two minutes, then one at a time. The first replacement does not join.
    called(
        "53-halt-until-a-recovery-has-held",
        &[("i-08736224042c4e001", "2026-08-20T10:02:00"), ("i-08736224042c4ee75", "2026-08-20T11:17:00")],
    ),
    none("54-conditions-taken-off-a-node"),
    blocked("55-six-of-ten-flap", "6 of 10 nodes of group nodes are unhealthy"),
    blocked("56-impaired-zone-ready-for-a-minute", "the Availability Zone appears impaired"),
    none("57-instance-under-a-new-name"),
    blocked("58-outage-ends-node-by-node", "7 of 10 nodes of group nodes are unhealthy"),
    none("60-launch-into-a-warm-pool"),
    // Blocked while launches fail; the next one that succeeds ends that.
    Expected {
        incident: "61-launches-fail-before-the-call",
        calls: &[("i-0c5e0000000000003", "2026-08-20T09:20:00")],
        blocked: Some("We currently do not have sufficient p5.48xlarge capacity"),
    },
    // The replacement never becomes Ready: the group is in backoff, longer each time.
    Expected {
        incident: "62-replacements-never-ready",
        calls: &[
            ("i-0c5e0000000000002", "2026-08-20T08:40:00"),
            ("i-0c5e0000000000067", "2026-08-20T10:20:00"),
            ("i-0c5e000000000006a", "2026-08-20T12:00:00"),
        ],
        blocked: Some("did not become Ready"),
    },
    called("70-execution-of-our-own-call", &[("i-08736224042c4ee75", "2026-08-20T10:30:00")]),
    none("71-scale-ins"),
    none("72-node-group-update"),
    none("73-spot-interruption"),
    none("74-retirement-is-announced"),
    // What people ask for: 30 minutes after the fourth time in an hour, while it is not ready.
    called("75-flapping-promoted", &[("i-08736224042c4ee75", "2026-08-20T10:00:00")]),
    Expected {
        incident: "76-opt-out-tag-false",
        calls: &[("i-08736224042c4e008", "2026-08-20T09:30:00")],
        blocked: Some("has the tag nodemend/repair=false"),
    },
    called("77-join-timeout-off", &[("i-08736224042c4e001", "2026-08-20T09:10:00")]),
    // A hold until 10:20, one that cannot be read, and one that was taken off.
    Expected {
        incident: "78-held-by-an-annotation",
        calls: &[
            ("i-08736224042c4e002", "2026-08-20T09:30:00"),
            ("i-08736224042c4ee75", "2026-08-20T10:20:00"),
            ("i-08736224042c4e001", "2026-08-21T09:10:00"),
        ],
        blocked: Some("so it is held for 24h"),
    },
    Expected {
        incident: "79-cordoned-left-alone",
        calls: &[
            ("i-08736224042c4e001", "2026-08-20T09:30:00"),
            ("i-08736224042c4ee75", "2026-08-20T10:00:00"),
        ],
        blocked: Some("the node is cordoned by bob"),
    },
    called("80-events-of-another-account", &[("i-08736224042c4ee75", "2026-08-20T10:30:00")]),
    // Half an hour after the deletion of the Node, whoever deleted it.
    called("65-node-deleted-by-eks-though-it-runs", &[("i-08736224042c4ee75", "2026-08-20T10:30:00")]),
    called("66-node-of-a-reused-name-deleted", &[("i-08736224042c4e004", "2026-08-20T09:34:00")]),
    // One of ten counts; one of eight.
    called("67-nodes-that-their-group-never-repairs", &[("i-08736224042c4e005", "2026-08-20T10:30:00")]),
    called("68-two-of-ten-on-standby", &[("i-08736224042c4ee75", "2026-08-20T09:30:00")]),
    // When the first replacement is Ready, half an hour before CloudTrail is given up on.
    called(
        "69-slot-free-when-the-replacement-is-ready",
        &[("i-08736224042c4e001", "2026-08-20T09:30:01"), ("i-08736224042c4e002", "2026-08-20T09:34:02")],
    ),
];

fn replay(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodemend"))
        .args(["replay", path.to_str().expect("UTF-8"), "--format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("nodemend runs")
}

fn json_lines(output: &Output) -> Vec<Value> {
    let text = str::from_utf8(&output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of_step<'a>(lines: &'a [Value], step: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["step"] == step).collect()
}

/// Instance and second of each call.
fn calls(lines: &[Value]) -> Vec<(&str, &str)> {
    of_step(lines, "called")
        .into_iter()
        .map(|line| {
            (line["instanceId"].as_str().expect("an id"), &line["at"].as_str().expect("a time")[..19])
        })
        .collect()
}

fn incident(name: &str) -> PathBuf {
    Path::new("events").join(name)
}

#[test]
fn each_incident_has_exactly_its_calls() {
    let mut wrong = Vec::new();
    for Expected { incident: name, calls: expected, blocked } in &EXPECTED {
        let output = replay(&incident(name));
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = json_lines(&output);
        if calls(&lines) != *expected {
            wrong.push(format!("{name}: expected {expected:?}, got {:?}", calls(&lines)));
        }
        let says = |why: &str| {
            of_step(&lines, "blocked")
                .iter()
                .any(|line| line["detail"].as_str().is_some_and(|detail| detail.contains(why)))
        };
        if blocked.is_some_and(|why| !says(why)) {
            wrong.push(format!("{name}: no repair is blocked with {blocked:?}"));
        }
        if blocked.is_none() && expected.is_empty() && !of_step(&lines, "due").is_empty() {
            wrong.push(format!("{name}: a repair becomes due"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_incident_from_the_first_listed_one_on_is_listed() {
    let listed: BTreeSet<&str> = EXPECTED.iter().map(|expected| expected.incident).collect();
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    for entry in fs::read_dir(events).expect("events/") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let is_incident = path.join("events.jsonl").is_file();
        assert!(!is_incident || name.as_str() < FIRST || listed.contains(&*name), "{name} is not listed");
    }
}

/// A directory with these lines as its only file.
fn directory(name: &str, lines: &[String]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("events.jsonl"), lines.join("\n")).expect("a file");
    directory
}

fn lines_of(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(incident(name)).join("events.jsonl");
    fs::read_to_string(path).expect("the incident").lines().map(str::to_owned).collect()
}

#[test]
fn each_bad_report_is_refused_with_its_line_and_cause_and_the_others_apply() {
    let good = lines_of("06-xid-79-replace");
    let heartbeat: Value = serde_json::from_str(&good[0]).expect("JSON");
    assert_eq!(heartbeat["kind"], "heartbeat");
    let with = |field: &str, value: Value| {
        let mut report = heartbeat.clone();
        report[field] = value;
        report.to_string()
    };
    let bad = [
        (with("v", "1".into()), "expected u64"),
        (with("agent", "x".repeat(1024 * 1024).into()), "more than a report's 4096"),
        (with("node", "../../etc/passwd".into()), "not a Kubernetes node name"),
        (with("node", "a#b".into()), "not a Kubernetes node name"),
        (with("node", "a\nb".into()), "not a Kubernetes node name"),
        (with("node", "case#prod#i-1".into()), "not a Kubernetes node name"),
        (with("node", "ip-10-0-0-1.ec2.internal\u{0}".into()), "not a Kubernetes node name"),
        (with("instanceId", "i-1/../..".into()), "instance"),
        (with("at", "yesterday".into()), "at: missing, or not an RFC 3339 time"),
        (good[0][..40].to_owned(), "EOF"),
        (format!("\u{1b}[31m{}", good[0]), "expected value"),
    ];
    let mut lines: Vec<String> = bad.iter().map(|(line, _)| line.clone()).collect();
    lines.extend(good);
    let output = replay(&directory("bad-reports", &lines));
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for (number, (_, why)) in bad.iter().enumerate() {
        let line = stderr.lines().find(|line| line.contains(&format!("events.jsonl:{}: ", number + 1)));
        let line = line.unwrap_or_else(|| panic!("line {} is not refused: {stderr}", number + 1));
        assert!(line.contains(why), "{line}");
        assert!(!line.contains(char::is_control) && line.len() < 400, "{line}");
    }
    assert_eq!(stderr.lines().count(), bad.len(), "{stderr}");
    let (got, expected) = (json_lines(&output), json_lines(&replay(&incident("06-xid-79-replace"))));
    assert_eq!(calls(&got), calls(&expected));
    assert_eq!(calls(&got).len(), 1);
}

/// Records that somebody shortened, or that the reader understands and the pattern does not match.
#[test]
fn lines_that_the_subscription_drops_are_named_and_not_delivered() {
    let good = lines_of("04-node-deleted-by-hand");
    let deletion = good.iter().position(|line| line.contains(r#""verb":"delete""#)).expect("a deletion");
    let event: Value = serde_json::from_str(&good[deletion]).expect("JSON");
    let mut no_code = event.clone();
    no_code["responseStatus"].as_object_mut().expect("an object").remove("code");
    let mut empty_dry_run = event;
    empty_dry_run["requestObject"]["dryRun"] = Value::Array(Vec::new());
    for dropped in [no_code, empty_dry_run] {
        let mut lines = good.clone();
        lines[deletion] = dropped.to_string();
        let path = directory("not-subscribed", &lines);
        let output = replay(&path);
        assert_eq!(output.status.code(), Some(0));
        let got = json_lines(&output);
        let summary = &got.last().expect("a summary")["summary"];
        assert_eq!(summary["notSubscribed"], 1, "{dropped}");
        let named = summary["notSubscribedLines"][0].as_str().expect("a line");
        assert!(named.ends_with(&format!("events.jsonl:{}", deletion + 1)), "{named}");
        assert!(calls(&got).is_empty(), "a deletion that was not delivered starts no repair: {dropped}");
        let text = Command::new(env!("CARGO_BIN_EXE_nodemend")).arg("replay").arg(&path).output();
        let text = String::from_utf8(text.expect("nodemend runs").stdout).expect("UTF-8");
        assert!(
            text.contains("1 line was not delivered: the subscription's filter pattern does not match"),
            "{text}"
        );
        assert!(text.contains(named), "{text}");
    }
}
