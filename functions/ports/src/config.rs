//! Parses what operators write, policies and environment variables, into checked types.
//!
//! - An error names the field, in one line without control characters.
//! - Length and the expansion of YAML aliases are limited.

pub mod eksctl;
pub mod environment;

use nodemend_domain::policy::{Policy, PolicyError};

/// The most bytes of a policy. Real ones have a few hundred lines.
const MAX_POLICY_BYTES: usize = 1024 * 1024;

/// The most YAML events that aliases may expand to: a block of 30 lines in 300 groups. Without a limit, a few lines
/// expand to gigabytes.
const MAX_ALIAS_EVENTS: usize = 20_000;

/// Parses YAML. The error is one line.
pub fn read_yaml(text: &str) -> Result<serde_json::Value, String> {
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| one_line(&error.to_string()))
}

/// Parses and checks a policy in YAML or JSON.
pub fn read_policy(text: &str) -> Result<Policy, PolicyError> {
    // A key becomes part of the path, and can contain any characters.
    parse(text)
        .map_err(|PolicyError { field, why }| PolicyError { field: one_line(&field), why: one_line(&why) })
}

fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > MAX_POLICY_BYTES {
        let why = format!("{} bytes are more than {MAX_POLICY_BYTES}", text.len());
        return Err(PolicyError { field: "policy".to_owned(), why });
    }
    let policy: Policy = if text.trim_start().starts_with('{') {
        let deserializer = &mut serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut *deserializer)
            .map_err(|error| at_path(&error.path().to_string(), error.inner()))
            .and_then(|policy| deserializer.end().map(|()| policy).map_err(|error| at_path(".", &error)))?
    } else if text.trim().is_empty() {
        Policy::default()
    } else {
        // Converted to JSON first, so that both formats give the same messages and paths.
        let value = read_yaml(text).map_err(|why| PolicyError { field: "policy".to_owned(), why })?;
        serde_path_to_error::deserialize(value)
            .map_err(|error| at_path(&error.path().to_string(), error.inner()))?
    };
    policy.check()?;
    Ok(policy)
}

/// Writes a policy as YAML. [`read_policy`] reads it back unchanged.
pub fn write_policy(policy: &Policy) -> Result<String, PolicyError> {
    serde_saphyr::to_string(policy)
        .map_err(|error| PolicyError { field: "policy".to_owned(), why: one_line(&error.to_string()) })
}

fn at_path(path: &str, error: &serde_json::Error) -> PolicyError {
    let field = if matches!(path, "." | "?") { "policy".to_owned() } else { path.to_owned() };
    PolicyError { field, why: error.to_string() }
}

fn one_line(text: &str) -> String {
    text.split(char::is_control).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use nodemend_domain::policy::Mode;

    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_policy() {
        let yaml = "mode: repair\nnodeRepairConfig:\n  enabled: true\n  maxParallelNodesRepairedCount: 2\nrecoveryHold: 3m\n";
        let json = r#"{"mode":"repair","nodeRepairConfig":{"enabled":true,"maxParallelNodesRepairedCount":2},"recoveryHold":"3m"}"#;
        let policy = read_policy(yaml).expect("a policy");
        assert_eq!(policy, read_policy(json).expect("a policy"));
        assert_eq!(policy.mode, Mode::Repair);
    }

    #[test]
    fn an_error_names_the_field() {
        for (text, expected) in [
            ("nodeRepairConfig:\n  enable: true\n", "nodeRepairConfig"),
            ("groups:\n- name: a\n  grace:\n    reasons:\n      X: soon\n", "groups[0].grace.reasons.X"),
            (
                "nodeRepairConfig:\n  maxUnhealthyNodeThresholdCount: 1\n  maxUnhealthyNodeThresholdPercentage: 2\n",
                "maxUnhealthyNodeThresholdCount and maxUnhealthyNodeThresholdPercentage are both set",
            ),
            ("mode: kill\n", "mode: unknown variant `kill`"),
            ("{", "policy: "),
            (r#"{"mode":"observe"} {"mode":"repair"}"#, "policy: trailing characters"),
            ("a: [", "policy: "),
            ("holds:\n- owner: x\n  reason: kernel test\n", "holds[0]: missing field `until`"),
            ("silence: {min\n\n\n Silent: 3}\n", "silence.min Silent: unknown field"),
            ("{\"silence\": {\"min\\n\\u001bSilent\": 3}}", "silence.min Silent: unknown field"),
            ("grace: {reasons: {\"a\\n\\rb\": -1h}}\n", "grace.a b: is negative"),
        ] {
            let error = read_policy(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn aliases_work_but_their_expansion_is_limited() {
        let shared = "groups:\n- name: a\n  nodeRepairConfig: &repair {enabled: true}\n- name: b\n  nodeRepairConfig: *repair\n";
        let policy = read_policy(shared).expect("a policy");
        assert_eq!(policy.groups[0].node_repair_config, policy.groups[1].node_repair_config);
        let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (of, name) in "abcdef".chars().zip("bcdefg".chars()) {
            bomb += &format!("{name}: &{name} [*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of}]\n");
        }
        let error = read_yaml(&bomb).expect_err("a bomb");
        assert!(error.contains("alias replay limit exceeded"), "{error}");
    }
}
