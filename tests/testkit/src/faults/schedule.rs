//! Runs several processes in one thread, one step of one of them at a time: what else is a race, is a list here.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::Faults;

/// One process: what it does, and what happens to it.
pub struct Process<'p, T> {
    /// What happens to it.
    pub faults: Faults,
    /// What it does.
    pub work: Pin<Box<dyn Future<Output = T> + 'p>>,
}

impl<'p, T> Process<'p, T> {
    /// A process.
    pub fn new(faults: Faults, work: impl Future<Output = T> + 'p) -> Self {
        Self { faults, work: Box::pin(work) }
    }
}

/// Runs until all have ended or died; what each came to, none for the dead. `choose` says which of so many goes
/// on; it is asked before every step, so it is also the place where time passes.
pub fn run<T>(processes: Vec<Process<'_, T>>, mut choose: impl FnMut(usize) -> usize) -> Vec<Option<T>> {
    let mut results: Vec<Option<T>> = processes.iter().map(|_| None).collect();
    let mut living: Vec<(usize, Process<'_, T>)> = processes.into_iter().enumerate().collect();
    let mut context = Context::from_waker(Waker::noop());
    while !living.is_empty() {
        let chosen = choose(living.len()) % living.len();
        let (place, process) = &mut living[chosen];
        // What is dead is dropped where it stands, without another step.
        let ended = process.faults.is_dead()
            || match process.work.as_mut().poll(&mut context) {
                Poll::Ready(result) => {
                    results[*place] = Some(result);
                    true
                }
                Poll::Pending => process.faults.is_dead(),
            };
        if ended {
            living.swap_remove(chosen);
        }
    }
    results
}

/// Runs one process to its end or its death.
pub fn run_one<T>(faults: &Faults, work: impl Future<Output = T>) -> Option<T> {
    run(vec![Process::new(faults.clone(), work)], |_| 0).pop().flatten()
}
