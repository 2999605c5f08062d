//! Exponential backoff with full jitter, so that a fleet does not call a recovered log service all at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The state of the backoff.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// A backoff without failures.
    pub fn new(random: fastrand::Rng) -> Self {
        Self { failures: 0, random }
    }

    /// Resets the backoff after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Records a failure and returns how long to wait.
    pub fn wait(&mut self) -> Duration {
        let limit = FIRST.saturating_mul(2u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread_over_a_range_that_doubles_up_to_a_minute() {
        let longest_of = |failure: usize| {
            let waits = (0..2_000).map(|seed| {
                let mut backoff = Backoff::new(fastrand::Rng::with_seed(seed));
                (0..=failure).map(|_| backoff.wait()).last().expect("a wait")
            });
            let waits: Vec<Duration> = waits.collect();
            let longest = waits.iter().max().expect("a wait").as_secs_f64();
            assert!(waits.iter().min().expect("a wait").as_secs_f64() < longest / 50.0);
            longest
        };
        for (failure, limit) in [(0, 1.0), (1, 2.0), (5, 32.0), (6, 60.0), (50, 60.0), (1_000, 60.0)] {
            let longest = longest_of(failure);
            assert!(longest <= limit && longest > limit * 0.95, "{failure}: {longest}");
        }
    }

    #[test]
    fn a_success_resets_the_backoff() {
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for _ in 0..10 {
            backoff.wait();
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
