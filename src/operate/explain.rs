//! `nodemend explain NODE`: why a node is repaired, why not yet, and which guards block it.
//!
//! The decision is the repair function's own, with the same reads; this command only prints it.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use clap::Args;
use jiff::Timestamp;
use nodemend_aws::{clock::SystemClock, cloud::AwsCloud, sdk};
use nodemend_domain::{
    case::{CaseState, Fault},
    decide::Decision,
    group::{InstanceLocation, Lifecycle},
    repair::{Call, CallResult, Confirmation},
    timestamp,
};
use nodemend_ports::config::environment::Environment;
use nodemend_repair::{Explanation, Repairer};
use serde_json::{Value, json};

use super::{Deployment, OperateError, SUCCESS, UNHEALTHY, between};
use crate::output::{BOLD, Format, printable, table};

/// The arguments of `nodemend explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend explain ip-10-0-1-23.eu-west-1.compute.internal --cluster prod
  nodemend explain i-0123456789abcdef0 --format json |
    jq '.guards[] | select(.passes | not)'

It reads and decides as the repair function does, and changes nothing. For a
healthy node it evaluates the guards as if its kubelet had stopped reporting.

Exit codes: 0 healthy, 2 unhealthy, 1 unknown node or failed to read,
64 usage or configuration error")]
pub struct ExplainOptions {
    /// A node name, an instance id or a case id
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    deployment: Deployment,

    /// Text to read, or one JSON object for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Explains one node and returns the exit code.
pub async fn run(options: &ExplainOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let key = connection.case_of(&options.node).await?;
    let shared = sdk::load().await?;
    let cloud = AwsCloud::connect(&shared).await?;
    let cloud = cloud.with_members(&shared, Environment::of_process().members()?);
    let repairer = Repairer::new(connection.store, cloud, SystemClock);
    let explained = repairer.explain(&key).await?.ok_or_else(|| {
        let (node, cluster) = (&options.node, &connection.cluster);
        OperateError::NotFound(format!(
            "{node} has no case: cluster {cluster} has no policy, or no report of the node was received"
        ))
    })?;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => write(&mut out, &explained, connection.now)?,
        Format::Json => writeln!(out, "{}", to_json(&explained, connection.now))?,
    }
    out.flush()?;
    Ok(if explained.state.is_unhealthy() { UNHEALTHY } else { SUCCESS })
}

/// Writes the explanation as text.
pub fn write(out: &mut impl Write, explained: &Explanation, now: Timestamp) -> io::Result<()> {
    let case = &explained.case;
    let zone = case.zone().as_ref().map(|zone| format!(" · {zone}")).unwrap_or_default();
    writeln!(out, "{BOLD}{}{BOLD:#} · {} · {}{zone}", case.label(), case.instance_id(), location(explained))?;
    writeln!(out, "{}", sentence(explained, now))?;
    if !explained.faults.is_empty() {
        writeln!(out)?;
        let rows: Vec<_> = explained.faults.iter().map(|fault| fault_row(fault, now)).collect();
        table::write(out, "", ["condition", "reason", "health", "for", "action", "due", "message"], &rows)?;
    }
    let calls: Vec<_> = case.calls().map(call_row).collect();
    if !calls.is_empty() {
        writeln!(out)?;
        table::write(out, "", ["call", "at", "answer", "CloudTrail", "request id"], &calls)?;
    }
    if explained.state == CaseState::Closed {
        return Ok(());
    }
    let assumption = if explained.faults.is_empty() { " (if the kubelet stopped reporting now)" } else { "" };
    writeln!(out, "\nGuards{assumption}:")?;
    for answer in &explained.answers {
        let (symbol, color) = match answer.block {
            None => ('✓', AnsiColor::Green),
            Some(_) => ('✗', AnsiColor::Red),
        };
        let style = Style::new().fg_color(Some(color.into()));
        let message = answer.block.as_ref().map_or("", |block| &block.sentence);
        let line = format!("  {style}{symbol}{style:#} {:25}{}", answer.guard.name(), printable(message));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn location(explained: &Explanation) -> String {
    match &explained.location {
        InstanceLocation::Member { group, lifecycle } => {
            let state = match lifecycle {
                Lifecycle::Pending => "Pending",
                Lifecycle::InService => "InService",
                Lifecycle::OutOfService => "not in service",
                Lifecycle::Terminating => "Terminating",
                Lifecycle::WarmPool => "in the warm pool",
            };
            format!("group {group}, {state}")
        }
        InstanceLocation::Ungrouped => "in no Auto Scaling group".to_owned(),
        InstanceLocation::Gone => "instance terminated".to_owned(),
    }
}

/// What the next run of the repair function will do, or what the case waits for.
fn sentence(explained: &Explanation, now: Timestamp) -> String {
    let case = &explained.case;
    let at = |at: Timestamp| timestamp::seconds(at);
    if let Some(closed) = &case.closed() {
        return format!("Closed at {}: {}.", at(closed.at), closed.outcome);
    }
    match &explained.decision {
        Decision::Act { fault, action } => {
            format!("{} in the next run: {} {}.", action.as_str(), fault.condition, fault.reason)
        }
        Decision::Blocked { action, blocks, until, .. } => {
            let names: Vec<String> = blocks.iter().map(|block| block.guard.name()).collect();
            format!(
                "{} is due and blocked by {}. Next evaluation: {}.",
                action.as_str(),
                names.join(", "),
                at(*until)
            )
        }
        Decision::ConfirmByState => {
            "The call took effect but its answer was lost: the next run records it as confirmed by state."
                .to_owned()
        }
        Decision::Release(why) => format!("The next run releases the claim: {why}."),
        Decision::Close(outcome) => format!("The next run closes the case: {}.", outcome.sentence(case, now)),
        Decision::RecordMissing { call } => {
            format!("No CloudTrail event for the call of {}: the next run records it as missing.", at(*call))
        }
        Decision::Reopen => "The next run opens the case again.".to_owned(),
        Decision::StayClosed => "A report arrived after its end; its instance is gone.".to_owned(),
        Decision::RecordNodeDeletion => {
            "Its Node object was deleted, and its instance is still there: the next run records that it is missing."
                .to_owned()
        }
        Decision::RecordSilence(since) => format!("The agent stopped reporting at {}.", at(*since)),
        Decision::RecordJoin(_) => "A new instance: the next run records it in its group.".to_owned(),
        Decision::Wait => waiting(explained, now),
    }
}

fn waiting(explained: &Explanation, now: Timestamp) -> String {
    let case = &explained.case;
    let earliest = explained.faults.iter().find(|fault| fault.is_bad() && fault.deadline.is_some());
    match (explained.state, earliest.and_then(|fault| Some((fault, fault.deadline?)))) {
        (CaseState::Suspect, Some((fault, deadline))) => format!(
            "In the grace period: {} at {} (in {}) unless the node recovers{}.",
            fault.action.as_str(),
            timestamp::seconds(deadline),
            between(now, deadline),
            if fault.rebooted { "; the reboot did not fix it" } else { "" }
        ),
        (CaseState::Suspect | CaseState::Due, _) => "The next run evaluates it.".to_owned(),
        (CaseState::Recovering, _) => {
            let heals = explained.faults.iter().filter_map(|fault| fault.heals_at).max();
            format!(
                "Healthy again. The grace period resets if the node stays healthy until {}.",
                heals.map_or_else(String::new, timestamp::seconds)
            )
        }
        (CaseState::Healthy, _) if explained.faults.is_empty() => "Healthy.".to_owned(),
        (CaseState::Healthy, _) => "The action of every reported fault is NoAction: no repair.".to_owned(),
        (CaseState::Silent, _) => {
            let since = case.silent_since().map_or_else(String::new, timestamp::seconds);
            format!("The agent stopped reporting at {since}. This alone starts no repair.")
        }
        (CaseState::Confirming, _) => {
            "The call was made. Waiting for its CloudTrail event and for the replacement.".to_owned()
        }
        (CaseState::Rebooting, _) => "Rebooting. Waiting for a new boot that stays healthy.".to_owned(),
        (state, _) => format!(
            "{}. Next evaluation: {}.",
            state.as_str(),
            case.due().map_or_else(|| "at the next report".to_owned(), timestamp::seconds)
        ),
    }
}

fn fault_row(fault: &Fault, now: Timestamp) -> [String; 7] {
    let health = if fault.is_bad() { format!("{:?}", fault.health) } else { "recovering".to_owned() };
    [
        fault.condition.to_string(),
        fault.reason.clone(),
        health.to_lowercase(),
        between(fault.since, now),
        fault.action.as_str().to_owned(),
        fault.deadline.map_or_else(|| "never".to_owned(), timestamp::seconds),
        fault.message.chars().take(100).collect(),
    ]
}

fn call_row(call: &Call) -> [String; 5] {
    let answer = match call.result() {
        CallResult::Pending => "pending",
        CallResult::Accepted => "accepted",
        CallResult::Refused => "refused",
        CallResult::Unanswered => "no answer",
    };
    let confirmation = match call.confirmation() {
        None => "pending",
        Some(Confirmation::Confirmed) => "Confirmed",
        Some(Confirmation::Mismatch) => "Mismatch",
        Some(Confirmation::Missing) => "Missing",
    };
    [
        call.action().as_str().to_owned(),
        timestamp::millis(call.at()),
        answer.to_owned(),
        confirmation.to_owned(),
        call.request_id().unwrap_or("-").to_owned(),
    ]
}

/// The explanation as JSON.
pub fn to_json(explained: &Explanation, now: Timestamp) -> Value {
    let case = &explained.case;
    let guards: Vec<Value> = explained
        .answers
        .iter()
        .map(|answer| {
            let block = answer.block.as_ref();
            json!({
                "guard": answer.guard.name(),
                "passes": block.is_none(),
                "message": block.map(|block| &block.sentence),
                "until": block.and_then(|block| block.until).map(timestamp::millis),
            })
        })
        .collect();
    json!({
        "at": timestamp::millis(now),
        "case": case.id(),
        "cluster": case.cluster(),
        "node": case.node(),
        "instanceId": case.instance_id(),
        "group": explained.group,
        "zone": case.zone(),
        "location": location(explained),
        "state": explained.state,
        "decision": sentence(explained, now),
        "faults": explained.faults,
        "guards": guards,
        "calls": case.calls().collect::<Vec<_>>(),
        "closed": case.closed(),
        "nextEvaluation": case.due().map(timestamp::millis),
    })
}
