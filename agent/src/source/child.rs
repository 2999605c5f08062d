//! Runs a program for what it prints, and never waits for it longer than it may take.
//!
//! A program that asks a driver can hang in the kernel, where no signal ends it. It is left to end when it can, and is
//! not started again before.

use std::{
    fmt::Display,
    io,
    process::{ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const STACK: usize = 256 * 1024;

/// Why a program told nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("it can't be started: {0}")]
    Start(#[from] io::Error),
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
    hanging: Option<Receiver<()>>,
}

impl Runner {
    /// Runs it once and reads what it prints.
    pub fn read<T: Send + 'static, E: Display>(
        &mut self,
        command: &mut Command,
        within: Duration,
        reader: impl FnOnce(ChildStdout) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ChildError> {
        if let Some(hanging) = &self.hanging {
            if hanging.try_recv() == Err(TryRecvError::Empty) {
                return Err(ChildError::Hangs);
            }
            self.hanging = None;
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        // Taken while nobody can have waited for the child: it is this child's, whoever gets its number later.
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let (Ok(handle), Some(output)) = (handle, child.stdout.take()) else {
            child.kill()?;
            child.wait()?;
            return Err(ChildError::Output("it can't be watched".to_owned()));
        };
        let (answer, answered) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("child".to_owned()).stack_size(STACK).spawn(move || {
            // A reader that gives up closes the pipe, and its writer ends by that.
            let read = reader(output).map_err(|error| error.to_string());
            // Nobody listens any more where it took too long.
            let _ = answer.send(child.wait().map(|status| (read, status)));
            let _ = end.send(());
        })?;
        match answered.recv_timeout(within) {
            Ok(waited) => match waited? {
                (read, status) if status.success() => read.map_err(ChildError::Output),
                (Ok(_), status) => Err(ChildError::Status(status)),
                (Err(error), status) => Err(ChildError::Output(format!("it ended with {status}: {error}"))),
            },
            Err(RecvTimeoutError::Disconnected) => Err(ChildError::Output("its reader failed".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                // It may have ended by itself just now.
                let _ = pidfd_send_signal(handle, Signal::KILL);
                self.hanging = Some(ended);
                Err(ChildError::TooLong(within))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn text(mut output: ChildStdout) -> io::Result<String> {
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
        assert!(matches!(error, ChildError::Start(_)), "{error}");
    }

    #[test]
    fn one_that_takes_too_long_is_ended_and_can_be_run_again() {
        let mut runner = Runner::default();
        let short = Duration::from_millis(50);
        let error = runner.read(&mut shell("exec sleep 600"), short, text).expect_err("too long");
        assert!(matches!(error, ChildError::TooLong(_)), "{error}");
        runner.hanging.as_ref().expect("its end").recv_timeout(Duration::from_secs(10)).expect("it ends");
        // The word of its end was taken just now: what is gone is as good.
        assert_eq!(runner.read(&mut shell("echo b"), Duration::from_secs(10), text).expect("a text"), "b\n");
    }

    #[test]
    fn while_one_hangs_no_other_is_started() {
        let (_keeps, hanging) = mpsc::channel();
        let mut runner = Runner { hanging: Some(hanging) };
        let error = runner.read(&mut shell("echo c"), Duration::from_secs(1), text).expect_err("it hangs");
        assert!(matches!(error, ChildError::Hangs), "{error}");
    }
}
