//! A bus in memory: keeps what it takes, and fails as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{EventBus, EventBusError, Notification, Put};

/// A bus in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryEventBus(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    taken: Vec<Notification>,
    puts: Vec<usize>,
    faults: VecDeque<Fault>,
}

#[derive(Debug)]
enum Fault {
    Refuse(Vec<usize>),
    Fail,
}

impl MemoryEventBus {
    /// What it took, in order.
    pub fn taken(&self) -> Vec<Notification> {
        self.lock().taken.clone()
    }

    /// How many events each put brought.
    pub fn puts(&self) -> Vec<usize> {
        self.lock().puts.clone()
    }

    /// Of the next put that no other fault is for, refuses these by their places.
    pub fn refuse(&self, places: &[usize]) {
        self.lock().faults.push_back(Fault::Refuse(places.to_vec()));
    }

    /// Fails the next put that no other fault is for.
    pub fn fail(&self) {
        self.lock().faults.push_back(Fault::Fail);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventBus for MemoryEventBus {
    async fn put(&self, some: &[Notification]) -> Result<Vec<Put>, EventBusError> {
        let mut inner = self.lock();
        inner.puts.push(some.len());
        let refused = match inner.faults.pop_front() {
            Some(Fault::Fail) => return Err(EventBusError("no answer".to_owned())),
            Some(Fault::Refuse(places)) => places,
            None => Vec::new(),
        };
        let mut answers = Vec::with_capacity(some.len());
        for (place, one) in some.iter().enumerate() {
            if refused.contains(&place) {
                answers.push(Put::Refused("ThrottlingException: slower".to_owned()));
            } else {
                inner.taken.push(one.clone());
                answers.push(Put::Taken);
            }
        }
        Ok(answers)
    }
}
