//! The Kubernetes API itself, as EKS serves it.

mod client;
mod eks;
mod token;
mod wire;

pub use self::eks::EksCluster;
