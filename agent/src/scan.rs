//! Reads every probe once: what is healthy, what is unhealthy, and what is not checkable and why.
//!
//! A single reading cannot know whether a problem lasts, so every problem counts here; `run` waits as long as each
//! reason's debounce requires.

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
    finding::{DetectedFinding, FindingChange},
    probe::Probe,
};

/// The reading of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReading {
    pub probe: &'static str,
    pub state: ProbeState,
}

/// The state that a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeState {
    Healthy,
    /// The problems that were found.
    Unhealthy(Vec<DetectedFinding>),
    /// The probe cannot be evaluated; the cause, as a clause.
    NotCheckable(String),
}

impl ProbeState {
    fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
            Self::NotCheckable(_) => "not checkable",
        }
    }
}

/// Reads all probes in parallel. A probe that does not return within `within` counts as not checkable.
pub fn scan(probes: Vec<Box<dyn Probe>>, now: Timestamp, within: Duration) -> Vec<ProbeReading> {
    let (responses, arrived) = mpsc::channel();
    let mut readings = Vec::new();
    for (index, mut probe) in probes.into_iter().enumerate() {
        let name = probe.name();
        readings.push(ProbeReading {
            probe: name,
            state: ProbeState::NotCheckable(format!("no response within {:.1} s", within.as_secs_f64())),
        });
        let responses = responses.clone();
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The receiver is gone if the probe took too long.
            let _ = responses.send((index, probe.read(now)));
        });
        if let Err(error) = started {
            readings[index].state = ProbeState::NotCheckable(format!("failed to start a thread: {error}"));
        }
    }
    drop(responses);
    let end = Instant::now() + within;
    while let Ok((index, response)) = arrived.recv_timeout(end.saturating_duration_since(Instant::now())) {
        readings[index].state = match response {
            Ok(changes) => {
                let findings: Vec<DetectedFinding> = changes
                    .into_iter()
                    .filter_map(|change| match change {
                        FindingChange::Raised(finding) => Some(finding),
                        FindingChange::Cleared { .. } => None,
                    })
                    .collect();
                if findings.is_empty() { ProbeState::Healthy } else { ProbeState::Unhealthy(findings) }
            }
            Err(nothing) => ProbeState::NotCheckable(nothing.why.into_owned()),
        };
    }
    readings
}

/// Whether any problem would make a condition False.
pub fn is_unhealthy(readings: &[ProbeReading]) -> bool {
    readings.iter().any(|reading| match &reading.state {
        ProbeState::Unhealthy(findings) => {
            findings.iter().any(|finding| finding.severity == Severity::Condition)
        }
        ProbeState::Healthy | ProbeState::NotCheckable(_) => false,
    })
}

/// Writes a table, with problems first.
pub fn write_table(out: &mut impl Write, readings: &[ProbeReading]) -> io::Result<()> {
    const DIM: Style = Style::new().effects(Effects::DIMMED);
    let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    let rank = |reading: &&ProbeReading| match &reading.state {
        ProbeState::Unhealthy(findings)
            if findings.iter().any(|found| found.severity == Severity::Condition) =>
        {
            0
        }
        ProbeState::Unhealthy(_) => 1,
        ProbeState::Healthy => 2,
        ProbeState::NotCheckable(_) => 3,
    };
    let mut sorted: Vec<&ProbeReading> = readings.iter().collect();
    sorted.sort_by_key(rank);
    let width = readings.iter().map(|reading| reading.probe.len()).max().unwrap_or_default();
    for reading in sorted {
        let style = match rank(&reading) {
            0 => color(AnsiColor::Red).effects(Effects::BOLD),
            1 => color(AnsiColor::Yellow),
            2 => color(AnsiColor::Green),
            _ => DIM,
        };
        let state = reading.state.name();
        let pad = if reading.state == ProbeState::Healthy { 0 } else { 13 };
        write!(out, "{:width$}  {style}{state:pad$}{style:#}", reading.probe)?;
        match &reading.state {
            ProbeState::Healthy => writeln!(out)?,
            ProbeState::NotCheckable(why) => writeln!(out, "  {DIM}{why}{DIM:#}")?,
            ProbeState::Unhealthy(findings) => {
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
        "\n{} healthy, {} unhealthy, {} not checkable",
        count("healthy"),
        count("unhealthy"),
        count("not checkable")
    )
}

/// Writes one JSON object a line.
pub fn write_json(out: &mut impl Write, readings: &[ProbeReading]) -> io::Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ScanLine<'a> {
        probe: &'a str,
        state: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
        findings: Vec<ScanFinding<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ScanFinding<'a> {
        reason: &'a str,
        condition: &'a str,
        severity: Severity,
        subject: Option<&'a str>,
        message: &'a str,
    }
    for reading in readings {
        let (why, findings) = match &reading.state {
            ProbeState::Healthy => (None, &[][..]),
            ProbeState::Unhealthy(findings) => (None, findings.as_slice()),
            ProbeState::NotCheckable(why) => (Some(why.as_str()), &[][..]),
        };
        let findings = findings.iter().map(|finding| ScanFinding {
            reason: &finding.reason,
            condition: finding.condition.as_str(),
            severity: finding.severity,
            subject: finding.subject.as_deref(),
            message: &finding.message,
        });
        let line =
            ScanLine { probe: reading.probe, state: reading.state.name(), why, findings: findings.collect() };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Replaces control characters, so that text from the node cannot control a terminal.
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

    struct FixedProbe(&'static str, Result<Vec<FindingChange>, NotCheckable>);

    impl Probe for FixedProbe {
        fn name(&self) -> &'static str {
            self.0
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_secs(30)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
            self.1.clone()
        }
    }

    /// A probe that returns when its sender is dropped.
    struct HangingProbe(mpsc::Receiver<()>);

    impl Probe for HangingProbe {
        fn name(&self) -> &'static str {
            "stuck"
        }
        fn reasons(&self) -> &'static [&'static str] {
            &[]
        }
        fn interval(&self) -> Duration {
            Duration::from_secs(30)
        }
        fn read(&mut self, _: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
            let _ = self.0.recv();
            Ok(Vec::new())
        }
    }

    fn raised(severity: Severity) -> FindingChange {
        FindingChange::Raised(DetectedFinding {
            reason: "InterfaceNotUp".into(),
            condition: ConditionType::NetworkingReady,
            severity,
            subject: Some("eth1".into()),
            message: "eth1 is\u{1b}[31m down".into(),
            at: Timestamp::UNIX_EPOCH,
            debounce: Debounce::Once,
            clears: Clears::Explicit { or_quiet: None },
        })
    }

    fn read(severity: Severity) -> Vec<ProbeReading> {
        let probes: Vec<Box<dyn Probe>> = vec![
            Box::new(FixedProbe("memory", Ok(Vec::new()))),
            Box::new(FixedProbe("nvidia", Err(NotCheckable { why: "no NVIDIA device".into() }))),
            Box::new(FixedProbe("interfaces", Ok(vec![raised(severity)]))),
        ];
        scan(probes, Timestamp::UNIX_EPOCH, Duration::from_secs(10))
    }

    #[test]
    fn problems_come_first_and_control_characters_are_removed() {
        let mut table = Vec::new();
        write_table(&mut anstream::StripStream::new(&mut table), &read(Severity::Condition))
            .expect("a table");
        let expected = "\
interfaces  unhealthy      InterfaceNotUp (eth1): eth1 is [31m down
memory      healthy
nvidia      not checkable  no NVIDIA device

1 healthy, 1 unhealthy, 1 not checkable
";
        let table = String::from_utf8(table).expect("UTF-8");
        assert_eq!(table, expected);
    }

    #[test]
    fn only_findings_of_severity_condition_make_the_node_unhealthy() {
        assert!(is_unhealthy(&read(Severity::Condition)));
        assert!(!is_unhealthy(&read(Severity::Event)));
    }

    #[test]
    fn every_line_is_a_complete_json_object() {
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
    fn a_probe_that_hangs_delays_no_other() {
        let (hold, held) = mpsc::channel();
        let probes: Vec<Box<dyn Probe>> =
            vec![Box::new(HangingProbe(held)), Box::new(FixedProbe("memory", Ok(Vec::new())))];
        let readings = scan(probes, Timestamp::UNIX_EPOCH, Duration::from_millis(50));
        assert_eq!(readings[0].state, ProbeState::NotCheckable("no response within 0.1 s".to_owned()));
        assert_eq!(readings[1].state, ProbeState::Healthy);
        drop(hold);
    }
}
