//! Random schedules of the whole service find nothing wrong; one seed is one run; and to leave heartbeats out that
//! say nothing new changes nothing.

use nodemend_simulation::{
    Options, Outcome, items,
    many::{Many, many},
    run, shrink,
};

/// In the profile that is made for it; a few where the handlers are not optimised.
const SCHEDULES: u64 = if cfg!(debug_assertions) { 300 } else { 10_000 };

/// Runs these seeds on every core.
#[track_caller]
fn is_well(seeds: u64, options: Options) {
    let told = Many { options, seeds, go_on: true, ..Many::default() };
    let told = many(&told);
    if let Some((seed, outcome)) = &told.sum.first {
        panic!("{told}\n--seed {seed}: {}\nmake simulate shrinks it and tells its story", outcome.wrongs[0]);
    }
}

#[test]
fn nothing_is_wrong_in_any_schedule() {
    is_well(SCHEDULES, Options::default());
}

#[test]
fn nothing_is_wrong_in_a_fleet_of_a_thousand_nodes() {
    is_well(SCHEDULES / 300, Options { nodes: 1_000, ..Options::default() });
}

#[test]
fn every_heartbeat_delivered_there_is_nothing_wrong_either() {
    is_well(SCHEDULES / 100, Options { every_heartbeat: true, ..Options::default() });
}

#[test]
fn many_at_once_are_the_same_as_one_after_the_other() {
    let counts = |threads: usize| {
        let asked = Many { seeds: 40, threads, ..Many::default() };
        let sum = many(&asked).sum;
        (sum.calls, sum.invocations, sum.operations)
    };
    assert_eq!(counts(1), counts(7));
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
    let least = shrink(0, &Options::default(), |_| false);
    assert_eq!(least.without, Vec::<usize>::new());
}

fn accepts_a_call(outcome: &Outcome) -> bool {
    outcome.accepted > 0
}

#[test]
fn a_schedule_is_shrunk_to_what_its_failure_needs() {
    let options = Options::default();
    let busy = |seed: &u64| items(*seed, &options).len() > 5 && accepts_a_call(&run(*seed, &options));
    let seed = (0..200).find(busy).expect("a schedule of many items with a call");
    let least = shrink(seed, &options, accepts_a_call);
    let left = items(seed, &options).len() - least.without.len();
    assert_eq!(left, 1, "one node's trouble is enough for a call: all but {:?}", least.without);
    assert!(accepts_a_call(&run(seed, &least)));
}

#[test]
fn with_several_threads_the_first_schedule_that_fails_is_reported() {
    let first = |threads: usize| {
        let asked = Many { seeds: 200, threads, fails: accepts_a_call, ..Many::default() };
        many(&asked).sum.first.map(|(seed, _)| seed)
    };
    let alone = first(1);
    assert!(alone.is_some());
    assert_eq!(first(7), alone);
}
