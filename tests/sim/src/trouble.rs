//! What is wrong with a node, when, and what a policy makes of it: the truth that handlers only hear of.
//!
//! Written apart from `nodemend-domain`'s clocks: here a trouble is a list of spells that are known whole.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::ConditionType;

/// How long a recovery must hold to end a trouble.
pub(crate) const HOLD: SignedDuration = SignedDuration::from_mins(2);

/// What is to be done about a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cure {
    Reboot,
    Replace,
}

/// What the guide says of the reasons that occur here; none: it is only told.
pub(crate) fn cure(reason: &str) -> Option<Cure> {
    match reason {
        "NvidiaXID95Error" | "NvidiaXID48Error" => Some(Cure::Reboot),
        "DCGMHealthFailure" => None,
        _ => Some(Cure::Replace),
    }
}

/// Who tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Witness {
    Agent,
    ControlPlane,
}

/// A run of time in which a condition is bad for the same reasons.
#[derive(Debug, Clone)]
pub(crate) struct Spell {
    pub(crate) from: Timestamp,
    pub(crate) until: Option<Timestamp>,
    pub(crate) reasons: &'static [&'static str],
    /// Nobody can say, rather than somebody complains.
    pub(crate) unknown: bool,
}

impl Spell {
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

/// One condition of one node, all its spells in order.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) condition: ConditionType,
    pub(crate) witness: Witness,
    pub(crate) spells: Vec<Spell>,
}

/// Spells with recoveries between them that were too short to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The number of its first spell.
    pub(crate) first: usize,
    pub(crate) from: Timestamp,
    /// When it was first bad for a reason that is acted on.
    pub(crate) acting_from: Option<Timestamp>,
    /// For how long it was well before.
    pub(crate) sound_before: Option<SignedDuration>,
}

impl Track {
    /// The spell that it is in.
    pub(crate) fn spell(&self, at: Timestamp) -> Option<&Spell> {
        self.spells.iter().rfind(|spell| spell.covers(at))
    }

    /// The trouble of the last spell that has begun.
    pub(crate) fn trouble(&self, at: Timestamp) -> Option<Trouble> {
        let mut trouble: Option<Trouble> = None;
        let mut ended: Option<Timestamp> = None;
        for (number, spell) in self.spells.iter().enumerate().take_while(|(_, spell)| spell.from <= at) {
            let sound = ended.map(|ended| spell.from.duration_since(ended));
            if trouble.is_none() || sound.is_some_and(|sound| sound >= HOLD) {
                trouble =
                    Some(Trouble { first: number, from: spell.from, acting_from: None, sound_before: sound });
            }
            if let Some(trouble) = trouble.as_mut().filter(|_| spell.acts()) {
                trouble.acting_from.get_or_insert(spell.from);
            }
            ended = spell.until;
        }
        trouble
    }

    /// When the last recovery began, if it is well.
    pub(crate) fn sound_since(&self, at: Timestamp) -> Option<Timestamp> {
        self.spells.iter().rev().filter_map(|spell| spell.until).find(|until| *until <= at)
    }

    /// When anything changes.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Timestamp> {
        self.spells.iter().flat_map(|spell| [Some(spell.from), spell.until]).flatten()
    }

    /// A new boot: what was is over, and begins anew where the boot does not cure it.
    pub(crate) fn reboot(&mut self, at: Timestamp, breaks: Option<Timestamp>) {
        let last = self.spells.iter().rev().find(|spell| spell.covers(at)).cloned();
        self.spells.retain(|spell| spell.from < at);
        for spell in &mut self.spells {
            spell.until = Some(spell.until.map_or(at, |until| until.min(at)));
        }
        if let Some((from, last)) = breaks.zip(last) {
            // As it would have gone on: if it ends, not before it begins.
            if last.until.is_none_or(|until| from < until) {
                self.spells.push(Spell { from, ..last });
            }
        }
    }
}

/// How long a condition must have been bad before anything is done.
pub(crate) fn default_grace(condition: &ConditionType) -> SignedDuration {
    match condition {
        ConditionType::AcceleratedHardwareReady => SignedDuration::from_mins(10),
        _ => SignedDuration::from_mins(30),
    }
}
