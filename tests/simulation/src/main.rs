//! The command `simulate`: runs schedules by their seeds and explains the first that fails.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodemend_simulation::command::run_command(std::env::args().skip(1))
}
