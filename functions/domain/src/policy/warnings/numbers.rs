//! Numbers and durations that stop every repair, or hasten repairs beyond what their sources deliver.

use jiff::SignedDuration;

use super::Warnings;
use crate::{
    policy::{Limit, NodeRepairConfig, Policy},
    timestamp,
};

/// Every agent's heartbeat, and its delivery.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(6);
/// What an instance takes at least to boot and to register.
const BOOT: SignedDuration = SignedDuration::from_mins(3);
/// What CloudTrail takes to deliver an event.
const CLOUD_TRAIL: SignedDuration = SignedDuration::from_mins(15);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

pub(super) fn warn(policy: &Policy, warnings: &mut Warnings) {
    thresholds(policy, warnings);
    percentages(policy, warnings);
    durations(policy, warnings);
    for (path, config) in super::names::configs(policy) {
        parallel(&path, config, warnings);
    }
}

/// Thresholds that a healthy cluster reaches already.
fn thresholds(policy: &Policy, warnings: &mut Warnings) {
    let (zones, silence, outage) = (&policy.zones, &policy.silence, &policy.outage);
    if zones.min_unhealthy <= 1 && zones.zone_percentage == 0 {
        warnings.add(
            "zones.zonePercentage",
            "with minUnhealthy of at most 1, one unhealthy node makes its zone count as impaired: nothing is repaired in a cluster of several zones; the default is 50",
        );
    }
    if silence.percentage == 0 && silence.min_silent == 0 {
        warnings.add(
            "silence.minSilent",
            "0 silent nodes and 0 % are always reached: the log pipeline always counts as down, and nothing is ever repaired; the defaults are 3 and 50",
        );
    } else if silence.percentage == 0 && silence.min_silent == 1 {
        warnings.add(
            "silence.percentage",
            "with minSilent 1, a single silent node stops every repair of the cluster; the default is 50",
        );
    }
    if outage.max_unhealthy == 0 && outage.percentage == 0 {
        warnings.add(
            "outage.maxUnhealthy",
            "0 nodes and 0 % are exceeded by every unhealthy node: nothing is ever repaired; the defaults are 3 and 45",
        );
    }
}

fn percentages(policy: &Policy, warnings: &mut Warnings) {
    for (field, percentage, effect) in [
        ("zones.zonePercentage", policy.zones.zone_percentage, "no zone ever counts as impaired"),
        ("zones.sharePercentage", policy.zones.share_percentage, "no zone ever counts as impaired"),
        ("silence.percentage", policy.silence.percentage, "the log pipeline never counts as down"),
        ("outage.percentage", policy.outage.percentage, "no number of unhealthy nodes counts as an outage"),
    ] {
        if percentage > 100 {
            warnings.add(
                field,
                format!("{percentage} is more than 100 %, which is never reached: {effect}; set 1 to 100"),
            );
        }
    }
}

fn durations(policy: &Policy, warnings: &mut Warnings) {
    if let Some(after) = policy.silence.agent_silent_after.filter(|after| *after < HEARTBEAT) {
        warnings.add(
            "silence.agentSilentAfter",
            format!(
                "{} is shorter than the 5 minutes between two heartbeats and their delivery: every healthy agent counts as silent again and again, and that stops repairs; the default is 16m, null turns it off",
                text(after)
            ),
        );
    }
    let join = policy.join_timeout;
    if join > SignedDuration::ZERO && join < BOOT {
        warnings.add(
            "joinTimeout",
            format!(
                "{} is less than an instance takes to boot and register: healthy launches count as failed to join, are terminated, and put their group in backoff; the default is 15m, 0s turns it off",
                text(join)
            ),
        );
    }
    for (field, duration, least, effect) in [
        (
            "settlingTime",
            policy.settling_time,
            MINUTE,
            "a recovery that was reported meanwhile has no time to arrive, and a healthy node can be repaired; the default is 10m",
        ),
        (
            "recoveryHold",
            policy.recovery_hold,
            SignedDuration::from_secs(1),
            "any healthy reading ends the grace period, and a flapping node is never repaired; the default is 2m",
        ),
        (
            "rebootTimeout",
            policy.reboot_timeout,
            BOOT,
            "a node is replaced while it boots; the default is 15m",
        ),
        (
            "replacementTimeout",
            policy.replacement_timeout,
            SignedDuration::from_mins(5),
            "every repair counts as failed before its replacement has booted, and its group rests; the default is 1h",
        ),
        (
            "failureBackoff",
            policy.failure_backoff,
            MINUTE,
            "a group whose replacements fail loses node after node; the default is 15m",
        ),
        (
            "confirmationTimeout",
            policy.confirmation_timeout,
            CLOUD_TRAIL,
            "CloudTrail delivers within about 15 minutes: calls are reported as missing that are not; the default is 30m",
        ),
        (
            "silence.within",
            policy.silence.within,
            MINUTE,
            "agents that a common cause silences do not fall silent that close together; the default is 10m",
        ),
    ] {
        if duration < least {
            warnings.add(field, format!("{}: {effect}", text(duration)));
        }
    }
    for (field, duration, effect) in [
        ("settlingTime", policy.settling_time, "no repair begins before it is over"),
        ("recoveryHold", policy.recovery_hold, "a node that has recovered counts as unhealthy for as long"),
        ("outage.cooldown", policy.outage.cooldown, "repairs can rest for as long after an outage"),
        ("outage.pause", policy.outage.pause, "of a group's nodes no two are repaired within it"),
        ("failureBackoff", policy.failure_backoff, "a group rests for as long after one failed replacement"),
        ("joinTimeout", policy.join_timeout, "an instance that does not join is not replaced before"),
        (
            "rebootTimeout",
            policy.reboot_timeout,
            "a node that its reboot did not cure is not replaced before",
        ),
    ] {
        if duration > DAY {
            warnings.add(field, format!("{} is more than a day: {effect}", text(duration)));
        }
    }
}

/// A limit above what it limits is none.
fn parallel(path: &str, config: &NodeRepairConfig, warnings: &mut Warnings) {
    if config.max_unhealthy_node_threshold == Some(Limit::Percentage(100)) {
        warnings.add(
            format!("{path}.maxUnhealthyNodeThresholdPercentage"),
            "100 % cannot be exceeded: this threshold never stops repairs; EKS's default is 20 % of more than five nodes",
        );
    }
}

fn text(duration: SignedDuration) -> String {
    if duration.is_zero() { "0s".to_owned() } else { timestamp::duration(duration) }
}
