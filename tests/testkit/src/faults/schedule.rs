//! Runs several processes in one thread, one step of one process at a time, so that each race is reproducible.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::Faults;

/// One process: its work and its faults.
pub struct Process<'p, T> {
    /// Its faults.
    pub faults: Faults,
    /// Its work.
    pub work: Pin<Box<dyn Future<Output = T> + 'p>>,
}

impl<'p, T> Process<'p, T> {
    /// A process.
    pub fn new(faults: Faults, work: impl Future<Output = T> + 'p) -> Self {
        Self { faults, work: Box::pin(work) }
    }
}

/// Runs until all processes have ended or died; their results, none for a dead one. Before each step, `choose` is called
/// with the number of processes that are left, and returns the one that goes on. It may also advance the clock.
pub fn run<T>(processes: Vec<Process<'_, T>>, mut choose: impl FnMut(usize) -> usize) -> Vec<Option<T>> {
    let mut results: Vec<Option<T>> = processes.iter().map(|_| None).collect();
    let mut alive: Vec<(usize, Process<'_, T>)> = processes.into_iter().enumerate().collect();
    let mut context = Context::from_waker(Waker::noop());
    while !alive.is_empty() {
        let chosen = choose(alive.len()) % alive.len();
        let (index, process) = &mut alive[chosen];
        // A dead process is dropped as it is, without another step.
        let ended = process.faults.is_dead()
            || match process.work.as_mut().poll(&mut context) {
                Poll::Ready(result) => {
                    results[*index] = Some(result);
                    true
                }
                Poll::Pending => process.faults.is_dead(),
            };
        if ended {
            alive.swap_remove(chosen);
        }
    }
    results
}

/// Runs one process until it ends or dies.
pub fn run_one<T>(faults: &Faults, work: impl Future<Output = T>) -> Option<T> {
    run(vec![Process::new(faults.clone(), work)], |_| 0).pop().flatten()
}
