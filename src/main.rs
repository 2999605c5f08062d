//! `nodemend`: what operators type.

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
#[cfg(feature = "aws")]
use nodemend::operate;
#[cfg(feature = "local")]
use nodemend::up::{self, UpError, child};
use nodemend::{
    backtest::{self, BacktestError},
    cost,
    policy::{self, PolicyCommandError},
    replay::{self, ReplayError},
};

/// Provable auto-repair for Amazon EKS nodes
#[derive(Parser)]
#[command(name = "nodemend", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run captured events through the very handlers that Lambda runs, and see what would have happened
    Replay(replay::Options),
    /// Try policies on real history: what each would have done, and whether it had been right
    Backtest(backtest::Options),
    /// Check a policy, or take one over from eksctl
    #[command(subcommand)]
    Policy(policy::Command),
    /// Reckon what an installation costs in AWS
    Cost(cost::Options),
    /// Say which nodes are in trouble or in repair, what is held, and which groups rest
    #[cfg(feature = "aws")]
    Status(operate::status::Options),
    /// Say why a node is repaired, why not yet, and what stands in the way, guard by guard
    #[cfg(feature = "aws")]
    Explain(operate::explain::Options),
    /// Allow no repairs of a node, a group or the cluster for a while
    #[cfg(feature = "aws")]
    Hold(operate::hold::Options),
    /// Take a hold back
    #[cfg(feature = "aws")]
    Release(operate::hold::ReleaseOptions),
    /// List, show and verify the trail
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    Audit(operate::audit::Command),
    /// Run the whole pipeline on this machine: the real functions, with DynamoDB and AWS emulated
    #[cfg(feature = "local")]
    Up(up::Options),
    #[cfg(feature = "local")]
    #[command(name = child::LAUNCH, hide = true)]
    Launch(child::Launch),
    /// Run the whole pipeline on this machine (needs a build with `--features local`)
    #[cfg(not(feature = "local"))]
    #[command(disable_help_flag = true)]
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<std::ffi::OsString>,
    },
}

/// The exit code of a wrong command line or configuration.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    match cli.command {
        Command::Replay(options) => match replay::run(&options) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(ReplayError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
            Err(error) => failed(&error, error.is_usage()),
        },
        Command::Backtest(options) => match backtest::run(&options) {
            Ok(code) => ExitCode::from(code),
            Err(BacktestError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
            Err(error) => failed(&error, error.is_usage()),
        },
        Command::Policy(command) => match policy::run(&command) {
            Ok(code) => ExitCode::from(code),
            Err(PolicyCommandError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
            #[cfg(feature = "aws")]
            Err(PolicyCommandError::Operate(error)) => operated(Err(error)),
            Err(error) => failed(&error, error.is_usage()),
        },
        Command::Cost(options) => match cost::run(&options) {
            Err(error) if !is_closed(&error) => failed(&error, false),
            _ => ExitCode::SUCCESS,
        },
        #[cfg(feature = "aws")]
        Command::Status(options) => operated(operate::block_on(operate::status::run(&options))),
        #[cfg(feature = "aws")]
        Command::Explain(options) => operated(operate::block_on(operate::explain::run(&options))),
        #[cfg(feature = "aws")]
        Command::Hold(options) => operated(operate::block_on(operate::hold::run(&options))),
        #[cfg(feature = "aws")]
        Command::Release(options) => operated(operate::block_on(operate::hold::release(&options))),
        #[cfg(feature = "aws")]
        Command::Audit(command) => operated(operate::block_on(operate::audit::run(&command))),
        #[cfg(feature = "local")]
        Command::Up(options) => match up::run(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(UpError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
            Err(error) => failed(&error, error.is_usage()),
        },
        #[cfg(feature = "local")]
        Command::Launch(launch) => failed(&child::launch(&launch), false),
        #[cfg(not(feature = "local"))]
        Command::Up { options: _ } => {
            anstream::eprintln!(
                "nodemend: this build has no local stack; build one that has:\n  \
                 cargo build --release --features local\n  \
                 cargo build --release --features lambda -p nodemend-intake -p nodemend-repair -p nodemend-audit"
            );
            ExitCode::from(USAGE)
        }
    }
}

#[cfg(feature = "aws")]
fn operated(result: Result<u8, operate::OperateError>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(operate::OperateError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.is_usage()),
    }
}

/// Whoever reads our output has seen enough: `| head` is no failure.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn failed(error: &dyn std::error::Error, usage: bool) -> ExitCode {
    anstream::eprintln!("nodemend: {error}");
    ExitCode::from(if usage { USAGE } else { 1 })
}
