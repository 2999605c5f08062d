//! Parses nodemend's own rule file format.

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};
use serde::Deserialize;

use super::{FieldError, LogRule, RuleFile, RuleSource, check_pattern, check_reason};
use crate::finding::{Clears, Debounce};

/// An event that nothing else clears is cleared after this quiet time.
const EVENT_QUIET: SignedDuration = SignedDuration::from_mins(10);
const MAX_DURATION: SignedDuration = SignedDuration::from_hours(24);
const MAX_COUNT: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnForm {
    rules: Vec<OwnRuleForm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OwnRuleForm {
    source: SourceForm,
    unit: Option<String>,
    path: Option<String>,
    facility: Option<FacilityForm>,
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
enum SourceForm {
    Kmsg,
    Journal,
    File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FacilityForm {
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

impl OwnForm {
    pub(super) fn check(self, name: &str) -> Result<RuleFile, FieldError> {
        let rules = self.rules.into_iter().enumerate().map(|(index, rule)| {
            rule.check()
                .map_err(|error| FieldError { field: format!("rules[{index}].{}", error.field), ..error })
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

impl OwnRuleForm {
    fn check(self) -> Result<LogRule, FieldError> {
        check_reason("reason", &self.reason)?;
        let source = self.source()?;
        let severity = match self.severity {
            SeverityForm::Condition => Severity::Condition,
            SeverityForm::Event => Severity::Event,
        };
        let condition = self.condition(&source, severity)?;
        let debounce = self.debounce()?;
        let (clears, cleared_by) = self.clears(severity)?;
        Ok(LogRule {
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

    fn source(&self) -> Result<RuleSource, FieldError> {
        let unwanted = |field: &str, overrides: bool, source: &str| {
            if overrides {
                Err(FieldError::new(field, format!("it is valid with source {source} only")))
            } else {
                Ok(())
            }
        };
        if !matches!(self.source, SourceForm::Kmsg) {
            unwanted("facility", self.facility.is_some(), "kmsg")?;
        }
        if !matches!(self.source, SourceForm::Journal) {
            unwanted("unit", self.unit.is_some(), "journal")?;
        }
        if !matches!(self.source, SourceForm::File) {
            unwanted("path", self.path.is_some(), "file")?;
        }
        let wanted = |field: &str, overrides: &Option<String>| {
            overrides
                .clone()
                .filter(|overrides| !overrides.is_empty())
                .ok_or_else(|| FieldError::new(field, "it is missing and required by this source"))
        };
        match self.source {
            SourceForm::Kmsg => {
                Ok(RuleSource::Kernel { any_facility: self.facility == Some(FacilityForm::Any) })
            }
            SourceForm::Journal => Ok(RuleSource::Unit(wanted("unit", &self.unit)?)),
            SourceForm::File => {
                let path = wanted("path", &self.path)?;
                if path.starts_with('/') {
                    Ok(RuleSource::File(path))
                } else {
                    Err(FieldError::new("path", "it must start with /"))
                }
            }
        }
    }

    /// The rule's condition. It must be one that an agent reports, and the catalogue's condition if the catalogue has
    /// the reason.
    fn condition(&self, source: &RuleSource, severity: Severity) -> Result<ConditionType, FieldError> {
        let known = catalogue::lookup(&self.reason).map(|found| found.condition);
        let condition = match (&self.condition, known) {
            (Some(overrides), Some(known)) if *overrides != known => {
                return Err(FieldError::new("condition", format!("{} belongs to {known}", self.reason)));
            }
            (Some(overrides), _) => overrides.clone(),
            (None, Some(known)) => known,
            (None, None) if severity == Severity::Event => source.condition(),
            (None, None) => return Err(FieldError::new("condition", "it is missing")),
        };
        if ConditionType::AGENT.contains(&condition) {
            Ok(condition)
        } else {
            let names = ConditionType::AGENT.map(|condition| condition.to_string()).join(", ");
            Err(FieldError::new("condition", format!("{condition} is not one of {names}")))
        }
    }

    fn debounce(&self) -> Result<Debounce, FieldError> {
        match (self.count, self.window) {
            (None | Some(1), None) => Ok(Debounce::Once),
            (Some(count), _) if !(1..=MAX_COUNT).contains(&count) => {
                Err(FieldError::new("count", format!("it must be 1 to {MAX_COUNT}")))
            }
            (Some(_), None) => Err(FieldError::new("window", "it is missing: count needs a window")),
            (None, Some(_)) => Err(FieldError::new("count", "it is missing: window needs a count")),
            (Some(count), Some(window)) => {
                check_duration("window", window)?;
                Ok(Debounce::Times { count, window })
            }
        }
    }

    /// A rule that can make a condition False must define how it clears.
    fn clears(&self, severity: Severity) -> Result<(Clears, Option<&str>), FieldError> {
        let Some(form) = &self.clears else {
            return match severity {
                Severity::Event => Ok((Clears::Quiet(EVENT_QUIET), None)),
                Severity::Condition => {
                    Err(FieldError::new("clears", "it is missing: a Condition must define how it clears"))
                }
            };
        };
        if let Some(quiet) = form.quiet {
            check_duration("clears.quiet", quiet)?;
        }
        match (form.boot, form.quiet, form.line.as_deref()) {
            (true, None, None) => Ok((Clears::Boot, None)),
            (true, ..) => Err(FieldError::new("clears.boot", "it excludes the other keys")),
            (false, or_quiet, Some(line)) => Ok((Clears::Explicit { or_quiet }, Some(line))),
            (false, Some(quiet), None) => Ok((Clears::Quiet(quiet), None)),
            (false, None, None) => Err(FieldError::new("clears", "it has none of quiet, line, boot")),
        }
    }
}

fn check_duration(field: &str, duration: SignedDuration) -> Result<(), FieldError> {
    if duration > SignedDuration::ZERO && duration <= MAX_DURATION {
        Ok(())
    } else {
        Err(FieldError::new(field, "it must be more than 0 and at most 24h"))
    }
}
