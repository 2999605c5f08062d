//! An event bus in memory, which keeps the events it accepts and fails on request.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{EventBus, EventBusError, Notification, Put};

/// An event bus in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryEventBus(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    accepted: Vec<Notification>,
    puts: Vec<usize>,
    faults: VecDeque<Fault>,
}

#[derive(Debug)]
enum Fault {
    Reject(Vec<usize>),
    Fail,
}

impl MemoryEventBus {
    /// The accepted events, in order.
    pub fn accepted(&self) -> Vec<Notification> {
        self.lock().accepted.clone()
    }

    /// The number of events of each request.
    pub fn puts(&self) -> Vec<usize> {
        self.lock().puts.clone()
    }

    /// Rejects the events at these positions of the next request that has no other fault.
    pub fn reject(&self, positions: &[usize]) {
        self.lock().faults.push_back(Fault::Reject(positions.to_vec()));
    }

    /// Fails the next request that has no other fault.
    pub fn fail(&self) {
        self.lock().faults.push_back(Fault::Fail);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventBus for MemoryEventBus {
    async fn put(&self, batch: &[Notification]) -> Result<Vec<Put>, EventBusError> {
        let mut inner = self.lock();
        inner.puts.push(batch.len());
        let rejected = match inner.faults.pop_front() {
            Some(Fault::Fail) => return Err(EventBusError("no answer".into())),
            Some(Fault::Reject(positions)) => positions,
            None => Vec::new(),
        };
        let mut answers = Vec::with_capacity(batch.len());
        for (position, one) in batch.iter().enumerate() {
            if rejected.contains(&position) {
                answers.push(Put::Rejected("ThrottlingException: slower".to_owned()));
            } else {
                inner.accepted.push(one.clone());
                answers.push(Put::Accepted);
            }
        }
        Ok(answers)
    }
}
