//! Turns a seed into choices, the same on every machine.

use jiff::SignedDuration;

/// A source of choices.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A source of its own for each purpose, so that leaving one thing out of a run changes little of the rest.
    pub(crate) fn of(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        // SplitMix64: a Weyl sequence and a finisher.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// An index into a list of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Whether something happens that does so often of a thousand times.
    pub(crate) fn happens(&mut self, of_a_thousand: u64) -> bool {
        of_a_thousand > 0 && self.below(1_000) < of_a_thousand
    }

    /// A duration from `first` to, but not including, `end` seconds.
    pub(crate) fn seconds(&mut self, first: i64, end: i64) -> SignedDuration {
        SignedDuration::from_secs(first + self.below((end - first).max(1) as u64) as i64)
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}
