//! Shows the effect of a policy, and what to look at again, for `policy check` and `policy apply`.

use std::{
    io::{self, Write},
    path::Path,
};

use nodemend_domain::{
    policy::{Limit, Mode, NodeRepairConfig, Policy, PolicyWarning},
    timestamp,
};

use super::{printable, table};

/// Writes the effect of a policy: one row for each group rule, and one for all other groups.
pub(crate) fn describe(out: &mut impl Write, policy: &Policy) -> io::Result<()> {
    let mut rows = Vec::new();
    for rule in &policy.groups {
        let tags = rule.tags.iter().map(|(key, value)| format!("{key}={value}"));
        let group: Vec<String> = rule.name.iter().cloned().chain(tags).collect();
        let config = rule.node_repair_config.as_ref().unwrap_or(&policy.node_repair_config);
        rows.push(row(group.join(", "), rule.mode.unwrap_or(policy.mode), config));
    }
    let others = if policy.groups.is_empty() { "all groups" } else { "all other groups" };
    rows.push(row(others.to_owned(), policy.mode, &policy.node_repair_config));
    table::write(out, "", ["group", "mode", "repair", "no repairs above", "in parallel"], &rows)?;
    for hold in &policy.holds {
        writeln!(
            out,
            "hold by {} until {}: {}",
            printable(&hold.owner),
            timestamp::seconds(hold.until),
            printable(&hold.reason)
        )?;
    }
    Ok(())
}

/// Writes the warnings about a policy file, one line each, with the field first.
pub(crate) fn warn(out: &mut impl Write, file: &Path, warnings: &[PolicyWarning]) -> io::Result<()> {
    for PolicyWarning { field, why } in warnings {
        writeln!(out, "warning: {}: {}: {}", file.display(), printable(field), printable(why))?;
    }
    Ok(())
}

fn row(group: String, mode: Mode, config: &NodeRepairConfig) -> [String; 5] {
    let limit = |limit: Option<Limit>, of: &str, unset: &str| match limit {
        Some(Limit::Count(count)) => format!("{count} nodes"),
        Some(Limit::Percentage(percentage)) => format!("{percentage} % of {of}"),
        None => unset.to_owned(),
    };
    [
        group,
        mode.as_str().to_owned(),
        if config.enabled { "enabled" } else { "disabled" }.to_owned(),
        limit(config.max_unhealthy_node_threshold, "the group", "5 nodes and 20 %"),
        limit(config.max_parallel_nodes_repaired, "unhealthy nodes", "no limit"),
    ]
}
