//! What is let go, and what never is.

use super::*;

const PATIENCE: Patience = Patience { silent: 16 * 60_000, settled: 15 * 60_000 };

fn heartbeat(minute: i64, status: &str) -> String {
    let at = jiff::Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time");
    format!(
        r#"{{"v":1,"kind":"heartbeat","cluster":"prod","node":"n","instanceId":"i-08736224042c4ee75","bootId":"3e5696ab-eba1-bb55-bf1c-9a80963b1cab","seq":{},"at":"{at:.3}","conditions":[{{"condition":"KernelReady","status":"{status}","since":"2026-08-20T09:00:00.000Z"}}],"agent":"0.1.0"}}"#,
        minute + 1
    )
}

fn sift(lines: &[String]) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut kept, mut runs) = (Vec::new(), Vec::new());
    let mut sieve = Sieve::new(PATIENCE);
    let mut ended = |run: Run| runs.push((run.first.line, run.last.map_or(run.first.line, |last| last.line)));
    for (number, line) in lines.iter().enumerate() {
        if sieve.sift(line.as_bytes(), None, number as u64, &mut ended) == Sifted::Keep {
            kept.push(number as u64);
        }
    }
    sieve.finish(&mut ended);
    (kept, runs)
}

#[test]
fn heartbeats_that_say_the_same_become_a_run_once_the_node_has_settled() {
    let lines: Vec<String> = (0..12).map(|n| heartbeat(n * 5, "True")).collect();
    assert_eq!(sift(&lines), (vec![0, 1, 2], vec![(3, 11)]));
}

#[test]
fn a_sick_nodes_heartbeats_are_kept_and_so_are_those_of_the_time_after() {
    let status = |n| if (6..9).contains(&n) { "False" } else { "True" };
    let lines: Vec<String> = (0..16).map(|n| heartbeat(n * 5, status(n))).collect();
    assert_eq!(sift(&lines), (vec![0, 1, 2, 6, 7, 8, 9, 10, 11], vec![(3, 5), (12, 15)]));
}

#[test]
fn a_gap_in_which_an_agent_would_count_as_silent_ends_a_run() {
    let minutes = [0, 5, 10, 15, 20, 35, 51, 56];
    let lines: Vec<String> = minutes.into_iter().map(|n| heartbeat(n, "True")).collect();
    assert_eq!(sift(&lines), (vec![0, 1, 2], vec![(3, 5), (6, 7)]));
}

#[test]
fn another_report_ends_a_run_and_so_does_one_out_of_order() {
    let mut lines: Vec<String> = (0..8).map(|n| heartbeat(n * 5, "True")).collect();
    lines.insert(5, heartbeat(21, "True").replace("heartbeat", "event"));
    assert_eq!(sift(&lines).0, [0, 1, 2, 5, 6, 7, 8]);
    let mut lines: Vec<String> = (0..8).map(|n| heartbeat(n * 5, "True")).collect();
    lines.push(lines[4].clone());
    assert_eq!(sift(&lines), (vec![0, 1, 2, 8], vec![(3, 7)]));
}

macro_rules! audit {
    ($name:literal) => {
        include_str!(concat!("../../../functions/adapters/fixtures/audit/", $name, ".json"))
            .trim_end()
            .to_owned()
    };
}

#[test]
fn of_a_kubelets_heartbeats_the_first_is_kept_and_of_what_tells_something_everything() {
    let beat = audit!("kubelet-patch-nodestatus-heartbeat-only");
    let other = beat.replace("sessionName\":[\"i-08736224042c4ee75", "sessionName\":[\"i-08736224042c4ee76");
    assert_ne!(beat, other);
    let refused = beat.replace("\"code\":200", "\"code\":409");
    let of_another =
        beat.replacen("nodes\",\"name\":\"ip-10-0-10-170", "nodes\",\"name\":\"ip-10-0-10-171", 1);
    let told = [
        audit!("kubelet-patch-nodestatus-ready-false"),
        audit!("node-controller-update-NodeStatusUnknown"),
        audit!("kubelet-create-node-registration"),
        audit!("ccm-delete-node-instance-gone"),
        audit!("kubectl-delete-node-access-entry"),
        beat.replace("\"type\":\"Ready\"}", "\"status\": \"False\",\"type\":\"Ready\"}"),
        beat.replace("\"type\":\"Ready\"}", "\"\\u0073tatus\":\"False\",\"type\":\"Ready\"}"),
        refused,
        of_another,
    ];
    let mut lines = vec![beat.clone(), beat, other.clone(), other];
    let first = lines.len() as u64;
    lines.extend(told.iter().chain(&told).cloned());
    let all = first..first + 2 * told.len() as u64;
    assert_eq!(sift(&lines).0, [0, 2].into_iter().chain(all).collect::<Vec<_>>());
}

#[test]
fn what_concerns_no_node_is_let_go_by_its_own_verb_and_object_alone() {
    let nothing = [
        audit!("kubelet-lease-update-gce"),
        audit!("kubelet-patch-podstatus"),
        audit!("kubelet-csr-serving"),
        audit!("ccm-delete-node-instance-gone").replace(r#""verb":"delete""#, r#""verb":"get""#),
    ];
    let node = audit!("ccm-delete-node-instance-gone");
    let agent = node.replace(
        r#""userAgent":""#,
        r#""userAgent":"\",\"verb\":\"get\",\"objectRef\":{\"resource\":\"pods\"},"#,
    );
    assert_ne!(node, agent);
    let mut lines = nothing.to_vec();
    lines.extend([node, agent]);
    assert_eq!(sift(&lines).0, [4, 5]);
}
