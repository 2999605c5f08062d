//! Makes any implementation of a port fail: with errors before and after an operation, or with a crash of the process.
//!
//! After a crash between two writes, the next process must be able to continue. [`Faulty`] yields before each operation, so
//! that a [scheduler](schedule::run) decides which process goes on, and its [`Faults`] decide how the operation ends.

mod faulty;
pub mod schedule;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub use self::faulty::Faulty;

/// How an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// As the port does it.
    Proceed,
    /// With an error, and without effect.
    FailBefore,
    /// With an error, although it took effect: the answer was lost.
    FailAfter,
    /// Never: the process dies before the operation takes effect.
    DieBefore,
    /// Never: the process dies after the operation took effect.
    DieAfter,
}

impl Fate {
    /// All fates but [`Fate::Proceed`].
    pub const BAD: [Self; 4] = [Self::FailBefore, Self::FailAfter, Self::DieBefore, Self::DieAfter];
}

/// The faults of one process. Clones share them, so that the operations of all its ports are counted together.
#[derive(Clone)]
pub struct Faults(Arc<Process>);

struct Process {
    draws: Mutex<Draws>,
    /// Not behind the lock: it is read at every step.
    dead: AtomicBool,
}

struct Draws {
    draw: Box<dyn FnMut(usize) -> Fate + Send>,
    operations: usize,
}

impl Faults {
    /// Calls a function for the fate of each operation, with the operation's number from 1.
    pub fn drawn(draw: impl FnMut(usize) -> Fate + Send + 'static) -> Self {
        let draws = Draws { draw: Box::new(draw), operations: 0 };
        Self(Arc::new(Process { draws: Mutex::new(draws), dead: AtomicBool::new(false) }))
    }

    /// No faults.
    pub fn none() -> Self {
        Self::drawn(|_| Fate::Proceed)
    }

    /// A fault in one operation.
    pub fn at(operation: usize, fate: Fate) -> Self {
        Self::drawn(move |number| if number == operation { fate } else { Fate::Proceed })
    }

    /// How many operations have begun.
    pub fn operations(&self) -> usize {
        self.draws().operations
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Ends the process, as Lambda does at its timeout.
    pub fn kill(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
    }

    fn draw(&self) -> Fate {
        let mut draws = self.draws();
        draws.operations += 1;
        let number = draws.operations;
        (draws.draw)(number)
    }

    fn draws(&self) -> MutexGuard<'_, Draws> {
        self.0.draws.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
