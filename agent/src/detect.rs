//! Turns what was read into what is wrong: pure judgements.

pub mod firewall;
pub mod interface;
