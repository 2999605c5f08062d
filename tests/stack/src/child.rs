//! Turns a program into a child of ours that can't outlive us.
//!
//! The kernel kills a child with its parent if the child itself asks for that, and between fork and exec nothing may
//! ask that is safe Rust. So we start ourselves once more; that asks, and then becomes the program.

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

/// How long a child that was asked to stop may take over it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to become, and whose child.
#[derive(Debug, Args)]
pub struct Launch {
    parent: i32,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only where that fails.
pub fn launch(launch: &Launch) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before we asked.
    if rustix::process::getppid().map(Pid::as_raw_pid) != Some(launch.parent) {
        return io::Error::other("the parent is gone");
    }
    let Some((program, arguments)) = launch.command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    std::process::Command::new(program).args(arguments).exec()
}

/// Starts children.
#[derive(Debug, Clone)]
pub struct Launcher(PathBuf);

impl Launcher {
    /// A launcher by way of this `nodemend`.
    pub fn new(nodemend: impl Into<PathBuf>) -> Self {
        Self(nodemend.into())
    }

    /// A command that runs a program as a child that hears nothing of the terminal's keys, nor of our environment.
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

/// Ends a child and what it may have started, kindly first.
pub async fn stop(child: &mut Child) {
    signal(child, Signal::TERM);
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        signal(child, Signal::KILL);
        let _ = child.wait().await;
    }
}

/// Ends a child at once.
pub async fn kill(child: &mut Child) {
    signal(child, Signal::KILL);
    let _ = child.wait().await;
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    if let Some(pid) = pid {
        // It leads a group of its own. One that is gone needs no signal.
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}
