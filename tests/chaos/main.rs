//! Chaos: each of the three functions, as the binaries that Lambda runs, is killed before and after every await of a whole
//! repair, from the first report to the confirmed call and the closed case. Whatever dies, the repair completes once.
//!
//! A first run counts the awaits of each function. Then the process is killed at each of them, before and after, in a
//! repair of its own. The test sets the time: a lease of two minutes is over at once, and the same repair has the same
//! awaits in each run. With `NODEMEND_CHAOS_EVERY=10` it is every tenth death alone, as in `make test`.

mod bed;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
};

use nodemend_aws::failpoints::{Point, Side};
use nodemend_stack::stack::FUNCTIONS;

use self::bed::{Bed, Death, Ran};

const REPAIR: usize = 1;

/// Runs a bed's work on a thread and a runtime of its own.
fn with_bed<T>(work: impl AsyncFnOnce(&mut Bed) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        let mut bed = Bed::make().await;
        // The node of the first repair has been there all along; of all others, it came as a replacement.
        bed.repair(None).await.expect("a repair");
        let result = work(&mut bed).await;
        bed.verify().await;
        bed.end().await;
        result
    });
    runtime.shutdown_background();
    result
}

/// What each function awaits in a repair in which nothing dies.
async fn count(bed: &mut Bed) -> [Vec<String>; 3] {
    let ran = bed.repair_counted().await.expect("a repair");
    assert_eq!((ran.calls, ran.lost), (1, 0));
    ran.awaits
}

#[test]
fn whichever_function_dies_at_whichever_await_the_repair_completes_once() {
    let awaits = with_bed(async |bed| count(bed).await);
    for (name, awaits) in FUNCTIONS.iter().zip(&awaits) {
        println!("{name}: {} awaits: {}", awaits.len(), awaits.join(" "));
    }
    let deaths = |function: usize| {
        let numbers = 1..=awaits[function].len() as u64;
        let sides = |number| [Side::Before, Side::After].map(|side| Point { number, side });
        numbers.flat_map(sides).map(move |point| Death { function, point })
    };
    let every = std::env::var_os("NODEMEND_CHAOS_EVERY").map_or(1, |every| {
        let every = every.to_str().and_then(|every| every.parse().ok()).filter(|every| *every > 0);
        every.expect("NODEMEND_CHAOS_EVERY is a number from 1 on")
    });
    let mut all: Vec<Death> = (0..FUNCTIONS.len()).flat_map(deaths).step_by(every).collect();
    // `nodemend-repair died before:43`, as a failure names it, for whoever looks for its cause.
    if let Some(only) = std::env::var_os("NODEMEND_CHAOS") {
        all.retain(|death| *death.to_string() == *only);
    }
    let to_do = Mutex::new(VecDeque::from(all.clone()));
    let ran: Mutex<Vec<(Death, Result<Ran, String>)>> = Mutex::default();
    let next = || lock(&to_do).pop_front();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                with_bed(async |bed| {
                    while let Some(death) = next() {
                        let what = &awaits[death.function][death.point.number as usize - 1];
                        let result = bed.repair(Some((death, what))).await;
                        lock(&ran).push((death, result));
                    }
                });
            });
        }
    });
    let mut ran = ran.into_inner().expect("no panic");
    ran.sort_by_key(|(death, _)| *death);
    assert_eq!(ran.iter().map(|(death, _)| *death).collect::<Vec<_>>(), all);
    let failed: Vec<String> = ran
        .iter()
        .filter_map(|(death, result)| Some(format!("{death}: {}", result.as_ref().err()?)))
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), ran.len(), failed.join("\n"));
    // A call that was written down and never left can't be told from one whose answer was lost. Its record says so, and
    // only there may a second one stand beside the call's own.
    let repair = &awaits[REPAIR];
    let call = repair.iter().position(|what| what == "TerminateInstanceInAutoScalingGroup").expect("a call");
    let written = repair[..call].iter().rposition(|what| what == "PutItem").expect("a write");
    let (call, written) = (call as u64 + 1, written as u64 + 1);
    for (death, ran) in &ran {
        let Point { number, side } = death.point;
        let after = death.function == REPAIR && side == Side::After;
        let unsent = after && (written..call).contains(&number)
            || death.function == REPAIR && (number, side) == (call, Side::Before);
        let lost = ran.as_ref().is_ok_and(|ran| ran.lost > 0);
        // The console is asked for before the write, and may answer after it.
        let open = after && number < written && repair[number as usize - 1] == "GetConsoleOutput";
        assert!(lost == unsent || open, "{death}: {ran:?}");
    }
    println!("{} deaths, one call each", ran.len());
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
