//! Random schedules of the whole service find nothing wrong; one seed is one run; and to leave heartbeats out that
//! say nothing new changes nothing.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use nodemend_simulation::{Options, run, shrink};

/// In the profile that is made for it; a few where the handlers are not optimised.
const SCHEDULES: u64 = if cfg!(debug_assertions) { 300 } else { 10_000 };

/// Runs these seeds on every core; the first wrong of each that fails.
fn failures(seeds: u64, options: &Options) -> Vec<String> {
    let (next, failures) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    if let Some(wrong) = run(seed, options).wrongs.first() {
                        failures.lock().expect("no panics").push(format!("--seed {seed}: {wrong}"));
                    }
                }
            });
        }
    });
    failures.into_inner().expect("no panics")
}

#[test]
fn nothing_is_wrong_in_any_schedule() {
    let failures = failures(SCHEDULES, &Options::default());
    assert!(
        failures.is_empty(),
        "{}\nmake simulate shrinks the first and tells its story",
        failures.join("\n")
    );
}

#[test]
fn nothing_is_wrong_in_a_fleet_of_a_thousand_nodes() {
    let options = Options { nodes: 1_000, ..Options::default() };
    assert_eq!(failures(SCHEDULES / 300, &options), Vec::<String>::new());
}

#[test]
fn every_heartbeat_delivered_there_is_nothing_wrong_either() {
    let options = Options { every_heartbeat: true, ..Options::default() };
    assert_eq!(failures(SCHEDULES / 100, &options), Vec::<String>::new());
}

#[test]
fn one_seed_is_one_run() {
    let options = Options { verbose: true, ..Options::default() };
    let mut told = 0;
    for seed in 0..20 {
        let (first, second) = (run(seed, &options), run(seed, &options));
        assert!(first.story == second.story, "seed {seed} tells two stories");
        assert!(first.story.len() > 5, "seed {seed} tells of nothing");
        told += first.story.len();
    }
    // One alone may be short: a node that was unwell for half a minute.
    assert!(told > 20 * 20, "{told} lines of twenty stories");
}

#[test]
fn calls_are_made_and_most_of_them_taken() {
    let outcomes: Vec<_> = (0..50).map(|seed| run(seed, &Options::default())).collect();
    let calls: usize = outcomes.iter().map(|outcome| outcome.calls).sum();
    let accepted: usize = outcomes.iter().map(|outcome| outcome.accepted).sum();
    assert!(calls >= 40 && accepted * 10 >= calls * 7, "{calls} calls, {accepted} taken");
}

#[test]
fn a_schedule_that_does_not_fail_is_not_shrunk() {
    let least = shrink(0, &Options::default(), "no such rule");
    assert_eq!(least.without, Vec::<usize>::new());
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn a_deliberate_fault_is_found_and_shrunk_to_what_it_needs() {
    const RULE: &str = "a call that was not written down";
    nodemend_domain::bugs::seed(Some("calls-twice"));
    let fails =
        |seed: &u64| run(*seed, &Options::default()).wrongs.first().is_some_and(|wrong| wrong.rule == RULE);
    let seed = (0..200).find(fails).expect("a schedule with a call");
    let least = shrink(seed, &Options::default(), RULE);
    let (items, left) = (nodemend_simulation::items(seed, &least), run(seed, &least));
    assert_eq!(items.len() - least.without.len(), 1, "one node's trouble is enough: {items:?}");
    assert_eq!(left.wrongs.first().map(|wrong| wrong.rule), Some(RULE));
    nodemend_domain::bugs::seed(None);
}
