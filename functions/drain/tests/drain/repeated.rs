//! Repeated events, and processes that crash in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp};
use nodemend_drain::DrainOutcome;

use crate::{
    drained, drainer,
    environment::{Environment, Pod, after, began, event, pod},
    handle, is_emptied, store,
};

#[tokio::test]
async fn an_event_repeated_after_the_drain_changes_nothing() {
    let environment = Environment::new(vec![pod("web")]);
    assert!(is_emptied(&drained(&environment).await));
    let asked = environment.state().requests.len();
    let again = drained(&environment).await;
    assert_eq!((again.outcome, again.evicted), (DrainOutcome::Over, 0));
    let state = environment.state();
    assert_eq!((state.requests.len(), state.completions.len()), (asked, 1));
}

#[tokio::test]
async fn of_two_concurrent_drains_one_completes_the_hook() {
    let blocked = Pod { budget_blocks_until: Some(after(40)), ..pod("web-2") };
    let environment = Environment::new(vec![pod("web-1"), blocked]);
    let (one, other) = (drainer(&environment, store()).await, drainer(&environment, store()).await);
    let event = environment.event();
    let (one, other) = tokio::join!(handle(&one, &environment, &event), handle(&other, &environment, &event));
    let outcomes = [one, other].map(|drained| drained.expect("drain succeeds").expect("a drain").outcome);
    assert!(outcomes.contains(&DrainOutcome::Emptied), "{outcomes:?}");
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, DrainOutcome::Emptied | DrainOutcome::Over)),
        "{outcomes:?}"
    );
    assert_eq!(environment.state().completions.len(), 1);
}

/// A process that crashes in its `waits`-th wait.
async fn dies_at(environment: &Environment, waits: usize) {
    let drainer = drainer(environment, store()).await;
    let event = environment.event();
    let (seen, died) = (AtomicUsize::new(0), tokio::sync::Notify::new());
    let wait = async |at: Timestamp| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == waits {
            died.notify_one();
            std::future::pending::<()>().await;
        }
        environment.clock.advance_to(at);
    };
    tokio::select! {
        ended = drainer.handle(event.as_bytes(), wait) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
}

#[tokio::test]
async fn a_drain_continues_after_the_crash_of_an_earlier_one() {
    for waits in 1..=4 {
        let blocked = Pod { budget_blocks_until: Some(after(120)), ..pod("web-2") };
        let environment = Environment::new(vec![pod("web-1"), blocked]);
        dies_at(&environment, waits).await;
        assert!(environment.state().held);
        // Lambda repeats the event after a minute.
        environment.clock.advance_to(after(75));
        let drained = drained(&environment).await;
        assert!(is_emptied(&drained), "{drained:?}");
        let state = environment.state();
        assert_eq!(state.completions.len(), 1);
        let first = state.evictions.iter().filter(|(pod, _)| pod == "web-1").count();
        assert_eq!(first, 1, "an evicted pod is not evicted again");
    }
}

#[tokio::test]
async fn a_repeated_event_has_the_time_limit_of_the_first() {
    let environment = Environment::new(vec![Pod { budget_blocks_until: Some(after(100_000)), ..pod("web") }]);
    environment.clock.advance_to(after(540));
    let late = drained(&environment).await;
    assert!(matches!(late.outcome, DrainOutcome::Incomplete { .. }));
    assert_eq!(environment.state().completions, [after(600)]);
    let environment = Environment::new(vec![Pod { budget_blocks_until: Some(after(100_000)), ..pod("web") }]);
    environment.clock.advance_to(after(3_600));
    drained(&environment).await;
    assert_eq!(environment.state().completions, [after(3_600)], "at once");
}

#[tokio::test]
async fn an_event_with_a_future_time_gets_the_usual_time_limit() {
    let environment = Environment::new(vec![Pod { budget_blocks_until: Some(after(100_000)), ..pod("web") }]);
    let subject = drainer(&environment, store()).await;
    let future = event(crate::HOOK, began() + SignedDuration::from_hours(1));
    handle(&subject, &environment, &future).await.expect("drain succeeds").expect("a drain");
    assert_eq!(environment.state().completions, [after(600)]);
}

#[tokio::test]
async fn refused_heartbeats_neither_stop_a_drain_nor_make_it_faster() {
    let blocked = Pod { budget_blocks_until: Some(after(120)), ..pod("web") };
    let environment = Environment::new(vec![blocked]).with(|state| state.heartbeats_refused = true);
    assert!(is_emptied(&drained(&environment).await));
    let requests = environment.state().requests.len();
    assert!(requests < 200, "{requests} requests in two minutes");
}

#[tokio::test]
async fn a_throttled_completion_is_retried() {
    let environment = Environment::new(Vec::new()).with(|state| state.throttled = 3);
    assert!(is_emptied(&drained(&environment).await));
    assert_eq!(environment.state().completions.len(), 1);
}

#[tokio::test]
async fn a_completion_that_stays_refused_fails_the_invocation() {
    let environment = Environment::new(Vec::new()).with(|state| state.throttled = 1_000);
    let subject = drainer(&environment, store()).await;
    let error =
        handle(&subject, &environment, &environment.event()).await.expect_err("the hook is not completed");
    assert_eq!(error.to_string(), "failed to complete the lifecycle action of i-0ab76e62066c9730c");
    assert!(environment.state().held);
}

#[tokio::test]
async fn a_hook_completed_by_another_ends_the_drain() {
    let environment = Environment::new(vec![Pod { budget_blocks_until: Some(after(100_000)), ..pod("web") }]);
    let subject = drainer(&environment, store()).await;
    let wait = async |at: Timestamp| {
        environment.clock.advance_to(at);
        if at >= after(60) {
            environment.state().held = false;
        }
    };
    let drained =
        subject.handle(environment.event().as_bytes(), wait).await.expect("drain succeeds").expect("a drain");
    assert_eq!(drained.outcome, DrainOutcome::Over);
    assert!(environment.state().completions.is_empty());
}
