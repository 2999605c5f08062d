//! `nodemend`: what operators type.

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};
use nodemend::replay;

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
    let Command::Replay(options) = cli.command;
    match replay::run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(replay::ReplayError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            anstream::eprintln!("nodemend: {error}");
            ExitCode::from(if error.is_usage() { USAGE } else { 1 })
        }
    }
}
