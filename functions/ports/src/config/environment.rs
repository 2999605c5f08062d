//! Parses a function's environment variables into checked settings. An error names the variable.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use nodemend_domain::{audit_log::Caller, ident::ClusterName};

/// The table of cases, groups, policies and holds.
pub const STATE_TABLE: &str = "NODEMEND_STATE_TABLE";
/// The table of audit logs.
pub const AUDIT_LOG_TABLE: &str = "NODEMEND_AUDIT_LOG_TABLE";
/// The ARN of the repair function's role, by which confirm recognizes its calls.
pub const REPAIR_ROLE: &str = "NODEMEND_REPAIR_ROLE";
/// The name of the event bus for repair events. Absent or empty: nothing is published.
pub const EVENT_BUS: &str = "NODEMEND_EVENT_BUS";
/// The cluster whose nodes are drained.
pub const CLUSTER: &str = "NODEMEND_CLUSTER";
/// The name of our lifecycle hooks.
pub const DRAIN_HOOK: &str = "NODEMEND_DRAIN_HOOK";
/// The most minutes of a drain.
pub const DRAIN_MINUTES: &str = "NODEMEND_DRAIN_MINUTES";

/// Within Lambda's limit of 15 minutes, with time to complete the hook.
pub const MAX_DRAIN_MINUTES: i64 = 13;
/// The name of the role that a function assumes in the accounts of other clusters.
pub const MEMBER_ROLE: &str = "NODEMEND_MEMBER_ROLE";
/// The name of the repair function's role there, by which confirm recognizes its calls.
pub const REPAIR_MEMBER_ROLE: &str = "NODEMEND_REPAIR_MEMBER_ROLE";

/// The clusters whose Kubernetes API the repair function may read: names, separated by commas, or `*`. Absent or empty:
/// none.
pub const CLUSTER_ACCESS: &str = "NODEMEND_CLUSTER_ACCESS";

/// The clusters whose Kubernetes API a function may read. EKS decides in any case: a cluster without an access entry for
/// the function's role denies its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterAccess {
    /// Every cluster that the deployment serves.
    All,
    /// Only these clusters.
    Only(BTreeSet<ClusterName>),
}

impl ClusterAccess {
    /// Whether the function may read the Kubernetes API of this cluster.
    pub fn includes(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::All => true,
            Self::Only(clusters) => clusters.contains(cluster),
        }
    }
}

/// The names of the roles in the accounts of other clusters, the same in each account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The role that this function assumes.
    pub role: String,
    /// The role that the repair function assumes.
    pub calls_as: String,
}

/// A variable that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the environment: {variable} {why}")]
pub struct EnvironmentError {
    /// Its name.
    pub variable: &'static str,
    /// What is wrong.
    pub why: String,
}

/// A lookup of variables: in the process's environment, or in a test's values.
pub struct Environment(Box<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String>;

impl Environment {
    /// The environment of this process.
    #[allow(clippy::disallowed_methods, reason = "only here is the environment read")]
    pub fn of_process() -> Self {
        Self(Box::new(|variable: &str| std::env::var(variable).ok()))
    }

    /// The name of a table.
    pub fn table(&self, variable: &'static str) -> Result<String, EnvironmentError> {
        let name = self.text(variable)?;
        if name.contains(char::is_whitespace) {
            return Err(wrong(variable, &name, "the name of a table"));
        }
        Ok(name)
    }

    /// The repair function's identity in CloudTrail, in this region.
    pub fn repairer(&self, region: &str) -> Result<Caller, EnvironmentError> {
        let role = self.text(REPAIR_ROLE)?;
        let arn = assumed(&role).ok_or_else(|| wrong(REPAIR_ROLE, &role, "the ARN of a role"))?;
        Ok(Caller {
            account: arn.account.to_owned(),
            region: region.to_owned(),
            arn: format!("arn:{}:sts::{}:assumed-role/{}/nodemend", arn.partition, arn.account, arn.name),
            principal_id: None,
            user_agent: None,
        })
    }

    /// The roles in other accounts, or `None` if nodemend serves only its own account.
    pub fn members(&self) -> Result<Option<Members>, EnvironmentError> {
        let Ok(role) = self.text(MEMBER_ROLE) else {
            return Ok(None);
        };
        let role = role_name(MEMBER_ROLE, role)?;
        let calls_as = match self.text(REPAIR_MEMBER_ROLE) {
            Ok(name) => role_name(REPAIR_MEMBER_ROLE, name)?,
            Err(_) => role.clone(),
        };
        Ok(Some(Members { role, calls_as }))
    }

    /// The event bus for repair events, if one is set.
    pub fn event_bus(&self) -> Result<Option<String>, EnvironmentError> {
        let Ok(name) = self.text(EVENT_BUS) else { return Ok(None) };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        if name.len() > 256 || !name.chars().all(valid) {
            return Err(wrong(EVENT_BUS, &name, "the name of an event bus"));
        }
        Ok(Some(name))
    }

    /// The clusters whose Kubernetes API may be read; by default none.
    pub fn cluster_access(&self) -> Result<ClusterAccess, EnvironmentError> {
        let Ok(names) = self.text(CLUSTER_ACCESS) else { return Ok(ClusterAccess::Only(BTreeSet::new())) };
        if names.trim() == "*" {
            return Ok(ClusterAccess::All);
        }
        let clusters: Result<_, _> = names.split(',').map(|name| ClusterName::new(name.trim())).collect();
        clusters
            .map(ClusterAccess::Only)
            .map_err(|_| wrong(CLUSTER_ACCESS, &names, "the names of clusters, separated by commas, or *"))
    }

    /// The settings of a drain: cluster, hook and time limit.
    pub fn drain(&self) -> Result<(ClusterName, String, SignedDuration), EnvironmentError> {
        let cluster = self.text(CLUSTER)?;
        let cluster =
            ClusterName::new(&cluster).map_err(|_| wrong(CLUSTER, &cluster, "the name of a cluster"))?;
        let hook = self.text(DRAIN_HOOK)?;
        let minutes = self.text(DRAIN_MINUTES)?;
        let time = minutes.parse().ok().filter(|minutes| (1..=MAX_DRAIN_MINUTES).contains(minutes));
        let time = time.ok_or_else(|| wrong(DRAIN_MINUTES, &minutes, "a number from 1 to 13"))?;
        Ok((cluster, hook, SignedDuration::from_mins(time)))
    }

    /// A variable. One that is set to nothing counts as not set.
    pub fn text(&self, variable: &'static str) -> Result<String, EnvironmentError> {
        let text = (self.0)(variable).filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| EnvironmentError { variable, why: "is not set".to_owned() })
    }
}

fn wrong(variable: &'static str, found: &str, expected: &str) -> EnvironmentError {
    let shown: String = found.chars().take(80).collect();
    EnvironmentError { variable, why: format!("is {shown:?}, not {expected}") }
}

/// A role's name, with its path. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
fn role_name(variable: &'static str, name: String) -> Result<String, EnvironmentError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-/".contains(&byte);
    let valid = name.bytes().all(fits) && !name.starts_with('/') && !name.ends_with('/');
    if valid { Ok(name) } else { Err(wrong(variable, &name, "the name of a role")) }
}

struct Role<'a> {
    partition: &'a str,
    account: &'a str,
    name: &'a str,
}

/// Parses `arn:<partition>:iam::<account>:role/<path>/<name>`. A session's ARN has the name without the path.
fn assumed(role: &str) -> Option<Role<'_>> {
    let mut parts = role.splitn(6, ':');
    let ("arn", partition, "iam", "", account, resource) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    let name = resource.strip_prefix("role/")?.rsplit('/').next().filter(|name| !name.is_empty())?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    is_account.then_some(Role { partition, account, name })
}

#[cfg(test)]
mod tests {
    use nodemend_domain::audit_log::UserIdentity;

    use super::*;

    fn with(variable: &'static str, value: &'static str) -> Environment {
        Environment(Box::new(move |asked: &str| (asked == variable).then(|| value.to_owned())))
    }

    #[test]
    fn an_error_names_the_variable() {
        for (error, expected) in [
            (
                with(AUDIT_LOG_TABLE, "x").table(STATE_TABLE).expect_err("missing"),
                "NODEMEND_STATE_TABLE is not set",
            ),
            (
                with(STATE_TABLE, " ").table(STATE_TABLE).expect_err("empty"),
                "NODEMEND_STATE_TABLE is not set",
            ),
            (
                with(STATE_TABLE, "a b").table(STATE_TABLE).expect_err("wrong"),
                "NODEMEND_STATE_TABLE is \"a b\", not the name of a table",
            ),
            (
                with(REPAIR_ROLE, "nodemend-repair").repairer("eu-west-1").expect_err("wrong"),
                "NODEMEND_REPAIR_ROLE is \"nodemend-repair\", not the ARN of a role",
            ),
            (
                with(EVENT_BUS, "my bus").event_bus().expect_err("wrong"),
                "NODEMEND_EVENT_BUS is \"my bus\", not the name of an event bus",
            ),
        ] {
            assert_eq!(error.to_string(), format!("failed to read the environment: {expected}"));
        }
    }

    #[test]
    fn the_repairer_is_recognized_by_its_role_with_any_path_and_session() {
        for role in [
            "arn:aws:iam::123456789012:role/nodemend-repair",
            "arn:aws:iam::123456789012:role/a/b/nodemend-repair",
        ] {
            let repairer = with(REPAIR_ROLE, role).repairer("eu-west-1").expect("a role");
            assert_eq!((repairer.account.as_str(), repairer.region.as_str()), ("123456789012", "eu-west-1"));
            let session = |role: &str| UserIdentity {
                arn: Some(format!("arn:aws:sts::123456789012:assumed-role/{role}/any")),
                ..UserIdentity::default()
            };
            assert!(repairer.is_same_principal(&session("nodemend-repair")));
            assert!(!repairer.is_same_principal(&session("nodemend-confirm")));
        }
    }

    #[test]
    fn roles_in_other_accounts_are_optional_and_checked() {
        assert_eq!(with(MEMBER_ROLE, " ").members(), Ok(None));
        let members = Members { role: "x/nodemend".to_owned(), calls_as: "x/nodemend".to_owned() };
        assert_eq!(with(MEMBER_ROLE, "x/nodemend").members(), Ok(Some(members)));
        for wrong in ["arn:aws:iam::123456789012:role/x", "/x", "a b"] {
            let error = with(MEMBER_ROLE, wrong).members().expect_err("refused").to_string();
            assert!(error.contains("NODEMEND_MEMBER_ROLE"), "{error}");
        }
    }

    #[test]
    fn access_to_clusters_is_for_none_for_named_ones_or_for_all() {
        let cluster = |name| ClusterName::new(name).expect("a name");
        for (value, prod, test) in
            [("", false, false), ("prod", true, false), ("prod, test", true, true), ("*", true, true)]
        {
            let access = with(CLUSTER_ACCESS, value).cluster_access().expect("access");
            assert_eq!((access.includes(&cluster("prod")), access.includes(&cluster("test"))), (prod, test));
        }
        for value in ["a b", "prod,", "prod,*"] {
            let error = with(CLUSTER_ACCESS, value).cluster_access().expect_err("refused").to_string();
            assert!(error.contains("NODEMEND_CLUSTER_ACCESS"), "{error}");
        }
    }

    #[test]
    fn a_drain_has_a_cluster_a_hook_and_a_time_within_lambdas_limit() {
        let with = |minutes: &'static str| {
            Environment(Box::new(move |asked: &str| {
                let value = match asked {
                    CLUSTER => "prod",
                    DRAIN_HOOK => "nodemend-drain",
                    DRAIN_MINUTES => minutes,
                    _ => return None,
                };
                Some(value.to_owned())
            }))
        };
        let (cluster, hook, time) = with("10").drain().expect("a drain");
        assert_eq!((cluster.as_str(), hook.as_str()), ("prod", "nodemend-drain"));
        assert_eq!(time, SignedDuration::from_mins(10));
        for minutes in ["0", "14", "ten", ""] {
            assert!(with(minutes).drain().is_err(), "{minutes}");
        }
    }

    #[test]
    fn without_a_bus_nothing_is_published() {
        for (named, expected) in [("", None), (" ", None), ("default", Some("default"))] {
            let bus = with(EVENT_BUS, named).event_bus().expect("a bus or none");
            assert_eq!(bus.as_deref(), expected);
        }
        assert_eq!(with(STATE_TABLE, "cases").event_bus(), Ok(None));
    }

    #[test]
    fn an_invalid_role_is_an_error() {
        for role in [
            "arn:aws:iam::123456789012:user/nodemend-repair",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::12345678901:role/nodemend-repair",
            "arn:aws:sts::123456789012:assumed-role/nodemend-repair/session",
            "arn:aws:iam::123456789012",
        ] {
            assert!(with(REPAIR_ROLE, role).repairer("eu-west-1").is_err(), "{role}");
        }
    }
}
