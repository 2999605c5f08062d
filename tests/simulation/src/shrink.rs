//! Shrinks a schedule that fails: leaves items out, many at once and then one by one, as long as it still fails.

use crate::{Options, Outcome, items, run};

/// The options under which the same seed still fails, with as many items left out as possible.
pub fn shrink(seed: u64, options: &Options, fails: impl Fn(&Outcome) -> bool) -> Options {
    let count = items(seed, options).len();
    let mut best = Options { verbose: false, ..options.clone() };
    let mut size = count.div_ceil(2);
    while size > 0 {
        let mut dropped = false;
        let kept: Vec<usize> = (0..count).filter(|item| !best.without.contains(item)).collect();
        for some in kept.chunks(size) {
            let mut without = best.without.clone();
            without.extend(some);
            let less = Options { without, ..best.clone() };
            if fails(&run(seed, &less)) {
                (best, dropped) = (less, true);
            }
        }
        // An item that was needed may be dropped once another one is gone.
        if !dropped || size > 1 {
            size /= 2;
        }
    }
    best.without.sort_unstable();
    best
}
