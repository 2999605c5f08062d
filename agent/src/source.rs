//! Turns what the node's kernel and daemons show into plain values.

pub mod firewall;
pub mod netlink;
