//! Runs a program and reads its output, with a limit on its run time.
//!
//! A program that calls a driver can hang in the kernel, where no signal ends it. Such a process is left behind, and
//! the program is not started again before it ends.

use std::{
    fmt::Display,
    io::{self, Read},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::AsFd,
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};

/// Why a program's output is not available.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started or waited for.
    #[error("it cannot be run: {0}")]
    Run(#[from] io::Error),
    /// It did not end in time. It was killed, and may still hang.
    #[error("it did not end within {} s", .0.as_secs())]
    TooLong(Duration),
    /// An earlier process that was killed still hangs.
    #[error("the previous process has not ended")]
    StillRunning,
    #[error("it ended with {0}")]
    Status(ExitStatus),
    /// The output could not be read.
    #[error("{0}")]
    Output(String),
}

/// Runs one program repeatedly, one process at a time.
#[derive(Debug, Default)]
pub struct Runner {
    hanging: Option<Child>,
}

/// The output of a process, until its time limit.
#[derive(Debug)]
pub struct ChildOutput {
    pipe: ChildStdout,
    end: Instant,
}

impl Read for ChildOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_ready(&self.pipe, self.end)? {
            self.pipe.read(buffer)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Runner {
    /// Runs the program once and passes its output to `reader`.
    pub fn read<T, E: Display>(
        &mut self,
        command: &mut Command,
        within: Duration,
        reader: impl FnOnce(ChildOutput) -> Result<T, E>,
    ) -> Result<T, ChildError> {
        if let Some(hanging) = &mut self.hanging {
            if hanging.try_wait()?.is_none() {
                return Err(ChildError::StillRunning);
            }
            self.hanging = None;
        }
        let end = Instant::now() + within;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        // A reader that returns early closes the pipe, which ends the writer.
        let read = match child.stdout.take() {
            Some(pipe) => reader(ChildOutput { pipe, end }).map_err(|error| error.to_string()),
            None => Err("it has no output".to_owned()),
        };
        if !has_ended(&child, end)? {
            // The process may have ended a moment ago.
            let _ = child.kill();
            self.hanging = Some(child);
            return Err(ChildError::TooLong(within));
        }
        match (read, child.wait()?) {
            (read, status) if status.success() => read.map_err(ChildError::Output),
            (Ok(_), status) => Err(ChildError::Status(status)),
            (Err(error), status) => Err(ChildError::Output(format!("it ended with {status}: {error}"))),
        }
    }
}

/// Waits for the end of a process until its time limit. Kernels before 5.3 have no pidfd; there the process is waited
/// for after its pipe is closed.
fn has_ended(child: &Child, end: Instant) -> io::Result<bool> {
    match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(handle) => is_ready(handle, end),
        Err(_) => Ok(Instant::now() < end),
    }
}

/// Waits until there is data, or until the time limit.
fn is_ready(file: impl AsFd, end: Instant) -> io::Result<bool> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mut output: ChildOutput) -> io::Result<String> {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_counts_if_the_program_succeeds() {
        let long = Duration::from_secs(10);
        let mut runner = Runner::default();
        assert_eq!(runner.read(&mut shell("echo a"), long, text).expect("a text"), "a\n");
        let error = runner.read(&mut shell("echo a; exit 3"), long, text).expect_err("a failure");
        assert!(matches!(error, ChildError::Status(status) if status.code() == Some(3)), "{error}");
        let error = runner.read(&mut Command::new("/nowhere"), long, text).expect_err("no such program");
        assert!(matches!(error, ChildError::Run(_)), "{error}");
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_and_can_be_run_again() {
        let mut runner = Runner::default();
        let short = Duration::from_millis(50);
        let error = runner.read(&mut shell("exec sleep 600"), short, text).expect_err("too long");
        assert!(matches!(error, ChildError::TooLong(_)), "{error}");
        let hanging = runner.hanging.as_ref().expect("what hangs");
        assert!(has_ended(hanging, Instant::now() + Duration::from_secs(10)).expect("a wait"));
        assert_eq!(runner.read(&mut shell("echo b"), Duration::from_secs(10), text).expect("a text"), "b\n");
    }

    #[test]
    fn no_process_is_started_while_a_killed_one_hangs() {
        // The process ends with its input.
        let hanging =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a program");
        let mut runner = Runner { hanging: Some(hanging) };
        let long = Duration::from_secs(10);
        let error = runner.read(&mut shell("echo c"), long, text).expect_err("it hangs");
        assert!(matches!(error, ChildError::StillRunning), "{error}");
        let hanging = runner.hanging.as_mut().expect("what hangs");
        drop(hanging.stdin.take());
        assert!(has_ended(hanging, Instant::now() + long).expect("a wait"));
        assert_eq!(runner.read(&mut shell("echo c"), long, text).expect("a text"), "c\n");
    }

    #[test]
    fn a_program_that_closes_its_output_and_continues_is_killed() {
        let mut runner = Runner::default();
        let short = Duration::from_millis(50);
        let error = runner.read(&mut shell("echo d; exec sleep 600 >&-"), short, text).expect_err("too long");
        assert!(matches!(error, ChildError::TooLong(_)), "{error}");
    }
}
