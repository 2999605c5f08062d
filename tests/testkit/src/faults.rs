//! Turns any side of a port into one that fails: errors before and after the deed, deaths in the middle of it.
//!
//! A handler that loses its process between two writes must leave nothing that the next one can't take up.
//! [`Faulty`] stops before each operation, so that a [scheduler](schedule::run) decides whose turn it is, and
//! asks its [`Faults`] how the operation ends.

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
    /// As it would have.
    Proceed,
    /// With an error, and nothing done.
    FailBefore,
    /// With an error, though it is done: the answer was lost.
    FailAfter,
    /// Never: the process dies, and nothing is done.
    DieBefore,
    /// Never: the process dies once it is done.
    DieAfter,
}

impl Fate {
    /// Every fate but to proceed.
    pub const BAD: [Self; 4] = [Self::FailBefore, Self::FailAfter, Self::DieBefore, Self::DieAfter];
}

/// What happens to one process. Clones share it, so that one count runs over all the ports of a process.
#[derive(Clone)]
pub struct Faults(Arc<Process>);

struct Process {
    draws: Mutex<Draws>,
    /// Beside the draws: it is asked for at every step.
    dead: AtomicBool,
}

struct Draws {
    draw: Box<dyn FnMut(usize) -> Fate + Send>,
    operations: usize,
}

impl Faults {
    /// Asks for the fate of each operation, by its number from 1.
    pub fn drawn(draw: impl FnMut(usize) -> Fate + Send + 'static) -> Self {
        let draws = Draws { draw: Box::new(draw), operations: 0 };
        Self(Arc::new(Process { draws: Mutex::new(draws), dead: AtomicBool::new(false) }))
    }

    /// Nothing bad happens.
    pub fn none() -> Self {
        Self::drawn(|_| Fate::Proceed)
    }

    /// One operation meets its fate, and no other.
    pub fn at(operation: usize, fate: Fate) -> Self {
        Self::drawn(move |number| if number == operation { fate } else { Fate::Proceed })
    }

    /// How many operations were begun.
    pub fn operations(&self) -> usize {
        self.draws().operations
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Ends the process, as Lambda does when its time is up.
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
