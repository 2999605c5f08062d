//! Turns rule files that users write into rules, or says which field of which file is wrong.
//!
//! Two forms are read, YAML or JSON: our own, a list of `rules`, and node-problem-detector's system log monitor,
//! known by its `plugin`, so that what a cluster already runs carries over as it is.

mod npd;
mod own;
mod watch;

use std::borrow::Cow;

use jiff::SignedDuration;
use nodemend_domain::condition::{ConditionType, Severity};
use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use self::watch::Watch;
use super::{DetectorError, matcher};
use crate::{
    finding::{Clears, Debounce},
    signal::Origin,
};

/// A rule file has some dozens of rules; node-problem-detector's own have twenty.
const MAX_BYTES: usize = 256 * 1024;
const MAX_RULES: usize = 256;
const MAX_PATTERN: usize = 2048;
const MAX_NAME: usize = 128;

/// Where a rule looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleSource {
    /// The kernel's log.
    Kernel {
        /// Records of programs count too.
        any_facility: bool,
    },
    /// A systemd unit, with or without its `.service`; `systemd` is every unit, since systemd speaks in its
    /// units' names.
    Unit(String),
    /// A file, by its path on the node.
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

    /// The condition of an event that names none.
    fn condition(&self) -> ConditionType {
        match self {
            Self::Kernel { .. } | Self::File(_) => ConditionType::KernelReady,
            Self::Unit(_) => ConditionType::ContainerRuntimeReady,
        }
    }
}

/// A user's rules.
#[derive(Debug, Clone)]
pub struct RuleFile {
    name: String,
    lookback: SignedDuration,
    /// How many lines a pattern may span.
    buffer: usize,
    /// What takes the text out of a file's line, by its first group.
    extract: Option<Regex>,
    rules: Vec<Rule>,
}

impl RuleFile {
    /// The file's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far back its logs should be read at the start.
    pub fn lookback(&self) -> SignedDuration {
        self.lookback
    }

    /// What must be read for its rules.
    pub fn sources(&self) -> impl Iterator<Item = &RuleSource> {
        self.rules.iter().map(|rule| &rule.source)
    }

    /// How many rules it has.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// One rule.
#[derive(Debug, Clone)]
struct Rule {
    source: RuleSource,
    /// It is looked for in the last lines joined by line breaks, not in one line.
    spans_lines: bool,
    pattern: Regex,
    cleared_by: Option<Regex>,
    reason: Cow<'static, str>,
    condition: ConditionType,
    severity: Severity,
    debounce: Debounce,
    clears: Clears,
}

/// What is wrong with a rule file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read rule file {file}: {field}: {why}")]
pub struct RuleError {
    /// The file.
    pub file: String,
    /// The field, as a path.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

/// A field and what is wrong with it.
struct Wrong {
    field: String,
    why: String,
}

impl Wrong {
    fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

/// Reads a rule file of either form; the name is for messages.
pub fn read_rules(name: &str, text: &str) -> Result<RuleFile, RuleError> {
    read(name, text).map_err(|Wrong { field, why }| RuleError {
        file: name.to_owned(),
        field: if matches!(field.as_str(), "" | "." | "?") { "file".to_owned() } else { field },
        why: why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    })
}

fn read(name: &str, text: &str) -> Result<RuleFile, Wrong> {
    if text.len() > MAX_BYTES {
        return Err(Wrong::new("file", format!("{} bytes are more than {MAX_BYTES}", text.len())));
    }
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| Wrong::new("file", error.to_string()))?
    } else {
        serde_saphyr::from_str(text).map_err(|error| Wrong::new("file", error.to_string()))?
    };
    let file = if value.get("plugin").is_some() {
        from_value::<npd::Form>(value)?.check(name)?
    } else {
        from_value::<own::Form>(value)?.check(name)?
    };
    if file.rules.len() > MAX_RULES {
        return Err(Wrong::new("rules", format!("{} are more than {MAX_RULES}", file.rules.len())));
    }
    Ok(file)
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Wrong::new(error.path().to_string(), error.inner().to_string()))
}

fn check_pattern(field: &str, pattern: &str) -> Result<Regex, Wrong> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN {
        return Err(Wrong::new(field, format!("a pattern has 1 to {MAX_PATTERN} bytes")));
    }
    let regex = matcher::compile(pattern).map_err(|error| match error {
        DetectorError::Pattern { source, .. } => Wrong::new(field, source.to_string()),
        other => Wrong::new(field, other.to_string()),
    })?;
    // Such a rule would raise its reason on every line, and kill healthy nodes.
    if regex.is_match("") {
        return Err(Wrong::new(field, "it matches the empty line, and so every line"));
    }
    Ok(regex)
}

fn check_reason(field: &str, reason: &str) -> Result<(), Wrong> {
    let is_name = reason.starts_with(|first: char| first.is_ascii_alphabetic())
        && reason.len() <= MAX_NAME
        && reason.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name { Ok(()) } else { Err(Wrong::new(field, "a reason is letters, digits and _, up to 128")) }
}
