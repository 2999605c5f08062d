//! `nodemend audit list | show | verify`: the trail, and whether it holds.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use nodemend_adapters::{
    store::{CaseKey, Store},
    trail::Trail,
};
use nodemend_domain::{
    ledger::Entry,
    stamp,
    trail::{self, Record, RecordedCall, Step},
};
use serde_json::{Value, json};

use super::{Connection, Format, Installation, OperateError, PROBLEMS, WELL};
use crate::{replay::pretty, table};

const WIDTH: usize = 116;

/// What `nodemend audit` is told.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the trail's records, of one node or of all, in their order in time
    List(ListOptions),
    /// Show the records of a node, or of one AWS request, in full
    Show(ShowOptions),
    /// Prove that no record was changed or taken away, and that CloudTrail tells the same of every call
    Verify(VerifyOptions),
}

/// What `nodemend audit list` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit list --since 7d
  nodemend audit list ip-10-0-1-23.ec2.internal
  nodemend audit list --calls --format json | jq -r .requestID")]
pub struct ListOptions {
    /// Only this node: its name, an instance id, or a case's id
    #[arg(value_name = "NODE")]
    node: Option<String>,

    /// Only what is no older
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    since: Option<SignedDuration>,

    /// Only calls of AWS
    #[arg(long)]
    calls: bool,

    /// A table for people, or the records, one a line, for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    installation: Installation,
}

/// What `nodemend audit show` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit show i-0123456789abcdef0
  nodemend audit show 8c3e8e0a-5b0e-4d7f-9d5c-2f1f3b6a7c9d   # the request id that CloudTrail names")]
pub struct ShowOptions {
    /// A node's name, an instance id, a case's id, or an AWS request id
    #[arg(value_name = "WHAT")]
    what: String,

    /// Broken into lines for people, or one record a line, byte for byte as the chain has it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    installation: Installation,
}

/// What `nodemend audit verify` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend audit verify --cluster prod
  nodemend audit verify i-0123456789abcdef0

Walks each trail's chain of SHA-256 from its first record, holds its end against the case's own word, and looks for
CloudTrail's verdict on every call. Without NODE it reads the whole table.

Exit codes: 0 all of it holds, 1 something does not, 64 wrong usage")]
pub struct VerifyOptions {
    /// Only this node: its name, an instance id, or a case's id
    #[arg(value_name = "NODE")]
    node: Option<String>,

    /// A table for people, or one JSON object a trail for programs
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    #[command(flatten)]
    installation: Installation,
}

/// Days are what trails are counted in, and a length of time has none of its own.
fn length(text: &str) -> Result<SignedDuration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let length = match days {
        Some(days) => days.checked_mul(24).map(SignedDuration::from_hours),
        None => text.parse().ok(),
    };
    length
        .filter(|length| !length.is_negative())
        .ok_or_else(|| "not a length of time like 7d or 12h".to_owned())
}

/// Carries it out.
pub async fn run(command: &Command) -> Result<u8, OperateError> {
    match command {
        Command::List(options) => list(options).await,
        Command::Show(options) => show(options).await,
        Command::Verify(options) => verify(options).await,
    }
}

async fn trails(connection: &Connection, node: Option<&String>) -> Result<Vec<CaseKey>, OperateError> {
    Ok(match node {
        Some(node) => vec![connection.case_of(node).await?],
        None => connection.store.trails(&connection.cluster).await?.into_iter().collect(),
    })
}

async fn list(options: &ListOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let oldest = options.since.and_then(|since| connection.now.checked_sub(since).ok());
    let mut records = Vec::new();
    for key in trails(&connection, options.node.as_ref()).await? {
        for entry in connection.store.chain(&key).await? {
            let record = read(&entry)?;
            let wanted = oldest.is_none_or(|oldest| record.nodemend.at >= oldest)
                && (!options.calls || record.nodemend.step == Step::Called);
            if wanted {
                records.push((record, entry.line));
            }
        }
    }
    records.sort_by(|(a, _), (b, _)| {
        let place = |record: &Record| (record.nodemend.at, record.nodemend.sequence);
        place(a).cmp(&place(b))
    });
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Json => records.iter().try_for_each(|(_, line)| writeln!(out, "{line}"))?,
        Format::Text if records.is_empty() => writeln!(out, "No record.")?,
        Format::Text => {
            let rows: Vec<_> = records.iter().map(|(record, _)| list_row(record)).collect();
            table::write(&mut out, "", ["at", "case", "record", "says"], &rows)?;
        }
    }
    out.flush()?;
    Ok(WELL)
}

fn list_row(record: &Record) -> [String; 4] {
    let about = &record.nodemend;
    let refused = record.error_code.as_ref().map(|code| format!("refused with {code}: "));
    let says = format!("{}{}", refused.unwrap_or_default(), about.decision.as_str().unwrap_or_default());
    let name = match record.event_name.as_str() {
        "TerminateInstanceInAutoScalingGroup" => "TerminateInstance",
        name => name,
    };
    [stamp::seconds(about.at), about.case.clone(), name.to_owned(), says]
}

async fn show(options: &ShowOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let entries = match connection.store.call(&options.what).await? {
        Some((_, entry)) => vec![entry],
        None => connection.store.chain(&connection.case_of(&options.what).await?).await?,
    };
    if entries.is_empty() {
        return Err(OperateError::Unknown(format!(
            "{} has no trail: nothing was decided about it",
            options.what
        )));
    }
    let mut out = anstream::stdout().lock();
    for entry in &entries {
        match options.format {
            Format::Json => writeln!(out, "{}", entry.line)?,
            Format::Text => {
                let text = pretty::pretty(&entry.line, WIDTH).unwrap_or_else(|_| entry.line.clone());
                writeln!(out, "{text}")?;
            }
        }
    }
    out.flush()?;
    Ok(WELL)
}

fn read(entry: &Entry) -> Result<Record, OperateError> {
    Record::read(&entry.line).map_err(|error| {
        OperateError::Unknown(format!("record {} of {} can't be read: {error}", entry.sequence, entry.case))
    })
}

/// What one trail comes to.
struct Finding {
    key: CaseKey,
    records: usize,
    calls: Vec<RecordedCall>,
    foreign: usize,
    /// What does not hold.
    problems: Vec<String>,
}

async fn verify(options: &VerifyOptions) -> Result<u8, OperateError> {
    let connection = options.installation.connect().await?;
    let mut findings = Vec::new();
    for key in trails(&connection, options.node.as_ref()).await? {
        findings.push(verify_one(&connection, key).await?);
    }
    let mut out = anstream::stdout().lock();
    match options.format {
        Format::Text => write(&mut out, &findings)?,
        Format::Json => findings.iter().try_for_each(|finding| writeln!(out, "{}", finding.to_json()))?,
    }
    out.flush()?;
    Ok(if findings.iter().all(|finding| finding.problems.is_empty()) { WELL } else { PROBLEMS })
}

async fn verify_one(connection: &Connection, key: CaseKey) -> Result<Finding, OperateError> {
    // The case first: a record that is added between the two reads is then no contradiction.
    let case = connection.store.case(&key).await?;
    let policy = connection.store.policy(&key.cluster).await?.unwrap_or_default();
    let entries = connection.store.chain(&key).await?;
    let lines: Vec<&str> = entries.iter().map(|entry| entry.line.as_str()).collect();
    let mut problems = Vec::new();
    if let Some(case) = &case {
        // What the case knows of was written with it: it must be there, and the same.
        let known = usize::try_from(case.trail.sequence()).unwrap_or(usize::MAX);
        match trail::verify_chain(lines.iter().take(known)) {
            Ok(end) if end == case.trail => {}
            Ok(end) => problems.push(format!(
                "the case knows of {known} records, of which the last is not record {} of its trail",
                end.sequence()
            )),
            Err(_) => {}
        }
    }
    let (calls, foreign) = match trail::verify(&lines) {
        Ok(verified) => (verified.calls, verified.foreign),
        Err(broken) => {
            problems.push(broken.to_string());
            (Vec::new(), 0)
        }
    };
    for call in &calls {
        if call.is_doubtful(policy.confirmation_timeout, connection.now) {
            let verdict = call.verdict.map_or("no verdict", |step| step.event_name());
            problems.push(format!("{} of {}: {verdict}", call.event_name, stamp::seconds(call.at)));
        }
    }
    Ok(Finding { key, records: lines.len(), calls, foreign, problems })
}

impl Finding {
    fn count(&self, verdict: Option<Step>) -> usize {
        self.calls.iter().filter(|call| call.verdict == verdict).count()
    }

    fn row(&self) -> [String; 7] {
        [
            self.key.instance_id.to_string(),
            self.records.to_string(),
            self.calls.len().to_string(),
            self.count(Some(Step::Confirmed)).to_string(),
            self.count(None).to_string(),
            self.foreign.to_string(),
            if self.problems.is_empty() { "holds".to_owned() } else { self.problems.join("; ") },
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
                    "at": stamp::millis(call.at),
                    "requestID": call.request_id,
                    "verdict": call.verdict.map(Step::event_name),
                })
            })
            .collect();
        json!({
            "cluster": self.key.cluster,
            "instanceId": self.key.instance_id,
            "records": self.records,
            "calls": calls,
            "foreign": self.foreign,
            "holds": self.problems.is_empty(),
            "problems": self.problems,
        })
    }
}

fn write(out: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    if findings.is_empty() {
        return writeln!(out, "There is no trail: nothing was decided about any node.");
    }
    let rows: Vec<_> = findings.iter().map(Finding::row).collect();
    table::write(
        out,
        "",
        ["instance", "records", "calls", "confirmed", "awaited", "foreign", "its trail"],
        &rows,
    )?;
    let bad = findings.iter().filter(|finding| !finding.problems.is_empty()).count();
    let (trails, records) = (findings.len(), findings.iter().map(|finding| finding.records).sum::<usize>());
    writeln!(
        out,
        "\n{records} records in {trails} trails: {}",
        if bad == 0 { "all of it holds" } else { "not all of it holds" }
    )
}
