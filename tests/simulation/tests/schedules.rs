//! No random schedule of the whole service has a violation; one seed is one run; and heartbeats that report nothing new
//! change nothing. `make nightly-simulation` runs a million schedules.

use nodemend_simulation::{
    Options, Outcome,
    campaign::{Campaign, run_campaign},
    items, run, shrink,
};

#[track_caller]
fn assert_no_violation(seeds: u64, options: Options) {
    let campaign = Campaign { options, seeds, go_on: true, ..Campaign::default() };
    let report = run_campaign(&campaign);
    if let Some((seed, outcome)) = &report.totals.first {
        panic!("{report}\n--seed {seed}: {}\n`make simulate` shrinks and explains it", outcome.violations[0]);
    }
}

#[test]
fn no_schedule_has_a_violation() {
    assert_no_violation(2_000, Options::default());
}

#[test]
fn a_fleet_of_a_thousand_nodes_has_no_violation() {
    assert_no_violation(10, Options { nodes: 1_000, ..Options::default() });
}

#[test]
fn with_every_heartbeat_delivered_there_is_no_violation() {
    assert_no_violation(50, Options { every_heartbeat: true, ..Options::default() });
}

#[test]
fn threads_change_no_result() {
    let counts = |threads: usize| {
        let campaign = Campaign { seeds: 40, threads, ..Campaign::default() };
        let totals = run_campaign(&campaign).totals;
        (totals.calls, totals.invocations, totals.operations)
    };
    assert_eq!(counts(1), counts(7));
}

#[test]
fn one_seed_is_one_run() {
    let options = Options { verbose: true, ..Options::default() };
    let mut lines = 0;
    for seed in 0..20 {
        let (first, second) = (run(seed, &options), run(seed, &options));
        assert!(first.trace == second.trace, "seed {seed} has two traces");
        assert!(first.trace.len() > 5, "seed {seed} has an empty trace");
        lines += first.trace.len();
    }
    // One alone may be short: a node that was unhealthy for half a minute.
    assert!(lines > 20 * 20, "{lines} lines in twenty traces");
}

#[test]
fn calls_are_made_and_most_are_accepted() {
    let outcomes: Vec<_> = (0..100).map(|seed| run(seed, &Options::default())).collect();
    let calls: usize = outcomes.iter().map(|outcome| outcome.calls).sum();
    let accepted: usize = outcomes.iter().map(|outcome| outcome.accepted).sum();
    assert!(calls >= 40 && accepted * 10 >= calls * 7, "{calls} calls, {accepted} accepted");
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
    assert_eq!(left, 1, "one node that fails is enough for a call: all but {:?}", least.without);
    assert!(accepts_a_call(&run(seed, &least)));
}

#[test]
fn with_several_threads_the_first_schedule_that_fails_is_reported() {
    let first = |threads: usize| {
        let campaign = Campaign { seeds: 200, threads, fails: accepts_a_call, ..Campaign::default() };
        run_campaign(&campaign).totals.first.map(|(seed, _)| seed)
    };
    let alone = first(1);
    assert!(alone.is_some());
    assert_eq!(first(7), alone);
}
