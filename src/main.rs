//! `nodemend`: parses the command line, runs one subcommand, and maps its result to an exit code.

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
#[cfg(feature = "local")]
use nodemend::local::{self, UpError, child};
#[cfg(feature = "aws")]
use nodemend::operate;
use nodemend::{
    backtest::{self, BacktestError},
    cost, output,
    policy::{self, PolicyCommandError},
    replay::{self, ReplayError},
};

/// Provable auto-repair for Amazon EKS nodes
#[derive(Parser)]
#[command(name = "nodemend", version, max_term_width = 80, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  nodemend replay events/01-metadata-service-blocked   # no AWS account needed
  nodemend status --cluster prod
  nodemend explain ip-10-0-1-23.ec2.internal --cluster prod
  nodemend hold --whole-cluster --for 30m --reason upgrade --cluster prod

Exit codes: 0 success, 1 failure or problems found, 2 a node is unhealthy,
64 usage or configuration error. See nodemend COMMAND --help for examples.";

#[derive(Subcommand)]
enum Command {
    /// Run captured events through the Lambda handlers and show what they would do
    Replay(replay::ReplayOptions),
    /// Compare policies on recorded history: repairs, unnecessary repairs, missed repairs
    Backtest(backtest::BacktestOptions),
    /// Check, import, apply and show policies
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Estimate the monthly AWS cost
    Cost(cost::CostOptions),
    /// Show unhealthy nodes, repairs, holds, and groups in backoff
    #[cfg(feature = "aws")]
    Status(operate::status::StatusOptions),
    /// Explain why a node is or is not repaired, guard by guard
    #[cfg(feature = "aws")]
    Explain(operate::explain::ExplainOptions),
    /// Forbid repairs of a node, a group or the cluster for a time
    #[cfg(feature = "aws")]
    Hold(operate::hold::HoldOptions),
    /// End a hold
    #[cfg(feature = "aws")]
    Release(operate::hold::ReleaseOptions),
    /// Ask for the repair of a node now, without its grace period
    #[cfg(feature = "aws")]
    Repair(operate::repair::RepairOptions),
    /// List, show and verify the audit log
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    Audit(operate::audit::AuditCommand),
    /// Run the whole pipeline on this machine, with DynamoDB and AWS emulated
    #[cfg(feature = "local")]
    Up(local::UpOptions),
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

/// The exit code of a usage or configuration error, as in sysexits.h.
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
            Err(PolicyCommandError::Operate(error)) => exit_of(Err(error)),
            Err(error) => failed(&error, error.is_usage()),
        },
        Command::Cost(options) => match cost::run(&options) {
            Err(error) if !is_closed(&error) => failed(&error, false),
            _ => ExitCode::SUCCESS,
        },
        #[cfg(feature = "aws")]
        Command::Status(options) => exit_of(operate::block_on(operate::status::run(&options))),
        #[cfg(feature = "aws")]
        Command::Explain(options) => exit_of(operate::block_on(operate::explain::run(&options))),
        #[cfg(feature = "aws")]
        Command::Hold(options) => exit_of(operate::block_on(operate::hold::run(&options))),
        #[cfg(feature = "aws")]
        Command::Release(options) => exit_of(operate::block_on(operate::hold::release(&options))),
        #[cfg(feature = "aws")]
        Command::Repair(options) => exit_of(operate::block_on(operate::repair::run(&options))),
        #[cfg(feature = "aws")]
        Command::Audit(command) => exit_of(operate::block_on(operate::audit::run(&command))),
        #[cfg(feature = "local")]
        Command::Up(options) => match local::run(&options) {
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
                "nodemend: this build has no local stack. Build with:\n  \
                 cargo build --release --features local\n  \
                 cargo build --release --features lambda -p nodemend-intake -p nodemend-repair -p nodemend-confirm"
            );
            ExitCode::from(USAGE)
        }
    }
}

#[cfg(feature = "aws")]
fn exit_of(result: Result<u8, operate::OperateError>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(operate::OperateError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.is_usage()),
    }
}

/// Whether the reader of our output closed it: `| head` is no failure.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn failed(error: &dyn std::error::Error, usage: bool) -> ExitCode {
    anstream::eprintln!("nodemend: {}", output::error_chain(error));
    ExitCode::from(if usage { USAGE } else { 1 })
}
