//! Turns a log group's name into who writes to it.

use nodemend_domain::ident::ClusterName;

/// Who writes to a log group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    /// Our agents: `/nodemend/<cluster>/nodes`.
    Agents(ClusterName),
    /// The control plane: `/aws/eks/<cluster>/cluster`.
    ControlPlane(ClusterName),
}

impl LogSource {
    /// Reads a log group's name.
    pub fn of(log_group: &str) -> Option<Self> {
        let between = |prefix: &str, suffix: &str| {
            let name = log_group.strip_prefix(prefix)?.strip_suffix(suffix)?;
            ClusterName::new(name).ok()
        };
        between("/nodemend/", "/nodes")
            .map(Self::Agents)
            .or_else(|| between("/aws/eks/", "/cluster").map(Self::ControlPlane))
    }

    /// The cluster that it is written for.
    pub fn cluster(&self) -> &ClusterName {
        match self {
            Self::Agents(cluster) | Self::ControlPlane(cluster) => cluster,
        }
    }
}

/// The beginning of a line, fit to be shown.
pub fn excerpt(line: &str) -> String {
    line.chars().take(256).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_read_from_the_log_group() {
        let cluster = ClusterName::new("prod").expect("a name");
        assert_eq!(LogSource::of("/nodemend/prod/nodes"), Some(LogSource::Agents(cluster.clone())));
        assert_eq!(LogSource::of("/aws/eks/prod/cluster"), Some(LogSource::ControlPlane(cluster)));
        for other in ["/aws/lambda/x", "/nodemend//nodes", "/nodemend/a/b/nodes", ""] {
            assert_eq!(LogSource::of(other), None, "{other}");
        }
    }
}
