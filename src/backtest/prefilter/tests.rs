//! Tests which lines are skipped and which never are.

use super::*;

const THRESHOLDS: Thresholds = Thresholds { silent_after_ms: 16 * 60_000, settled_after_ms: 15 * 60_000 };

fn heartbeat(minute: i64, status: &str) -> String {
    let at = jiff::Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time");
    format!(
        r#"{{"v":1,"kind":"heartbeat","cluster":"prod","node":"n","instanceId":"i-08736224042c4ee75","bootId":"3e5696ab-eba1-bb55-bf1c-9a80963b1cab","seq":{},"at":"{at:.3}","conditions":[{{"condition":"KernelReady","status":"{status}","since":"2026-08-20T09:00:00.000Z"}}],"agent":"0.1.0"}}"#,
        minute + 1
    )
}

/// The numbers of the relevant lines, and the first and last line of each run.
fn classify(lines: &[String]) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut relevant, mut runs) = (Vec::new(), Vec::new());
    let mut prefilter = Prefilter::new(THRESHOLDS);
    let mut ended =
        |run: HeartbeatRun| runs.push((run.first.line, run.last.map_or(run.first.line, |last| last.line)));
    for (number, line) in lines.iter().enumerate() {
        if prefilter.classify(line.as_bytes(), None, number as u64, &mut ended) == LineClass::Relevant {
            relevant.push(number as u64);
        }
    }
    prefilter.finish(&mut ended);
    (relevant, runs)
}

#[test]
fn repeated_heartbeats_become_a_run_once_the_node_has_settled() {
    let lines: Vec<String> = (0..12).map(|n| heartbeat(n * 5, "True")).collect();
    assert_eq!(classify(&lines), (vec![0, 1, 2], vec![(3, 11)]));
}

#[test]
fn heartbeats_of_an_unhealthy_node_are_relevant_until_it_has_settled_again() {
    let status = |n| if (6..9).contains(&n) { "False" } else { "True" };
    let lines: Vec<String> = (0..16).map(|n| heartbeat(n * 5, status(n))).collect();
    assert_eq!(classify(&lines), (vec![0, 1, 2, 6, 7, 8, 9, 10, 11], vec![(3, 5), (12, 15)]));
}

#[test]
fn a_gap_in_which_an_agent_would_count_as_silent_ends_a_run() {
    let minutes = [0, 5, 10, 15, 20, 35, 51, 56];
    let lines: Vec<String> = minutes.into_iter().map(|n| heartbeat(n, "True")).collect();
    assert_eq!(classify(&lines), (vec![0, 1, 2], vec![(3, 5), (6, 7)]));
}

#[test]
fn another_report_ends_a_run_and_so_does_one_out_of_order() {
    let mut lines: Vec<String> = (0..8).map(|n| heartbeat(n * 5, "True")).collect();
    lines.insert(5, heartbeat(21, "True").replace("heartbeat", "event"));
    assert_eq!(classify(&lines).0, [0, 1, 2, 5, 6, 7, 8]);
    let mut lines: Vec<String> = (0..8).map(|n| heartbeat(n * 5, "True")).collect();
    lines.push(lines[4].clone());
    assert_eq!(classify(&lines), (vec![0, 1, 2, 8], vec![(3, 7)]));
}

macro_rules! audit {
    ($name:literal) => {
        include_str!(concat!("../../../functions/ports/fixtures/audit/", $name, ".json"))
            .trim_end()
            .to_owned()
    };
}

#[test]
fn the_first_heartbeat_of_a_kubelet_is_relevant_and_so_is_every_change() {
    let beat = audit!("kubelet-patch-nodestatus-heartbeat-only");
    let other = beat.replace("sessionName\":[\"i-08736224042c4ee75", "sessionName\":[\"i-08736224042c4ee76");
    assert_ne!(beat, other);
    let refused = beat.replace("\"code\":200", "\"code\":409");
    let of_another_node =
        beat.replacen("nodes\",\"name\":\"ip-10-0-10-170", "nodes\",\"name\":\"ip-10-0-10-171", 1);
    let changes = [
        audit!("kubelet-patch-nodestatus-ready-false"),
        audit!("node-controller-update-NodeStatusUnknown"),
        audit!("kubelet-create-node-registration"),
        audit!("ccm-delete-node-instance-gone"),
        audit!("kubectl-delete-node-access-entry"),
        beat.replace("\"type\":\"Ready\"}", "\"status\": \"False\",\"type\":\"Ready\"}"),
        beat.replace("\"type\":\"Ready\"}", "\"\\u0073tatus\":\"False\",\"type\":\"Ready\"}"),
        refused,
        of_another_node,
    ];
    let mut lines = vec![beat.clone(), beat, other.clone(), other];
    let first = lines.len() as u64;
    lines.extend(changes.iter().chain(&changes).cloned());
    let all = first..first + 2 * changes.len() as u64;
    assert_eq!(classify(&lines).0, [0, 2].into_iter().chain(all).collect::<Vec<_>>());
}

#[test]
fn audit_events_are_irrelevant_by_their_own_verb_and_object_only() {
    let irrelevant = [
        audit!("kubelet-lease-update-gce"),
        audit!("kubelet-patch-podstatus"),
        audit!("kubelet-csr-serving"),
        audit!("ccm-delete-node-instance-gone").replace(r#""verb":"delete""#, r#""verb":"get""#),
    ];
    let deletion = audit!("ccm-delete-node-instance-gone");
    let misleading = deletion.replace(
        r#""userAgent":""#,
        r#""userAgent":"\",\"verb\":\"get\",\"objectRef\":{\"resource\":\"pods\"},"#,
    );
    assert_ne!(deletion, misleading);
    let mut lines = irrelevant.to_vec();
    lines.extend([deletion, misleading]);
    assert_eq!(classify(&lines).0, [4, 5]);
}
