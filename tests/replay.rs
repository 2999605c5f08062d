//! `nodemend replay` as operators run it: the golden of each incident, JSON, pictures and invalid input.
//!
//! `UPDATE_GOLDEN=1 cargo test --test replay` rewrites the goldens; review the diff.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

const STEPS: [&str; 13] = [
    "event",
    "suspect",
    "recovered",
    "due",
    "blocked",
    "claimed",
    "called",
    "confirmed",
    "mismatch",
    "missing",
    "foreign",
    "replaced",
    "closed",
];

fn nodemend(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodemend"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("nodemend runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn incidents() -> Vec<String> {
    let mut incidents: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events"))
        .expect("events/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("events.jsonl").is_file())
        .map(|path| format!("events/{}", path.file_name().expect("a name").to_string_lossy()))
        .collect();
    incidents.sort();
    assert!(incidents.len() >= 16, "{incidents:?}");
    incidents
}

fn incident(number: &str) -> String {
    let found = incidents().into_iter().find(|name| name.starts_with(&format!("events/{number}-")));
    found.unwrap_or_else(|| panic!("no incident {number}"))
}

/// The steps of a replay's JSON output, and the summary from its last line.
fn lines_of(output: &Output) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let mut last = lines.pop().expect("a summary");
    (lines, last["summary"].take())
}

fn replay_json(number: &str, more: &[&str]) -> (Vec<Value>, Value) {
    let folder = incident(number);
    let output = nodemend(&[&["replay", &folder, "--format", "json"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    lines_of(&output)
}

fn steps<'a>(lines: &'a [Value], step: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["step"] == step).collect()
}

/// An empty directory for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn every_incident_reads_as_its_golden() {
    let mut wrong = Vec::new();
    for incident in incidents() {
        let output = nodemend(&["replay", &incident]);
        assert_eq!(output.status.code(), Some(0), "{incident}: {}", stderr(&output));
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(&incident).join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &output.stdout).expect("a golden");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        let got = stdout(&output);
        if got != expected {
            let line = got.lines().zip(expected.lines()).position(|(got, expected)| got != expected);
            let line = line.unwrap_or_else(|| got.lines().count().min(expected.lines().count()));
            wrong.push(format!(
                "{incident}/expected.txt:{}:\n  expected {:?}\n  got      {:?}",
                line + 1,
                expected.lines().nth(line),
                got.lines().nth(line)
            ));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 rewrites them\n{}", wrong.join("\n"));
}

#[test]
fn every_json_line_has_the_documented_keys_and_the_summary_counts_the_steps() {
    for incident in incidents() {
        let output = nodemend(&["replay", &incident, "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{incident}: {}", stderr(&output));
        let (lines, summary) = lines_of(&output);
        let mut counts: BTreeMap<&str, usize> = STEPS.into_iter().map(|step| (step, 0)).collect();
        let mut before = String::new();
        for line in &lines {
            let keys: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
            let mut expected =
                vec!["at", "case", "cluster", "condition", "detail", "instanceId", "node", "reason", "step"];
            if line.get("record").is_some() {
                expected.insert(8, "record");
            }
            assert_eq!(keys, expected, "{incident}: {line}");
            let at = line["at"].as_str().expect("a time");
            assert!(at.len() == 24 && at.ends_with('Z') && at.as_bytes()[19] == b'.', "{at}");
            assert!(before.as_str() <= at, "{incident}: {at} comes after {before}");
            at.clone_into(&mut before);
            *counts.get_mut(line["step"].as_str().expect("a step")).expect("a known step") += 1;
            assert_eq!(line["step"] == "called", line.get("record").is_some(), "{incident}: {line}");
        }
        let mut expected = json!(counts);
        expected["unreadable"] = 0.into();
        // Every line that an incident rests on reaches production.
        expected["notSubscribed"] = 0.into();
        assert_eq!(summary, expected, "{incident}");
    }
}

#[test]
fn the_incidents_end_as_their_names_say() {
    // Calls, confirmations, replacements, foreign terminations, missing events, blocked decisions.
    for (number, called, confirmed, replaced, foreign, missing, blocked) in [
        ("01", 1, 1, 1, 0, 0, 0),
        ("02", 0, 0, 0, 0, 0, 0),
        ("03", 1, 1, 1, 0, 0, 0),
        ("04", 1, 1, 1, 0, 0, 0),
        ("05", 0, 0, 0, 0, 0, 0),
        ("06", 1, 1, 1, 0, 0, 0),
        ("07", 1, 1, 0, 0, 0, 0),
        ("08", 2, 2, 1, 0, 0, 0),
        ("09", 3, 3, 3, 0, 0, 7),
        ("10", 0, 0, 0, 0, 0, 4),
        ("11", 0, 0, 0, 0, 0, 1),
        ("12", 0, 0, 0, 0, 0, 0),
        ("13", 0, 0, 0, 1, 0, 0),
        ("14", 1, 0, 1, 0, 1, 0),
        ("15", 2, 2, 1, 0, 0, 0),
        ("16", 1, 1, 1, 0, 0, 1),
    ] {
        let (_, summary) = replay_json(number, &[]);
        let got: Vec<u64> = ["called", "confirmed", "replaced", "foreign", "missing", "blocked", "mismatch"]
            .iter()
            .map(|step| summary[step].as_u64().expect("a count"))
            .collect();
        assert_eq!(got, [called, confirmed, replaced, foreign, missing, blocked, 0], "incident {number}");
    }
}

#[test]
fn the_reference_incident_calls_at_its_deadline_without_shrinking_the_group() {
    let (lines, _) = replay_json("01", &[]);
    let suspect = steps(&lines, "suspect")[0];
    assert_eq!((&suspect["condition"], &suspect["reason"]), (&json!("Ready"), &json!("NodeStatusUnknown")));
    let called = steps(&lines, "called")[0];
    assert_eq!(called["at"], "2026-08-20T10:45:44.021Z");
    assert_eq!(suspect["at"], "2026-08-20T10:15:44.021Z");
    let record = &called["record"];
    assert_eq!(record["eventName"], "TerminateInstanceInAutoScalingGroup");
    assert_eq!(record["requestParameters"]["shouldDecrementDesiredCapacity"], false);
    let ends: Vec<&str> =
        lines.iter().rev().take(2).map(|line| line["step"].as_str().expect("a step")).collect();
    assert_eq!(ends, ["closed", "confirmed"]);
    let reasons: Vec<&str> =
        steps(&lines, "event").iter().filter_map(|line| line["reason"].as_str()).take(2).collect();
    assert_eq!(reasons, ["UnexpectedRejectRule", "MetadataServiceBlocked"]);
}

/// The captured CloudTrail event of EKS's own node repair, with the ids, identity and times of our incident; the formats
/// stay.
#[test]
fn the_reference_incidents_record_is_that_of_eks_own_node_repair() {
    let (lines, _) = replay_json("01", &[]);
    let ours = &steps(&lines, "called")[0]["record"];
    let real = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("events/templates/cloudtrail-terminate-by-eks-node-repair.json"),
    )
    .expect("the capture");
    let activity = &ours["responseElements"]["activity"];
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    let subnet_and_zone =
        "{\\\"Subnet ID\\\":\\\"subnet-7c77841a\\\",\\\"Availability Zone\\\":\\\"us-east-1a\\\"}";
    let mut real = real;
    for (theirs, ours) in [
        ("i-0ab76e62066c9730c", word(&ours["requestParameters"]["instanceId"])),
        ("67365036-5b2d-8de5-5b3d-fd971340ead8", word(&activity["activityId"])),
        ("eks-ng-1-86ca0689-78c9-a180-dc93-a98a44d722f9", word(&activity["autoScalingGroupName"])),
        ("e9d58984-4b88-4f0e-8796-59b45d1a493c", word(&ours["requestID"])),
        (
            "{\\\"Subnet ID\\\":\\\"subnet-01ebf5952252d7977\\\",\\\"Availability Zone\\\":\\\"ap-northeast-1d\\\"}",
            subnet_and_zone.to_owned(),
        ),
        ("2024-12-28T14:06:13Z", "2026-08-20T10:45:44Z".to_owned()),
        ("Dec 28, 2024, 2:06:13 PM", "Aug 20, 2026, 10:45:44 AM".to_owned()),
        ("ap-northeast-1", word(&ours["awsRegion"])),
        ("AROAR5DGWODCNOJPW6PDC:EKS", word(&ours["userIdentity"]["principalId"])),
        (
            "arn:aws:sts::xxxxxxxxxxxx:assumed-role/AWSServiceRoleForAmazonEKSNodegroup/EKS",
            word(&ours["userIdentity"]["arn"]),
        ),
        ("\"accountId\": \"xxxxxxxxxxxx\"", "\"accountId\": \"123456789012\"".to_owned()),
        ("\"recipientAccountId\": \"xxxxxxxxxxxx\"", "\"recipientAccountId\": \"123456789012\"".to_owned()),
    ] {
        assert!(real.contains(theirs), "{theirs} is not in the capture");
        real = real.replace(theirs, &ours);
    }
    let real: Value = serde_json::from_str(&real).expect("JSON");
    // Only these fields may differ: the format version, our own event id, our SDK's user agent, and our own block.
    let own = ["eventVersion", "eventID", "userAgent", "nodemend"];
    let mut shared = 0;
    for (field, value) in ours.as_object().expect("an object") {
        if own.contains(&field.as_str()) {
            continue;
        }
        let theirs = &real[field];
        if field == "userIdentity" {
            for (field, value) in value.as_object().expect("an object") {
                assert_eq!(value, &theirs[field], "userIdentity.{field}");
                shared += 1;
            }
            continue;
        }
        assert_eq!(value, theirs, "{field}");
        shared += 1;
    }
    assert_eq!(shared, 16, "fewer fields were compared than a call's record has");
    let only_theirs: Vec<&String> =
        real.as_object().expect("an object").keys().filter(|field| ours.get(*field).is_none()).collect();
    assert_eq!(only_theirs, ["sourceIPAddress"], "only CloudTrail knows the source address");
}

#[test]
fn observe_mode_calls_nothing_and_logs_what_it_would_do() {
    let (lines, summary) = replay_json("01", &["--mode", "observe"]);
    assert_eq!(summary["called"], 0);
    let blocked = steps(&lines, "blocked");
    assert!(!blocked.is_empty(), "{lines:?}");
    assert!(blocked[0]["detail"].as_str().expect("text").contains("observe"), "{}", blocked[0]);
    assert_eq!(blocked[0]["at"], "2026-08-20T10:45:44.021Z");
}

#[test]
fn an_unreadable_line_is_reported_and_the_rest_runs() {
    let folder = folder("bad-lines");
    let good =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(incident("01")).join("events.jsonl"))
            .expect("the incident");
    let mut lines: Vec<&str> = good.lines().collect();
    let expected = replay_json("01", &[]);
    lines.insert(2, "{\"v\":1,\"kind\":");
    lines.insert(5, "not JSON \u{1b}[31m at all");
    fs::write(folder.join("events.jsonl"), lines.join("\n")).expect("a file");
    let output = nodemend(&["replay", text(&folder), "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let complaints = stderr(&output);
    assert_eq!(complaints.lines().count(), 2, "{complaints}");
    assert!(
        complaints.contains("events.jsonl:3: ") && complaints.contains("events.jsonl:6: "),
        "{complaints}"
    );
    assert!(!complaints.contains('\u{1b}'), "a log line must not control the terminal");
    let (got, mut summary) = lines_of(&output);
    assert_eq!(got, expected.0);
    assert_eq!(summary["unreadable"].take(), 2);
}

#[test]
fn a_usage_error_exits_with_64_and_names_the_argument() {
    let folder = folder("bad-usage");
    let policy = folder.join("policy.yaml");
    fs::write(
        &policy,
        "nodeRepairConfig:\n  maxParallelNodesRepairedCount: 1\n  maxParallelNodesRepairedPercentage: 10\n",
    )
    .expect("a file");
    let fleet = folder.join("fleet.json");
    fs::write(&fleet, "{\"AutoScalingGroups\": 3}").expect("a file");
    let events = incident("01");
    for (arguments, expected) in [
        (vec!["replay"], "<PATH>"),
        (vec!["replay", "no/such/file"], "no/such/file"),
        (vec!["replay", &events, "--format", "yaml"], "yaml"),
        (vec!["replay", &events, "--until", "soon"], "soon"),
        (
            vec!["replay", &events, "--policy", text(&policy)],
            "maxParallelNodesRepairedCount and maxParallelNodesRepairedPercentage",
        ),
        (vec!["replay", &events, "--fleet", text(&fleet)], "AutoScalingGroups"),
        (vec!["replay", &events, "--svg", "/no/such/folder/x.svg"], "/no/such/folder/x.svg"),
        (vec!["repaly"], "repaly"),
    ] {
        let output = nodemend(&arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn help_has_examples_and_exits_with_0() {
    let output = nodemend(&["replay", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("nodemend replay events/01-metadata-service-blocked"));
}

#[test]
fn output_has_colors_only_on_a_terminal() {
    for number in ["01", "09"] {
        assert!(!stdout(&nodemend(&["replay", &incident(number)])).contains('\u{1b}'));
    }
}

#[test]
fn the_order_and_repetition_of_files_do_not_change_the_steps() {
    // The lines of an incident in two files, given in the wrong order, one of them twice.
    let folder = folder("packing");
    let lines =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(incident("06")).join("events.jsonl"))
            .expect("the incident");
    let (early, late): (Vec<_>, Vec<_>) = lines.lines().enumerate().partition(|(index, _)| index % 2 == 0);
    let join = |lines: Vec<(usize, &str)>| {
        lines.into_iter().map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let (first, second) = (folder.join("late.jsonl"), folder.join("early.jsonl"));
    fs::write(&first, join(late)).expect("a file");
    fs::write(&second, join(early)).expect("a file");
    let output = nodemend(&["replay", text(&first), text(&second), text(&first), "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (expected, _) = replay_json("06", &[]);
    let (got, _) = lines_of(&output);
    let telling = |lines: &[Value]| -> Vec<Value> {
        lines
            .iter()
            .filter(|line| line["step"] != "event")
            .map(|line| json!([line["at"], line["step"], line["detail"]]))
            .collect()
    };
    assert_eq!(telling(&got), telling(&expected));
}

/// An incident in the formats of the AWS CLI and of Lambda events.
#[test]
fn every_input_format_gives_the_same_steps() {
    use nodemend_ports::subscription::{Batch, LogEvent, encode};

    let lines =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(incident("01")).join("events.jsonl"))
            .expect("the incident");
    let values: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let millis = |value: &Value| -> i64 {
        let at = value.get("at").or_else(|| value.get("stageTimestamp")).and_then(Value::as_str);
        at.expect("a time").parse::<jiff::Timestamp>().expect("RFC 3339").as_millisecond()
    };
    let (expected, _) = replay_json("01", &[]);
    let story = |lines: &[Value]| -> Vec<Value> {
        lines
            .iter()
            .map(|line| json!([line["step"], line["reason"], line["at"].as_str().map(|at| &at[..19])]))
            .collect()
    };

    // As the AWS CLI prints them: logs of nodes and control plane, CloudTrail events, and EventBridge events.
    let mut noise = vec![json!({
        "logStreamName": "authenticator-2f9c", "timestamp": 1_787_220_000_000_i64, "eventId": "1",
        "message": "time=\"2026-08-20T10:00:00Z\" level=info msg=\"access granted\"",
    })];
    let (mut logs, mut calls, mut events) = (Vec::new(), Vec::new(), Vec::new());
    let mut payloads = Vec::new();
    for (value, line) in values.iter().zip(lines.lines()) {
        match value["detail-type"].as_str() {
            Some("AWS API Call via CloudTrail") => {
                calls.push(json!({ "EventName": value["detail"]["eventName"], "CloudTrailEvent": value["detail"].to_string() }));
                payloads.push(line.to_owned());
            }
            Some(_) => {
                events.push(value.clone());
                payloads.push(line.to_owned());
            }
            None => {
                let audit = value.get("verb").is_some();
                let stream = if audit {
                    "kube-apiserver-audit-5f1c"
                } else {
                    value["instanceId"].as_str().expect("an id")
                };
                logs.push(json!({ "logStreamName": stream, "timestamp": millis(value), "message": line, "eventId": "2" }));
                let batch = Batch {
                    owner: "123456789012".into(),
                    log_group: if audit {
                        "/aws/eks/prod/cluster".into()
                    } else {
                        "/nodemend/prod/nodes".into()
                    },
                    log_stream: stream.into(),
                    subscription_filters: vec!["nodemend".into()],
                    events: vec![LogEvent {
                        id: "3".into(),
                        timestamp: jiff::Timestamp::from_millisecond(millis(value)).expect("a time"),
                        message: line.into(),
                    }],
                    rejected: Vec::new(),
                };
                payloads.push(encode(&batch));
            }
        }
    }
    noise.append(&mut logs);
    let cli = folder("aws-cli");
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("JSON");
    fs::write(cli.join("logs.json"), pretty(&json!({ "events": noise, "searchedLogStreams": [] })))
        .expect("a file");
    fs::write(cli.join("cloudtrail.json"), pretty(&json!({ "Events": calls }))).expect("a file");
    fs::write(cli.join("events.json"), pretty(&json!(events))).expect("a file");
    let lambda = folder("lambda-events");
    fs::write(lambda.join("payloads.jsonl"), payloads.join("\n")).expect("a file");
    for (name, folder) in [("the AWS CLI's output", &cli), ("Lambda events", &lambda)] {
        let output = nodemend(&["replay", text(folder), "--format", "json"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        assert_eq!(story(&lines_of(&output).0), story(&expected), "{name}");
    }
}

#[test]
fn the_picture_of_the_readme_is_up_to_date() {
    let folder = folder("readme-picture");
    let svg = folder.join("09.svg");
    let output = nodemend(&["replay", &incident("09"), "--svg", text(&svg)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures/09-threshold.svg");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::copy(&svg, &golden).expect("a picture");
    }
    assert!(
        fs::read(&svg).expect("a picture") == fs::read(&golden).expect("the README's picture"),
        "UPDATE_GOLDEN=1 redraws docs/pictures/09-threshold.svg"
    );
}

#[test]
fn the_picture_has_one_lane_for_each_node() {
    let folder = folder("picture");
    let svg = folder.join("incident.svg");
    let output = nodemend(&["replay", &incident("01"), "--svg", text(&svg)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let picture = fs::read_to_string(&svg).expect("a picture");
    assert!(picture.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""), "{}", &picture[..80]);
    assert_eq!(picture.matches("class=\"lane\"").count(), 2, "the node and its replacement");
    for expected in ["ip-10-0-10-170", "ip-10-0-10-171", "NodeStatusUnknown", "10:45:44"] {
        assert!(picture.contains(expected), "{expected}");
    }
}
