//! `nodemend backtest` as operators run it: held to replay line for line, its verdicts, its bounds, what it prints.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde_json::{Value, json};

use nodemend_history::{self as history, Plan};

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

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn incidents() -> Vec<PathBuf> {
    let events = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let mut found: Vec<PathBuf> = fs::read_dir(events)
        .expect("events/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("events.jsonl").is_file())
        .collect();
    found.sort();
    assert!(found.len() >= 16, "{found:?}");
    found
}

const BOLD: &str = "nodeRepairConfig:\n  enabled: true\n  maxParallelNodesRepairedCount: 1\ngrace:\n  conditions:\n    Ready: 3m\n    \
                    KernelReady: 5m\n    NetworkingReady: 2m\n    AcceleratedHardwareReady: 1m\nsilence:\n  agentSilentAfter: 11m\n";
const SLOW: &str = "nodeRepairConfig:\n  enabled: true\n  maxUnhealthyNodeThresholdCount: 3\ngrace:\n  conditions:\n    Ready: 55m\n\
                    recoveryHold: 10m\n";

/// Policies that differ in what a history can tell of, in a folder.
fn policies(folder: &Path) -> [(&'static str, PathBuf); 3] {
    [("bold", BOLD), ("slow", SLOW), ("eks", "nodeRepairConfig:\n  enabled: true\n")].map(|(name, policy)| {
        let path = folder.join(format!("{name}.yaml"));
        fs::write(&path, policy).expect("a policy");
        (name, path)
    })
}

/// Every step that replay takes, as it prints them.
fn replayed(paths: &[&Path], policy: Option<&Path>, more: &[&str]) -> String {
    let mut arguments = vec!["replay", "--format", "json"];
    arguments.extend(paths.iter().map(|path| text(path)));
    if let Some(policy) = policy {
        arguments.extend(["--policy", text(policy)]);
    }
    arguments.extend(more);
    let output = nodemend(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let (steps, _summary) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
    if steps.is_empty() { String::new() } else { format!("{steps}\n") }
}

/// Every step that each policy takes in a backtest that knows no more than replay.
fn backtested(into: &Path, paths: &[&Path], policies: &[(&str, PathBuf)], more: &[&str]) -> Vec<String> {
    let mut arguments =
        vec!["backtest", "--run-on", "24h", "--replacement-after", "never", "--steps", text(into)];
    arguments.extend(paths.iter().map(|path| text(path)));
    let named: Vec<String> =
        policies.iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
    for policy in &named {
        arguments.extend(["--policy", policy]);
    }
    arguments.extend(more);
    let output = nodemend(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    policies
        .iter()
        .map(|(name, _)| fs::read_to_string(into.join(format!("{name}.jsonl"))).expect("its steps"))
        .collect()
}

/// Two tellings are the same, else where they part.
fn assert_same(what: &str, expected: &str, got: &str) {
    let parts = expected.lines().zip(got.lines()).position(|(expected, got)| expected != got);
    let place = parts.unwrap_or_else(|| expected.lines().count().min(got.lines().count()));
    assert!(
        expected == got,
        "{what}: step {place} of {} and {}\n  replay   {:?}\n  backtest {:?}",
        expected.lines().count(),
        got.lines().count(),
        expected.lines().nth(place),
        got.lines().nth(place)
    );
}

fn comparison(arguments: &[&str]) -> Value {
    let output = nodemend(&[&["backtest", "--format", "json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

#[test]
fn every_incident_goes_as_replay_says_under_every_policy_and_in_either_mode() {
    let folder = folder("backtest-incidents");
    let policies = policies(&folder);
    let mut steps = 0;
    for incident in incidents() {
        for mode in ["repair", "observe"] {
            let got = backtested(&folder.join("steps"), &[&incident], &policies, &["--mode", mode]);
            for ((name, path), got) in policies.iter().zip(&got) {
                let expected = replayed(&[&incident], Some(path), &["--mode", mode]);
                assert_same(&format!("{} under {name}, {mode}", incident.display()), &expected, got);
                steps += expected.lines().count();
            }
        }
        // And under its own policy, where it has one.
        let output = nodemend(&[
            "backtest",
            text(&incident),
            "--run-on",
            "24h",
            "--replacement-after",
            "never",
            "--steps",
            text(&folder.join("own")),
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let name = if incident.join("policy.yaml").is_file() { "policy" } else { "eks-defaults" };
        let got = fs::read_to_string(folder.join("own").join(format!("{name}.jsonl"))).expect("its steps");
        assert_same(text(&incident), &replayed(&[&incident], None, &[]), &got);
    }
    assert!(steps > 500, "only {steps} steps were compared");
}

/// A made-up history as an export, and the same lines as replay reads them.
fn made_up(plan: Plan, folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let export = folder.join("export");
    plan.export(&export).expect("an export");
    // As the API gives them, in the order in which a backtest takes files of the same instant: by their names.
    let mut lines: Vec<(i64, String)> = Vec::new();
    let instances = plan.instances();
    let millis = |at: i64| (history::START + at) * 1_000;
    let event = |at: i64, stream: &str, message: &str| {
        json!({ "logStreamName": stream, "timestamp": millis(at), "message": message }).to_string()
    };
    for (at, message) in plan.audit(&instances, 0, plan.days * 86_400) {
        lines.push((at, event(at, "kube-apiserver-audit-0a1b2c3d", &message)));
    }
    let flat = folder.join("flat");
    fs::create_dir_all(&flat).expect("a folder");
    let mut paths = vec![flat.join("cluster.json"), flat.join("events.jsonl"), flat.join("nodes.json")];
    lines.sort_by_key(|(at, _)| *at);
    write_lines(&paths[0], lines.iter().map(|(_, line)| line.as_str()));
    let events = plan.events(&instances);
    write_lines(&paths[1], events.iter().map(|(_, line)| line.as_str()));
    let mut agents: Vec<(&str, i64, String)> = Vec::new();
    for instance in &instances {
        plan.agent_lines(instance, |at, line| {
            let message = std::str::from_utf8(line).expect("text");
            agents.push((&instance.id, at, event(at, &instance.id, message)));
        });
    }
    agents.sort_by_key(|(id, at, _)| (*id, *at));
    write_lines(&paths[2], agents.iter().map(|(_, _, line)| line.as_str()));
    let fleet = folder.join("fleet.json");
    fs::copy(export.join("fleet.json"), &fleet).expect("copied");
    paths.push(fleet);
    (export, paths)
}

fn write_lines<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    fs::write(path, text).expect("written");
}

const SMALL: Plan = Plan { seed: 7, nodes: 24, days: 3, days_between: 2 };

#[test]
fn three_days_of_24_nodes_go_as_replay_says_though_nine_lines_in_ten_are_never_parsed() {
    let folder = folder("backtest-made-up");
    let (export, flat) = made_up(SMALL, &folder);
    let policies = policies(&folder);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    for mode in ["repair", "observe"] {
        let more = ["--fleet", text(fleet), "--mode", mode];
        let got = backtested(&folder.join("steps"), &[&export], &policies, &more);
        // Read as they are by one thread, one file after the other; and out of order, by several.
        let same = backtested(&folder.join("again"), &[cluster, events, nodes], &policies, &more);
        let reads = comparison(&[&[text(&export)], &more[..]].concat());
        let (lines, taken) = (reads["history"]["lines"].as_u64(), reads["history"]["takenIn"].as_u64());
        let (lines, taken) = (lines.expect("a number"), taken.expect("a number"));
        assert!(lines > 30_000 && taken * 10 < lines, "{taken} of {lines} lines taken in");
        let mut all = String::new();
        for (((name, path), got), same) in policies.iter().zip(&got).zip(&same) {
            let expected = replayed(&[cluster, events, nodes], Some(path), &more);
            all.push_str(&expected);
            assert!(expected.contains("\"step\":\"called\"") || mode == "observe", "{name} calls nothing");
            assert_same(&format!("{name}, {mode}, of an export"), &expected, got);
            assert_same(&format!("{name}, {mode}, of lines"), &expected, same);
        }
    }
}

#[test]
fn files_that_overlap_and_repeat_each_other_tell_the_same_story() {
    let folder = folder("backtest-overlap");
    let (_, flat) = made_up(Plan { nodes: 8, days: 2, ..SMALL }, &folder);
    let [cluster, events, nodes, fleet] = &flat[..] else { panic!("four files") };
    let policies = policies(&folder);
    // Every other line of the agents' in one file, the rest in another, and a stretch in both.
    let lines: Vec<String> = fs::read_to_string(nodes).expect("lines").lines().map(str::to_owned).collect();
    let (one, two) = (folder.join("one.jsonl"), folder.join("two.jsonl"));
    let third = lines.len() / 3;
    let in_both = third..2 * third;
    let of = |odd: usize| {
        let kept = lines.iter().enumerate().filter(|(n, _)| n % 2 == odd || in_both.contains(n));
        kept.map(|(_, line)| line.as_str()).collect::<Vec<_>>()
    };
    write_lines(&one, of(0).into_iter());
    write_lines(&two, of(1).into_iter());
    let paths: [&Path; 4] = [cluster, events, &one, &two];
    let got = backtested(&folder.join("steps"), &paths, &policies, &["--fleet", text(fleet)]);
    for ((name, path), got) in policies.iter().zip(&got) {
        let expected = replayed(&paths, Some(path), &["--fleet", text(fleet)]);
        assert!(expected.lines().count() > 20, "{name}: nothing happens");
        assert_same(name, &expected, got);
    }
}

#[test]
fn ten_days_of_200_nodes_are_read_in_less_than_64_mib() {
    let folder = folder("backtest-memory");
    let plan = Plan { seed: 3, nodes: 200, days: 10, days_between: 20 };
    // The agents' words alone: what has to be remembered is the same.
    let export = folder.join("export");
    for instance in plan.instances() {
        let stream = export.join(&instance.id);
        fs::create_dir_all(&stream).expect("a folder");
        let file = fs::File::create(stream.join("000000.gz")).expect("a file");
        let mut out = GzEncoder::new(file, Compression::fast());
        plan.agent_lines(&instance, |at, line| {
            let at = Timestamp::from_second(history::START + at).expect("a time");
            write!(out, "{at:.3} ")
                .and_then(|()| out.write_all(line))
                .and_then(|()| out.write_all(b"\n"))
                .expect("written");
        });
        out.finish().expect("written");
    }
    let policies = policies(&folder);
    let named: Vec<String> =
        policies.iter().flat_map(|(_, path)| ["--policy".to_owned(), path.display().to_string()]).collect();
    let mut arguments = vec![text(&export), "--threads", "2"];
    arguments.extend(named.iter().map(String::as_str));
    let history = comparison(&arguments)["history"].take();
    let bytes = history["bytes"].as_u64().expect("a number");
    assert!(bytes > 300_000_000, "{bytes} bytes are no history");
    if let Some(peak) = history["peakMemoryBytes"].as_u64() {
        assert!(peak < 64 << 20, "{peak} bytes of memory");
    }
}

/// Lines of one node's kubelet: minutes, and whether it says that it is ready.
fn kubelet(folder: &Path, words: &[(i64, bool)], last: i64) -> PathBuf {
    let line = |minute: i64, status: Option<bool>| {
        let at = Timestamp::from_second(history::START + minute * 60).expect("a time");
        let status = match status {
            Some(true) => r#","status":"True","reason":"KubeletReady""#,
            Some(false) => r#","status":"False","reason":"KubeletNotReady""#,
            None => "",
        };
        format!(
            r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","stage":"ResponseComplete","verb":"patch","user":{{"username":"system:node:ip-10-0-0-1.ec2.internal","extra":{{"sessionName":["i-08736224042c4ee75"]}}}},"objectRef":{{"resource":"nodes","name":"ip-10-0-0-1.ec2.internal","subresource":"status"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestObject":{{"status":{{"conditions":[{{"type":"Ready"{status}}}]}}}},"stageTimestamp":"{at}"}}"#
        )
    };
    let mut lines: Vec<(i64, String)> =
        words.iter().map(|(at, ready)| (*at, line(*at, Some(*ready)))).collect();
    lines.extend([(0, line(0, None)), (last, line(last, None))]);
    lines.sort();
    let path = folder.join("audit.jsonl");
    write_lines(&path, lines.iter().map(|(_, line)| line.as_str()));
    path
}

#[test]
fn a_repair_is_judged_by_what_became_of_its_node() {
    let folder = folder("backtest-verdicts");
    let (no, yes) = (false, true);
    for (what, words, last, expected) in [
        (
            "well ten minutes after the call",
            &[(10, no), (50, yes)][..],
            600,
            ["false", "well again by itself 10m later"],
        ),
        (
            "well, but it did not hold",
            &[(10, no), (50, yes), (51, no)],
            600,
            ["true", "still sick when the history ended 9h 20m later"],
        ),
        ("well after an hour", &[(10, no), (100, yes)], 600, ["true", "well again by itself 1h later"]),
        ("sick until the end", &[(10, no)], 600, ["true", "still sick when the history ended 9h 20m later"]),
        (
            "the end comes too soon",
            &[(10, no)],
            60,
            ["unclear", "still sick when the history ended 20m later"],
        ),
        ("due only after the end", &[(10, no)], 30, ["unclear", "the history had ended"]),
    ] {
        let history = kubelet(&folder, words, last);
        let policies = comparison(&[text(&history)])["policies"].take();
        let repairs = policies[0]["repairs"].as_array().expect("a list");
        assert_eq!(repairs.len(), 1, "{what}: {policies:#}");
        assert_eq!([&repairs[0]["verdict"], &repairs[0]["ending"]], expected, "{what}");
    }
    let none = kubelet(&folder, &[(10, no), (30, yes)], 600);
    assert_eq!(comparison(&[text(&none)])["policies"][0]["totals"]["repairs"], 0);
}

/// The history is made up, so what really became of each node is known without any of our code.
#[test]
fn every_verdict_on_a_made_up_history_is_what_is_so() {
    let folder = folder("backtest-truth");
    let plan = Plan { seed: 21, nodes: 60, days: 12, days_between: 3 };
    let export = folder.join("export");
    plan.export(&export).expect("an export");
    let policies = policies(&folder);
    let named: Vec<String> =
        policies.iter().map(|(name, path)| format!("--policy={name}={}", path.display())).collect();
    let mut arguments = vec![text(&export)];
    arguments.extend(named.iter().map(String::as_str));
    let comparison = comparison(&arguments);
    let instances = plan.instances();
    let (mut right, mut wrong) = ([0, 0], Vec::new());
    for policy in comparison["policies"].as_array().expect("a list") {
        let lines = ["repairs", "withheld"].map(|kind| policy[kind].as_array().expect("a list"));
        for line in lines.into_iter().flatten() {
            let instance =
                instances.iter().find(|instance| line["instanceId"] == instance.id).expect("an instance");
            let at: Timestamp = line["at"].as_str().expect("a time").parse().expect("a time");
            let at = at.as_second() - history::START;
            let well = instance.well_after(at);
            let after = well.map_or(i64::MAX, |well| well - at);
            // What the agents said while nobody heard them was heard later, and a heartbeat may be the first to say it.
            let unheard = plan.silence().start - 3_600..plan.silence().end + 600;
            if unheard.contains(&at) || (after - 1_800).abs() < 360 {
                continue;
            }
            let is_false = after <= 1_800;
            if line["verdict"] == if is_false { "false" } else { "true" } {
                right[usize::from(is_false)] += 1;
            } else {
                wrong.push(format!("{}: {line}, but well after {after} s", policy["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {right:?} right\n{}", wrong.len(), wrong.join("\n"));
    assert!(right[0] > 50 && right[1] > 50, "{right:?} were judged");
}

#[test]
fn what_guards_withhold_is_lost_or_spared_by_the_same_measure() {
    let folder = folder("backtest-withheld");
    let policy = folder.join("held.yaml");
    fs::write(
        &policy,
        "nodeRepairConfig:\n  enabled: true\nholds:\n  - owner: alice\n    reason: a test\n    until: 2027-01-01T00:00:00Z\n",
    )
    .expect("a policy");
    for (words, [lost, spared]) in [(&[(10, false), (50, true)][..], [0, 1]), (&[(10, false)], [1, 0])] {
        let history = kubelet(&folder, words, 600);
        let held = comparison(&[text(&history), "--policy", text(&policy)])["policies"][0].take();
        let totals = &held["totals"];
        assert_eq!(
            [&totals["repairs"], &totals["lostToGuards"], &totals["sparedByGuards"]],
            [0, lost, spared]
        );
        assert_eq!(held["lostTo"], if lost > 0 { json!({ "Held": 1 }) } else { json!({}) });
    }
}

#[test]
fn after_a_call_that_was_never_made_a_replacement_is_assumed_and_its_group_does_not_rest() {
    let folder = folder("backtest-assumed");
    let export = folder.join("export");
    Plan { seed: 11, nodes: 40, days: 10, days_between: 3 }.export(&export).expect("an export");
    let failing = |more: &[&str]| {
        let policies = comparison(&[&[text(&export)], more].concat())["policies"].take();
        let all = policies[0]["repairs"]
            .as_array()
            .expect("a list")
            .iter()
            .chain(policies[0]["withheld"].as_array().expect("a list"));
        let resting = all.filter(|line| {
            line["guards"].as_array().expect("a list").contains(&json!("ReplacementsFailing"))
        });
        (policies[0]["totals"]["repairs"].as_u64().expect("a number"), resting.count())
    };
    let (made, resting) = failing(&[]);
    assert!(made > 10, "{made} repairs");
    assert_eq!(resting, 0, "a replacement that is assumed to be well failed");
    assert!(failing(&["--replacement-after", "never"]).1 > 0, "without one, the group rests");
}

#[test]
fn what_cannot_be_read_is_counted_and_the_first_of_it_named() {
    let folder = folder("backtest-bad");
    let mut text_of = fs::read_to_string(kubelet(&folder, &[(10, false)], 600)).expect("lines");
    for n in 0..30 {
        text_of.push_str(&format!("{{\"v\":1,\"broken\": {n}\n"));
    }
    let bad = folder.join("bad.jsonl");
    fs::write(&bad, text_of).expect("written");
    let cut = folder.join("cut.gz");
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(b"2026-07-01T00:00:00.000Z {}\nno time\n").expect("packed");
    let packed = out.finish().expect("packed");
    fs::write(&cut, &packed[..packed.len() - 8]).expect("written");
    let output = nodemend(&["backtest", text(&bad), text(&cut), "--format", "json", "--threads", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("bad.jsonl:4: EOF while parsing"), "{told}");
    assert!(told.contains("more lines that could not be read"), "{told}");
    assert!(told.lines().count() < 30, "{told}");
    let json: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    // Thirty lines, an empty object, a line without its time, and the end that is missing.
    assert_eq!(json["history"]["unreadable"], 33, "{told}");
    assert_eq!(json["policies"][0]["totals"]["repairs"], 1, "the rest goes on");
}

#[test]
fn time_can_be_bounded_and_a_limit_of_false_repairs_set() {
    let folder = folder("backtest-bounds");
    let history = kubelet(&folder, &[(10, false), (50, true)], 600);
    let some =
        comparison(&[text(&history), "--since", "2026-07-01T00:20:00Z", "--until", "2026-07-01T01:00:00Z"]);
    assert_eq!(some["policies"][0]["totals"]["repairs"], 0);
    assert_eq!(some["history"]["from"], "2026-07-01T00:50:00.000Z");
    for (limit, code) in [("0", 1), ("1", 0)] {
        assert_eq!(nodemend(&["backtest", text(&history), "--max-false", limit]).status.code(), Some(code));
    }
}

#[test]
fn wrong_usage_is_64_and_names_what_is_wrong() {
    let folder = folder("backtest-usage");
    let history = kubelet(&folder, &[], 10);
    let wrong = folder.join("wrong.yaml");
    fs::write(&wrong, "recoveryHold: 3 parsecs\n").expect("a policy");
    for (arguments, expected) in [
        (&["backtest"][..], "required"),
        (&["backtest", "no-such-file"], "failed to read no-such-file"),
        (&["backtest", text(&history), "--policy", text(&wrong)], "recoveryHold"),
        (&["backtest", text(&history), "--policy", "=x"], "is no name"),
        (&["backtest", text(&history), "--false-within", "soon"], "not a length of time"),
        (
            &[
                "backtest",
                text(&history),
                "--since",
                "2026-07-02T00:00:00Z",
                "--until",
                "2026-07-01T00:00:00Z",
            ],
            "--until",
        ),
        (&["backtest", text(&history), "--html", "/no/such/folder/page.html"], "failed to write"),
    ] {
        let output = nodemend(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let help = stdout(&nodemend(&["backtest", "--help"]));
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
}

#[test]
fn the_tables_are_for_people_and_have_no_colour_elsewhere_than_on_terminals() {
    let folder = folder("backtest-text");
    let history = kubelet(&folder, &[(10, false), (50, true)], 600);
    let told = stdout(&nodemend(&["backtest", text(&history)]));
    assert!(!told.contains('\u{1b}'), "{told}");
    for expected in [
        "eks-defaults  1    1        0        1",
        "nodes  2026-07-01  1",
        "False repairs",
        "well again by itself 10m later",
    ] {
        assert!(told.contains(expected), "{expected:?} is not in\n{told}");
    }
}

/// CloudWatch Logs on a real socket: two log groups, three events a page. What was asked, too.
#[cfg(feature = "aws")]
fn cloudwatch(
    groups: std::collections::BTreeMap<&'static str, Vec<Value>>,
) -> (String, std::sync::mpsc::Receiver<Value>) {
    use std::io::{BufRead, BufReader, Read};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (asked, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).expect("a line") == 0 {
                        break;
                    }
                }
                let Some(length) = head.to_lowercase().split_once("content-length: ").map(|(_, rest)| {
                    rest.split("\r\n").next().expect("a length").parse::<usize>().expect("a number")
                }) else {
                    break;
                };
                let mut body = vec![0; length];
                stream.read_exact(&mut body).expect("a body");
                let question: Value = serde_json::from_slice(&body).expect("JSON");
                assert!(head.contains("Logs_20140328.FilterLogEvents"), "{head}");
                let group = question["logGroupName"].as_str().expect("a name");
                let (status, answer) = match groups.get(group) {
                    None => (
                        400,
                        json!({ "__type": "ResourceNotFoundException", "message": "The specified log group does not exist." }),
                    ),
                    Some(events) => {
                        let from: usize = question["nextToken"]
                            .as_str()
                            .map_or(0, |token| token.parse().expect("a number"));
                        let page: Vec<&Value> = events.iter().skip(from).take(3).collect();
                        let mut answer = json!({ "events": page, "searchedLogStreams": [] });
                        if from + 3 < events.len() {
                            answer["nextToken"] = json!((from + 3).to_string());
                        }
                        (200, answer)
                    }
                };
                asked.send(question.clone()).expect("heard");
                let answer = answer.to_string();
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{answer}",
                    answer.len()
                )
                .expect("answered");
            }
        }
    });
    (address, heard)
}

#[cfg(feature = "aws")]
#[test]
fn log_groups_are_read_from_aws_page_by_page_and_tell_what_the_same_lines_tell_in_a_file() {
    let folder = folder("backtest-aws");
    let incident =
        incidents().into_iter().find(|path| path.ends_with("01-metadata-service-blocked")).expect("it");
    let lines = fs::read_to_string(incident.join("events.jsonl")).expect("lines");
    let (mut nodes, mut cluster) = (Vec::new(), Vec::new());
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let time = |field: &str| {
            value[field].as_str().and_then(|at| at.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond)
        };
        let (list, stream, at) = if value.get("v").is_some() {
            (&mut nodes, value["instanceId"].clone(), time("at"))
        } else if value.get("verb").is_some() {
            (&mut cluster, json!("kube-apiserver-audit-0a1b"), time("stageTimestamp"))
        } else {
            continue;
        };
        list.push(json!({ "logStreamName": stream, "timestamp": at, "ingestionTime": at, "message": line, "eventId": "1" }));
    }
    let file = folder.join("same.json");
    fs::write(&file, json!({ "events": nodes.iter().chain(&cluster).collect::<Vec<_>>() }).to_string())
        .expect("written");
    let expected = comparison(&[text(&file)]);
    assert_eq!(expected["policies"][0]["totals"]["repairs"], 1);

    let pages = nodes.len().div_ceil(3) + cluster.len().div_ceil(3);
    let (address, heard) =
        cloudwatch([("/nodemend/prod/nodes", nodes), ("/aws/eks/prod/cluster", cluster)].into());
    let ask = |groups: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodemend"));
        command.args([
            "backtest",
            "--format",
            "json",
            "--since",
            "2026-08-20T00:00:00Z",
            "--until",
            "2026-08-21T00:00:00Z",
        ]);
        for group in groups {
            command.args(["--log-group", group]);
        }
        for (name, value) in [
            ("AWS_ENDPOINT_URL", address.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
        ] {
            command.env(name, value);
        }
        command.output().expect("nodemend runs")
    };
    let output = ask(&["/nodemend/prod/nodes", "/aws/eks/prod/cluster"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let got: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(got["policies"], expected["policies"]);
    let asked: Vec<Value> = heard.try_iter().collect();
    assert_eq!(asked.len(), pages);
    assert!(asked.iter().all(|asked| asked["startTime"] == 1_787_184_000_000_i64), "{asked:?}");
    let audit = asked.last().expect("the last");
    assert_eq!(audit["logStreamNamePrefix"], "kube-apiserver-audit");
    assert!(audit["filterPattern"].as_str().expect("a pattern").contains("objectRef.resource"));

    let output = ask(&["/nodemend/other/nodes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("failed to read log group /nodemend/other/nodes"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("does not exist"), "{}", stderr(&output));
}
