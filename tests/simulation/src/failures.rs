//! Which nodes of a schedule fail, when and how: most alone, some together, and now and then most of a group, a zone or
//! the cluster.

use jiff::Timestamp;

use crate::{
    plan::{Item, Kind, NodeFailure, Options, Plan},
    rng::Rng,
};

const KINDS: [Kind; 24] = [
    Kind::Interface,
    Kind::Interface,
    Kind::Interface,
    Kind::InterfaceUnknown,
    Kind::Gpu,
    Kind::Gpu,
    Kind::Gpu,
    Kind::GpuReboot { cures: true },
    Kind::GpuReboot { cures: true },
    Kind::GpuReboot { cures: false },
    Kind::ReasonChanges,
    Kind::ReasonChanges,
    Kind::Minor,
    Kind::MinorGrows,
    Kind::MinorTurns,
    Kind::Both,
    Kind::KubeletStops,
    Kind::Hangs,
    Kind::NotReady,
    Kind::NodeDeleted,
    Kind::DeletedByController,
    Kind::Restored,
    Kind::InstanceLost,
    Kind::Foreign,
];

/// How most of a network or a control plane fails.
const OUTAGES: [Kind; 3] = [Kind::KubeletStops, Kind::Hangs, Kind::NotReady];

impl Plan {
    pub(crate) fn node_failures(&mut self, rng: &mut Rng, options: &Options) {
        // Mostly one: it finds a fault as soon by the second, and its trace is short. Of several, half fail together.
        let few = rng.pick(&[1, 1, 1, 1, 1, 2]) * self.nodes.len().div_ceil(50);
        let mut free: Vec<usize> = (0..self.nodes.len()).collect();
        for _ in 0..few.min(self.nodes.len()) {
            let mut place = rng.index(free.len());
            let (mut from, mut kind) = (self.moment(rng, options), rng.pick(&KINDS));
            if let Some(Item::NodeFails(last)) = self.items.last()
                && rng.happens(500)
            {
                let near = |node: &usize| self.nodes[*node].0 == self.nodes[last.node].0;
                place = free.iter().position(near).unwrap_or(place);
                (from, kind) = (last.periods[0].0 + rng.seconds(0, 90), last.kind);
            }
            let node = free.swap_remove(place);
            let kind = self.kind_for(node, kind);
            self.items.push(Item::NodeFails(failure(rng, node, kind, from, false)));
        }
        if rng.happens(if self.is_small() { 300 } else { 10 }) {
            self.outage(rng, options, free);
        }
    }

    /// Much of the fleet, or most of a group, a zone or the cluster, fails within minutes.
    fn outage(&mut self, rng: &mut Rng, options: &Options, mut free: Vec<usize>) {
        let (at, group, zone) = (self.moment(rng, options), rng.index(self.groups.len()), rng.index(3));
        let kinds: &[Kind] = if rng.happens(500) { &OUTAGES } else { &KINDS[..19] };
        let kind = rng.pick(kinds);
        let most = rng.pick(&[600, 900, 1_000]);
        let some = rng.pick(&[150, 250, 400]);
        let scope = if self.is_small() { 2 + rng.below(2) } else { rng.below(4) };
        free.retain(|node| {
            let (of_group, of_zone) = self.nodes[*node];
            match scope {
                0 => rng.happens(some),
                1 => of_zone == zone && rng.happens(most),
                2 => of_group == group && rng.happens(most),
                _ => rng.happens(most),
            }
        });
        // It may end node by node, over seconds or an hour.
        let ends = rng.happens(500).then(|| (rng.seconds(600, 3_600), rng.pick(&[10, 300, 3_600])));
        for node in free {
            let from = at + rng.seconds(0, 240);
            let mut failure = failure(rng, node, self.kind_for(node, kind), from, true);
            if let (Some((length, spread)), [period]) = (ends, failure.periods.as_mut_slice()) {
                period.1 = Some(at + length + rng.seconds(240, 240 + spread));
            }
            self.items.push(Item::NodeFails(failure));
        }
    }

    /// A node without an agent fails in the ways that the control plane sees.
    fn kind_for(&self, node: usize, kind: Kind) -> Kind {
        let seen = matches!(
            kind,
            Kind::KubeletStops
                | Kind::Hangs
                | Kind::NotReady
                | Kind::NodeDeleted
                | Kind::DeletedByController
                | Kind::Restored
                | Kind::InstanceLost
                | Kind::Foreign
        );
        let group = &self.groups[self.nodes[node].0];
        match kind {
            Kind::InstanceLost => kind,
            _ if !group.nodes => Kind::Foreign,
            _ if seen || group.agents => kind,
            _ => Kind::KubeletStops,
        }
    }
}

/// Durations on both sides of the recovery hold (2 min) and of the grace periods (10 and 30 min).
fn failure(rng: &mut Rng, node: usize, kind: Kind, from: Timestamp, for_good: bool) -> NodeFailure {
    let mut periods = Vec::new();
    let mut at = from;
    let count = if for_good { 1 } else { rng.pick(&[1, 1, 1, 2, 3, 6]) };
    let lasts = for_good && rng.happens(600) || !for_good && rng.happens(650);
    for number in 0..count {
        let length = if rng.happens(300) { rng.seconds(10, 240) } else { rng.seconds(240, 2_700) };
        let last = number + 1 == count;
        periods.push((at, (!last || !lasts).then_some(at + length)));
        at += length;
        at += if rng.happens(600) { rng.seconds(5, 240) } else { rng.seconds(240, 1_800) };
    }
    let (first, until) = periods[0];
    let length = until.map_or(1_200, |until| until.duration_since(first).as_secs());
    let agent_restarts = rng.happens(200).then(|| first + rng.seconds(1, length.max(2)));
    NodeFailure { node, kind, periods, agent_restarts }
}
