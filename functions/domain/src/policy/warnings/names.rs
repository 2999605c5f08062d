//! Names that nothing has: of reasons, conditions, groups and tags. A name that resembles a known one is suggested.

use super::Warnings;
use crate::{
    catalogue,
    condition::{ConditionType, Severity},
    policy::{Grace, NodeRepairConfig, Override, Policy},
};

/// The condition types of others that nodes have, next to the agent's and Ready.
const OF_OTHERS: [&str; 8] = [
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "NetworkUnavailable",
    "KernelDeadlock",
    "ReadonlyFilesystem",
    "FrequentKubeletRestart",
    "FrequentContainerdRestart",
];

/// How often a condition became bad is kept so far back.
const MAX_FLAPS: u64 = 16;

pub(super) fn warn(policy: &Policy, warnings: &mut Warnings) {
    for (path, config) in configs(policy) {
        for (n, entry) in config.overrides.iter().enumerate() {
            let path = format!("{path}.nodeRepairConfigOverrides[{n}]");
            warn_of_override(&path, entry, &config.overrides[..n], warnings);
        }
    }
    for (path, grace) in graces(policy) {
        warn_of_grace(&path, grace, policy, warnings);
    }
    for (n, promotion) in policy.promotions.iter().enumerate() {
        let path = format!("promotions[{n}]");
        warn_of_reason(&format!("{path}.reason"), &promotion.reason, None, warnings);
        let known = catalogue::lookup(&promotion.reason);
        if promotion.count > MAX_FLAPS && known.is_some_and(|known| known.severity == Severity::Condition) {
            warnings.add(
                format!("{path}.count"),
                format!("is never reached: of a condition at most {MAX_FLAPS} are kept; set a lower count"),
            );
        }
        if policy.promotions[..n].contains(promotion) {
            warnings.add(path, "is there twice; remove one");
        }
    }
    if policy.opt_out_tag.trim().is_empty() {
        warnings.add(
            "optOutTag",
            "is empty: no group can opt out; leave it out for the default, nodemend/repair",
        );
    }
    for (n, rule) in policy.groups.iter().enumerate() {
        let path = format!("groups[{n}]");
        match &rule.name {
            Some(name) if name.trim().is_empty() => {
                warnings.add(format!("{path}.name"), "is empty: no group has that name; name it, or use *");
            }
            Some(name) if name.trim() != name => {
                warnings.add(
                    format!("{path}.name"),
                    "begins or ends with a space, and names are compared as they are; remove it",
                );
            }
            _ => {}
        }
        if rule.tags.keys().any(|key| key.trim().is_empty()) {
            warnings
                .add(format!("{path}.tags"), "has an empty key: no group has that tag; name the tag's key");
        }
    }
}

/// Each `nodeRepairConfig` of a policy, with its path.
pub(super) fn configs(policy: &Policy) -> impl Iterator<Item = (String, &NodeRepairConfig)> {
    let of_groups = policy.groups.iter().enumerate().filter_map(|(n, rule)| {
        Some((format!("groups[{n}].nodeRepairConfig"), rule.node_repair_config.as_ref()?))
    });
    std::iter::once(("nodeRepairConfig".to_owned(), &policy.node_repair_config)).chain(of_groups)
}

fn graces(policy: &Policy) -> impl Iterator<Item = (String, &Grace)> {
    let of_groups = policy
        .groups
        .iter()
        .enumerate()
        .filter_map(|(n, rule)| Some((format!("groups[{n}].grace"), rule.grace.as_ref()?)));
    std::iter::once(("grace".to_owned(), &policy.grace)).chain(of_groups)
}

fn warn_of_override(path: &str, entry: &Override, earlier: &[Override], warnings: &mut Warnings) {
    let (condition, reason) = (&entry.node_monitoring_condition, &entry.node_unhealthy_reason);
    let same = |other: &Override| {
        other.node_monitoring_condition == *condition && other.node_unhealthy_reason == *reason
    };
    if let Some(first) = earlier.iter().position(same) {
        warnings.add(
            path,
            format!("never applies: nodeRepairConfigOverrides[{first}] has the same condition and reason, and the first applies; remove one"),
        );
    }
    if warn_of_condition(&format!("{path}.nodeMonitoringCondition"), condition, warnings) {
        return;
    }
    let field = format!("{path}.nodeUnhealthyReason");
    warn_of_reason(&field, reason, Some(condition), warnings);
    let Some(known) = catalogue::lookup(reason) else { return };
    if known.condition != *condition {
        warnings.add(
            format!("{path}.nodeMonitoringCondition"),
            format!(
                "{reason} is a reason of {}, not of {condition}: the override never applies",
                known.condition
            ),
        );
    } else if known.severity == Severity::Event {
        warnings.add(
            field,
            format!("{reason} is an event, which overrides don't apply to; to have it repaired, name it in promotions"),
        );
    }
}

fn warn_of_grace(path: &str, grace: &Grace, policy: &Policy, warnings: &mut Warnings) {
    for condition in grace.conditions.keys() {
        warn_of_condition(&format!("{path}.conditions.{condition}"), condition, warnings);
    }
    for reason in grace.reasons.keys() {
        let field = format!("{path}.reasons.{reason}");
        warn_of_reason(&field, reason, None, warnings);
        let is_event = catalogue::lookup(reason).is_some_and(|known| known.severity == Severity::Event);
        if is_event && policy.promotions.iter().all(|promotion| promotion.reason != *reason) {
            warnings.add(
                field,
                format!(
                    "{reason} is an event, which is not repaired; to have it repaired, name it in promotions"
                ),
            );
        }
    }
}

/// Warns of a condition type that no node has. Returns whether it did.
fn warn_of_condition(field: &str, condition: &ConditionType, warnings: &mut Warnings) -> bool {
    let ConditionType::Other(name) = condition else { return false };
    if OF_OTHERS.contains(&&**name) {
        return false;
    }
    let known = ConditionType::AGENT.iter().map(ConditionType::as_str).chain(["Ready"]).chain(OF_OTHERS);
    let suggestion = nearest(name, known);
    // Others may report any type that a status has a known meaning of.
    if suggestion.is_none() && condition.polarity().is_some() {
        return false;
    }
    let what = if name.trim().is_empty() {
        "is empty: no condition has that type".to_owned()
    } else {
        format!("no condition {name} is known")
    };
    warnings.add(field, format!("{what}, and this never applies{}", did_you_mean(suggestion)));
    true
}

/// Warns of a reason that is not in the catalogue. Others' conditions have reasons of their own.
fn warn_of_reason(field: &str, reason: &str, condition: Option<&ConditionType>, warnings: &mut Warnings) {
    if reason.trim().is_empty() {
        warnings.add(field, "is empty: no condition has that reason; name one of docs/catalogue.md");
        return;
    }
    let of_others = condition.is_some_and(|condition| matches!(condition, ConditionType::Other(_)));
    if of_others || catalogue::lookup(reason).is_some() {
        return;
    }
    let xid = xid_reason(reason);
    let known = catalogue::ENTRIES.iter().map(|entry| entry.reason);
    let suggestion = xid.as_deref().or_else(|| nearest(reason, known));
    warnings.add(
        field,
        format!(
            "{reason} is not in the catalogue, and applies only if a rule of your own or another agent reports it{}",
            did_you_mean(suggestion)
        ),
    );
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |suggestion| format!("; did you mean {suggestion}?"))
}

/// The reason of an XID that is written in another way: `XID79`, `NvidiaXID13Error`.
fn xid_reason(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let digits: String = lower.split_once("xid")?.1.chars().filter(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().ok()?;
    let kind = if catalogue::xid_action(number).is_some() { "Error" } else { "Warning" };
    Some(format!("NvidiaXID{number}{kind}"))
}

/// The known name that differs least, if it differs in a few letters.
fn nearest<'n>(text: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // A name of a condition or a reason has a few dozen letters; others resemble none.
    let text: Vec<char> = text.chars().take(80).map(|c| c.to_ascii_lowercase()).collect();
    let most = (text.len() / 4).clamp(1, 4);
    let distances = known.map(|name| (distance(&text, name), name));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}

/// The number of letters to insert, remove or exchange, whatever their case.
fn distance(text: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=text.len()).collect();
    for (n, letter) in name.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (column, other) in text.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[text.len()]
}
