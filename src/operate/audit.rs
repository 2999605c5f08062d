//! `nodemend audit list | show | verify`: reads and verifies the audit log.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use nodemend_domain::{
    audit_log::{self, AuditEntry, Record, RecordStep, RecordedCall},
    timestamp,
};
use nodemend_ports::{
    audit_log::AuditLog,
    store::{CaseKey, Store},
};
use serde_json::{Value, json};

use super::{Connection, Deployment, OperateError, PROBLEMS_FOUND, SUCCESS};
use crate::output::{self, Format, counted, pretty_json, table, timeline::short_event_name};

/// The subcommands of `nodemend audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List audit records of one node or of all, oldest first
    List(AuditListOptions),
    /// Show the audit records of a node, or of one AWS request, in full
    Show(AuditShowOptions),
    /// Verify that no record was changed or removed, and that CloudTrail confirmed every call
    Verify(AuditVerifyOptions),
}

/// The arguments of `nodemend audit list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit list --since 7d
  nodemend audit list ip-10-0-1-23.ec2.internal
  nodemend audit list --calls --format json | jq -r .requestID

Exit codes: 0 success, 1 the audit log could not be read,
64 usage or configuration error")]
pub struct AuditListOptions {
    /// Only this node: a node name, an instance id or a case id
    #[arg(value_name = "NODE")]
    node: Option<String>,

    /// Only records that are not older than this
    #[arg(long, value_name = "DURATION", value_parser = duration_with_days)]
    since: Option<SignedDuration>,

    /// Only calls of the AWS API
    #[arg(long)]
    calls: bool,

    /// A table to read, or one record per line for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    deployment: Deployment,
}

/// The arguments of `nodemend audit show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit show i-0123456789abcdef0
  nodemend audit show 8c3e8e0a-5b0e-4d7f-9d5c-2f1f3b6a7c9d

An AWS request id is the requestID of the CloudTrail event.

Exit codes: 0 success, 1 there is no such record, or it could not be read,
64 usage or configuration error")]
pub struct AuditShowOptions {
    /// A node name, an instance id, a case id or an AWS request id
    #[arg(value_name = "ID")]
    id: String,

    /// Formatted to read, or one record per line, byte for byte as its hash covers it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    deployment: Deployment,
}

/// The arguments of `nodemend audit verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit verify --cluster prod
  nodemend audit verify i-0123456789abcdef0

For each node it walks the SHA-256 chain from the first record, compares its
end with the case, and checks that CloudTrail confirmed each call. Without
NODE it reads the whole table.

Exit codes: 0 verified, 1 problems found, 64 usage or configuration error")]
pub struct AuditVerifyOptions {
    /// Only this node: a node name, an instance id or a case id
    #[arg(value_name = "NODE")]
    node: Option<String>,

    /// A table to read, or one JSON object per node for scripts
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    deployment: Deployment,
}

/// Parses a duration; unlike jiff's, it may be in days.
fn duration_with_days(text: &str) -> Result<SignedDuration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let duration = match days {
        Some(days) => days.checked_mul(24).map(SignedDuration::from_hours),
        None => text.parse().ok(),
    };
    duration
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| "not a duration like 7d or 12h".to_owned())
}

/// Runs a subcommand and returns its exit code.
pub async fn run(command: &AuditCommand) -> Result<u8, OperateError> {
    match command {
        AuditCommand::List(options) => list(options).await,
        AuditCommand::Show(options) => show(options).await,
        AuditCommand::Verify(options) => verify(options).await,
    }
}

async fn audited_cases(connection: &Connection, node: Option<&String>) -> Result<Vec<CaseKey>, OperateError> {
    Ok(match node {
        Some(node) => vec![connection.case_of(node).await?],
        None => connection.store.audit_logs(&connection.cluster).await?.into_iter().collect(),
    })
}

async fn list(options: &AuditListOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let oldest = options.since.and_then(|since| connection.now.checked_sub(since).ok());
    let mut records = Vec::new();
    for key in audited_cases(&connection, options.node.as_ref()).await? {
        for entry in connection.store.chain(&key).await? {
            let record = read(&entry)?;
            let is_selected = oldest.is_none_or(|oldest| record.nodemend.at >= oldest)
                && (!options.calls || record.nodemend.step == RecordStep::Called);
            if is_selected {
                records.push((record, entry.line));
            }
        }
    }
    records.sort_by(|(a, _), (b, _)| {
        let position = |record: &Record| (record.nodemend.at, record.nodemend.sequence);
        position(a).cmp(&position(b))
    });
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Json => records.iter().try_for_each(|(_, line)| writeln!(out, "{line}"))?,
        Format::Text if records.is_empty() => writeln!(out, "No audit records.")?,
        Format::Text => {
            let rows: Vec<_> = records.iter().map(|(record, _)| list_row(record)).collect();
            table::write(&mut out, "", ["at", "case", "event", "decision"], &rows)?;
        }
    }
    out.flush()?;
    Ok(SUCCESS)
}

fn list_row(record: &Record) -> [String; 4] {
    let fields = &record.nodemend;
    let refused = record.error_code.as_ref().map(|code| format!("refused with {code}: "));
    let decision = format!("{}{}", refused.unwrap_or_default(), fields.decision.as_str().unwrap_or_default());
    [
        timestamp::seconds(fields.at),
        fields.case.clone(),
        short_event_name(&record.event_name).to_owned(),
        decision,
    ]
}

async fn show(options: &AuditShowOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let entries = match connection.store.call(&options.id).await? {
        Some((_, entry)) => vec![entry],
        None => connection.store.chain(&connection.case_of(&options.id).await?).await?,
    };
    if entries.is_empty() {
        return Err(OperateError::NotFound(format!(
            "{} has no audit records: no repair was decided",
            options.id
        )));
    }
    let mut out = anstream::stdout().lock();
    for entry in &entries {
        match options.format {
            Format::Json => writeln!(out, "{}", entry.line)?,
            Format::Text => {
                let text =
                    pretty_json::format(&entry.line, output::WIDTH).unwrap_or_else(|_| entry.line.clone());
                writeln!(out, "{text}")?;
            }
        }
    }
    out.flush()?;
    Ok(SUCCESS)
}

fn read(entry: &AuditEntry) -> Result<Record, OperateError> {
    Record::read(&entry.line).map_err(|error| {
        OperateError::NotFound(format!(
            "failed to read audit record {} of {}: {error}",
            entry.sequence, entry.case
        ))
    })
}

/// The result of verifying one instance's audit log.
struct Verification {
    key: CaseKey,
    records: usize,
    calls: Vec<RecordedCall>,
    foreign: usize,
    /// Empty where the audit log is intact and every call is confirmed or awaits CloudTrail in time.
    problems: Vec<String>,
}

async fn verify(options: &AuditVerifyOptions) -> Result<u8, OperateError> {
    let connection = options.deployment.connect().await?;
    let mut verified = Vec::new();
    for key in audited_cases(&connection, options.node.as_ref()).await? {
        verified.push(verify_case(&connection, key).await?);
    }
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => write(&mut out, &verified)?,
        Format::Json => verified.iter().try_for_each(|one| writeln!(out, "{}", one.to_json()))?,
    }
    out.flush()?;
    Ok(if verified.iter().all(|one| one.problems.is_empty()) { SUCCESS } else { PROBLEMS_FOUND })
}

async fn verify_case(connection: &Connection, key: CaseKey) -> Result<Verification, OperateError> {
    // The case is read first: a record that is added between the two reads is then no contradiction.
    let case = connection.store.case(&key).await?;
    let policy = connection.store.policy(&key.cluster).await?.unwrap_or_default();
    let entries = connection.store.chain(&key).await?;
    let lines: Vec<&str> = entries.iter().map(|entry| entry.line.as_str()).collect();
    let mut problems = Vec::new();
    if let Some(case) = &case {
        // A case and its records are written in one transaction, so all that the case counts must be there, unchanged.
        let counted = usize::try_from(case.audit_log().sequence()).unwrap_or(usize::MAX);
        match audit_log::verify_chain(lines.iter().take(counted)) {
            Ok(end) if end == *case.audit_log() => {}
            Ok(end) => problems.push(format!(
                "the case has {counted} records, but its hash does not match record {} of the audit log",
                end.sequence()
            )),
            Err(_) => {}
        }
    }
    let (calls, foreign) = match audit_log::verify(&lines) {
        Ok(verified) => (verified.calls, verified.foreign),
        Err(broken) => {
            problems.push(broken.to_string());
            (Vec::new(), 0)
        }
    };
    for call in &calls {
        if call.is_doubtful(policy.confirmation_timeout, connection.now) {
            let status = call.confirmation.map_or("not confirmed by CloudTrail", |step| step.event_name());
            problems.push(format!("{} at {}: {status}", call.event_name, timestamp::seconds(call.at)));
        }
    }
    Ok(Verification { key, records: lines.len(), calls, foreign, problems })
}

impl Verification {
    fn count(&self, confirmation: Option<RecordStep>) -> usize {
        self.calls.iter().filter(|call| call.confirmation == confirmation).count()
    }

    fn row(&self) -> [String; 7] {
        [
            self.key.instance_id.to_string(),
            self.records.to_string(),
            self.calls.len().to_string(),
            self.count(Some(RecordStep::Confirmed)).to_string(),
            self.count(None).to_string(),
            self.foreign.to_string(),
            if self.problems.is_empty() { "verified".to_owned() } else { self.problems.join("; ") },
        ]
    }

    fn to_json(&self) -> Value {
        let calls: Vec<Value> = self
            .calls
            .iter()
            .map(|call| {
                json!({
                    "sequence": call.sequence,
                    "case": call.case,
                    "eventName": call.event_name,
                    "at": timestamp::millis(call.at),
                    "requestID": call.request_id,
                    "confirmation": call.confirmation.map(RecordStep::event_name),
                })
            })
            .collect();
        json!({
            "cluster": self.key.cluster,
            "instanceId": self.key.instance_id,
            "records": self.records,
            "calls": calls,
            "foreign": self.foreign,
            "verified": self.problems.is_empty(),
            "problems": self.problems,
        })
    }
}

fn write(out: &mut impl Write, verified: &[Verification]) -> io::Result<()> {
    if verified.is_empty() {
        return writeln!(out, "The audit log is empty: no repair was decided.");
    }
    let rows: Vec<_> = verified.iter().map(Verification::row).collect();
    table::write(
        out,
        "",
        ["instance", "records", "calls", "confirmed", "pending", "foreign", "result"],
        &rows,
    )?;
    let bad = verified.iter().filter(|one| !one.problems.is_empty()).count();
    let records = verified.iter().map(|one| one.records).sum::<usize>();
    let total = format!("{} of {}", count_of(records, "record"), count_of(verified.len(), "instance"));
    if bad == 0 {
        writeln!(out, "\n{total}: verified")
    } else {
        writeln!(out, "\n{total}: problems found for {}", count_of(bad, "instance"))
    }
}

fn count_of(number: usize, noun: &str) -> String {
    counted(number as u64, noun)
}
