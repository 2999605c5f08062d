//! Turns a schedule that fails into the least that fails: items are left out, many at once and then one by one, as
//! long as the same rule is broken.

use crate::{Options, items, run};

/// The options under which the same seed still breaks the same rule, with as many items left out as can be.
pub fn shrink(seed: u64, options: &Options, rule: &str) -> Options {
    let count = items(seed, options).len();
    let mut best = Options { verbose: false, ..options.clone() };
    let fails = |options: &Options| run(seed, options).wrongs.first().is_some_and(|wrong| wrong.rule == rule);
    let mut size = count.div_ceil(2);
    while size > 0 {
        let mut dropped = false;
        let kept: Vec<usize> = (0..count).filter(|item| !best.without.contains(item)).collect();
        for some in kept.chunks(size) {
            let mut without = best.without.clone();
            without.extend(some);
            let less = Options { without, ..best.clone() };
            if fails(&less) {
                (best, dropped) = (less, true);
            }
        }
        // What could not go may go once something else has gone.
        if !dropped || size > 1 {
            size /= 2;
        }
    }
    best.without.sort_unstable();
    best
}
