//! Turns a call that the history does not tell of into what is assumed to have come of it: CloudTrail's word, and another node.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use nodemend_adapters::cloud::{Cloud, MemoryCloud};
use nodemend_audit::Happening;
use nodemend_domain::{
    group::Whereabouts,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    occurrence::{Occurrence, Step},
    trail::{self, CloudTrailEvent},
};
use serde_json::json;

use super::BacktestError;
use crate::replay::{
    drive::Driver,
    input::{CLOUDTRAIL_DELAY, Group, Input, What},
    world::World,
};

/// Auto Scaling launches the next instance about so long after the call.
const LAUNCH_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// What is assumed and has yet to happen.
#[derive(Debug)]
pub(super) struct Assumed {
    replacement_after: Option<SignedDuration>,
    next: std::collections::BinaryHeap<Reverse<(Timestamp, u64)>>,
    what: BTreeMap<u64, Assumption>,
    count: u64,
    stand_ins: BTreeMap<InstanceId, InstanceId>,
}

#[derive(Debug)]
enum Assumption {
    CloudTrail(Box<CloudTrailEvent>),
    Launch { cluster: ClusterName, group: GroupName, zone: Zone, old: InstanceId, new: InstanceId },
    Ready { zone: Zone, new: InstanceId },
}

impl Assumed {
    /// Assumes replacements after so long; nothing at all, where that is never.
    pub(super) fn new(replacement_after: Option<SignedDuration>) -> Self {
        Self {
            replacement_after,
            next: Default::default(),
            what: BTreeMap::new(),
            count: 0,
            stand_ins: BTreeMap::new(),
        }
    }

    /// When something assumed happens next.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.next.peek().map(|Reverse((at, _))| *at)
    }

    fn push(&mut self, at: Timestamp, after: SignedDuration, what: Assumption) {
        self.count += 1;
        self.next.push(Reverse((at.checked_add(after).unwrap_or(Timestamp::MAX), self.count)));
        self.what.insert(self.count, what);
    }

    /// A call was made.
    pub(super) fn called(&mut self, occurrence: &Occurrence, world: &World, driver: &Driver) {
        let Some(after) = self.replacement_after.filter(|_| occurrence.step == Step::Called) else { return };
        let Some(record) = occurrence.record.as_deref() else { return };
        if record.request_id.as_deref().is_none_or(|id| world.tells_of(id)) {
            return;
        }
        let event = serde_json::to_value(record).ok().and_then(|value| CloudTrailEvent::try_from(value).ok());
        if let Some(event) = event {
            self.push(occurrence.at, CLOUDTRAIL_DELAY, Assumption::CloudTrail(Box::new(event)));
        }
        if record.event_name != "TerminateInstanceInAutoScalingGroup" {
            return;
        }
        let old = occurrence.instance_id.clone();
        let hex = trail::sha256(&format!("in place of {old}"));
        let (Ok(new), Some((group, zone))) =
            (InstanceId::new(format!("i-{}", &hex[..17])), place_of(&driver.cloud, &old))
        else {
            return;
        };
        let launch = Assumption::Launch {
            cluster: occurrence.cluster.clone(),
            group,
            zone: zone.clone(),
            old,
            new: new.clone(),
        };
        self.push(occurrence.at, LAUNCH_AFTER.min(after), launch);
        self.push(occurrence.at, after, Assumption::Ready { zone, new });
    }

    /// Lets the next thing happen.
    pub(super) fn happen(&mut self, driver: &mut Driver) -> Result<(), BacktestError> {
        let Some(Reverse((at, number))) = self.next.pop() else { return Ok(()) };
        driver.clock.advance_to(at);
        let broken = |error: nodemend_audit::AuditError| BacktestError::Broken(error.to_string());
        match self.what.remove(&number) {
            None => {}
            Some(Assumption::CloudTrail(event)) => {
                let audited = pollster::block_on(driver.audit.take(Happening::ApiCall(event), None, at))
                    .map_err(broken)?;
                driver.told.extend(audited.occurrences);
            }
            Some(Assumption::Launch { cluster, group, zone, old, new }) => {
                driver.cloud.change(|fleet| {
                    fleet.leave(&old);
                    fleet.join(&group, Some(&cluster), &new, &zone);
                });
                let launched = Happening::Launched { group, instance_id: new.clone(), zone: Some(zone), at };
                let audited = pollster::block_on(driver.audit.take(launched, None, at)).map_err(broken)?;
                driver.told.extend(audited.occurrences);
                self.stand_ins.insert(old, new);
            }
            Some(Assumption::Ready { zone, new }) => driver.deliver(&registration(&zone, &new, at)),
        }
        Ok(())
    }

    /// The history tells of the end of an instance that was taken to be replaced: whoever stood in for what comes now goes.
    pub(super) fn forget(&mut self, old: &InstanceId, cloud: &MemoryCloud) {
        if let Some(new) = self.stand_ins.remove(old) {
            cloud.change(|fleet| fleet.leave(&new));
        }
    }
}

/// The group and zone of an instance.
fn place_of(cloud: &MemoryCloud, instance_id: &InstanceId) -> Option<(GroupName, Zone)> {
    let located = pollster::block_on(cloud.locate(std::slice::from_ref(instance_id))).ok()?;
    let Whereabouts::Member { group, .. } = located.into_iter().next()? else { return None };
    let described = pollster::block_on(cloud.group(&group)).ok()??;
    let zone = described.member(instance_id)?.zone.clone();
    Some((group, zone))
}

/// The audit event of a kubelet that registers a node that is ready.
fn registration(zone: &Zone, new: &InstanceId, at: Timestamp) -> Input {
    let name = format!("in-place-{new}");
    let message = json!({
        "kind": "Event",
        "stage": "ResponseComplete",
        "verb": "create",
        "user": { "username": format!("system:node:{name}"), "extra": { "sessionName": [new] } },
        "objectRef": { "resource": "nodes", "name": name },
        "responseStatus": { "code": 201 },
        "requestObject": {
            "spec": { "providerID": format!("aws:///{zone}/{new}") },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
        },
        "stageTimestamp": at.to_string(),
    });
    Input {
        at,
        place: "assumed".to_owned(),
        what: What::Log {
            group: Group::AnyControlPlane,
            stream: "kube-apiserver-audit-assumed".to_owned(),
            at,
            message: message.to_string(),
        },
    }
}
