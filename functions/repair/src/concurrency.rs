//! Three concurrent combinators that futures-util does not have, and a value that is read once for all who need it.
//!
//! - All futures are polled in a fixed order, whichever of them woke the task. The order of their effects is
//!   deterministic, so that a seed of the simulation always gives the same schedule.
//! - They are for a few futures at a time.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Runs the work, and concurrently a second future, which is dropped when the work is done.
pub(crate) async fn with_optional<A: Future, B: Future>(work: A, other: B) -> (A::Output, Option<B::Output>) {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut found = None;
    poll_fn(move |context| {
        advance(&mut other, &mut found, context);
        work.as_mut().poll(context).map(|done| (done, found.take()))
    })
    .await
}

/// Runs all of the work, at most `at_once` futures at a time. The results are in the order of the work. Unlike
/// `FuturesOrdered`, it also polls in that order.
pub(crate) async fn buffered<F: Future>(work: impl IntoIterator<Item = F>, at_once: usize) -> Vec<F::Output> {
    let mut waiting = work.into_iter().enumerate();
    let mut started: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut results = Vec::new();
    poll_fn(|context| {
        loop {
            while started.len() < at_once
                && let Some((position, work)) = waiting.next()
            {
                started.push((position, Box::pin(work)));
            }
            let before = started.len();
            started.retain_mut(|(position, work)| match work.as_mut().poll(context) {
                Poll::Ready(result) => {
                    results.push((*position, result));
                    false
                }
                Poll::Pending => true,
            });
            if started.is_empty() && before < at_once {
                return Poll::Ready(());
            }
            if started.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs `first` for each item, one after the other, and `then` of its result concurrently with the next items.
pub(crate) async fn sequential<T, M, A: Future<Output = Option<M>>, B: Future<Output = ()>>(
    work: impl IntoIterator<Item = T>,
    first: impl Fn(T) -> A,
    then: impl Fn(M) -> B,
) {
    let mut waiting = work.into_iter();
    let mut started = waiting.next().map(|work| Box::pin(first(work)));
    let mut following: Vec<Pin<Box<B>>> = Vec::new();
    poll_fn(|context| {
        loop {
            following.retain_mut(|work| work.as_mut().poll(context).is_pending());
            let Some(work) = &mut started else {
                return if following.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            };
            match work.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(found) => {
                    following.extend(found.map(|found| Box::pin(then(found))));
                    started = waiting.next().map(|work| Box::pin(first(work)));
                }
            }
        }
    })
    .await;
}

/// A value that is read by one future while the others that need it wait. Errors are not kept: the next one reads again.
#[derive(Debug)]
pub(crate) struct ReadOnce<T>(Mutex<ReadState<T>>);

#[derive(Debug)]
enum ReadState<T> {
    Unknown,
    Reading(Vec<Waker>),
    Known(T),
}

impl<T: Clone> ReadOnce<T> {
    /// The value that is known if it can still be used, or else the one that `read` returns.
    pub(crate) async fn get<E>(
        &self,
        is_usable: impl Fn(&T) -> bool,
        read: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let known = poll_fn(|context| {
            let mut state = self.lock();
            match &mut *state {
                ReadState::Reading(waiting) => {
                    waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                ReadState::Known(value) if is_usable(value) => return Poll::Ready(Some(value.clone())),
                ReadState::Known(_) | ReadState::Unknown => {}
            }
            *state = ReadState::Reading(Vec::new());
            Poll::Ready(None)
        });
        if let Some(known) = known.await {
            return Ok(known);
        }
        // A reading that fails or is dropped leaves nothing behind.
        let mut reading = Reading { of: self, value: None };
        let value = read().await?;
        reading.value = Some(value.clone());
        Ok(value)
    }

    fn lock(&self) -> MutexGuard<'_, ReadState<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for ReadOnce<T> {
    fn default() -> Self {
        Self(Mutex::new(ReadState::Unknown))
    }
}

/// Ends a reading when it is dropped, and wakes those that wait for it.
struct Reading<'r, T> {
    of: &'r ReadOnce<T>,
    value: Option<T>,
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        let next = self.value.take().map_or(ReadState::Unknown, ReadState::Known);
        let mut state = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, next);
        drop(state);
        if let ReadState::Reading(waiting) = before {
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Polls a future that has no result yet.
fn advance<F: Future>(work: &mut Pin<&mut F>, result: &mut Option<F::Output>, context: &mut Context<'_>) {
    if result.is_none()
        && let Poll::Ready(done) = work.as_mut().poll(context)
    {
        *result = Some(done);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Is ready with `result` at the `polls`-th poll.
    async fn after<T: Copy>(polls: u32, result: T) -> T {
        let mut left = polls;
        poll_fn(move |context| {
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(result) } else { Poll::Pending }
        })
        .await
    }

    #[test]
    fn the_optional_result_is_there_if_it_is_ready_before_the_work() {
        assert_eq!(pollster::block_on(with_optional(after(3, 'w'), after(3, 'o'))), ('w', Some('o')));
        assert_eq!(pollster::block_on(with_optional(after(3, 'w'), after(4, 'o'))), ('w', None));
    }

    #[test]
    fn at_most_so_many_run_at_once_and_results_keep_their_order() {
        for (count, at_once) in [(0, 2), (1, 2), (2, 2), (7, 3), (6, 3)] {
            let (now, most) = (Cell::new(0), Cell::new(0));
            let work = (0..count).map(|number| {
                let (now, most) = (&now, &most);
                async move {
                    now.set(now.get() + 1);
                    most.set(most.get().max(now.get()));
                    let number = after(2 + (count - number) % 3, number).await;
                    now.set(now.get() - 1);
                    number
                }
            });
            let results = pollster::block_on(buffered(work, at_once));
            assert_eq!(results, (0..count).collect::<Vec<_>>());
            assert_eq!(most.get(), at_once.min(count as usize));
        }
    }

    #[test]
    fn first_parts_are_sequential_and_second_parts_concurrent() {
        let log = RefCell::new(Vec::new());
        let note = |line: String| log.borrow_mut().push(line);
        let first = |number: u32| {
            let note = &note;
            async move {
                note(format!("first {number}"));
                let number = after(2, number).await;
                (number != 2).then_some(number)
            }
        };
        let then = |number: u32| {
            let note = &note;
            async move {
                after(4, ()).await;
                note(format!("then {number}"));
            }
        };
        pollster::block_on(sequential([1, 2, 3], first, then));
        assert_eq!(*log.borrow(), ["first 1", "first 2", "first 3", "then 1", "then 3"]);
        pollster::block_on(sequential([], first, then));
    }

    /// Reads a value three times at once; returns the results and how often it was read.
    fn read_at_once(
        is_usable: fn(&u32) -> bool,
        results: [Result<u32, ()>; 3],
    ) -> (Vec<Result<u32, ()>>, u32) {
        let (value, reads) = (ReadOnce::default(), Cell::new(0));
        let get = |result: Result<u32, ()>| {
            let (value, reads) = (&value, &reads);
            async move {
                let read = async || {
                    reads.set(reads.get() + 1);
                    after(3, result).await
                };
                value.get(is_usable, read).await
            }
        };
        let results = pollster::block_on(buffered(results.into_iter().map(get), 3));
        (results, reads.get())
    }

    #[test]
    fn a_value_is_read_once_for_all_who_need_it_at_the_same_time() {
        assert_eq!(read_at_once(|_| true, [Ok(1), Ok(2), Ok(3)]), (vec![Ok(1), Ok(1), Ok(1)], 1));
    }

    #[test]
    fn a_value_that_failed_or_cannot_be_used_is_read_again() {
        assert_eq!(read_at_once(|_| true, [Err(()), Ok(2), Ok(3)]), (vec![Err(()), Ok(2), Ok(2)], 2));
        assert_eq!(read_at_once(|known| *known > 1, [Ok(1), Ok(2), Ok(3)]), (vec![Ok(1), Ok(2), Ok(2)], 2));
    }

    #[test]
    fn a_reading_that_is_dropped_is_taken_over() {
        let value = ReadOnce::default();
        {
            let mut dropped = pin!(value.get(|_| true, async || after(3, Ok::<u32, ()>(1)).await));
            let mut context = Context::from_waker(Waker::noop());
            assert!(dropped.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(pollster::block_on(value.get(|_| true, async || Ok::<u32, ()>(2))), Ok(2));
    }
}
