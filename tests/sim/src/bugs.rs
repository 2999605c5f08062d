//! Turns each deliberate fault of the handlers into the number of schedules after which the simulation finds it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nodemend_domain::bugs;

use crate::{Options, run};

/// A deliberate fault, and how it was found.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// Its name.
    pub bug: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
    /// How many schedules it took, the last of them the one that found it; and the rule that it broke.
    pub found: Option<(u64, &'static str)>,
}

/// Looks for every deliberate fault in the schedules from a seed on, and gives each up after so many.
pub fn hunt(from: u64, seeds: u64, options: &Options) -> Vec<Hunt> {
    let next = AtomicUsize::new(0);
    let hunts = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((bug, what)) = bugs::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A schedule that fails by itself finds nothing.
                    let finds = |seed| {
                        bugs::seed(Some(bug));
                        let rule = run(seed, options).wrongs.first()?.rule;
                        bugs::seed(None);
                        run(seed, options).wrongs.is_empty().then_some((seed - from + 1, rule))
                    };
                    let found = (from..from + seeds).find_map(finds);
                    hunts.lock().unwrap_or_else(PoisonError::into_inner).push(Hunt { bug, what, found });
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|hunt| bugs::ALL.iter().position(|(name, _)| *name == hunt.bug));
    hunts
}

/// The table of `tests/README.md`.
pub fn table(hunts: &[Hunt]) -> String {
    let mut table = "| Deliberate fault | What is wrong | Schedules to find it | Rule that it breaks |\n|---|---|---|---|\n".to_owned();
    for Hunt { bug, what, found } in hunts {
        let (schedules, rule) =
            found.map_or(("not found".to_owned(), ""), |(schedules, rule)| (schedules.to_string(), rule));
        table += &format!("| `{bug}` | {what} | {schedules} | {rule} |\n");
    }
    table
}
