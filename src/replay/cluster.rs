//! Reads `cluster.jsonl`: what the API server of the cluster would have answered, and when.
//!
//! Each line has the time `at` and one of: `node` (a Node object, as `kubectl get node -o json` prints it), `deleted` (the
//! name of a Node that is no more), or `error` (why reads fail from then on).

use std::path::Path;

use jiff::Timestamp;
use nodemend_domain::{ident::NodeName, node_snapshot::NodeSnapshot};
use nodemend_ports::cluster_reader::{MemoryCluster, ReadError};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ReplayError;
use crate::{file::read_text, output::error_chain};

/// The file in an incident's directory.
pub(super) const FILE: &str = "cluster.jsonl";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    at: Timestamp,
    #[serde(borrow)]
    node: Option<&'a RawValue>,
    deleted: Option<NodeName>,
    error: Option<String>,
}

/// What the API server answers.
#[derive(Debug, Default)]
pub(super) struct ApiServer(Vec<(Timestamp, Answer)>);

#[derive(Debug)]
enum Answer {
    Node(Box<NodeSnapshot>),
    Deleted(NodeName),
    Error(String),
}

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<ApiServer, ReplayError> {
    let text = read_text(path)?;
    let mut answers = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refused = |why: String| ReplayError::Config {
            path: path.to_owned(),
            why: format!("line {}: {why}", number + 1),
        };
        let line: Line<'_> = serde_json::from_str(line).map_err(|error| refused(error.to_string()))?;
        let answer = match (line.node, line.deleted, line.error) {
            (Some(node), None, None) => {
                let node = NodeSnapshot::read(node.get().as_bytes());
                Answer::Node(Box::new(node.map_err(|error| refused(error_chain(&error)))?))
            }
            (None, Some(name), None) => Answer::Deleted(name),
            (None, None, Some(error)) => Answer::Error(error),
            _ => return Err(refused("needs one of node, deleted and error".to_owned())),
        };
        answers.push((line.at, answer));
    }
    Ok(ApiServer(answers))
}

impl ApiServer {
    /// Lets a cluster in memory answer so.
    pub(super) fn set_up(&self, cluster: &MemoryCluster) {
        for (at, answer) in &self.0 {
            match answer {
                Answer::Node(node) => cluster.set_node(*at, (**node).clone()),
                Answer::Deleted(name) => cluster.delete_node(*at, name.clone()),
                Answer::Error(error) => {
                    let (what, source) = ("the Kubernetes API".to_owned(), error.as_str().into());
                    cluster.fail(*at, ReadError::Unavailable { what, source });
                }
            }
        }
    }
}
