//! Chaos: the binary of each function is killed before and after every await of a whole repair, from the first report to
//! the confirmed call and the closed case. In each case, the repair must be completed once.
//!
//! A first repair counts the awaits of each function. Then there is one repair for each crash. The test sets the time, so
//! that a lease of two minutes ends at once and each repair has the same awaits. `NODEMEND_CHAOS_EVERY=10`, as in
//! `make test`, runs every tenth crash only.

mod environment;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
};

use nodemend_aws::failpoints::{Point, Side};
use nodemend_stack::stack::FUNCTIONS;

use self::environment::{Crash, Environment, RepairResult};

const REPAIR: usize = 1;

/// Starts an environment on a runtime of its own, and runs some work in it. Its result, and whether the audit log is right
/// then.
fn with_environment<T>(work: impl AsyncFnOnce(&mut Environment) -> T) -> (T, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        let mut environment = Environment::start().await;
        // The node of the first repair was there from the start; those of all others are replacements.
        environment.repair(None).await.expect("a repair");
        let result = work(&mut environment).await;
        let verified = environment.verify().await;
        environment.stop().await;
        (result, verified)
    });
    runtime.shutdown_background();
    result
}

/// The awaits of each function in a repair without a crash.
async fn count(environment: &mut Environment) -> [Vec<String>; 3] {
    let result = environment.repair_counted().await.expect("a repair");
    assert_eq!((result.calls, result.unanswered), (1, 0));
    result.awaits
}

#[test]
fn a_function_killed_at_any_await_leads_to_one_completed_repair() {
    let (awaits, verified) = with_environment(async |environment| count(environment).await);
    assert_eq!(verified, Ok(()));
    for (name, awaits) in FUNCTIONS.iter().zip(&awaits) {
        println!("{name}: {} awaits: {}", awaits.len(), awaits.join(" "));
    }
    let crashes = |function: usize| {
        let numbers = 1..=awaits[function].len() as u64;
        let sides = |number| [Side::Before, Side::After].map(|side| Point { number, side });
        numbers.flat_map(sides).map(move |point| Crash { function, point })
    };
    let every = std::env::var_os("NODEMEND_CHAOS_EVERY").map_or(1, |every| {
        let every = every.to_str().and_then(|every| every.parse().ok()).filter(|every| *every > 0);
        every.expect("NODEMEND_CHAOS_EVERY is a number from 1 on")
    });
    let mut all: Vec<Crash> = (0..FUNCTIONS.len()).flat_map(crashes).step_by(every).collect();
    // One crash, as a failure names it: `nodemend-repair died before:43`.
    if let Some(only) = std::env::var_os("NODEMEND_CHAOS") {
        all.retain(|crash| *crash.to_string() == *only);
    }
    let queue = Mutex::new(VecDeque::from(all.clone()));
    let results: Mutex<Vec<(Crash, Result<RepairResult, String>)>> = Mutex::default();
    let verified: Mutex<Vec<Result<(), String>>> = Mutex::default();
    let next = || lock(&queue).pop_front();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let ((), log) = with_environment(async |environment| {
                    while let Some(crash) = next() {
                        let what = &awaits[crash.function][crash.point.number as usize - 1];
                        let result = environment.repair(Some((crash, what))).await;
                        lock(&results).push((crash, result));
                    }
                });
                lock(&verified).push(log);
            });
        }
    });
    let mut results = results.into_inner().expect("no panic");
    results.sort_by_key(|(crash, _)| *crash);
    assert_eq!(results.iter().map(|(crash, _)| *crash).collect::<Vec<_>>(), all);
    let failed: Vec<String> = results
        .iter()
        .filter_map(|(crash, result)| Some(format!("{crash}: {}", result.as_ref().err()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), results.len(), failed.join("\n"));
    for verified in verified.into_inner().expect("no panic") {
        assert_eq!(verified, Ok(()));
    }
    // A call that was recorded and never sent cannot be distinguished from one whose answer was lost. It is recorded as
    // unanswered, and only then may there be a second record beside the one of the call.
    let repair = &awaits[REPAIR];
    let call = repair.iter().position(|what| what == "TerminateInstanceInAutoScalingGroup").expect("a call");
    let written = repair[..call].iter().rposition(|what| what == "PutItem").expect("a write");
    let (call, written) = (call as u64 + 1, written as u64 + 1);
    for (crash, result) in &results {
        let Point { number, side } = crash.point;
        let after = crash.function == REPAIR && side == Side::After;
        let unsent = after && (written..call).contains(&number)
            || crash.function == REPAIR && (number, side) == (call, Side::Before);
        let unanswered = result.as_ref().is_ok_and(|result| result.unanswered > 0);
        // The console output is requested before the write, and may be answered after it.
        let open = after && number < written && repair[number as usize - 1] == "GetConsoleOutput";
        assert!(unanswered == unsent || open, "{crash}: {result:?}");
    }
    println!("{} crashes, one call each", results.len());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
