//! Runs simulated functions, one step of one of them at a time, in virtual time: a function may wait for a deadline,
//! stall, be killed by a fault, or reach the end of its lifetime.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;
use nodemend_ports::clock::{Clock, VirtualClock};
use nodemend_testkit::faults::Faults;

/// Until when a function sleeps, if it does. The ports of a function are `Send`, and a slow answer is a sleep.
#[derive(Clone, Default)]
pub(crate) struct Sleep(Arc<Mutex<Option<Timestamp>>>);

impl Sleep {
    fn lock(&self) -> MutexGuard<'_, Option<Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Option<Timestamp> {
        *self.lock()
    }

    pub(crate) fn set(&self, until: Option<Timestamp>) {
        *self.lock() = until;
    }

    /// Sleeps until then, or until what another part of the function waits for.
    fn at_most_until(&self, until: Timestamp) {
        let mut known = self.lock();
        *known = Some(known.map_or(until, |known| known.min(until)));
    }
}

/// One invocation.
pub(crate) struct Task<T> {
    pub(crate) tag: T,
    pub(crate) process: usize,
    pub(crate) faults: Faults,
    pub(crate) sleep: Sleep,
    pub(crate) dies: Timestamp,
    pub(crate) work: Pin<Box<dyn Future<Output = Result<(), String>>>>,
}

/// How a step of a task ended.
pub(crate) enum Step<T> {
    /// The task continues.
    Goes,
    /// The task ended: with a result, or killed without one.
    Ended(T, usize, Option<Result<(), String>>),
}

impl<T> Task<T> {
    pub(crate) fn wakes(&self) -> Option<Timestamp> {
        self.sleep.get().map(|at| at.min(self.dies))
    }
}

/// Runs one step of the task at an index.
pub(crate) fn step<T>(tasks: &mut Vec<Task<T>>, place: usize, now: Timestamp) -> Step<T> {
    let task = &mut tasks[place];
    if now >= task.dies {
        task.faults.kill();
    }
    let mut result = None;
    let mut ended = task.faults.is_dead();
    if !ended {
        if task.sleep.get().is_some_and(|until| until <= now) {
            task.sleep.set(None);
        }
        match task.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => {
                result = Some(done);
                ended = true;
            }
            Poll::Pending => ended = task.faults.is_dead(),
        }
    }
    if !ended {
        return Step::Goes;
    }
    let task = tasks.swap_remove(place);
    Step::Ended(task.tag, task.process, result)
}

/// Waits, in virtual time.
pub(crate) async fn wait_until(clock: VirtualClock, sleep: Sleep, until: Timestamp) {
    poll_fn(|context| {
        if clock.now() >= until {
            return Poll::Ready(());
        }
        sleep.at_most_until(until);
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
