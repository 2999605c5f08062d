//! Turns the legacy iptables of the host into rules, through the tool that prints them.
//!
//! The kernel itself says whether there are legacy tables at all: most nodes have none, and need no tool.

use std::{fs, io, path::Path, process::Command, time::Duration};

use super::{Family, Ruleset, save};
use crate::source::child::Runner;

/// The tool waits for a lock that kube-proxy may hold.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Where the tools are when the agent's own PATH does not say.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Why there are no rules to judge.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// There are tables, and nobody here can print them.
    #[error("the host has legacy {} tables, and there is no {tool} to print them", family.name())]
    NoTool {
        /// The addresses that they are for.
        family: Family,
        /// What is missing.
        tool: &'static str,
    },
    /// The tool failed.
    #[error("failed to run {tool}: {why}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What happened.
        why: String,
    },
}

/// Reads the legacy rules of one family; none if the kernel has no such table.
pub fn read(root: &Path, family: Family, runner: &mut Runner) -> Result<Ruleset, LegacyError> {
    let (names, tool) = match family {
        Family::V6 => ("proc/net/ip6_tables_names", "ip6tables-legacy-save"),
        Family::V4 | Family::Both => ("proc/net/ip_tables_names", "iptables-legacy-save"),
    };
    match fs::read_to_string(root.join(names)) {
        Ok(text) if text.trim().is_empty() => return Ok(Ruleset::default()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ruleset::default()),
        Err(error) => return Err(LegacyError::Tool { tool, why: format!("{names} can't be read: {error}") }),
    }
    run(family, tool, runner)
}

fn run(family: Family, tool: &'static str, runner: &mut Runner) -> Result<Ruleset, LegacyError> {
    let Some(program) = FOLDERS.iter().map(|folder| Path::new(folder).join(tool)).find(|path| path.exists())
    else {
        return Err(LegacyError::NoTool { family, tool });
    };
    runner
        .read(&mut Command::new(program), TIMEOUT, |output| save::read(family, output))
        .map_err(|error| LegacyError::Tool { tool, why: error.to_string() })
}
