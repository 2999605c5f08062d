//! Turns a function's environment into checked settings, or says which variable is missing or wrong.

use nodemend_domain::trail::Caller;

/// The table of cases, groups and what operators decided.
pub const STATE_TABLE: &str = "NODEMEND_STATE_TABLE";
/// The table of the trail.
pub const AUDIT_TABLE: &str = "NODEMEND_AUDIT_TABLE";
/// The ARN of the role that the repair function has, for the function that must tell its calls from others'.
pub const REPAIR_ROLE: &str = "NODEMEND_REPAIR_ROLE";

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

    /// A variable that is set to nothing is one that somebody forgot.
    pub(crate) fn text(&self, variable: &'static str) -> Result<String, EnvironmentError> {
        let text = (self.0)(variable).filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| EnvironmentError { variable, why: "is not set".to_owned() })
    }
}

fn wrong(variable: &'static str, found: &str, expected: &str) -> EnvironmentError {
    let shown: String = found.chars().take(80).collect();
    EnvironmentError { variable, why: format!("is {shown:?}, not {expected}") }
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
    use nodemend_domain::trail::UserIdentity;

    use super::*;

    fn with(variable: &'static str, value: &'static str) -> Environment {
        Environment(Box::new(move |asked: &str| (asked == variable).then(|| value.to_owned())))
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (error, expected) in [
            (
                with(AUDIT_TABLE, "x").table(STATE_TABLE).expect_err("missing"),
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
            assert!(!repairer.is_same_principal(&session("nodemend-audit")));
        }
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
