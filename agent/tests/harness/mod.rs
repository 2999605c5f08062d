//! Starts agents, reads their reports, and sets up their environment.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

pub(crate) const INSTANCE_ID: &str = "i-0ab76e62066c9730c";

/// Prints why a test cannot run here. It then passes.
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The kernel log, opened for writing.
pub(crate) fn kernel_log() -> Option<File> {
    let opened = OpenOptions::new().write(true).open("/dev/kmsg");
    opened.map_err(|error| skip(&format!("/dev/kmsg can't be written: {error}"))).ok()
}

/// Creates a file for the test and returns its path.
pub(crate) fn file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// Creates an empty directory for the test.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// Writes one record: the kernel accepts one a write, and shows it after its line break.
pub(crate) fn write_line(kernel_log: &mut File, text: &str) {
    kernel_log.write_all(format!("<4>{text}\n").as_bytes()).expect("a record");
}

/// All findings of a report, of any kind.
pub(crate) fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let own = report["findings"].as_array().into_iter().flatten();
    let conditions = report["conditions"].as_array().into_iter().flatten();
    own.chain(conditions.flat_map(|condition| condition["findings"].as_array().into_iter().flatten()))
}

pub(crate) fn has_reason(report: &Value, reason: &str) -> bool {
    findings(report).any(|found| found["reason"] == reason)
}

/// A network namespace that is deleted on drop.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn make(name: &str) -> Option<Self> {
        let name = format!("nodemend-{}-{name}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {
                let namespace = Self(name);
                // With the loopback interface down, the node would be unhealthy.
                assert!(namespace.run("ip", &["link", "set", "lo", "up"]), "the loopback of a new namespace");
                Some(namespace)
            }
            Ok(output) => {
                skip(&format!("network namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skip(&format!("ip is not installed: {error}"));
                None
            }
        }
    }

    /// Runs a command in it. Returns whether it succeeded.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let output = self.command(program).args(arguments).output().expect("ip netns exec runs");
        if !output.status.success() {
            println!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Namespace {
    /// Serves a directory's files on a loopback port until the value is dropped.
    pub(crate) fn serve(&self, directory: &Path, port: u16) -> Option<Server> {
        if let Err(error) = Command::new("python3").arg("--version").output() {
            skip(&format!("python3 is not installed: {error}"));
            return None;
        }
        let child = self
            .command("python3")
            .args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory"])
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip netns exec runs");
        Some(Server(child))
    }
}

/// A running server that is killed on drop.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Scans in a namespace. Returns the exit code and the readings.
pub(crate) fn scan(namespace: &Namespace) -> (Option<i32>, Vec<Value>) {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_nodemend-agent"));
    readings(command.args(["scan", "--format", "json", "--no-imds"]))
}

/// Scans a node with this directory as its root; its `proc` is the machine's.
pub(crate) fn scan_node(namespace: &Namespace, root: &Path) -> (Option<i32>, Vec<Value>) {
    // `ip netns exec` has its own mount namespace, so this mount ends with the process.
    const MOUNT_AND_RUN: &str =
        r#"mount --bind /proc "$1/proc" && exec "$0" scan --format json --no-imds --root "$1""#;
    let mut command = namespace.command("sh");
    readings(command.args(["-c", MOUNT_AND_RUN, env!("CARGO_BIN_EXE_nodemend-agent")]).arg(root))
}

fn readings(scan: &mut Command) -> (Option<i32>, Vec<Value>) {
    let output = scan.output().expect("the agent runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let readings = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (output.status.code(), readings)
}

/// A running agent that is killed on drop.
pub(crate) struct Agent {
    child: Child,
    reports: Receiver<Value>,
    listen: String,
}

impl Agent {
    pub(crate) fn start(name: &str, more: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, true)
    }

    /// Starts an agent with the state of the previous one.
    pub(crate) fn start_again(name: &str, more: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, false)
    }

    pub(crate) fn start_in(namespace: &Namespace, name: &str, more: &[&str]) -> Self {
        Self::spawn(namespace.command(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, true)
    }

    fn spawn(mut command: Command, name: &str, more: &[&str], fresh: bool) -> Self {
        let state = state_dir(name);
        if fresh {
            let _ = fs::remove_dir_all(&state);
        }
        let listen = free_address();
        let mut child = command
            .args(["run", "--sink", "stdout", "--cluster", "prod", "--node", "ip-10-0-10-170.ec2.internal"])
            .args(["--instance-id", INSTANCE_ID, "--zone", "us-east-1a", "--no-imds", "--listen", &listen])
            .arg("--state-dir")
            .arg(&state)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the agent starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A kill may cut the last line, which then was not delivered.
                let Ok(report) = serde_json::from_str(&line) else { continue };
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Self { child, reports, listen }
    }

    /// Waits for a report that satisfies the predicate.
    pub(crate) fn wait(&self, limit: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + limit;
        let mut seen = Vec::new();
        while let Ok(report) = self.reports.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if is_it(&report) {
                return report;
            }
            seen.push(report.to_string());
        }
        let last = seen.len().saturating_sub(5);
        panic!("{} reports came, but not the one; the last ones:\n{}", seen.len(), seen[last..].join("\n"));
    }

    /// A value of the metrics page.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(value) = self.page().as_deref().and_then(|page| number(page, name)) {
                return value;
            }
            assert!(Instant::now() < end, "the metrics page does not have {name}");
            thread::yield_now();
        }
    }

    pub(crate) fn wait_for_metric(&self, name: &str, least: u64, limit: Duration) {
        let end = Instant::now() + limit;
        while self.metric(name) < least {
            assert!(Instant::now() < end, "{name} is {} and not {least}", self.metric(name));
            thread::yield_now();
        }
    }

    fn page(&self) -> Option<String> {
        let mut stream = TcpStream::connect(&self.listen).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    /// Sends SIGTERM. Returns the remaining reports and the exit code.
    pub(crate) fn stop(mut self) -> (Vec<Value>, Option<i32>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let started = Instant::now();
        let code = self.child.wait().expect("it ends").code();
        assert!(started.elapsed() < Duration::from_secs(10), "it took {:?} to drain", started.elapsed());
        (self.reports.iter().collect(), code)
    }

    /// Sends SIGKILL. Returns the reports that were not read yet.
    pub(crate) fn kill(&mut self) -> Vec<Value> {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it ends");
        self.reports.iter().collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(page: &str, name: &str) -> Option<u64> {
    let name = format!("nodemend_agent_{name} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

fn state_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("agent-{name}"))
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}
