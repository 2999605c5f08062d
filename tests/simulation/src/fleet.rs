//! The fleet of a schedule: its groups, what an operator allows in each, and how many nodes they have.

use jiff::SignedDuration;
use nodemend_domain::{ident::GroupName, policy::Limit};

use crate::rng::Rng;

/// The policy's `outage.small`: in a group, and in a cluster, of so many nodes repairs go one at a time.
pub(crate) const SMALL: usize = 5;

/// The number of nodes of each group of a small fleet: a cluster of 2 nodes, and groups of 1 to 5.
pub(crate) fn small_fleet(rng: &mut Rng) -> Vec<usize> {
    match rng.below(5) {
        0 => vec![2],
        1 => vec![1, 1],
        2 => vec![3 + rng.index(3)],
        _ => (0..1 + rng.index(3)).map(|_| 1 + rng.index(SMALL)).collect(),
    }
}

/// One Auto Scaling group, and what an operator allows in it.
#[derive(Debug, Clone)]
pub(crate) struct GroupPlan {
    pub(crate) name: GroupName,
    pub(crate) observe: bool,
    pub(crate) disabled: bool,
    /// It carries the opt-out tag, or EKS repairs it itself.
    pub(crate) unmanaged: Option<Unmanaged>,
    pub(crate) parallel: Option<Limit>,
    pub(crate) threshold: Option<Limit>,
    /// From and until, in minutes of the UTC day.
    pub(crate) window: Option<(i64, i64)>,
    pub(crate) gpu_grace: Option<SignedDuration>,
    /// Its instances are nodes: not every instance of a cluster's groups is.
    pub(crate) nodes: bool,
    /// Its nodes have agents.
    pub(crate) agents: bool,
}

/// Why no call may be made in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmanaged {
    OptedOut,
    EksRepairEnabled,
}

impl GroupPlan {
    /// Whether a call may ever be made in it.
    pub(crate) fn may_be_repaired(&self) -> bool {
        !self.disabled && !self.observe && self.unmanaged.is_none()
    }
}

pub(crate) fn group(rng: &mut Rng, number: usize) -> GroupPlan {
    let limit = |rng: &mut Rng, counts: [u32; 3], percentages: [u32; 3]| match rng.below(4) {
        0 => Some(Limit::Percentage(rng.pick(&percentages))),
        _ => Some(Limit::Count(rng.pick(&counts))),
    };
    GroupPlan {
        name: GroupName::new(format!("workers-{number}")).expect("a name"),
        observe: number > 0 && rng.happens(40),
        disabled: number > 0 && rng.happens(25),
        unmanaged: (number > 0 && rng.happens(30))
            .then(|| rng.pick(&[Unmanaged::OptedOut, Unmanaged::EksRepairEnabled])),
        parallel: if rng.happens(500) { limit(rng, [1, 1, 2], [10, 30, 50]) } else { None },
        threshold: if rng.happens(300) { limit(rng, [1, 3, 6], [10, 20, 50]) } else { None },
        // The schedule begins at 14:13 UTC.
        window: rng.happens(40).then(|| {
            let start = 14 * 60 + rng.below(180) as i64;
            (start, start + 20 + rng.below(120) as i64)
        }),
        nodes: true,
        agents: number == 0 || !rng.happens(150),
        gpu_grace: rng.happens(100).then(|| SignedDuration::from_mins(rng.pick(&[3, 5, 20]))),
    }
}
