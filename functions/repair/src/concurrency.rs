//! Three concurrent combinators that futures-util does not have.
//!
//! - All futures are polled in a fixed order, whichever of them woke the task. The order of their effects is
//!   deterministic, so that a seed of the simulation always gives the same schedule.
//! - They are for a few futures at a time.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
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
}
