//! Three ways to run futures side by side that futures-util does not have.
//!
//! Each future is polled in turn, whichever woke the task: the order of their effects depends on nothing but what they
//! wait for, so that one seed is one run in the simulation. Meant for a few futures at a time.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

/// Runs the work, and something beside it that is dropped when the work is done.
pub(crate) async fn beside<A: Future, B: Future>(work: A, other: B) -> (A::Output, Option<B::Output>) {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut found = None;
    poll_fn(move |context| {
        advance(&mut other, &mut found, context);
        work.as_mut().poll(context).map(|done| (done, found.take()))
    })
    .await
}

/// Runs all of the work, so many futures at a time; the results are in the order of the work. Unlike a `FuturesOrdered`, it
/// polls in that order too, whichever future woke the task.
pub(crate) async fn buffered<F: Future>(work: impl IntoIterator<Item = F>, at_once: usize) -> Vec<F::Output> {
    let mut waiting = work.into_iter().enumerate();
    let mut begun: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut results = Vec::new();
    poll_fn(|context| {
        loop {
            while begun.len() < at_once
                && let Some((position, work)) = waiting.next()
            {
                begun.push((position, Box::pin(work)));
            }
            let before = begun.len();
            begun.retain_mut(|(position, work)| match work.as_mut().poll(context) {
                Poll::Ready(result) => {
                    results.push((*position, result));
                    false
                }
                Poll::Pending => true,
            });
            if begun.is_empty() && before < at_once {
                return Poll::Ready(());
            }
            if begun.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    results.sort_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs the first part of each piece of work one after the other, and what follows from it beside the next.
pub(crate) async fn sequential<T, M, A: Future<Output = Option<M>>, B: Future<Output = ()>>(
    work: impl IntoIterator<Item = T>,
    first: impl Fn(T) -> A,
    then: impl Fn(M) -> B,
) {
    let mut waiting = work.into_iter();
    let mut begun = waiting.next().map(|work| Box::pin(first(work)));
    let mut following: Vec<Pin<Box<B>>> = Vec::new();
    poll_fn(|context| {
        loop {
            following.retain_mut(|work| work.as_mut().poll(context).is_pending());
            let Some(work) = &mut begun else {
                return if following.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            };
            match work.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(found) => {
                    following.extend(found.map(|found| Box::pin(then(found))));
                    begun = waiting.next().map(|work| Box::pin(first(work)));
                }
            }
        }
    })
    .await;
}

/// Polls for a result that is not there yet.
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

    /// Comes to `result` when it is asked for the `polls`-th time.
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
    fn what_is_beside_the_work_is_had_if_it_is_there_by_the_works_end() {
        assert_eq!(pollster::block_on(beside(after(3, 'w'), after(3, 'o'))), ('w', Some('o')));
        assert_eq!(pollster::block_on(beside(after(3, 'w'), after(4, 'o'))), ('w', None));
    }

    #[test]
    fn no_more_than_so_many_are_under_way_and_results_keep_their_order() {
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
    fn first_parts_are_done_one_after_the_other_and_the_rest_beside_them() {
        let said = RefCell::new(Vec::new());
        let say = |what: String| said.borrow_mut().push(what);
        let first = |number: u32| {
            let say = &say;
            async move {
                say(format!("first {number}"));
                let number = after(2, number).await;
                (number != 2).then_some(number)
            }
        };
        let then = |number: u32| {
            let say = &say;
            async move {
                after(4, ()).await;
                say(format!("then {number}"));
            }
        };
        pollster::block_on(sequential([1, 2, 3], first, then));
        assert_eq!(*said.borrow(), ["first 1", "first 2", "first 3", "then 1", "then 3"]);
        pollster::block_on(sequential([], first, then));
    }
}
