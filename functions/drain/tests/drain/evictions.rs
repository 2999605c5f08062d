//! Which pods are evicted, and when.

use jiff::SignedDuration;
use nodemend_domain::drain::{Left, Why};
use nodemend_drain::DrainOutcome;

use crate::{
    drained,
    environment::{Environment, Pod, after, began, pod},
    is_emptied, longest_gap_between_heartbeats, node,
};

#[tokio::test]
async fn a_node_is_cordoned_and_drained_before_its_hook_is_completed() {
    let environment = Environment::new(vec![
        pod("web"),
        Pod { controller: Some("StatefulSet"), ..pod("db") },
        Pod { controller: None, ..pod("by-hand") },
        Pod { controller: Some("DaemonSet"), ..pod("agent") },
        Pod { controller: Some("Node"), mirror: true, ..pod("static") },
        Pod { controller: Some("Job"), phase: "Succeeded", ..pod("job") },
    ]);
    let drained = drained(&environment).await;
    assert_eq!((&drained.outcome, drained.evicted), (&DrainOutcome::Emptied, 3));
    assert_eq!(drained.node, Some(node()));
    let state = environment.state();
    assert_eq!(state.cordoned, Some(began()));
    let evicted: Vec<(&str, u16)> =
        state.evictions.iter().map(|(pod, status)| (pod.as_str(), *status)).collect();
    assert_eq!(evicted, [("web", 201), ("db", 201), ("by-hand", 201)]);
    let left: Vec<&str> = state.pods.iter().map(|pod| pod.name).collect();
    assert_eq!(left, ["agent", "static", "job"]);
    assert_eq!(state.completions.len(), 1);
    assert!(state.completions[0] >= after(5), "not before the last pod was gone");
    let cordon = state.requests.iter().position(|request| request.starts_with("PATCH"));
    let eviction = state.requests.iter().position(|request| request.starts_with("POST"));
    assert!(cordon < eviction);
}

#[tokio::test]
async fn heartbeats_are_sent_while_a_disruption_budget_blocks() {
    let blocked = Pod { budget_blocks_until: Some(after(240)), ..pod("web-2") };
    let environment = Environment::new(vec![pod("web-1"), blocked]);
    let drained = drained(&environment).await;
    assert!(is_emptied(&drained), "{drained:?}");
    let state = environment.state();
    let statuses: Vec<u16> =
        state.evictions.iter().filter(|(pod, _)| pod == "web-2").map(|(_, status)| *status).collect();
    let (last, refused) = statuses.split_last().expect("asked");
    assert_eq!(*last, 201);
    assert!(refused.iter().all(|status| *status == 429));
    assert!((10..30).contains(&refused.len()), "{} refusals in four minutes", refused.len());
    assert!(state.completions[0] >= after(245) && state.completions[0] < after(275));
    drop(state);
    // The shortest heartbeat timeout of a hook is 30 s.
    assert!(
        (1..=20).contains(&longest_gap_between_heartbeats(&environment)),
        "{}",
        longest_gap_between_heartbeats(&environment)
    );
}

#[tokio::test]
async fn a_disruption_budget_that_never_allows_does_not_stop_the_termination() {
    let blocked = Pod { budget_blocks_until: Some(after(100_000)), ..pod("web") };
    let slow = Pod { ends_in: SignedDuration::from_hours(1), ..pod("slow") };
    let environment = Environment::new(vec![blocked, slow, pod("quick")]);
    let drained = drained(&environment).await;
    let why = Why::Refused("Cannot evict pod as it would violate the pod's disruption budget.".to_owned());
    let left = vec![
        Left { pod: "shop/web".to_owned(), why },
        Left { pod: "shop/slow".to_owned(), why: Why::StillEnding },
    ];
    assert_eq!(drained.outcome, DrainOutcome::Incomplete { left, why: None });
    assert_eq!(environment.state().completions, [after(600)], "when its time was up");
    assert!((1..=20).contains(&longest_gap_between_heartbeats(&environment)));
}

#[tokio::test]
async fn a_pod_gets_its_whole_termination_grace_period() {
    let environment = Environment::new(vec![Pod { ends_in: SignedDuration::from_mins(9), ..pod("slow") }]);
    assert!(is_emptied(&drained(&environment).await));
    assert!(environment.state().completions[0] >= after(540));
}

#[tokio::test]
async fn a_pod_that_must_not_be_evicted_is_reported_and_not_waited_for() {
    let environment = Environment::new(vec![pod("web"), Pod { forbidden: true, ..pod("secret") }]);
    let drained = drained(&environment).await;
    let why = Why::Refused("pods/eviction is forbidden".to_owned());
    let left = vec![Left { pod: "shop/secret".to_owned(), why }];
    assert_eq!((drained.outcome, drained.evicted), (DrainOutcome::Incomplete { left, why: None }, 1));
    assert!(environment.state().completions[0] < after(30));
}

#[tokio::test]
async fn all_pages_of_pods_are_read() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let environment =
        Environment::new(names.into_iter().map(pod).collect()).with(|state| state.pods_a_page = 3);
    let drained = drained(&environment).await;
    assert_eq!((is_emptied(&drained), drained.evicted), (true, 7));
}

#[tokio::test]
async fn a_pod_that_is_terminating_is_not_evicted() {
    let environment = Environment::new(vec![Pod { deleted: Some(began()), ..pod("web") }]);
    let drained = drained(&environment).await;
    assert_eq!((is_emptied(&drained), drained.evicted), (true, 0));
    assert!(environment.state().evictions.is_empty());
}
