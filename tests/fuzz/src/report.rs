//! What an agent writes.

use jiff::Timestamp;
use nodemend_domain::report::{Body, ConditionState, Finding, MAX_BYTES, Report};

/// Bytes that stand for one line of an agent's.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let report = match Report::decode(text) {
        Ok(report) => report,
        Err(error) => return assert!(error.to_string().len() <= 1024, "{error}"),
    };
    assert!(text.len() <= MAX_BYTES);
    check(&report);
    let line = report.encode();
    assert!(line.len() <= MAX_BYTES, "{} bytes", line.len());
    let once = Report::decode(&line).expect("what is written can be read");
    assert_eq!(once.encode(), line, "written again, it differs");
    // Instants are written to the millisecond, and nothing else is lost where all of it has room.
    if text.len() + 32 * (1 + states(&report).len() + findings(&report).len()) < MAX_BYTES {
        assert_eq!(once, to_the_millisecond(report));
    }
}

fn states<'r, 'a>(report: &'r Report<'a>) -> Vec<&'r ConditionState<'a>> {
    match &report.body {
        Body::Condition(state) => vec![state],
        Body::Event { .. } => Vec::new(),
        Body::Heartbeat(states) => states.iter().collect(),
    }
}

fn findings<'r, 'a>(report: &'r Report<'a>) -> Vec<&'r Finding<'a>> {
    match &report.body {
        Body::Event { findings, .. } => findings.iter().collect(),
        _ => states(report).into_iter().flat_map(|state| &state.findings).collect(),
    }
}

/// What ends on an operator's terminal holds no control characters.
fn check(report: &Report<'_>) {
    let plain = |text: &str| assert!(!text.contains(char::is_control), "{text:?} can repaint a terminal");
    plain(&report.agent);
    if let Body::Event { condition, .. } = &report.body {
        plain(condition.as_str());
    }
    states(report).into_iter().for_each(|state| plain(state.condition.as_str()));
    for finding in findings(report) {
        plain(&finding.message);
        plain(&finding.reason);
    }
}

fn to_the_millisecond(mut report: Report<'_>) -> Report<'_> {
    let cut = |at: &mut Timestamp| {
        let nanos = at.as_nanosecond();
        *at = Timestamp::from_nanosecond(nanos - nanos.rem_euclid(1_000_000)).unwrap_or(*at);
    };
    let cut_all = |findings: &mut Vec<Finding<'_>>| {
        for finding in findings {
            cut(&mut finding.since);
            cut(&mut finding.last);
        }
    };
    cut(&mut report.at);
    match &mut report.body {
        Body::Event { findings, .. } => cut_all(findings),
        Body::Condition(state) => {
            cut(&mut state.since);
            cut_all(&mut state.findings);
        }
        Body::Heartbeat(states) => {
            for state in states {
                cut(&mut state.since);
                cut_all(&mut state.findings);
            }
        }
    }
    report
}
