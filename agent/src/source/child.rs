//! Runs a program for what it prints, and never waits for it longer than it may take.
//!
//! A program that asks a driver can hang in the kernel, where no signal ends it. It is left to end when it can, and is
//! not started again before.

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

/// Why a program told nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started, or waited for.
    #[error("it can't be run: {0}")]
    Run(#[from] io::Error),
    /// It was told to end, and may hang still.
    #[error("no end within {} s", .0.as_secs())]
    TooLong(Duration),
    /// One that was told to end hangs still.
    #[error("the one before it has not ended yet")]
    Hangs,
    /// It ended as it should not.
    #[error("it ended with {0}")]
    Status(ExitStatus),
    /// What it printed can't be read.
    #[error("{0}")]
    Output(String),
}

/// One program, run again and again.
#[derive(Debug, Default)]
pub struct Runner {
    hanging: Option<Child>,
}

/// What a program prints, until its time is up.
#[derive(Debug)]
pub struct Output {
    pipe: ChildStdout,
    end: Instant,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if is_ready(&self.pipe, self.end)? {
            self.pipe.read(buffer)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Runner {
    /// Runs it once and reads what it prints.
    pub fn read<T, E: Display>(
        &mut self,
        command: &mut Command,
        within: Duration,
        reader: impl FnOnce(Output) -> Result<T, E>,
    ) -> Result<T, ChildError> {
        if let Some(hanging) = &mut self.hanging {
            if hanging.try_wait()?.is_none() {
                return Err(ChildError::Hangs);
            }
            self.hanging = None;
        }
        let end = Instant::now() + within;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        // A reader that gives up closes the pipe, and its writer ends by that.
        let read = match child.stdout.take() {
            Some(pipe) => reader(Output { pipe, end }).map_err(|error| error.to_string()),
            None => Err("it has no output".to_owned()),
        };
        if !has_ended(&child, end)? {
            // It may have ended by itself just now.
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

/// Waits for its end as long as it has time. A kernel before 5.3 can't be asked that, and is not: such a program is
/// waited for once its pipe is closed or its time is up.
fn has_ended(child: &Child, end: Instant) -> io::Result<bool> {
    match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(handle) => is_ready(handle, end),
        Err(_) => Ok(Instant::now() < end),
    }
}

/// Waits until there is something to read, or the time is up.
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

    fn text(mut output: Output) -> io::Result<String> {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_it_prints_counts_if_it_ends_well() {
        let long = Duration::from_secs(10);
        let mut runner = Runner::default();
        assert_eq!(runner.read(&mut shell("echo a"), long, text).expect("a text"), "a\n");
        let error = runner.read(&mut shell("echo a; exit 3"), long, text).expect_err("a failure");
        assert!(matches!(error, ChildError::Status(status) if status.code() == Some(3)), "{error}");
        let error = runner.read(&mut Command::new("/nowhere"), long, text).expect_err("no such program");
        assert!(matches!(error, ChildError::Run(_)), "{error}");
    }

    #[test]
    fn one_that_takes_too_long_is_ended_and_can_be_run_again() {
        let mut runner = Runner::default();
        let short = Duration::from_millis(50);
        let error = runner.read(&mut shell("exec sleep 600"), short, text).expect_err("too long");
        assert!(matches!(error, ChildError::TooLong(_)), "{error}");
        let hanging = runner.hanging.as_ref().expect("what hangs");
        assert!(has_ended(hanging, Instant::now() + Duration::from_secs(10)).expect("a wait"));
        assert_eq!(runner.read(&mut shell("echo b"), Duration::from_secs(10), text).expect("a text"), "b\n");
    }

    #[test]
    fn while_one_hangs_no_other_is_started() {
        // It ends with its input.
        let hanging =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a program");
        let mut runner = Runner { hanging: Some(hanging) };
        let long = Duration::from_secs(10);
        let error = runner.read(&mut shell("echo c"), long, text).expect_err("it hangs");
        assert!(matches!(error, ChildError::Hangs), "{error}");
        let hanging = runner.hanging.as_mut().expect("what hangs");
        drop(hanging.stdin.take());
        assert!(has_ended(hanging, Instant::now() + long).expect("a wait"));
        assert_eq!(runner.read(&mut shell("echo c"), long, text).expect("a text"), "c\n");
    }

    #[test]
    fn one_that_closes_its_output_and_goes_on_is_ended() {
        let mut runner = Runner::default();
        let short = Duration::from_millis(50);
        let error = runner.read(&mut shell("echo d; exec sleep 600 >&-"), short, text).expect_err("too long");
        assert!(matches!(error, ChildError::TooLong(_)), "{error}");
    }
}
