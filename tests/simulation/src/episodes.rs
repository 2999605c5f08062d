//! What is wrong with a node, when, and what the policy makes of it: the truth, of which the handlers see reports.
//!
//! Written apart from the clocks of `nodemend-domain`: here the whole list of periods of an episode is known.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::ConditionType;

/// How long a recovery must hold to end an episode.
pub(crate) const HOLD: SignedDuration = SignedDuration::from_mins(2);

/// What is to be done about a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cure {
    Reboot,
    Replace,
}

/// The documented action for the reasons that occur here; none if they are reported only.
pub(crate) fn cure(reason: &str) -> Option<Cure> {
    match reason {
        "NvidiaXID95Error" | "NvidiaXID48Error" => Some(Cure::Reboot),
        "DCGMHealthFailure" => None,
        _ => Some(Cure::Replace),
    }
}

/// Who reports a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Agent,
    ControlPlane,
}

/// A time in which a condition is bad for the same reasons.
#[derive(Debug, Clone)]
pub(crate) struct BadPeriod {
    pub(crate) from: Timestamp,
    pub(crate) until: Option<Timestamp>,
    pub(crate) reasons: &'static [&'static str],
    /// Its status is Unknown rather than False.
    pub(crate) unknown: bool,
}

impl BadPeriod {
    pub(crate) fn covers(&self, at: Timestamp) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }

    fn acts(&self) -> bool {
        self.reasons.iter().any(|reason| cure(reason).is_some())
    }

    pub(crate) fn cure(&self) -> Option<Cure> {
        self.reasons.iter().filter_map(|reason| cure(reason)).max()
    }
}

/// One condition of one node, with all its bad periods in order.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) condition: ConditionType,
    pub(crate) source: Source,
    pub(crate) periods: Vec<BadPeriod>,
}

/// Bad periods with recoveries between them that were too short to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    /// The number of its first period.
    pub(crate) first: usize,
    pub(crate) from: Timestamp,
    /// When it was first bad for a reason that asks for a repair.
    pub(crate) acting_from: Option<Timestamp>,
    /// How long the condition was healthy before.
    pub(crate) healthy_before: Option<SignedDuration>,
}

impl Track {
    /// The period that a time is in.
    pub(crate) fn period(&self, at: Timestamp) -> Option<&BadPeriod> {
        self.periods.iter().rfind(|period| period.covers(at))
    }

    /// The episode of the last period that has begun.
    pub(crate) fn episode(&self, at: Timestamp) -> Option<Episode> {
        let mut episode: Option<Episode> = None;
        let mut ended: Option<Timestamp> = None;
        for (number, period) in self.periods.iter().enumerate().take_while(|(_, period)| period.from <= at) {
            let healthy = ended.map(|ended| period.from.duration_since(ended));
            if episode.is_none() || healthy.is_some_and(|healthy| healthy >= HOLD) {
                episode = Some(Episode {
                    first: number,
                    from: period.from,
                    acting_from: None,
                    healthy_before: healthy,
                });
            }
            if let Some(episode) = episode.as_mut().filter(|_| period.acts()) {
                episode.acting_from.get_or_insert(period.from);
            }
            ended = period.until;
        }
        episode
    }

    /// When the last recovery began.
    pub(crate) fn healthy_since(&self, at: Timestamp) -> Option<Timestamp> {
        self.periods.iter().rev().filter_map(|period| period.until).find(|until| *until <= at)
    }

    /// When anything changes.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Timestamp> {
        self.periods.iter().flat_map(|period| [Some(period.from), period.until]).flatten()
    }

    /// A new boot ends what was bad; it begins again at `breaks` if the boot does not cure it.
    pub(crate) fn reboot(&mut self, at: Timestamp, breaks: Option<Timestamp>) {
        let last = self.periods.iter().rev().find(|period| period.covers(at)).cloned();
        self.periods.retain(|period| period.from < at);
        for period in &mut self.periods {
            period.until = Some(period.until.map_or(at, |until| until.min(at)));
        }
        if let Some((from, last)) = breaks.zip(last) {
            // It ends when it would have ended without the boot; not if that is before it begins.
            if last.until.is_none_or(|until| from < until) {
                self.periods.push(BadPeriod { from, ..last });
            }
        }
    }
}

/// How long a condition must have been bad before it is acted on.
pub(crate) fn default_grace(condition: &ConditionType) -> SignedDuration {
    match condition {
        ConditionType::AcceleratedHardwareReady => SignedDuration::from_mins(10),
        _ => SignedDuration::from_mins(30),
    }
}
