//! `nodemend`: what operators type.

use std::{io, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};
#[cfg(feature = "local")]
use nodemend::up::{self, UpError, child};
use nodemend::{
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
    /// Check a policy, or take one over from eksctl
    #[command(subcommand)]
    Policy(policy::Command),
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
        Command::Policy(command) => match policy::run(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(PolicyCommandError::Output(error)) if is_closed(&error) => ExitCode::SUCCESS,
            Err(error) => failed(&error, !matches!(error, PolicyCommandError::Output(_))),
        },
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

/// Whoever reads our output has seen enough: `| head` is no failure.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn failed(error: &dyn std::error::Error, usage: bool) -> ExitCode {
    anstream::eprintln!("nodemend: {error}");
    ExitCode::from(if usage { USAGE } else { 1 })
}
