//! What reads and drains nodes runs against a real kube-apiserver, with the RBAC of this repository.
//!
//! `make control-plane` builds the server (`server/`) and runs these tests, one after the other.
#![cfg(target_os = "linux")]

mod access;
mod authenticator;
mod aws;
mod deployment;
mod drain;
mod reconciliation;
mod recording;
mod server;
mod verification;
