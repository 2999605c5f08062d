//! `nodemend explain NODE`: why a node is repaired, why not yet, and what stands in the way, guard by guard.

use std::io::{self, Write};

use anstyle::{AnsiColor, Effects, Style};
use clap::Args;
use jiff::Timestamp;
use nodemend_adapters::{aws, clock::SystemClock, cloud::AwsCloud, config::environment::Environment};
use nodemend_domain::{
    case::{Fault, State},
    decide::Decision,
    group::{Lifecycle, Whereabouts},
    repair::{Call, CallResult, CallVerdict},
    stamp,
};
use nodemend_repair::{Explanation, Repairer};
use serde_json::{Value, json};

use super::{Format, Installation, OperateError, UNHEALTHY, WELL, between};
use crate::table;

const BOLD: Style = Style::new().effects(Effects::BOLD);

/// What `nodemend explain` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend explain ip-10-0-1-23.eu-west-1.compute.internal --cluster prod
  nodemend explain i-0123456789abcdef0 --format json | jq '.guards[] | select(.passes | not)'

It asks AWS and the store what a sweep would ask, decides as a sweep would, and changes nothing. Where nothing is
wrong, the guards are asked of a kubelet that fell silent now: what would happen if.

Exit codes: 0 nothing is wrong with it, 2 it is unhealthy, 1 it is unknown or could not be read, 64 wrong usage")]
pub struct Options {
    /// A node's name, an instance id, or a case's id
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    installation: Installation,

    /// Sentences for people, or one JSON object for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Explains one node.
pub async fn run(options: &Options) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let key = connection.case_of(&options.node).await?;
    let shared = aws::load().await?;
    let cloud = AwsCloud::connect(&shared).await?;
    let cloud = cloud.with_members(&shared, Environment::of_process().members()?);
    let repairer = Repairer::new(connection.store, cloud, SystemClock);
    let explained = repairer.explain(&key).await?.ok_or_else(|| {
        let (node, cluster) = (&options.node, &connection.cluster);
        OperateError::Unknown(format!(
            "nothing was ever heard of {node} in cluster {cluster}, or it has no policy"
        ))
    })?;
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => write(&mut out, &explained, connection.now)?,
        Format::Json => writeln!(out, "{}", to_json(&explained, connection.now))?,
    }
    out.flush()?;
    Ok(if explained.state.is_unhealthy() { UNHEALTHY } else { WELL })
}

/// Writes it for people.
pub fn write(out: &mut impl Write, explained: &Explanation, now: Timestamp) -> io::Result<()> {
    let case = &explained.case;
    let zone = case.zone.as_ref().map(|zone| format!(" · {zone}")).unwrap_or_default();
    writeln!(out, "{BOLD}{}{BOLD:#} · {} · {}{zone}", case.label(), case.instance_id, place(explained))?;
    writeln!(out, "{}", sentence(explained, now))?;
    if !explained.faults.is_empty() {
        writeln!(out)?;
        let rows: Vec<_> = explained.faults.iter().map(|fault| fault_row(fault, now)).collect();
        table::write(out, "", ["condition", "reason", "health", "for", "action", "due", "message"], &rows)?;
    }
    let calls: Vec<_> = case.calls().map(call_row).collect();
    if !calls.is_empty() {
        writeln!(out)?;
        table::write(out, "", ["call", "at", "answer", "CloudTrail", "request"], &calls)?;
    }
    if explained.state == State::Closed {
        return Ok(());
    }
    let supposed = if explained.faults.is_empty() { ", if its kubelet fell silent now" } else { "" };
    writeln!(out, "\nWhat the guards say{supposed}:")?;
    for answer in &explained.answers {
        let (sign, colour) = match answer.block {
            None => ('✓', AnsiColor::Green),
            Some(_) => ('✗', AnsiColor::Red),
        };
        let style = Style::new().fg_color(Some(colour.into()));
        let says = answer.block.as_ref().map_or("", |block| &block.sentence);
        let line = format!("  {style}{sign}{style:#} {:20}{}", answer.guard.name(), table::plain(says));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn place(explained: &Explanation) -> String {
    match &explained.whereabouts {
        Whereabouts::Member { group, lifecycle } => {
            let state = match lifecycle {
                Lifecycle::Pending => "Pending",
                Lifecycle::InService => "InService",
                Lifecycle::SetAside => "set aside",
                Lifecycle::Terminating => "Terminating",
                Lifecycle::WarmPool => "in the warm pool",
            };
            format!("group {group}, {state}")
        }
        Whereabouts::Ungrouped => "in no Auto Scaling group".to_owned(),
        Whereabouts::Gone => "its instance is gone".to_owned(),
    }
}

/// What would be done now, or is waited for.
fn sentence(explained: &Explanation, now: Timestamp) -> String {
    let case = &explained.case;
    let at = |at: Timestamp| stamp::seconds(at);
    if let Some(closed) = &case.closed {
        return format!("Closed at {}: {}.", at(closed.at), closed.outcome);
    }
    match &explained.decision {
        Decision::Act { fault, action } => {
            format!("The next sweep will {}: {} {}.", action.as_str(), fault.condition, fault.reason)
        }
        Decision::Blocked { action, blocks, until, .. } => {
            let names: Vec<String> = blocks.iter().map(|block| block.guard.name()).collect();
            format!(
                "{} is due and blocked by {}; looked at again at {}.",
                action.as_str(),
                names.join(", "),
                at(*until)
            )
        }
        Decision::Adopt => "Its call took effect though no answer came: the next sweep notes it.".to_owned(),
        Decision::Release(why) => format!("The next sweep gives its claim back: {why}."),
        Decision::Close(outcome) => {
            format!("The next sweep closes its case: {}.", outcome.sentence(case, now))
        }
        Decision::TellMissing { call } => {
            format!("CloudTrail is overdue with the call of {}: the next sweep says so.", at(*call))
        }
        Decision::TellSilence(since) => format!("Its agent has been silent since {}.", at(*since)),
        Decision::Introduce(_) => "It has just come; its group is told by the next sweep.".to_owned(),
        Decision::Wait => waiting(explained, now),
    }
}

fn waiting(explained: &Explanation, now: Timestamp) -> String {
    let case = &explained.case;
    let earliest = explained.faults.iter().find(|fault| fault.is_bad() && fault.deadline.is_some());
    match (explained.state, earliest.and_then(|fault| Some((fault, fault.deadline?)))) {
        (State::Suspect, Some((fault, deadline))) => format!(
            "Not yet: {} at {}, in {}, unless it recovers{}.",
            fault.action.as_str(),
            stamp::seconds(deadline),
            between(now, deadline),
            if fault.rebooted { "; the reboot did not cure it" } else { "" }
        ),
        (State::Suspect | State::Due, _) => "Looked at by the next sweep.".to_owned(),
        (State::Recovering, _) => {
            let heals = explained.faults.iter().filter_map(|fault| fault.heals_at).max();
            format!(
                "Well again; its clock runs on until that has held, at {}.",
                heals.map_or_else(String::new, stamp::seconds)
            )
        }
        (State::Healthy, _) if explained.faults.is_empty() => "Nothing is wrong.".to_owned(),
        (State::Healthy, _) => "Nothing that is wrong is ever repaired: its action is NoAction.".to_owned(),
        (State::Silent, _) => {
            let since = case.silent_since.map_or_else(String::new, stamp::seconds);
            format!("Its agent has been silent since {since}. That alone repairs nothing.")
        }
        (State::Confirming, _) => "Called for: CloudTrail's word and the replacement are awaited.".to_owned(),
        (State::Rebooting, _) => "Rebooting: a new boot that stays sound is awaited.".to_owned(),
        (state, _) => format!(
            "{}: looked at again at {}.",
            state.as_str(),
            case.due.map_or_else(|| "its next news".to_owned(), stamp::seconds)
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
        fault.deadline.map_or_else(|| "never".to_owned(), stamp::seconds),
        fault.message.chars().take(100).collect(),
    ]
}

fn call_row(call: &Call) -> [String; 5] {
    let answer = match call.result {
        CallResult::Pending => "awaited",
        CallResult::Accepted => "accepted",
        CallResult::Refused => "refused",
        CallResult::Lost => "lost",
    };
    let verdict = match call.verdict {
        None => "awaited",
        Some(CallVerdict::Confirmed) => "Confirmed",
        Some(CallVerdict::Mismatch) => "Mismatch",
        Some(CallVerdict::Missing) => "Missing",
    };
    [
        call.action.as_str().to_owned(),
        stamp::millis(call.at),
        answer.to_owned(),
        verdict.to_owned(),
        call.request_id.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// All of it, for programs.
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
                "why": block.map(|block| &block.sentence),
                "until": block.and_then(|block| block.until).map(stamp::millis),
            })
        })
        .collect();
    json!({
        "at": stamp::millis(now),
        "case": case.id(),
        "cluster": case.cluster,
        "node": case.node,
        "instanceId": case.instance_id,
        "group": explained.group,
        "zone": case.zone,
        "place": place(explained),
        "state": explained.state,
        "decision": sentence(explained, now),
        "faults": explained.faults,
        "guards": guards,
        "calls": case.calls().collect::<Vec<_>>(),
        "closed": case.closed,
        "nextLook": case.due.map(stamp::millis),
    })
}
