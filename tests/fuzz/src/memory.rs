//! Turns some work into the most memory that it held at once.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs some work; the most that it held at once beyond what was held before. Counts the whole process, so that nothing
/// else may run beside it.
pub fn most_held(work: impl FnOnce()) -> usize {
    PeakAlloc.reset_peak_usage();
    let before = PeakAlloc.current_usage();
    work();
    PeakAlloc.peak_usage().saturating_sub(before)
}
