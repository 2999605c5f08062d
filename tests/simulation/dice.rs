//! Turns a seed into choices.

use jiff::SignedDuration;
use nodemend_adapters::faults::{Fate, Faults};

/// A source of choices, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // SplitMix64's finisher over a Weyl sequence.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn seconds(&mut self, end: u64) -> SignedDuration {
        SignedDuration::from_secs(self.below(end) as i64)
    }

    /// Fates of a process of its own.
    pub(crate) fn faults(&mut self, of_a_thousand: u64) -> Faults {
        let mut dice = Self(self.below(u64::MAX));
        Faults::drawn(move |_| {
            if dice.below(1_000) < of_a_thousand {
                Fate::BAD[dice.below(Fate::BAD.len() as u64) as usize]
            } else {
                Fate::Proceed
            }
        })
    }
}
