//! Turns a node's ailment into what is wrong with it when, and into who tells of that.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::ConditionType;

use crate::{
    events::Event,
    plan::{Ail, Kind},
    trouble::{Spell, Track, Witness},
    world::World,
};

const INTERFACE: &[&str] = &["InterfaceNotUp"];
const INTERFACE_TOO: &[&str] = &["InterfaceNotRunning"];
const XID79: &[&str] = &["NvidiaXID79Error"];
const XID95: &[&str] = &["NvidiaXID95Error"];
const MINOR: &[&str] = &["DCGMHealthFailure"];
const GROWN: &[&str] = &["DCGMHealthFailure", "NvidiaXID79Error"];
const UNKNOWN: &[&str] = &["NodeStatusUnknown"];
const NOT_READY: &[&str] = &["KubeletNotReady"];
const DELETED: &[&str] = &["NodeDeleted"];

impl World {
    /// A node's trouble.
    pub(crate) fn ails(&mut self, ail: &Ail) {
        let Some((first, _)) = ail.spells.first().copied() else { return };
        let spells = |reasons: &'static [&'static str], unknown: bool| -> Vec<Spell> {
            ail.spells
                .iter()
                .map(|(from, until)| Spell { from: *from, until: *until, reasons, unknown })
                .collect()
        };
        let mut turn = self.dice.clone();
        // The reasons change in the middle of each spell.
        let mut halves = |before: &'static [&'static str], after: &'static [&'static str]| -> Vec<Spell> {
            let halve = |(from, until): &(Timestamp, Option<Timestamp>)| {
                let length = until.map_or(1_500, |until| until.duration_since(*from).as_secs());
                let middle = *from + turn.seconds(1, length.max(2));
                [
                    Spell { from: *from, until: Some(middle), reasons: before, unknown: false },
                    Spell { from: middle, until: *until, reasons: after, unknown: false },
                ]
            };
            ail.spells.iter().flat_map(halve).collect()
        };
        let network =
            |spells| Track { condition: ConditionType::NetworkingReady, witness: Witness::Agent, spells };
        let gpu = |spells| Track {
            condition: ConditionType::AcceleratedHardwareReady,
            witness: Witness::Agent,
            spells,
        };
        let ready =
            |spells| Track { condition: ConditionType::Ready, witness: Witness::ControlPlane, spells };
        let tracks = match ail.kind {
            Kind::Interface => vec![network(spells(INTERFACE, false))],
            Kind::InterfaceUnknown => vec![network(spells(INTERFACE, true))],
            Kind::Gpu => vec![gpu(spells(XID79, false))],
            Kind::GpuReboot { .. } => vec![gpu(spells(XID95, false))],
            Kind::ReasonChanges => vec![network(halves(INTERFACE, INTERFACE_TOO))],
            Kind::Minor => vec![gpu(spells(MINOR, false))],
            Kind::MinorGrows => vec![gpu(halves(MINOR, GROWN))],
            Kind::MinorTurns => vec![gpu(halves(MINOR, XID79))],
            Kind::Both => vec![network(spells(INTERFACE, false)), gpu(spells(XID79, false))],
            Kind::KubeletStops | Kind::Hangs => vec![ready(spells(UNKNOWN, true))],
            Kind::NotReady => vec![ready(spells(NOT_READY, false))],
            Kind::Deleted => vec![ready(spells(DELETED, false))],
            Kind::InstanceLost | Kind::Foreign => Vec::new(),
        };
        let number = ail.node;
        self.events_of(number, ail, &tracks, first);
        let bench = self.bench.clone();
        let node = &mut bench.judge().nodes[number];
        node.tracks = tracks;
        node.reboot_cures = ail.kind != Kind::GpuReboot { cures: false };
        node.hangs = ail.kind == Kind::Hangs;
        node.agent_restarts = ail.agent_restarts;
    }

    fn events_of(&mut self, number: usize, ail: &Ail, tracks: &[Track], first: Timestamp) {
        let before = self.dice.seconds(20, 330);
        let lost = |at: &Timestamp| {
            self.off.iter().find(|(agents, from, until)| *agents && from <= at && at < until).map(|off| off.1)
        };
        let talks = first - before;
        // A healthy node has been heard for long: not first while its words are lost.
        let talks =
            lost(&talks).map_or(talks, |off| off - SignedDuration::from_secs(60)).max(self.plan.start);
        self.talk(number, talks);
        for (place, track) in tracks.iter().enumerate().filter(|(_, track)| track.witness == Witness::Agent) {
            for at in track.changes() {
                self.at(at, Event::Speak(number, place));
            }
        }
        if let Some(at) = ail.agent_restarts {
            self.at(at, Event::AgentStarts(number));
        }
        for (from, until) in &ail.spells {
            let (bad, well) = match ail.kind {
                Kind::KubeletStops | Kind::Hangs => (Event::Controller(number), Event::Kubelet(number, true)),
                Kind::NotReady => (Event::Kubelet(number, false), Event::Kubelet(number, true)),
                Kind::Deleted => (Event::Deleted(number), Event::Registers(number)),
                Kind::InstanceLost => (Event::Dies(number, false), Event::Look),
                Kind::Foreign => (Event::Dies(number, true), Event::Look),
                _ => continue,
            };
            self.at(*from, bad);
            if matches!(well, Event::Look) {
                return;
            }
            if let Some(until) = until {
                self.at(*until, well);
            }
        }
    }
}
