//! Turns our own form of a rule file into rules.

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};
use serde::Deserialize;

use super::{Rule, RuleFile, RuleSource, Wrong, check_pattern, check_reason};
use crate::finding::{Clears, Debounce};

/// An event that nothing else ends is over after this.
const EVENT_QUIET: SignedDuration = SignedDuration::from_mins(10);
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
const MOST: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    rules: Vec<RuleForm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleForm {
    source: Source,
    unit: Option<String>,
    path: Option<String>,
    facility: Option<Facility>,
    pattern: String,
    #[serde(alias = "type")]
    severity: SeverityForm,
    condition: Option<ConditionType>,
    reason: String,
    count: Option<u32>,
    window: Option<SignedDuration>,
    clears: Option<ClearsForm>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Kmsg,
    Journal,
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Facility {
    Kernel,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum SeverityForm {
    #[serde(alias = "condition")]
    Condition,
    #[serde(alias = "event")]
    Event,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClearsForm {
    quiet: Option<SignedDuration>,
    line: Option<String>,
    #[serde(default)]
    boot: bool,
}

impl Form {
    pub(super) fn check(self, name: &str) -> Result<RuleFile, Wrong> {
        let rules = self.rules.into_iter().enumerate().map(|(place, rule)| {
            rule.check().map_err(|wrong| Wrong { field: format!("rules[{place}].{}", wrong.field), ..wrong })
        });
        Ok(RuleFile {
            name: name.to_owned(),
            lookback: SignedDuration::ZERO,
            buffer: 1,
            extract: None,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

impl RuleForm {
    fn check(self) -> Result<Rule, Wrong> {
        check_reason("reason", &self.reason)?;
        let source = self.source()?;
        let severity = match self.severity {
            SeverityForm::Condition => Severity::Condition,
            SeverityForm::Event => Severity::Event,
        };
        let condition = self.condition(&source, severity)?;
        let debounce = self.debounce()?;
        let (clears, cleared_by) = self.clears(severity)?;
        Ok(Rule {
            pattern: check_pattern("pattern", &self.pattern)?,
            cleared_by: cleared_by.map(|line| check_pattern("clears.line", line)).transpose()?,
            source,
            spans_lines: false,
            reason: Cow::Owned(self.reason),
            condition,
            severity,
            debounce,
            clears,
        })
    }

    fn source(&self) -> Result<RuleSource, Wrong> {
        let unwanted = |field: &str, given: bool, source: &str| {
            if given { Err(Wrong::new(field, format!("it goes with source {source} only"))) } else { Ok(()) }
        };
        if !matches!(self.source, Source::Kmsg) {
            unwanted("facility", self.facility.is_some(), "kmsg")?;
        }
        if !matches!(self.source, Source::Journal) {
            unwanted("unit", self.unit.is_some(), "journal")?;
        }
        if !matches!(self.source, Source::File) {
            unwanted("path", self.path.is_some(), "file")?;
        }
        let wanted = |field: &str, given: &Option<String>| {
            given
                .clone()
                .filter(|given| !given.is_empty())
                .ok_or_else(|| Wrong::new(field, "it is missing and needed by this source"))
        };
        match self.source {
            Source::Kmsg => Ok(RuleSource::Kernel { any_facility: self.facility == Some(Facility::Any) }),
            Source::Journal => Ok(RuleSource::Unit(wanted("unit", &self.unit)?)),
            Source::File => {
                let path = wanted("path", &self.path)?;
                if path.starts_with('/') {
                    Ok(RuleSource::File(path))
                } else {
                    Err(Wrong::new("path", "it must start with /"))
                }
            }
        }
    }

    /// The condition, which must be one that an agent reports, and the catalogue's where it knows the reason.
    fn condition(&self, source: &RuleSource, severity: Severity) -> Result<ConditionType, Wrong> {
        let known = catalogue::lookup(&self.reason).map(|found| found.condition);
        let condition = match (&self.condition, known) {
            (Some(given), Some(known)) if *given != known => {
                return Err(Wrong::new("condition", format!("{} belongs to {known}", self.reason)));
            }
            (Some(given), _) => given.clone(),
            (None, Some(known)) => known,
            (None, None) if severity == Severity::Event => source.condition(),
            (None, None) => return Err(Wrong::new("condition", "it is missing")),
        };
        if ConditionType::AGENT.contains(&condition) {
            Ok(condition)
        } else {
            let names = ConditionType::AGENT.map(|condition| condition.to_string()).join(", ");
            Err(Wrong::new("condition", format!("{condition} is none of {names}")))
        }
    }

    fn debounce(&self) -> Result<Debounce, Wrong> {
        match (self.count, self.window) {
            (None | Some(1), None) => Ok(Debounce::Once),
            (Some(count), _) if !(1..=MOST).contains(&count) => {
                Err(Wrong::new("count", format!("it is 1 to {MOST}")))
            }
            (Some(_), None) => Err(Wrong::new("window", "it is missing: so many within how long?")),
            (None, Some(_)) => Err(Wrong::new("count", "it is missing: how many within the window?")),
            (Some(count), Some(window)) => {
                check_length("window", window)?;
                Ok(Debounce::Times { count, window })
            }
        }
    }

    /// What starts the repair clock must say how it ends.
    fn clears(&self, severity: Severity) -> Result<(Clears, Option<&str>), Wrong> {
        let Some(form) = &self.clears else {
            return match severity {
                Severity::Event => Ok((Clears::Quiet(EVENT_QUIET), None)),
                Severity::Condition => {
                    Err(Wrong::new("clears", "it is missing: how does this condition end?"))
                }
            };
        };
        if let Some(quiet) = form.quiet {
            check_length("clears.quiet", quiet)?;
        }
        match (form.boot, form.quiet, form.line.as_deref()) {
            (true, None, None) => Ok((Clears::Boot, None)),
            (true, ..) => Err(Wrong::new("clears.boot", "it stands alone")),
            (false, or_quiet, Some(line)) => Ok((Clears::Told { or_quiet }, Some(line))),
            (false, Some(quiet), None) => Ok((Clears::Quiet(quiet), None)),
            (false, None, None) => Err(Wrong::new("clears", "it names none of quiet, line, boot")),
        }
    }
}

fn check_length(field: &str, length: SignedDuration) -> Result<(), Wrong> {
    if length > SignedDuration::ZERO && length <= LONGEST {
        Ok(())
    } else {
        Err(Wrong::new(field, "it is more than nothing and at most 24h"))
    }
}
