//! Turns a function's environment into checked settings, or says which variable is missing or wrong.

use jiff::SignedDuration;
use nodemend_domain::{audit_log::Caller, ident::ClusterName};

/// The table of cases, groups and what operators decided.
pub const STATE_TABLE: &str = "NODEMEND_STATE_TABLE";
/// The table of the trail.
pub const AUDIT_LOG_TABLE: &str = "NODEMEND_AUDIT_LOG_TABLE";
/// The ARN of the role that the repair function has, for the function that must tell its calls from others'.
pub const REPAIR_ROLE: &str = "NODEMEND_REPAIR_ROLE";
/// The name of the event bus that is told what happens. None is told where it is absent or empty.
pub const EVENT_BUS: &str = "NODEMEND_EVENT_BUS";
/// The cluster whose nodes are drained.
pub const CLUSTER: &str = "NODEMEND_CLUSTER";
/// The name of the lifecycle hooks that are ours.
pub const DRAIN_HOOK: &str = "NODEMEND_DRAIN_HOOK";
/// How many minutes a node is drained.
pub const DRAIN_MINUTES: &str = "NODEMEND_DRAIN_MINUTES";

/// So much of Lambda's quarter of an hour that the hook can still be completed within it.
pub const MAX_DRAIN_MINUTES: i64 = 13;
/// The name of the role that a function assumes in the accounts of other clusters.
pub const MEMBER_ROLE: &str = "NODEMEND_MEMBER_ROLE";
/// The name of the role that the repair function has there, for the function that must tell its calls from others'.
pub const REPAIR_MEMBER_ROLE: &str = "NODEMEND_REPAIR_MEMBER_ROLE";

/// The roles in the accounts of other clusters, by name: in each account they are called the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// What this function assumes.
    pub role: String,
    /// What the repair function assumes.
    pub calls_as: String,
}

/// A variable that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the environment: {variable} {why}")]
pub struct EnvironmentError {
    /// Which.
    pub variable: &'static str,
    /// How.
    pub why: String,
}

/// Where variables are looked up: in a process's environment, or in what stands for it in a test.
pub struct Environment(Box<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String>;

impl Environment {
    /// The environment of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place where the environment is read")]
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

    /// Who the repair function is to AWS, in this region.
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

    /// The roles in other accounts; none where nodemend serves its own account alone.
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

    /// The bus that is told what happens, if one is.
    pub fn event_bus(&self) -> Result<Option<String>, EnvironmentError> {
        let Ok(name) = self.text(EVENT_BUS) else { return Ok(None) };
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        if name.len() > 256 || !name.chars().all(sound) {
            return Err(wrong(EVENT_BUS, &name, "the name of an event bus"));
        }
        Ok(Some(name))
    }

    /// What to drain: the nodes of which cluster, held by which hook, for how long.
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

    /// A variable that is set to nothing is one that somebody forgot.
    pub fn text(&self, variable: &'static str) -> Result<String, EnvironmentError> {
        let text = (self.0)(variable).filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| EnvironmentError { variable, why: "is not set".to_owned() })
    }
}

fn wrong(variable: &'static str, found: &str, expected: &str) -> EnvironmentError {
    let shown: String = found.chars().take(80).collect();
    EnvironmentError { variable, why: format!("is {shown:?}, not {expected}") }
}

/// A role's name, its path before it. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
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

/// Takes `arn:<partition>:iam::<account>:role/<path>/<name>` apart. A session's ARN has the name alone.
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
    fn what_is_missing_or_wrong_is_named() {
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
    fn the_repairer_is_known_by_its_role_whatever_its_path_and_session() {
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
    fn the_roles_in_other_accounts_are_named_or_there_are_none() {
        assert_eq!(with(MEMBER_ROLE, " ").members(), Ok(None));
        let members = Members { role: "x/nodemend".to_owned(), calls_as: "x/nodemend".to_owned() };
        assert_eq!(with(MEMBER_ROLE, "x/nodemend").members(), Ok(Some(members)));
        for wrong in ["arn:aws:iam::123456789012:role/x", "/x", "a b"] {
            let error = with(MEMBER_ROLE, wrong).members().expect_err("refused").to_string();
            assert!(error.contains("NODEMEND_MEMBER_ROLE"), "{error}");
        }
    }

    #[test]
    fn a_drain_has_a_cluster_a_hook_and_a_time_that_lambda_has_too() {
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
    fn nobody_is_told_where_no_bus_is_named() {
        for (named, expected) in [("", None), (" ", None), ("default", Some("default"))] {
            let bus = with(EVENT_BUS, named).event_bus().expect("a bus or none");
            assert_eq!(bus.as_deref(), expected);
        }
        assert_eq!(with(STATE_TABLE, "cases").event_bus(), Ok(None));
    }

    #[test]
    fn what_is_no_role_is_refused() {
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
