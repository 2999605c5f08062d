//! Runs the real handlers in a simulated cluster with a faulty AWS. An oracle decides whether what they do is right.
//!
//! One seed is one run, on any machine. Healthy nodes cost almost nothing: of a series of equal heartbeats, only those
//! around a change and the last before the agent would count as silent are delivered. A node to which nothing happens
//! is a member of its group and no more. `every_heartbeat` delivers all of them.
#![warn(missing_docs)]

pub mod campaign;
pub mod command;
mod effects;
mod environment;
mod episodes;
mod events;
mod failures;
mod fleet;
mod instances;
mod items;
mod messages;
mod node_failures;
mod operator;
mod oracle;
mod other_clusters;
mod plan;
mod policy;
mod ports;
mod reading;
mod rng;
pub mod schedule;
mod shrink;
mod tasks;

use std::sync::Arc;

use self::{environment::Environment, plan::Plan};
pub use self::{oracle::Violation, plan::Options, shrink::shrink};

/// The result of one run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What must never happen and did, in the order of time.
    pub violations: Vec<Violation>,
    /// How many calls reached AWS.
    pub calls: usize,
    /// How many of them AWS accepted.
    pub accepted: usize,
    /// How many of them were on a node that was healthy in truth.
    pub on_healthy: usize,
    /// How often a function was invoked.
    pub invocations: usize,
    /// How often the functions read or wrote a case or its context.
    pub operations: usize,
    /// What happened, line by line, if `verbose` was set.
    pub trace: Vec<String>,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    run_plan(Plan::of(seed, options), options)
}

fn run_plan(plan: Plan, options: &Options) -> Outcome {
    let mut environment = Environment::new(Arc::new(plan), options.clone());
    environment.run();
    let mut oracle = environment.oracle.lock();
    let accepted = |made: &&oracle::MadeCall| {
        matches!(made.answer.outcome, nodemend_domain::audit_log::CallOutcome::Accepted { .. })
    };
    let accepted = oracle.made_calls.iter().filter(accepted).count();
    Outcome {
        violations: std::mem::take(&mut oracle.violations),
        calls: oracle.made_calls.len(),
        accepted,
        on_healthy: oracle.calls_on_healthy,
        invocations: oracle.invocations,
        operations: oracle.operations,
        trace: oracle.trace.take().unwrap_or_default(),
    }
}

/// The items of a seed's schedule, each as a sentence.
pub fn items(seed: u64, options: &Options) -> Vec<String> {
    Plan::of(seed, options).items.iter().map(ToString::to_string).collect()
}
