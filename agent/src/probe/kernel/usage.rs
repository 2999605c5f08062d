//! A usage of a limit, in percent.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) limit: u64,
}

impl Usage {
    /// Whether at least this percentage is used. A limit of zero means no limit and is never reached.
    pub(super) fn reaches(self, percent: u8) -> bool {
        self.limit > 0 && u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(percent)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = u128::from(self.used) * 100 / u128::from(self.limit.max(1));
        write!(out, "{} of {} ({percent} %)", self.used, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_reached_at_it_and_not_before() {
        for (used, limit, percent, expected) in [
            (95, 100, 95, true),
            (94, 100, 95, false),
            (31_130, 32_768, 95, true),
            (31_129, 32_768, 95, false),
            (0, 100, 0, true),
            (200, 100, 95, true),
            (5, 0, 95, false),
            (u64::MAX, u64::MAX, 100, true),
            (687, i64::MAX as u64, 70, false),
        ] {
            assert_eq!(Usage { used, limit }.reaches(percent), expected, "{used} of {limit}, {percent} %");
        }
        assert_eq!(Usage { used: 31_129, limit: 32_768 }.to_string(), "31129 of 32768 (94 %)");
        assert_eq!(Usage { used: u64::MAX, limit: 0 }.to_string().matches('%').count(), 1);
    }
}
