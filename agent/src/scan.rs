//! Reads every probe once, for somebody who asks now: what is well, what is wrong, what can't be checked and why.
//!
//! One reading can't know whether something lasts, so everything that is seen counts here; `run` waits as long as
//! each detection asks for.

use std::{
    io::{self, Write},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Effects, Style};
use jiff::Timestamp;
use nodemend_domain::condition::Severity;
use serde::Serialize;

use crate::{
    finding::{Change, Finding},
    probe::Probe,
};

/// What one probe said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its name.
    pub probe: &'static str,
    /// What it found.
    pub state: State,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing wrong.
    Well,
    /// Something.
    Wrong(Vec<Finding>),
    /// It has nothing to read here.
    NotCheckable(String),
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Wrong(_) => "wrong",
            Self::NotCheckable(_) => "not checkable",
        }
    }
}

/// Reads all probes at once; one that does not answer in time is not waited for.
pub fn scan(probes: Vec<Box<dyn Probe>>, now: Timestamp, within: Duration) -> Vec<Reading> {
    let (answers, arrived) = mpsc::channel();
    let mut readings = Vec::new();
    for (place, mut probe) in probes.into_iter().enumerate() {
        let name = probe.name();
        readings.push(Reading {
            probe: name,
            state: State::NotCheckable(format!("no answer within {:.1} s", within.as_secs_f64())),
        });
        let answers = answers.clone();
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = answers.send((place, probe.read(now)));
        });
        if let Err(error) = started {
            readings[place].state = State::NotCheckable(format!("failed to start a thread: {error}"));
        }
    }
    drop(answers);
    let end = Instant::now() + within;
    while let Ok((place, answer)) = arrived.recv_timeout(end.saturating_duration_since(Instant::now())) {
        readings[place].state = match answer {
            Ok(changes) => {
                let findings: Vec<Finding> = changes
                    .into_iter()
                    .filter_map(|change| match change {
                        Change::Raised(finding) => Some(finding),
                        Change::Cleared { .. } => None,
                    })
                    .collect();
                if findings.is_empty() { State::Well } else { State::Wrong(findings) }
            }
            Err(nothing) => State::NotCheckable(nothing.why.into_owned()),
        };
    }
    readings
}

/// Whether anything that would make a condition bad is wrong.
pub fn is_unhealthy(readings: &[Reading]) -> bool {
    readings.iter().any(|reading| match &reading.state {
        State::Wrong(findings) => findings.iter().any(|finding| finding.severity == Severity::Condition),
        State::Well | State::NotCheckable(_) => false,
    })
}

/// Writes a table for people: what is wrong first.
pub fn write_table(out: &mut impl Write, readings: &[Reading]) -> io::Result<()> {
    const DIM: Style = Style::new().effects(Effects::DIMMED);
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    let rank = |reading: &&Reading| match &reading.state {
        State::Wrong(findings) if findings.iter().any(|found| found.severity == Severity::Condition) => 0,
        State::Wrong(_) => 1,
        State::Well => 2,
        State::NotCheckable(_) => 3,
    };
    let mut sorted: Vec<&Reading> = readings.iter().collect();
    sorted.sort_by_key(rank);
    let width = readings.iter().map(|reading| reading.probe.len()).max().unwrap_or_default();
    for reading in sorted {
        let style = match rank(&reading) {
            0 => colour(AnsiColor::Red).effects(Effects::BOLD),
            1 => colour(AnsiColor::Yellow),
            2 => colour(AnsiColor::Green),
            _ => DIM,
        };
        let state = reading.state.name();
        let pad = if reading.state == State::Well { 0 } else { 13 };
        write!(out, "{:width$}  {style}{state:pad$}{style:#}", reading.probe)?;
        match &reading.state {
            State::Well => writeln!(out)?,
            State::NotCheckable(why) => writeln!(out, "  {DIM}{why}{DIM:#}")?,
            State::Wrong(findings) => {
                for (index, finding) in findings.iter().enumerate() {
                    if index > 0 {
                        write!(out, "{:width$}  {:13}", "", "")?;
                    }
                    let about = finding.subject.as_ref().map(|subject| format!(" ({subject})"));
                    writeln!(
                        out,
                        "  {}{}: {}",
                        finding.reason,
                        about.unwrap_or_default(),
                        plain(&finding.message)
                    )?;
                }
            }
        }
    }
    let count = |name| readings.iter().filter(|reading| reading.state.name() == name).count();
    writeln!(
        out,
        "\n{} well, {} wrong, {} not checkable",
        count("well"),
        count("wrong"),
        count("not checkable")
    )
}

/// Writes one JSON object a line, for programs.
pub fn write_json(out: &mut impl Write, readings: &[Reading]) -> io::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line<'a> {
        probe: &'a str,
        state: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
        findings: Vec<Found<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Found<'a> {
        reason: &'a str,
        condition: &'a str,
        severity: Severity,
        subject: Option<&'a str>,
        message: &'a str,
    }
    for reading in readings {
        let (why, findings) = match &reading.state {
            State::Well => (None, &[][..]),
            State::Wrong(findings) => (None, findings.as_slice()),
            State::NotCheckable(why) => (Some(why.as_str()), &[][..]),
        };
        let findings = findings.iter().map(|finding| Found {
            reason: &finding.reason,
            condition: finding.condition.as_str(),
            severity: finding.severity,
            subject: finding.subject.as_deref(),
            message: &finding.message,
        });
        let line =
            Line { probe: reading.probe, state: reading.state.name(), why, findings: findings.collect() };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// What a node's files say must not drive a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use nodemend_domain::condition::ConditionType;

    use super::*;
    use crate::{
        finding::{Clears, Debounce},
        probe::NotCheckable,
    };

    struct Fixed(&'static str, Result<Vec<Change>, NotCheckable>);

    impl Probe for Fixed {
        fn name(&self) -> &'static str {
            self.0
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_secs(30)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<Change>, NotCheckable> {
            self.1.clone()
        }
    }

    /// It answers when its other end is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Probe for Stuck {
        fn name(&self) -> &'static str {
            "stuck"
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_secs(30)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<Change>, NotCheckable> {
            let _ = self.0.recv();
            Ok(Vec::new())
        }
    }

    fn raised(severity: Severity) -> Change {
        Change::Raised(Finding {
            reason: "InterfaceNotUp".into(),
            condition: ConditionType::NetworkingReady,
            severity,
            subject: Some("eth1".into()),
            message: "eth1 is\u{1b}[31m down".into(),
            at: Timestamp::UNIX_EPOCH,
            debounce: Debounce::Once,
            clears: Clears::Told { or_quiet: None },
        })
    }

    fn read(severity: Severity) -> Vec<Reading> {
        let probes: Vec<Box<dyn Probe>> = vec![
            Box::new(Fixed("memory", Ok(Vec::new()))),
            Box::new(Fixed("nvidia", Err(NotCheckable { why: "no NVIDIA device".into() }))),
            Box::new(Fixed("interfaces", Ok(vec![raised(severity)]))),
        ];
        scan(probes, Timestamp::UNIX_EPOCH, Duration::from_secs(10))
    }

    #[test]
    fn what_is_wrong_stands_first_and_control_characters_nowhere() {
        let mut table = Vec::new();
        write_table(&mut anstream::StripStream::new(&mut table), &read(Severity::Condition))
            .expect("a table");
        let expected = "\
interfaces  wrong          InterfaceNotUp (eth1): eth1 is [31m down
memory      well
nvidia      not checkable  no NVIDIA device

1 well, 1 wrong, 1 not checkable
";
        let table = String::from_utf8(table).expect("UTF-8");
        assert_eq!(table, expected);
    }

    #[test]
    fn only_what_makes_a_condition_bad_makes_the_node_unhealthy() {
        assert!(is_unhealthy(&read(Severity::Condition)));
        assert!(!is_unhealthy(&read(Severity::Event)));
    }

    #[test]
    fn every_line_of_json_stands_alone() {
        let mut lines = Vec::new();
        write_json(&mut lines, &read(Severity::Event)).expect("lines");
        let lines: Vec<serde_json::Value> = String::from_utf8(lines)
            .expect("UTF-8")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1]["why"], "no NVIDIA device");
        assert_eq!(lines[2]["findings"][0]["severity"], "Event");
    }

    #[test]
    fn a_probe_that_hangs_keeps_nobody_waiting() {
        let (hold, held) = mpsc::channel();
        let probes: Vec<Box<dyn Probe>> =
            vec![Box::new(Stuck(held)), Box::new(Fixed("memory", Ok(Vec::new())))];
        let readings = scan(probes, Timestamp::UNIX_EPOCH, Duration::from_millis(50));
        assert_eq!(readings[0].state, State::NotCheckable("no answer within 0.1 s".to_owned()));
        assert_eq!(readings[1].state, State::Well);
        drop(hold);
    }
}
