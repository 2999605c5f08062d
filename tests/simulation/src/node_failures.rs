//! Turns a node's failure into the bad periods of its conditions, and into the events that report them.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::condition::ConditionType;

use crate::{
    environment::Environment,
    episodes::{BadPeriod, Source, Track},
    events::Event,
    messages::{CLOUD_CONTROLLER, PERSON},
    plan::{Kind, NodeFailure},
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

impl Environment {
    /// Gives a node its bad periods, and queues their events.
    pub(crate) fn plan_failure(&mut self, failure: &NodeFailure) {
        let Some((first, _)) = failure.periods.first().copied() else { return };
        let periods = |reasons: &'static [&'static str], unknown: bool| -> Vec<BadPeriod> {
            failure
                .periods
                .iter()
                .map(|(from, until)| BadPeriod { from: *from, until: *until, reasons, unknown })
                .collect()
        };
        let mut turn = self.rng.clone();
        // The reasons change in the middle of each period.
        let mut halves =
            |before: &'static [&'static str], after: &'static [&'static str]| -> Vec<BadPeriod> {
                let halve = |(from, until): &(Timestamp, Option<Timestamp>)| {
                    let length = until.map_or(1_500, |until| until.duration_since(*from).as_secs());
                    let middle = *from + turn.seconds(1, length.max(2));
                    [
                        BadPeriod { from: *from, until: Some(middle), reasons: before, unknown: false },
                        BadPeriod { from: middle, until: *until, reasons: after, unknown: false },
                    ]
                };
                failure.periods.iter().flat_map(halve).collect()
            };
        let network =
            |periods| Track { condition: ConditionType::NetworkingReady, source: Source::Agent, periods };
        let gpu = |periods| Track {
            condition: ConditionType::AcceleratedHardwareReady,
            source: Source::Agent,
            periods,
        };
        let ready =
            |periods| Track { condition: ConditionType::Ready, source: Source::ControlPlane, periods };
        let tracks = match failure.kind {
            Kind::Interface => vec![network(periods(INTERFACE, false))],
            Kind::InterfaceUnknown => vec![network(periods(INTERFACE, true))],
            Kind::Gpu => vec![gpu(periods(XID79, false))],
            Kind::GpuReboot { .. } => vec![gpu(periods(XID95, false))],
            Kind::ReasonChanges => vec![network(halves(INTERFACE, INTERFACE_TOO))],
            Kind::Minor => vec![gpu(periods(MINOR, false))],
            Kind::MinorGrows => vec![gpu(halves(MINOR, GROWN))],
            Kind::MinorTurns => vec![gpu(halves(MINOR, XID79))],
            Kind::Both => vec![network(periods(INTERFACE, false)), gpu(periods(XID79, false))],
            Kind::KubeletStops | Kind::Hangs => vec![ready(periods(UNKNOWN, true))],
            Kind::NotReady => vec![ready(periods(NOT_READY, false))],
            Kind::NodeDeleted | Kind::DeletedByController | Kind::Restored => {
                vec![ready(periods(DELETED, false))]
            }
            Kind::InstanceLost | Kind::Foreign => Vec::new(),
        };
        let number = failure.node;
        self.events_of(number, failure, &tracks, first);
        let shared = self.oracle.clone();
        let node = &mut shared.lock().nodes[number];
        (node.kind, node.tracks) = (Some(failure.kind), tracks);
        node.reboot_cures = failure.kind != Kind::GpuReboot { cures: false };
        node.hangs = failure.kind == Kind::Hangs;
        node.agent_restarts = failure.agent_restarts;
    }

    fn events_of(&mut self, number: usize, failure: &NodeFailure, tracks: &[Track], first: Timestamp) {
        let before = self.rng.seconds(20, 330);
        let lost = |at: &Timestamp| {
            self.off.iter().find(|(agents, from, until)| *agents && from <= at && at < until).map(|off| off.1)
        };
        let reports_from = first - before;
        // A healthy node has reported for long: its first report is not in a time when reports are lost.
        let reports_from = lost(&reports_from)
            .map_or(reports_from, |off| off - SignedDuration::from_secs(60))
            .max(self.plan.start);
        self.start_agent(number, reports_from);
        for (place, track) in tracks.iter().enumerate().filter(|(_, track)| track.source == Source::Agent) {
            for at in track.changes() {
                self.at(at, Event::Report(number, place));
            }
        }
        if let Some(at) = failure.agent_restarts {
            self.at(at, Event::AgentRestarts(number));
        }
        for (from, until) in &failure.periods {
            let (bad, succeeded) = match failure.kind {
                Kind::KubeletStops | Kind::Hangs => {
                    (Event::NodeController(number), Event::Kubelet(number, true))
                }
                Kind::NotReady => (Event::Kubelet(number, false), Event::Kubelet(number, true)),
                Kind::NodeDeleted => (Event::NodeDeleted(number, PERSON), Event::Registers(number)),
                Kind::DeletedByController => {
                    (Event::NodeDeleted(number, CLOUD_CONTROLLER), Event::Registers(number))
                }
                Kind::Restored => (Event::NodeDeleted(number, PERSON), Event::Restored(number)),
                Kind::InstanceLost => (Event::InstanceDies(number, false), Event::OracleCheck),
                Kind::Foreign => (Event::InstanceDies(number, true), Event::OracleCheck),
                _ => continue,
            };
            self.at(*from, bad);
            if matches!(succeeded, Event::OracleCheck) {
                return;
            }
            if let Some(until) = until {
                self.at(*until, succeeded);
            }
        }
    }
}
