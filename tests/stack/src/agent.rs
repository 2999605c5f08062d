//! Runs nodemend-agent on this machine, as the agent of one node of the cluster.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
};

use super::{
    child::{self, Launcher},
    node::Node,
    stack::Stack,
};

/// The name of the agent's binary.
pub const AGENT: &str = "nodemend-agent";

/// An agent process.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stderr: Option<Lines<BufReader<ChildStderr>>>,
    state_dir: PathBuf,
}

impl Agent {
    /// Starts the agent of a node. Its spool is in the system's temporary directory, because it is not needed
    /// later.
    pub fn start(launcher: &Launcher, program: &Path, stack: &Stack, node: &Node) -> io::Result<Self> {
        let state_dir = std::env::temp_dir().join(format!("nodemend-agent-{}", std::process::id()));
        fs::create_dir_all(&state_dir)?;
        let mut command = launcher.command(program);
        command
            .args(["run", "--sink", "cloudwatch", "--no-imds", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(&state_dir)
            // No real node can be repaired here, so faults from `nodemend-agent inject` are accepted.
            .arg("--accept-injected")
            .args(["--cluster", node.cluster.as_str(), "--node", node.name.as_str()])
            .args(["--instance-id", node.instance_id.as_str(), "--zone", node.zone.as_str()])
            .envs(stack.environment(AGENT))
            // The agent runs tools of the system.
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
        Ok(Self { child, stderr, state_dir })
    }

    /// The next line of the agent's stderr. The last one says how the process ended.
    pub async fn next_line(&mut self) -> String {
        if let Some(stderr) = &mut self.stderr {
            if let Ok(Some(line)) = stderr.next_line().await {
                // The display puts the name before each line.
                return line
                    .strip_prefix(AGENT)
                    .and_then(|line| line.strip_prefix(": "))
                    .unwrap_or(&line)
                    .to_owned();
            }
            self.stderr = None;
            let status = self.child.wait().await;
            return format!(
                "ended: {}",
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            );
        }
        std::future::pending().await
    }

    /// Stops the agent and deletes its state.
    pub async fn stop(mut self) {
        child::stop(&mut self.child).await;
        // Reports that were not delivered are not needed any more.
        let _ = fs::remove_dir_all(&self.state_dir);
    }
}
