//! This machine's own agent, as the agent of one of the cluster's nodes.

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

/// The binary's name.
pub const AGENT: &str = "nodemend-agent";

/// The agent, running.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    said: Option<Lines<BufReader<ChildStderr>>>,
    state: PathBuf,
}

impl Agent {
    /// Starts it for a node. Its spool is in the system's folder for what need not last.
    pub fn start(launcher: &Launcher, program: &Path, stack: &Stack, node: &Node) -> io::Result<Self> {
        let state = std::env::temp_dir().join(format!("nodemend-agent-{}", std::process::id()));
        fs::create_dir_all(&state)?;
        let mut command = launcher.command(program);
        command
            .args(["run", "--sink", "cloudwatch", "--no-imds", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(&state)
            // Here nothing is at stake: what `nodemend-agent inject` makes is believed.
            .arg("--accept-injected")
            .args(["--cluster", node.cluster.as_str(), "--node", node.name.as_str()])
            .args(["--instance-id", node.instance_id.as_str(), "--zone", node.zone.as_str()])
            .envs(stack.environment(AGENT))
            // It runs the system's tools.
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
        Ok(Self { child, said, state })
    }

    /// The next that it has to say; its end is the last.
    pub async fn says(&mut self) -> String {
        if let Some(said) = &mut self.said {
            if let Ok(Some(line)) = said.next_line().await {
                // Whose line it is, the screen says.
                return line
                    .strip_prefix(AGENT)
                    .and_then(|line| line.strip_prefix(": "))
                    .unwrap_or(&line)
                    .to_owned();
            }
            self.said = None;
            let status = self.child.wait().await;
            return format!(
                "ended: {}",
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            );
        }
        std::future::pending().await
    }

    /// Ends it.
    pub async fn stop(mut self) {
        child::stop(&mut self.child).await;
        // What it has not delivered is of no use to anybody.
        let _ = fs::remove_dir_all(&self.state);
    }
}
