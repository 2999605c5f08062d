//! Turns a system log monitor's configuration of node-problem-detector into rules.
//!
//! Its patterns see the last `bufferSize` lines joined by line breaks and must end where the last line ends. Most
//! patterns cannot match a line break at all; those see the last line alone, which comes to the same and costs
//! a tenth. `permanent` makes a condition bad until the next boot, as it does there; `temporary` is an event.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::SignedDuration;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{MAX_NAME, Rule, RuleFile, RuleSource, Wrong, check_pattern, check_reason};
use crate::finding::{Clears, Debounce};

const DEFAULT_BUFFER: usize = 10;
const MAX_BUFFER: usize = 128;
const EVENT_QUIET: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Form {
    plugin: Plugin,
    #[serde(default)]
    plugin_config: BTreeMap<String, String>,
    log_path: Option<String>,
    lookback: Option<String>,
    buffer_size: Option<usize>,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    rules: Vec<RuleForm>,
    /// A prefilter, which ours does itself; and what concerns its own start and metrics.
    #[serde(rename = "skipList")]
    _skip_list: Option<IgnoredAny>,
    #[serde(rename = "delay")]
    _delay: Option<IgnoredAny>,
    #[serde(rename = "source")]
    _source: Option<IgnoredAny>,
    #[serde(rename = "metricsReporting")]
    _metrics_reporting: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Plugin {
    Kmsg,
    Journald,
    Filelog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    condition: ConditionType,
    #[serde(rename = "reason")]
    _reason: Option<IgnoredAny>,
    #[serde(rename = "message")]
    _message: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleForm {
    #[serde(rename = "type")]
    lasts: Lasts,
    condition: Option<ConditionType>,
    reason: String,
    pattern: String,
    #[serde(rename = "patternGeneratedMessageSuffix")]
    _suffix: Option<IgnoredAny>,
    #[serde(rename = "taintEnabled")]
    _taint_enabled: Option<IgnoredAny>,
    #[serde(rename = "taintKey")]
    _taint_key: Option<IgnoredAny>,
    #[serde(rename = "taintValue")]
    _taint_value: Option<IgnoredAny>,
    #[serde(rename = "taintEffect")]
    _taint_effect: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Lasts {
    Permanent,
    Temporary,
}

impl Form {
    pub(super) fn check(self, name: &str) -> Result<RuleFile, Wrong> {
        let source = self.source()?;
        let buffer = match self.buffer_size.unwrap_or(0) {
            0 => DEFAULT_BUFFER,
            lines if lines <= MAX_BUFFER => lines,
            lines => return Err(Wrong::new("bufferSize", format!("{lines} is more than {MAX_BUFFER}"))),
        };
        for (place, known) in self.conditions.iter().enumerate() {
            let name = known.condition.as_str();
            if known.condition == ConditionType::Ready || name.is_empty() || name.len() >= MAX_NAME {
                return Err(Wrong::new(format!("conditions[{place}].type"), "not a condition of an agent"));
            }
        }
        let rules = self.rules.iter().enumerate().map(|(place, rule)| {
            rule.check(&source, &self.conditions)
                .map_err(|wrong| Wrong { field: format!("rules[{place}].{}", wrong.field), ..wrong })
        });
        Ok(RuleFile {
            name: name.to_owned(),
            lookback: self.lookback()?,
            buffer,
            extract: self.extract()?,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    fn source(&self) -> Result<RuleSource, Wrong> {
        match self.plugin {
            Plugin::Kmsg => Ok(RuleSource::Kernel { any_facility: false }),
            Plugin::Journald => match self.plugin_config.get("source").map(String::as_str) {
                None | Some("") => Err(Wrong::new("pluginConfig.source", "it is missing")),
                Some("kernel") => Ok(RuleSource::Kernel { any_facility: false }),
                Some(unit) => Ok(RuleSource::Unit(unit.to_owned())),
            },
            Plugin::Filelog => match self.log_path.as_deref() {
                Some(path) if path.starts_with('/') => Ok(RuleSource::File(path.to_owned())),
                _ => Err(Wrong::new("logPath", "a path that starts with / is needed")),
            },
        }
    }

    /// Its file logs carry a prefix that this takes off; a line without it is passed over, as it does.
    fn extract(&self) -> Result<Option<regex::Regex>, Wrong> {
        let Some(pattern) =
            self.plugin_config.get("message").filter(|_| matches!(self.plugin, Plugin::Filelog))
        else {
            return Ok(None);
        };
        let field = "pluginConfig.message";
        let regex = super::matcher::compile(pattern).map_err(|error| Wrong::new(field, error.to_string()))?;
        if regex.captures_len() < 2 {
            return Err(Wrong::new(field, "it has no group that holds the message"));
        }
        Ok(Some(regex))
    }

    fn lookback(&self) -> Result<SignedDuration, Wrong> {
        match self.lookback.as_deref() {
            None | Some("" | "0") => Ok(SignedDuration::ZERO),
            Some(text) => match text.parse::<SignedDuration>() {
                Ok(lookback) if !lookback.is_negative() => Ok(lookback),
                Ok(_) => Err(Wrong::new("lookback", "it is negative")),
                Err(error) => Err(Wrong::new("lookback", error.to_string())),
            },
        }
    }
}

impl RuleForm {
    fn check(&self, source: &RuleSource, conditions: &[Condition]) -> Result<Rule, Wrong> {
        check_reason("reason", &self.reason)?;
        // The plain pattern first: what is wrong with it is told in the user's own words.
        check_pattern("pattern", &self.pattern)?;
        let pattern = super::matcher::compile(&format!("(?:{})\\z", self.pattern))
            .map_err(|error| Wrong::new("pattern", error.to_string()))?;
        let (severity, condition, clears) = match (self.lasts, &self.condition) {
            (Lasts::Temporary, _) => {
                let known = catalogue::lookup(&self.reason).map(|found| found.condition);
                (Severity::Event, known.unwrap_or_else(|| source.condition()), Clears::Quiet(EVENT_QUIET))
            }
            (Lasts::Permanent, Some(condition))
                if conditions.iter().any(|known| known.condition == *condition) =>
            {
                (Severity::Condition, condition.clone(), Clears::Boot)
            }
            (Lasts::Permanent, _) => {
                return Err(Wrong::new("condition", "a permanent rule names one of conditions"));
            }
        };
        Ok(Rule {
            source: source.clone(),
            spans_lines: may_span_lines(&self.pattern),
            pattern,
            cleared_by: None,
            reason: Cow::Owned(self.reason.clone()),
            condition,
            severity,
            debounce: Debounce::Once,
            clears,
        })
    }
}

/// Whether a pattern could match a line break: in doubt yes, which only costs time.
fn may_span_lines(pattern: &str) -> bool {
    const HINTS: [&str; 12] =
        ["\n", r"\n", r"\s", r"\W", r"\D", r"\x", r"\u", r"\U", r"\p", r"\P", "[^", "[:"];
    HINTS.iter().any(|hint| pattern.contains(hint)) || pattern.contains("(?")
}

#[cfg(test)]
mod tests {
    use super::may_span_lines;

    #[test]
    fn a_pattern_that_could_match_a_line_break_sees_the_buffer() {
        for (pattern, expected) in [
            (r"task [\S ]+:\w+ blocked for more than \w+ seconds\.", false),
            ("Remounting filesystem read-only", false),
            (r"first\nsecond", true),
            (r"first\s+second", true),
            ("first[^x]*second", true),
            ("(?s)first.*second", true),
        ] {
            assert_eq!(may_span_lines(pattern), expected, "{pattern}");
        }
    }
}
