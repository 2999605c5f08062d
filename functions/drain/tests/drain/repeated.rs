//! Events that come twice, and processes that die in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp};
use nodemend_drain::DrainOutcome;

use crate::{
    drained, drainer, emptied, store, take,
    world::{Pod, World, after, began, event, pod},
};

#[tokio::test]
async fn an_event_that_comes_again_after_the_end_changes_nothing() {
    let world = World::new(vec![pod("web")]);
    assert!(emptied(&drained(&world).await));
    let asked = world.now().requests.len();
    let again = drained(&world).await;
    assert_eq!((again.outcome, again.evicted), (DrainOutcome::Over, 0));
    let state = world.now();
    assert_eq!((state.requests.len(), state.completions.len()), (asked, 1));
}

#[tokio::test]
async fn of_two_who_drain_at_once_each_is_right_and_one_completes() {
    let guarded = Pod { guarded_until: Some(after(40)), ..pod("web-2") };
    let world = World::new(vec![pod("web-1"), guarded]);
    let (one, other) = (drainer(&world, store()).await, drainer(&world, store()).await);
    let event = world.event();
    let (one, other) = tokio::join!(take(&one, &world, &event), take(&other, &world, &event));
    let outcomes = [one, other].map(|drained| drained.expect("an end").expect("one of ours").outcome);
    assert!(outcomes.contains(&DrainOutcome::Emptied), "{outcomes:?}");
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, DrainOutcome::Emptied | DrainOutcome::Over)),
        "{outcomes:?}"
    );
    assert_eq!(world.now().completions.len(), 1);
}

/// Ends like a process that dies: at its `waits`-th wait, whatever it was about to do.
async fn dies_at(world: &World, waits: usize) {
    let drainer = drainer(world, store()).await;
    let event = world.event();
    let (seen, died) = (AtomicUsize::new(0), tokio::sync::Notify::new());
    let wait = async |at: Timestamp| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == waits {
            died.notify_one();
            std::future::pending::<()>().await;
        }
        world.clock.advance_to(at);
    };
    tokio::select! {
        ended = drainer.handle(event.as_bytes(), wait) => panic!("it ended: {ended:?}"),
        () = died.notified() => {}
    }
}

#[tokio::test]
async fn whoever_comes_after_a_death_goes_on_with_what_is_left() {
    for waits in 1..=4 {
        let guarded = Pod { guarded_until: Some(after(120)), ..pod("web-2") };
        let world = World::new(vec![pod("web-1"), guarded]);
        dies_at(&world, waits).await;
        assert!(world.now().held);
        // Lambda tries again after a minute.
        world.clock.advance_to(after(75));
        let drained = drained(&world).await;
        assert!(emptied(&drained), "{drained:?}");
        let state = world.now();
        assert_eq!(state.completions.len(), 1);
        let first = state.evictions.iter().filter(|(pod, _)| pod == "web-1").count();
        assert_eq!(first, 1, "what was evicted is not evicted again");
    }
}

#[tokio::test]
async fn a_second_try_has_no_more_time_than_the_first() {
    let world = World::new(vec![Pod { guarded_until: Some(after(100_000)), ..pod("web") }]);
    world.clock.advance_to(after(540));
    let late = drained(&world).await;
    assert!(matches!(late.outcome, DrainOutcome::Incomplete { .. }));
    assert_eq!(world.now().completions, [after(600)]);
    let world = World::new(vec![Pod { guarded_until: Some(after(100_000)), ..pod("web") }]);
    world.clock.advance_to(after(3_600));
    drained(&world).await;
    assert_eq!(world.now().completions, [after(3_600)], "at once");
}

#[tokio::test]
async fn an_event_from_the_future_gets_no_more_time_than_an_invocation_has() {
    let world = World::new(vec![Pod { guarded_until: Some(after(100_000)), ..pod("web") }]);
    let subject = drainer(&world, store()).await;
    let future = event(crate::HOOK, began() + SignedDuration::from_hours(1));
    take(&subject, &world, &future).await.expect("an end").expect("one of ours");
    assert_eq!(world.now().completions, [after(600)]);
}

#[tokio::test]
async fn whose_heartbeats_are_refused_drains_on_and_asks_no_more_often_for_it() {
    let guarded = Pod { guarded_until: Some(after(120)), ..pod("web") };
    let world = World::new(vec![guarded]).with(|state| state.deaf = true);
    assert!(emptied(&drained(&world).await));
    let requests = world.now().requests.len();
    assert!(requests < 200, "{requests} requests in two minutes");
}

#[tokio::test]
async fn a_completion_that_is_throttled_is_tried_again() {
    let world = World::new(Vec::new()).with(|state| state.throttled = 3);
    assert!(emptied(&drained(&world).await));
    assert_eq!(world.now().completions.len(), 1);
}

#[tokio::test]
async fn a_completion_that_is_refused_for_good_fails_the_invocation_so_that_it_is_tried_again() {
    let world = World::new(Vec::new()).with(|state| state.throttled = 1_000);
    let subject = drainer(&world, store()).await;
    let error = take(&subject, &world, &world.event()).await.expect_err("left open");
    assert_eq!(error.to_string(), "failed to complete the lifecycle action of i-0ab76e62066c9730c");
    assert!(world.now().held);
}

#[tokio::test]
async fn a_hook_that_somebody_else_completes_ends_the_drain() {
    let world = World::new(vec![Pod { guarded_until: Some(after(100_000)), ..pod("web") }]);
    let subject = drainer(&world, store()).await;
    let wait = async |at: Timestamp| {
        world.clock.advance_to(at);
        if at >= after(60) {
            world.now().held = false;
        }
    };
    let drained = subject.handle(world.event().as_bytes(), wait).await.expect("an end").expect("one of ours");
    assert_eq!(drained.outcome, DrainOutcome::Over);
    assert!(world.now().completions.is_empty());
}
