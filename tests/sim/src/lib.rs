//! The real handlers in a simulated cluster and a faulty AWS, judged by what is so.
//!
//! One seed is one run, on any machine. Healthy nodes cost next to nothing: of a run of heartbeats that all say the
//! same, only those around a change, and the last before silence would count, are delivered; a node to which nothing
//! ever happens is a member of its group and no more. `every_heartbeat` delivers all of them.
#![warn(missing_docs)]

mod ails;
pub mod command;
mod dice;
mod events;
mod happen;
mod judge;
pub mod many;
mod plan;
mod ports;
mod shrink;
mod tasks;
mod trouble;
mod words;
mod world;

use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use self::{judge::Wrong, plan::Options, shrink::shrink};
use self::{plan::Plan, world::World};

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What should never have happened, the first first.
    pub wrongs: Vec<Wrong>,
    /// How many calls reached AWS.
    pub calls: usize,
    /// How many of them AWS took.
    pub accepted: usize,
    /// How often a function was invoked.
    pub invocations: usize,
    /// How often they read or wrote a case or what stands around it.
    pub operations: usize,
    /// What happened, if it was asked for.
    pub story: Vec<String>,
}

/// Runs one schedule.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let plan = Arc::new(Plan::of(seed, options));
    let mut world = World::new(plan, options.clone());
    world.run();
    let mut judge = world.bench.judge();
    let taken =
        |made: &&judge::Made| matches!(made.answer.outcome, nodemend_domain::trail::Outcome::Accepted { .. });
    let accepted = judge.made.iter().filter(taken).count();
    Outcome {
        wrongs: std::mem::take(&mut judge.wrongs),
        calls: judge.made.len(),
        accepted,
        invocations: judge.invocations,
        operations: judge.operations,
        story: judge.story.take().unwrap_or_default(),
    }
}

/// How many items a schedule has, and each in words.
pub fn items(seed: u64, options: &Options) -> Vec<String> {
    Plan::of(seed, options).items.iter().map(ToString::to_string).collect()
}
