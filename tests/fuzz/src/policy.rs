//! What operators write: a policy of ours, or an eksctl ClusterConfig.

use jiff::Timestamp;
use nodemend_domain::policy::{Hold, Policy};
use nodemend_ports::config::{eksctl, read_policy, write_policy};

/// A policy, YAML or JSON.
pub fn hold_policy(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match read_policy(text) {
        Ok(policy) => {
            check(&policy);
            // JSON is YAML: where both readers take it, they take it for the same.
            if text.trim_start().starts_with('{')
                && let Ok(other) = read_policy(&format!("---\n{text}"))
            {
                assert_eq!(other, policy, "the two readers disagree");
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// A ClusterConfig of eksctl's.
pub fn hold_eksctl_file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match eksctl::policy(text) {
        Ok(policy) => {
            assert_eq!(policy.mode, nodemend_domain::policy::Mode::Observe, "taken over, it repairs");
            check(&policy);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// Written in either form, and read again, it is the same; as YAML by way of JSON as well.
fn check(policy: &Policy) {
    let policy = to_the_millisecond(policy.clone());
    let yaml = write_policy(&policy).expect("YAML");
    let again = read_policy(&yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
    assert_eq!(again, policy, "by way of YAML:\n{yaml}");
    let json = serde_json::to_string(&policy).expect("JSON");
    let again = read_policy(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(again, policy, "by way of JSON: {json}");
    assert_eq!(write_policy(&again).expect("YAML"), yaml);
}

/// Instants are written to the millisecond.
fn to_the_millisecond(mut policy: Policy) -> Policy {
    let cut = |at: Timestamp| {
        let nanos = at.as_nanosecond();
        Timestamp::from_nanosecond(nanos - nanos.rem_euclid(1_000_000)).unwrap_or(at)
    };
    for Hold { from, until, .. } in &mut policy.holds {
        (*from, *until) = (from.map(cut), cut(*until));
    }
    policy
}
