//! The API server of EKS clusters: the port of the drain function, and the Nodes that verification reads.

mod client;
mod eks;
mod nodes;
mod token;
mod wire;

pub use self::eks::EksCluster;
pub(crate) use self::nodes::NodeReader;
