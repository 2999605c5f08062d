//! Runs futures in virtual time: while all of them wait, the clock moves to the first time that one waits for.

use std::{
    collections::BTreeSet,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use jiff::{SignedDuration, Timestamp};
use nodemend_ports::clock::{Clock, VirtualClock};

/// The times that futures wait for. Clones share them.
#[derive(Clone)]
pub(crate) struct Timers {
    pub(crate) clock: VirtualClock,
    waiting: Arc<Mutex<BTreeSet<Timestamp>>>,
}

/// Whether a future can go on without the clock.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Timers {
    pub(crate) fn new(clock: &VirtualClock) -> Self {
        Self { clock: clock.clone(), waiting: Arc::default() }
    }

    pub(crate) async fn until(&self, at: Timestamp) {
        poll_fn(|_| {
            if self.clock.now() >= at {
                return Poll::Ready(());
            }
            self.waiting.lock().expect("no panic").insert(at);
            Poll::Pending
        })
        .await;
    }

    pub(crate) async fn wait(&self, duration: SignedDuration) {
        self.until(self.clock.now() + duration).await;
    }

    /// Runs a future to its end.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            if !woken.0.swap(false, Ordering::Relaxed) {
                let next = self.waiting.lock().expect("no panic").pop_first();
                self.clock.advance_to(next.expect("a future that waits for nothing"));
            }
        }
    }
}
