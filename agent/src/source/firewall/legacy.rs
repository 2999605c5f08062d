//! Reads the host's legacy iptables rules with iptables-legacy-save.
//!
//! The kernel's list of legacy tables is read first: most nodes have none and need no tool.

use std::{fs, io, path::Path, process::Command, time::Duration};

use super::{IpFamily, Ruleset, save};
use crate::source::child::Runner;

/// The tool waits for a lock that kube-proxy may hold.
const TIMEOUT: Duration = Duration::from_secs(20);
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Why the legacy rules cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// There are tables, but the tool that prints them is missing.
    #[error("the host has legacy {} tables, but {tool} is not installed", family.name())]
    NoTool { family: IpFamily, tool: &'static str },
    #[error("failed to run {tool}: {why}")]
    Tool { tool: &'static str, why: String },
}

/// Reads the legacy rules of one IP version; no rules if the kernel has no legacy tables.
pub fn read(root: &Path, family: IpFamily, runner: &mut Runner) -> Result<Ruleset, LegacyError> {
    let (names, tool) = match family {
        IpFamily::V6 => ("proc/net/ip6_tables_names", "ip6tables-legacy-save"),
        IpFamily::V4 | IpFamily::Both => ("proc/net/ip_tables_names", "iptables-legacy-save"),
    };
    match fs::read_to_string(root.join(names)) {
        Ok(text) if text.trim().is_empty() => return Ok(Ruleset::default()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ruleset::default()),
        Err(error) => {
            return Err(LegacyError::Tool { tool, why: format!("{names} cannot be read: {error}") });
        }
    }
    run(family, tool, runner)
}

fn run(family: IpFamily, tool: &'static str, runner: &mut Runner) -> Result<Ruleset, LegacyError> {
    let Some(program) =
        DIRECTORIES.iter().map(|directory| Path::new(directory).join(tool)).find(|path| path.exists())
    else {
        return Err(LegacyError::NoTool { family, tool });
    };
    runner
        .read(&mut Command::new(program), TIMEOUT, |output| save::read(family, output))
        .map_err(|error| LegacyError::Tool { tool, why: error.to_string() })
}
