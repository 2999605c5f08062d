//! Starts child processes that end when this process ends.
//!
//! The kernel kills a child together with its parent only if the child itself requests that. Safe Rust cannot
//! make the request between fork and exec. So the child first runs this program again, which makes the
//! request and then executes the program.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::Args;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// The name of the command that becomes a child.
pub const LAUNCH: &str = "launch-child";

/// How long a child can take to end after SIGTERM. Then it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The arguments of the command that becomes a child.
#[derive(Debug, Args)]
pub struct Launch {
    parent: i32,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Replaces this process with the program. Returns only if that fails.
pub fn launch(launch: &Launch) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have ended before the request.
    if rustix::process::getppid().map(Pid::as_raw_pid) != Some(launch.parent) {
        return io::Error::other("the parent process has ended");
    }
    let Some((program, arguments)) = launch.command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    std::process::Command::new(program).args(arguments).exec()
}

/// Builds the commands that start children. It has the path of the `nodemend` binary.
#[derive(Debug, Clone)]
pub struct Launcher(PathBuf);

impl Launcher {
    /// A launcher that starts children through this `nodemend` binary.
    pub fn new(nodemend: impl Into<PathBuf>) -> Self {
        Self(nodemend.into())
    }

    /// A command that runs a program as a child, with an empty environment and in a process group of its own,
    /// so that it does not receive the terminal's signals.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.0);
        command
            .arg(LAUNCH)
            .arg(std::process::id().to_string())
            .arg("--")
            .arg(program)
            .env_clear()
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Ends a child and the processes that it started: first with SIGTERM, then with SIGKILL.
pub async fn stop(child: &mut Child) {
    signal(child, Signal::TERM);
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        signal(child, Signal::KILL);
        let _ = child.wait().await;
    }
}

/// Ends a child at once, with SIGKILL.
pub async fn kill(child: &mut Child) {
    signal(child, Signal::KILL);
    let _ = child.wait().await;
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(pid) = pid {
        // The child leads a process group of its own. If it has ended, the error does not matter.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}
