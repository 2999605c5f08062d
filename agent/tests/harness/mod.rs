//! Starts agents, reads what they report, and makes the places in which they run.

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

/// A test that can't run here says so, and is no failure.
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The kernel's log, open for writing.
pub(crate) fn kernel_log() -> Option<File> {
    let opened = OpenOptions::new().write(true).open("/dev/kmsg");
    opened.map_err(|error| skip(&format!("/dev/kmsg can't be written: {error}"))).ok()
}

/// A file of the test's own, by its path.
pub(crate) fn file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// A folder of the test's own, new and empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder");
    path
}

/// One record: the kernel takes one a write, and shows it once its line has ended.
pub(crate) fn write_line(kernel_log: &mut File, text: &str) {
    kernel_log.write_all(format!("<4>{text}\n").as_bytes()).expect("a record");
}

/// Every finding of a report, of whichever kind it is.
pub(crate) fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let own = report["findings"].as_array().into_iter().flatten();
    let conditions = report["conditions"].as_array().into_iter().flatten();
    own.chain(conditions.flat_map(|condition| condition["findings"].as_array().into_iter().flatten()))
}

pub(crate) fn has_reason(report: &Value, reason: &str) -> bool {
    findings(report).any(|found| found["reason"] == reason)
}

/// A network namespace of the test's own; it goes with the value.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn make(name: &str) -> Option<Self> {
        let name = format!("nodemend-{}-{name}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {
                let namespace = Self(name);
                // A node whose loopback is down is broken in itself.
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

    /// Whether a command went well in it.
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
    /// Serves a folder's files on a port of its loopback until the value goes.
    pub(crate) fn serve(&self, folder: &Path, port: u16) -> Option<Server> {
        if let Err(error) = Command::new("python3").arg("--version").output() {
            skip(&format!("python3 is not installed: {error}"));
            return None;
        }
        let child = self
            .command("python3")
            .args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip netns exec runs");
        Some(Server(child))
    }
}

/// A server that runs; killed with the value.
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

/// A scan in a namespace: its exit code, and what each probe said.
pub(crate) fn scan(namespace: &Namespace) -> (Option<i32>, Vec<Value>) {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_nodemend-agent"));
    readings(command.args(["scan", "--format", "json", "--no-imds"]))
}

/// The same of a node whose filesystem is that folder; its `proc` is the machine's.
pub(crate) fn scan_node(namespace: &Namespace, root: &Path) -> (Option<i32>, Vec<Value>) {
    // ip netns exec has mounts of its own: this one goes with the process.
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

/// An agent that runs; killed with the value.
pub(crate) struct Agent {
    child: Child,
    reports: Receiver<Value>,
    listen: String,
}

impl Agent {
    pub(crate) fn start(name: &str, more: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, true)
    }

    /// With the memory of the one before.
    pub(crate) fn start_again(name: &str, more: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, false)
    }

    pub(crate) fn start_in(namespace: &Namespace, name: &str, more: &[&str]) -> Self {
        Self::spawn(namespace.command(env!("CARGO_BIN_EXE_nodemend-agent")), name, more, true)
    }

    fn spawn(mut command: Command, name: &str, more: &[&str], forget: bool) -> Self {
        let state = state_dir(name);
        if forget {
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
                // A kill may cut the last line: what was cut was not delivered.
                let Ok(report) = serde_json::from_str(&line) else { continue };
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Self { child, reports, listen }
    }

    /// The next report that is what the caller waits for.
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

    /// A number of the metrics page.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(value) = self.page().as_deref().and_then(|page| number(page, name)) {
                return value;
            }
            assert!(Instant::now() < end, "the metrics page does not say {name}");
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

    /// SIGTERM: what it still reported, and its exit code.
    pub(crate) fn stop(mut self) -> (Vec<Value>, Option<i32>) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let started = Instant::now();
        let code = self.child.wait().expect("it ends").code();
        assert!(started.elapsed() < Duration::from_secs(10), "it took {:?} to drain", started.elapsed());
        (self.reports.iter().collect(), code)
    }

    /// SIGKILL: what it had reported and nobody had read yet.
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
