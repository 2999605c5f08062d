//! Parses users' rule files.
//!
//! An error names the file and the field. Two formats are accepted, as YAML or JSON: nodemend's own, a list of
//! `rules`, and node-problem-detector's system log monitor, recognized by its `plugin` field, so that a cluster's
//! existing configuration works unchanged.

mod evaluator;
mod npd;
mod own;

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::condition::{ConditionType, Severity};
use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use self::evaluator::RuleEvaluator;
use super::matcher::{self, DetectorError};
use crate::{
    finding::{Clears, Debounce},
    signal::Origin,
};

/// A rule file has some dozens of rules; node-problem-detector's own files have twenty.
const MAX_BYTES: usize = 256 * 1024;
const MAX_RULES: usize = 256;
const MAX_PATTERN: usize = 2048;
const MAX_NAME: usize = 128;

/// The log that a rule reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleSource {
    Kernel {
        /// Whether records written by programs match too.
        any_facility: bool,
    },
    /// A systemd unit, with or without its `.service`. `systemd` means every unit, since systemd logs about a unit
    /// under the unit's name.
    Unit(String),
    /// A file, by its path on the host.
    File(String),
}

impl RuleSource {
    fn has(&self, origin: &Origin<'_>) -> bool {
        let bare = |unit: &str| unit.strip_suffix(".service").unwrap_or(unit).to_owned();
        match (self, origin) {
            (Self::Kernel { .. }, Origin::Kernel { .. }) => true,
            (Self::Unit(wanted), Origin::Unit(unit)) => wanted == "systemd" || bare(wanted) == bare(unit),
            (Self::File(wanted), Origin::File(path)) => wanted == path,
            _ => false,
        }
    }

    /// The condition of an event whose rule names none.
    fn condition(&self) -> ConditionType {
        match self {
            Self::Kernel { .. } | Self::File(_) => ConditionType::KernelReady,
            Self::Unit(_) => ConditionType::ContainerRuntimeReady,
        }
    }
}

/// The rules of one file.
#[derive(Debug, Clone)]
pub struct RuleFile {
    name: String,
    lookback: SignedDuration,
    /// The number of lines that a pattern may span.
    buffer: usize,
    /// Extracts the text from a file's line: its first group.
    extract: Option<Regex>,
    rules: Vec<LogRule>,
}

impl RuleFile {
    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far back the logs should be read at start.
    pub fn lookback(&self) -> SignedDuration {
        self.lookback
    }

    /// The logs that its rules read.
    pub fn sources(&self) -> impl Iterator<Item = &RuleSource> {
        self.rules.iter().map(|rule| &rule.source)
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[derive(Debug, Clone)]
struct LogRule {
    source: RuleSource,
    /// Whether the pattern is matched against the last lines joined by line breaks, instead of one line.
    spans_lines: bool,
    pattern: Regex,
    cleared_by: Option<Regex>,
    reason: Cow<'static, str>,
    condition: ConditionType,
    severity: Severity,
    debounce: Debounce,
    clears: Clears,
}

/// An error in a rule file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read rule file {file}: {field}: {why}")]
pub struct RuleError {
    pub file: String,
    /// The path of the field, or `file`.
    pub field: String,
    pub why: String,
}

/// An error in one field, before the file's name is added.
struct FieldError {
    field: String,
    why: String,
}

impl FieldError {
    fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

/// Parses a rule file of either format. `name` is used in messages.
pub fn read_rules(name: &str, text: &str) -> Result<RuleFile, RuleError> {
    read(name, text).map_err(|FieldError { field, why }| RuleError {
        file: name.to_owned(),
        field: if matches!(field.as_str(), "" | "." | "?") { "file".to_owned() } else { field },
        why: why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    })
}

fn read(name: &str, text: &str) -> Result<RuleFile, FieldError> {
    if text.len() > MAX_BYTES {
        return Err(FieldError::new("file", format!("{} bytes exceed the limit of {MAX_BYTES}", text.len())));
    }
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| FieldError::new("file", error.to_string()))?
    } else {
        serde_saphyr::from_str(text).map_err(|error| FieldError::new("file", error.to_string()))?
    };
    let file = if value.get("plugin").is_some() {
        from_value::<npd::NpdForm>(value)?.check(name)?
    } else {
        from_value::<own::OwnForm>(value)?.check(name)?
    };
    if file.rules.len() > MAX_RULES {
        return Err(FieldError::new(
            "rules",
            format!("{} rules exceed the limit of {MAX_RULES}", file.rules.len()),
        ));
    }
    Ok(file)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError::new(error.path().to_string(), error.inner().to_string()))
}

fn check_pattern(field: &str, pattern: &str) -> Result<Regex, FieldError> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN {
        return Err(FieldError::new(field, format!("a pattern has 1 to {MAX_PATTERN} bytes")));
    }
    let regex = matcher::compile(pattern).map_err(|error| match error {
        DetectorError::Pattern { source, .. } => FieldError::new(field, source.to_string()),
        other => FieldError::new(field, other.to_string()),
    })?;
    // Such a rule would raise its reason on every line and make healthy nodes unhealthy.
    if regex.is_match("") {
        return Err(FieldError::new(field, "it matches the empty string, and so every line"));
    }
    Ok(regex)
}

fn check_reason(field: &str, reason: &str) -> Result<(), FieldError> {
    let is_name = reason.starts_with(|first: char| first.is_ascii_alphabetic())
        && reason.len() <= MAX_NAME
        && reason.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name { Ok(()) } else { Err(FieldError::new(field, "a reason is letters, digits and _, up to 128")) }
}
