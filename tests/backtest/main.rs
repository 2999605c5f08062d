//! `nodemend backtest` as operators run it: the same steps as a replay, the classification of repairs, limits and output.

#[cfg(feature = "aws")]
mod aws;
mod bounds;
mod classified;
mod same;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use jiff::Timestamp;
use nodemend_history as history;
use serde_json::Value;

pub(crate) fn nodemend(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodemend"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("nodemend runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// An empty directory for one test.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

pub(crate) fn incidents() -> Vec<PathBuf> {
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

pub(crate) const BOLD: &str = "nodeRepairConfig:\n  enabled: true\n  maxParallelNodesRepairedCount: 1\ngrace:\n  conditions:\n    Ready: 3m\n    \
                    KernelReady: 5m\n    NetworkingReady: 2m\n    AcceleratedHardwareReady: 1m\nsilence:\n  agentSilentAfter: 11m\n";
pub(crate) const SLOW: &str = "nodeRepairConfig:\n  enabled: true\n  maxUnhealthyNodeThresholdCount: 3\ngrace:\n  conditions:\n    Ready: 55m\n\
                    recoveryHold: 10m\n";

/// Policies that act differently on the same history, written to a directory.
pub(crate) fn policies(directory: &Path) -> [(&'static str, PathBuf); 3] {
    [("bold", BOLD), ("slow", SLOW), ("eks", "nodeRepairConfig:\n  enabled: true\n")].map(|(name, policy)| {
        let path = directory.join(format!("{name}.yaml"));
        // A backtest skips the requests of kubelets by which a replay's verification contradicts that one is unreachable.
        fs::write(&path, format!("{policy}verification: preferred\n")).expect("a policy");
        (name, path)
    })
}

pub(crate) fn comparison(arguments: &[&str]) -> Value {
    let output = nodemend(&[&["backtest", "--format", "json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

/// Audit events of one node's kubelet: at which minute, and whether it reports Ready.
pub(crate) fn kubelet(directory: &Path, reports: &[(i64, bool)], last: i64) -> PathBuf {
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
        reports.iter().map(|(at, ready)| (*at, line(*at, Some(*ready)))).collect();
    lines.extend([(0, line(0, None)), (last, line(last, None))]);
    lines.sort();
    let path = directory.join("audit.jsonl");
    write_lines(&path, lines.iter().map(|(_, line)| line.as_str()));
    path
}

/// Writes lines to a file.
pub(crate) fn write_lines<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    fs::write(path, text).expect("written");
}
