//! The events that are assumed to follow a call that is not in the history: its CloudTrail event, and a replacement
//! that is launched and becomes Ready. Without them each such repair would count as failed.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::{SignedDuration, Timestamp};
use nodemend_confirm::AutoScalingEvent;
use nodemend_domain::{
    audit_log::{self, CloudTrailEvent},
    group::InstanceLocation,
    ident::{ClusterName, GroupName, InstanceId, Zone},
    repair_event::{RepairEvent, Step},
};
use nodemend_ports::cloud::{Cloud, MemoryCloud};
use serde_json::json;

use super::error::BacktestError;
use crate::replay::{
    drive::Driver,
    environment::ReplayEnvironment,
    input::{CLOUDTRAIL_DELAY, Input, LogGroup, Payload},
};

/// How long after a call Auto Scaling launches the replacement.
const LAUNCH_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// Assumed events that are still to come, by time.
#[derive(Debug)]
pub(super) struct AssumedEvents {
    replacement_after: Option<SignedDuration>,
    next: std::collections::BinaryHeap<Reverse<(Timestamp, u64)>>,
    pending: BTreeMap<u64, AssumedEvent>,
    count: u64,
    /// By replaced instance: its assumed replacement.
    replacements: BTreeMap<InstanceId, InstanceId>,
}

#[derive(Debug)]
enum AssumedEvent {
    CloudTrail(Box<CloudTrailEvent>),
    Launch { cluster: ClusterName, group: GroupName, zone: Zone, old: InstanceId, new: InstanceId },
    Ready { zone: Zone, new: InstanceId },
}

impl AssumedEvents {
    /// Replacements become Ready after this delay. With none, no event is assumed.
    pub(super) fn new(replacement_after: Option<SignedDuration>) -> Self {
        Self {
            replacement_after,
            next: Default::default(),
            pending: BTreeMap::new(),
            count: 0,
            replacements: BTreeMap::new(),
        }
    }

    /// The time of the next event.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.next.peek().map(|Reverse((at, _))| *at)
    }

    fn push(&mut self, at: Timestamp, after: SignedDuration, event: AssumedEvent) {
        self.count += 1;
        self.next.push(Reverse((at.checked_add(after).unwrap_or(Timestamp::MAX), self.count)));
        self.pending.insert(self.count, event);
    }

    /// Adds the events that follow a call.
    pub(super) fn add_call(&mut self, event: &RepairEvent, environment: &ReplayEnvironment, driver: &Driver) {
        let Some(after) = self.replacement_after.filter(|_| event.step == Step::Called) else { return };
        let Some(record) = event.record.as_deref() else { return };
        if record.request_id.as_deref().is_none_or(|id| environment.contains_call(id)) {
            return;
        }
        let cloudtrail =
            serde_json::to_value(record).ok().and_then(|value| CloudTrailEvent::try_from(value).ok());
        if let Some(cloudtrail) = cloudtrail {
            self.push(event.at, CLOUDTRAIL_DELAY, AssumedEvent::CloudTrail(Box::new(cloudtrail)));
        }
        if record.event_name != "TerminateInstanceInAutoScalingGroup" {
            return;
        }
        let old = event.instance_id.clone();
        let hex = audit_log::sha256(&format!("in place of {old}"));
        let (Ok(new), Some((group, zone))) =
            (InstanceId::new(format!("i-{}", &hex[..17])), location_of(&driver.cloud, &old))
        else {
            return;
        };
        let launch = AssumedEvent::Launch {
            cluster: event.cluster.clone(),
            group,
            zone: zone.clone(),
            old,
            new: new.clone(),
        };
        self.push(event.at, LAUNCH_DELAY.min(after), launch);
        self.push(event.at, after, AssumedEvent::Ready { zone, new });
    }

    /// Passes the next event to the handlers.
    pub(super) fn deliver_next(&mut self, driver: &mut Driver) -> Result<(), BacktestError> {
        let Some(Reverse((at, number))) = self.next.pop() else { return Ok(()) };
        driver.clock.advance_to(at);
        let bug = |error: nodemend_confirm::ConfirmError| BacktestError::Bug(error.to_string());
        match self.pending.remove(&number) {
            None => {}
            Some(AssumedEvent::CloudTrail(event)) => {
                let result =
                    pollster::block_on(driver.confirm.take(AutoScalingEvent::ApiCall(event), None, at))
                        .map_err(bug)?;
                driver.events.extend(result.repair_events);
            }
            Some(AssumedEvent::Launch { cluster, group, zone, old, new }) => {
                driver.cloud.change(|fleet| {
                    fleet.leave(&old);
                    fleet.join(&group, Some(&cluster), &new, &zone);
                });
                let launched = AutoScalingEvent::Launched {
                    group,
                    instance_id: new.clone(),
                    zone: Some(zone),
                    at,
                    from_warm_pool: false,
                };
                let result = pollster::block_on(driver.confirm.take(launched, None, at)).map_err(bug)?;
                driver.events.extend(result.repair_events);
                self.replacements.insert(old, new);
            }
            Some(AssumedEvent::Ready { zone, new }) => driver.deliver(&registration(&zone, &new, at)),
        }
        Ok(())
    }

    /// Removes the assumed replacement of an instance that is terminated in the history, where its real one follows.
    pub(super) fn remove_replacement(&mut self, old: &InstanceId, cloud: &MemoryCloud) {
        if let Some(new) = self.replacements.remove(old) {
            cloud.change(|fleet| fleet.leave(&new));
        }
    }
}

/// The group and the zone of an instance.
fn location_of(cloud: &MemoryCloud, instance_id: &InstanceId) -> Option<(GroupName, Zone)> {
    let located = pollster::block_on(cloud.describe_instances(std::slice::from_ref(instance_id))).ok()?;
    let InstanceLocation::Member { group, .. } = located.into_iter().next()? else { return None };
    let described = pollster::block_on(cloud.group(&group)).ok()??;
    let zone = described.member(instance_id)?.zone.clone();
    Some((group, zone))
}

/// The control-plane audit event of a kubelet that registers a Ready node.
fn registration(zone: &Zone, new: &InstanceId, at: Timestamp) -> Input {
    let name = format!("assumed-{new}");
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
        source: "assumed".to_owned(),
        payload: Payload::Log {
            group: LogGroup::AnyControlPlane,
            stream: "kube-apiserver-audit-assumed".to_owned(),
            at,
            message: message.to_string(),
        },
    }
}
