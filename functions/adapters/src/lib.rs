//! The ports of nodemend, and what stands behind each of them.
#![warn(missing_docs)]

pub mod filter_pattern;
pub mod subscription;
