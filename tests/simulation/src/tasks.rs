//! Runs simulated functions, one step of one of them at a time, in virtual time: a function may wait for a deadline,
//! stall, be killed by a fault, or reach the end of its lifetime.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;
use nodemend_ports::clock::{Clock, VirtualClock};
use nodemend_testkit::faults::Faults;

/// Until when a function sleeps, if it does.
pub(crate) type Sleep = Rc<Cell<Option<Timestamp>>>;

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
    poll_fn(|_| {
        if clock.now() >= until {
            sleep.set(None);
            return Poll::Ready(());
        }
        sleep.set(Some(until));
        Poll::Pending
    })
    .await;
}
