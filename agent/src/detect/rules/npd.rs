//! Parses node-problem-detector's system log monitor configuration.
//!
//! Its patterns see the last `bufferSize` lines joined by line breaks and must end where the last line ends. Most
//! patterns cannot match a line break; they are matched against the last line alone, with the same result at a tenth
//! of the cost. `permanent` makes a condition False until the next boot, as in node-problem-detector; `temporary` is
//! an event.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::SignedDuration;
use nodemend_domain::{
    catalogue,
    condition::{ConditionType, Severity},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{FieldError, LogRule, MAX_NAME, RuleFile, RuleSource, check_pattern, check_reason};
use crate::finding::{Clears, Debounce};

const DEFAULT_BUFFER: usize = 10;
const MAX_BUFFER: usize = 128;
const EVENT_QUIET: SignedDuration = SignedDuration::from_mins(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NpdForm {
    plugin: NpdPlugin,
    #[serde(default)]
    plugin_config: BTreeMap<String, String>,
    log_path: Option<String>,
    lookback: Option<String>,
    buffer_size: Option<usize>,
    #[serde(default)]
    conditions: Vec<NpdCondition>,
    #[serde(default)]
    rules: Vec<NpdRuleForm>,
    /// Accepted and ignored: a prefilter, which the agent builds itself, and options of node-problem-detector's own
    /// start and metrics.
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
enum NpdPlugin {
    Kmsg,
    Journald,
    Filelog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NpdCondition {
    #[serde(rename = "type")]
    condition: ConditionType,
    #[serde(rename = "reason")]
    _reason: Option<IgnoredAny>,
    #[serde(rename = "message")]
    _message: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NpdRuleForm {
    #[serde(rename = "type")]
    rule_type: NpdRuleType,
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
enum NpdRuleType {
    Permanent,
    Temporary,
}

impl NpdForm {
    pub(super) fn check(self, name: &str) -> Result<RuleFile, FieldError> {
        let source = self.source()?;
        let buffer = match self.buffer_size.unwrap_or(0) {
            0 => DEFAULT_BUFFER,
            lines if lines <= MAX_BUFFER => lines,
            lines => return Err(FieldError::new("bufferSize", format!("{lines} is more than {MAX_BUFFER}"))),
        };
        for (index, known) in self.conditions.iter().enumerate() {
            let name = known.condition.as_str();
            if known.condition == ConditionType::Ready || name.is_empty() || name.len() >= MAX_NAME {
                return Err(FieldError::new(
                    format!("conditions[{index}].type"),
                    "not a condition that an agent reports",
                ));
            }
        }
        let rules = self.rules.iter().enumerate().map(|(index, rule)| {
            rule.check(&source, &self.conditions)
                .map_err(|error| FieldError { field: format!("rules[{index}].{}", error.field), ..error })
        });
        Ok(RuleFile {
            name: name.to_owned(),
            lookback: self.lookback()?,
            buffer,
            extract: self.extract()?,
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    fn source(&self) -> Result<RuleSource, FieldError> {
        match self.plugin {
            NpdPlugin::Kmsg => Ok(RuleSource::Kernel { any_facility: false }),
            NpdPlugin::Journald => match self.plugin_config.get("source").map(String::as_str) {
                None | Some("") => Err(FieldError::new("pluginConfig.source", "it is missing")),
                Some("kernel") => Ok(RuleSource::Kernel { any_facility: false }),
                Some(unit) => Ok(RuleSource::Unit(unit.to_owned())),
            },
            NpdPlugin::Filelog => match self.log_path.as_deref() {
                Some(path) if path.starts_with('/') => Ok(RuleSource::File(path.to_owned())),
                _ => Err(FieldError::new("logPath", "it must start with /")),
            },
        }
    }

    /// File logs carry a prefix that this expression removes. A line that it does not match is skipped, as in
    /// node-problem-detector.
    fn extract(&self) -> Result<Option<regex::Regex>, FieldError> {
        let Some(pattern) =
            self.plugin_config.get("message").filter(|_| matches!(self.plugin, NpdPlugin::Filelog))
        else {
            return Ok(None);
        };
        let field = "pluginConfig.message";
        let regex =
            super::matcher::compile(pattern).map_err(|error| FieldError::new(field, error.to_string()))?;
        if regex.captures_len() < 2 {
            return Err(FieldError::new(field, "it has no capture group for the message"));
        }
        Ok(Some(regex))
    }

    fn lookback(&self) -> Result<SignedDuration, FieldError> {
        match self.lookback.as_deref() {
            None | Some("" | "0") => Ok(SignedDuration::ZERO),
            Some(text) => match text.parse::<SignedDuration>() {
                Ok(lookback) if !lookback.is_negative() => Ok(lookback),
                Ok(_) => Err(FieldError::new("lookback", "it is negative")),
                Err(error) => Err(FieldError::new("lookback", error.to_string())),
            },
        }
    }
}

impl NpdRuleForm {
    fn check(&self, source: &RuleSource, conditions: &[NpdCondition]) -> Result<LogRule, FieldError> {
        check_reason("reason", &self.reason)?;
        // Compiled as written first, so that an error quotes the user's own pattern.
        check_pattern("pattern", &self.pattern)?;
        let pattern = super::matcher::compile(&format!("(?:{})\\z", self.pattern))
            .map_err(|error| FieldError::new("pattern", error.to_string()))?;
        let (severity, condition, clears) = match (self.rule_type, &self.condition) {
            (NpdRuleType::Temporary, _) => {
                let known = catalogue::lookup(&self.reason).map(|found| found.condition);
                (Severity::Event, known.unwrap_or_else(|| source.condition()), Clears::Quiet(EVENT_QUIET))
            }
            (NpdRuleType::Permanent, Some(condition))
                if conditions.iter().any(|known| known.condition == *condition) =>
            {
                (Severity::Condition, condition.clone(), Clears::Boot)
            }
            (NpdRuleType::Permanent, _) => {
                return Err(FieldError::new("condition", "a permanent rule must name one of the conditions"));
            }
        };
        Ok(LogRule {
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

/// Whether a pattern could match a line break. If in doubt, true: that only costs time.
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
