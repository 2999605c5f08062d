//! Reads the policies to compare.

use std::path::{Path, PathBuf};

use nodemend_domain::policy::{Mode, Policy};
use nodemend_ports::config;

use super::{
    error::BacktestError,
    options::{BacktestMode, BacktestOptions},
};
use crate::{arguments::file_or_beside, file::read_text};

/// A policy and its name in the output.
pub(super) struct NamedPolicy {
    pub(super) name: String,
    pub(super) policy: Policy,
}

/// The policies of the command line, else policy.yaml of an input directory, else EKS's defaults.
pub(super) fn read(options: &BacktestOptions) -> Result<Vec<NamedPolicy>, BacktestError> {
    let mut policies = Vec::new();
    for policy in &options.policy {
        let (name, path) = match policy.split_once('=') {
            Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
            None => {
                let path = PathBuf::from(policy);
                (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path)
            }
        };
        let refuse = |why: &str| BacktestError::Policy { policy: policy.clone(), why: why.to_owned() };
        if name.is_empty() || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
            return Err(refuse("invalid name: use --policy NAME=FILE"));
        }
        if policies.iter().any(|known: &NamedPolicy| known.name == name) {
            return Err(refuse("another policy has this name: use --policy NAME=FILE"));
        }
        policies.push(NamedPolicy { name, policy: read_policy(&path, policy)? });
    }
    if policies.is_empty() {
        policies.push(match file_or_beside(None, &options.paths, "policy.yaml") {
            Some(path) => NamedPolicy {
                name: "policy".to_owned(),
                policy: read_policy(&path, &path.display().to_string())?,
            },
            None => NamedPolicy { name: "eks-defaults".to_owned(), policy: Policy::eks_defaults() },
        });
    }
    let mode = match options.mode {
        BacktestMode::Repair => Mode::Repair,
        BacktestMode::Observe => Mode::Observe,
        BacktestMode::Own => return Ok(policies),
    };
    for named in &mut policies {
        named.policy.mode = mode;
        named.policy.groups.iter_mut().for_each(|rule| rule.mode = None);
    }
    Ok(policies)
}

fn read_policy(path: &Path, argument: &str) -> Result<Policy, BacktestError> {
    config::read_policy(&read_text(path)?)
        .map_err(|error| BacktestError::Policy { policy: argument.to_owned(), why: error.to_string() })
}
