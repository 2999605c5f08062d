//! Invalid input, limits, and the text output.

use std::{fs, io::Write};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use nodemend_history::{self as history, Plan};
use serde_json::Value;

use crate::{comparison, directory, kubelet, nodemend, policies, stderr, stdout, text};

#[test]
fn ten_days_of_200_nodes_are_read_in_less_than_64_mib() {
    let directory = directory("backtest-memory");
    let plan = Plan { seed: 3, nodes: 200, days: 10, days_between: 20 };
    // Only the agents' reports: the control-plane audit log would need no more memory.
    let export = directory.join("export");
    for instance in plan.instances() {
        let stream = export.join(&instance.id);
        fs::create_dir_all(&stream).expect("a directory");
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
    let policies = policies(&directory);
    let named: Vec<String> =
        policies.iter().flat_map(|(_, path)| ["--policy".to_owned(), path.display().to_string()]).collect();
    let mut arguments = vec![text(&export), "--threads", "2"];
    arguments.extend(named.iter().map(String::as_str));
    let history = comparison(&arguments)["history"].take();
    let bytes = history["bytes"].as_u64().expect("a number");
    assert!(bytes > 300_000_000, "{bytes} bytes are too few for this test");
    if let Some(peak) = history["peakMemoryBytes"].as_u64() {
        assert!(peak < 64 << 20, "{peak} bytes of memory");
    }
}

#[test]
fn unreadable_lines_are_counted_and_the_first_reported() {
    let directory = directory("backtest-bad");
    let mut lines = fs::read_to_string(kubelet(&directory, &[(10, false)], 600)).expect("lines");
    for n in 0..30 {
        lines.push_str(&format!("{{\"v\":1,\"broken\": {n}\n"));
    }
    let bad = directory.join("bad.jsonl");
    fs::write(&bad, lines).expect("written");
    let truncated = directory.join("truncated.gz");
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(b"2026-07-01T00:00:00.000Z {}\nno time\n").expect("compressed");
    let compressed = out.finish().expect("compressed");
    fs::write(&truncated, &compressed[..compressed.len() - 8]).expect("written");
    let output = nodemend(&["backtest", text(&bad), text(&truncated), "--format", "json", "--threads", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    assert!(errors.contains("bad.jsonl:4: EOF while parsing"), "{errors}");
    assert!(errors.lines().count() < 30, "{errors}");
    let json: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    // Thirty lines, an empty object, a line without its time, and the truncated end.
    assert_eq!(json["history"]["unreadable"], 33, "{errors}");
    assert_eq!(json["policies"][0]["totals"]["repairs"], 1, "the rest is read");
}

#[test]
fn the_time_range_and_the_number_of_unnecessary_repairs_can_be_limited() {
    let directory = directory("backtest-bounds");
    let history = kubelet(&directory, &[(10, false), (50, true)], 600);
    let limited =
        comparison(&[text(&history), "--since", "2026-07-01T00:20:00Z", "--until", "2026-07-01T01:00:00Z"]);
    assert_eq!(limited["policies"][0]["totals"]["repairs"], 0);
    assert_eq!(limited["history"]["from"], "2026-07-01T00:50:00.000Z");
    for (limit, code) in [("0", 1), ("1", 0)] {
        assert_eq!(
            nodemend(&["backtest", text(&history), "--max-unnecessary", limit]).status.code(),
            Some(code)
        );
    }
}

#[test]
fn a_usage_error_exits_with_64_and_names_the_argument() {
    let directory = directory("backtest-usage");
    let history = kubelet(&directory, &[], 10);
    let wrong = directory.join("wrong.yaml");
    fs::write(&wrong, "recoveryHold: 3 parsecs\n").expect("a policy");
    for (arguments, expected) in [
        (&["backtest"][..], "required"),
        (&["backtest", "no-such-file"], "failed to read no-such-file"),
        (&["backtest", text(&history), "--policy", text(&wrong)], "recoveryHold"),
        (&["backtest", text(&history), "--policy", "=x"], "--policy"),
        (&["backtest", text(&history), "--unnecessary-within", "soon"], "--unnecessary-within"),
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
        (&["backtest", text(&history), "--html", "/no/such/directory/page.html"], "failed to write"),
    ] {
        let output = nodemend(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    let help = stdout(&nodemend(&["backtest", "--help"]));
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
}

#[test]
fn the_tables_have_the_totals_and_no_colors_without_a_terminal() {
    let directory = directory("backtest-text");
    let history = kubelet(&directory, &[(10, false), (50, true)], 600);
    let output = stdout(&nodemend(&["backtest", text(&history)]));
    assert!(!output.contains('\u{1b}'), "{output}");
    for expected in [
        "eks-defaults  1    1        0        1",
        "nodes  2026-07-01  1",
        "recovered without repair after 10m",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in\n{output}");
    }
}

#[test]
fn the_page_has_a_mark_and_a_row_for_each_repair_and_escapes_names() {
    let directory = directory("backtest-page");
    let history = kubelet(&directory, &[(10, false), (50, true)], 600);
    let policy = directory.join("policy.yaml");
    fs::write(&policy, "nodeRepairConfig:\n  enabled: true\n").expect("a policy");
    let (named, page) = (format!("<b>&\"={}", policy.display()), directory.join("page.html"));
    let comparison = comparison(&[text(&history), "--policy", &named, "--html", text(&page)]);
    assert_eq!(comparison["policies"][0]["totals"]["repairs"], 1);
    let page = fs::read_to_string(&page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "{page}");
    assert!(!page.contains("<b>") && !page.contains("<script"), "{page}");
    assert_eq!(page.matches("<tr><td>").count(), 1);
    let chart = page.split("<svg id=\"timeline\"").nth(1).and_then(|rest| rest.split("</svg>").next());
    assert_eq!(chart.expect("a chart").matches("<title>").count(), 1);
}
