//! `nodemend up` as operators run it: incidents from an agent's report to the confirmed call, with the binaries that Lambda
//! runs. However the command ends, no process is left.
//!
//! The AWS emulator is installed from PyPI into the repository's `.venv`, once. If that fails, these tests fail.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn up(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodemend"));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/cache");
    command.arg("up").args(arguments).arg("--cache").arg(cache).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The output of a run of one incident.
struct IncidentRun {
    code: Option<i32>,
    lines: Vec<Value>,
    stderr: String,
}

/// Runs one incident to its end.
fn incident(fault: &str) -> IncidentRun {
    let output = up(&["--fault", fault, "--once", "--grace", "8s", "--format", "json"])
        .output()
        .expect("nodemend runs");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    IncidentRun {
        code: output.status.code(),
        lines: stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

impl IncidentRun {
    /// The nodes with the incident.
    fn instances(&self) -> Vec<&str> {
        let injected = self.stderr.lines().find_map(|line| line.strip_prefix("nodemend: injecting "));
        let injected = injected.and_then(|injected| injected.split_once(" into "));
        injected.unwrap_or_else(|| panic!("{}", self.stderr)).1.split(" and ").collect()
    }

    /// The steps of the first node with the incident.
    fn steps(&self) -> Vec<&str> {
        let instance = self.instances()[0];
        let own = self.lines.iter().filter(|line| line["instanceId"] == instance);
        own.map(|line| line["step"].as_str().expect("a step")).collect()
    }

    /// Where in the output a step of a node comes first.
    fn place(&self, step: &str, instance: &str) -> usize {
        let found = |line: &Value| line["step"] == step && line["instanceId"] == instance;
        self.lines
            .iter()
            .position(found)
            .unwrap_or_else(|| panic!("no {step} of {instance}: {:?}", self.lines))
    }

    /// Whether a step of a node has this text in its detail.
    fn says(&self, step: &str, instance: &str, text: &str) -> bool {
        self.lines.iter().any(|line| {
            line["step"] == step
                && line["instanceId"] == instance
                && line["detail"].as_str().is_some_and(|detail| detail.contains(text))
        })
    }

    fn count(&self, step: &str) -> usize {
        self.steps().into_iter().filter(|found| *found == step).count()
    }

    /// The only record of a call.
    fn record(&self) -> &Value {
        let records: Vec<_> = self.lines.iter().filter(|line| !line["record"].is_null()).collect();
        assert_eq!(records.len(), 1, "{records:?}");
        &records[0]["record"]
    }

    fn assert_passed(&self) {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        assert!(self.stderr.contains("nodemend: passed: "), "{}", self.stderr);
    }
}

/// Steps in the order in which they must come, whatever comes between them.
fn assert_in_order(steps: &[&str], expected: &[&str]) {
    let mut remaining = steps.iter();
    for step in expected {
        assert!(remaining.any(|found| found == step), "{step} of {expected:?} in {steps:?}");
    }
}

#[test]
fn a_node_without_its_metadata_service_is_replaced_once_and_the_call_is_confirmed() {
    let run = incident("01-metadata-service-blocked");
    run.assert_passed();
    let steps = run.steps();
    assert_in_order(&steps, &["event", "event", "suspect", "due", "claimed", "called", "closed"]);
    for (step, times) in [("called", 1), ("confirmed", 1), ("replaced", 1), ("closed", 1), ("mismatch", 0)] {
        assert_eq!(run.count(step), times, "{step} in {steps:?}");
    }
    assert!(run.stderr.contains("one call in AWS, one in the audit log of 4 records"), "{}", run.stderr);
    let record = run.record();
    assert_eq!(record["eventName"], "TerminateInstanceInAutoScalingGroup");
    assert_eq!(record["requestParameters"]["shouldDecrementDesiredCapacity"], false);
    assert!(record["responseElements"]["activity"]["details"].is_string(), "{record}");
    let summary = &run.lines.last().expect("a summary")["summary"];
    assert_eq!((&summary["closed"], &summary["unreadable"]), (&1.into(), &0.into()));
}

#[test]
fn a_node_whose_interface_recovers_in_time_is_not_repaired() {
    let run = incident("02-transient-interface-loss");
    run.assert_passed();
    assert_eq!(run.steps(), ["suspect", "recovered"]);
}

#[test]
fn a_node_with_a_gpu_error_is_rebooted_once_and_the_call_is_confirmed() {
    let run = incident("07-xid-95-reboot-cures");
    run.assert_passed();
    let steps = run.steps();
    assert_in_order(&steps, &["suspect", "due", "claimed", "called", "recovered", "closed"]);
    for (step, times) in [("called", 1), ("confirmed", 1), ("closed", 1), ("replaced", 0), ("mismatch", 0)] {
        assert_eq!(run.count(step), times, "{step} in {steps:?}");
    }
    assert_eq!(run.record()["eventName"], "RebootInstances");
}

#[test]
fn an_instance_of_the_warm_pool_replaces_the_node() {
    let run = incident("warm-pool");
    run.assert_passed();
    let steps = run.steps();
    assert_in_order(&steps, &["due", "claimed", "called", "closed"]);
    assert_eq!(
        ["called", "confirmed", "replaced", "closed"].map(|step| run.count(step)),
        [1; 4],
        "{steps:?}"
    );
    let is_drawn = |line: &&Value| {
        line["detail"].as_str().is_some_and(|detail| detail.contains("drawn from the warm pool"))
    };
    let drawn: Vec<&Value> = run.lines.iter().filter(is_drawn).collect();
    assert_eq!(drawn.len(), 1, "{:?}", run.lines);
    let new = drawn[0]["instanceId"].as_str().expect("an instance");
    assert!(run.says("replaced", run.instances()[0], new), "{:?}", run.lines);
}

#[test]
fn while_ec2_has_no_capacity_one_node_is_replaced_and_the_other_one_when_that_has_ended() {
    let run = incident("capacity-outage");
    run.assert_passed();
    let [first, second] = run.instances()[..] else { panic!("{}", run.stderr) };
    let (first, second) = if run.place("called", first) < run.place("called", second) {
        (first, second)
    } else {
        (second, first)
    };
    assert!(run.says("blocked", second, "do not have sufficient capacity"), "{:?}", run.lines);
    assert!(run.place("replaced", first) < run.place("called", second), "{:?}", run.lines);
}

/// A stack that runs until it is stopped.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    aws: String,
    dynamodb: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("nodemend runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let (mut stderr_text, mut aws) = (String::new(), None::<(String, String)>);
        while aws.is_none() {
            let start = stderr_text.len();
            assert_ne!(stderr.read_line(&mut stderr_text).expect("a line"), 0, "{stderr_text}");
            let addresses =
                stderr_text[start..].trim_end().split_once("AWS endpoint http://").map(|(_, rest)| rest);
            aws = addresses
                .and_then(|rest| rest.split_once(", DynamoDB endpoint http://"))
                .map(|(aws, dynamodb)| (aws.to_owned(), dynamodb.to_owned()));
        }
        let (aws, dynamodb) = aws.expect("addresses");
        Self { child, stderr, aws, dynamodb }
    }

    /// Waits for a line on stderr with this text; the rest of the line.
    fn wait_for_line(&mut self, before: &str) -> String {
        let mut line = String::new();
        loop {
            assert_ne!(self.stderr.read_line(&mut line).expect("a line"), 0, "{before}");
            if let Some((_, rest)) = line.trim_end().split_once(before) {
                return rest.to_owned();
            }
            line.clear();
        }
    }

    /// Whether the command knows a node of the deployment.
    fn knows(&self, node: &str) -> bool {
        let output = Command::new(env!("CARGO_BIN_EXE_nodemend"))
            .args(["explain", node, "--cluster", "local"])
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.aws))
            .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", self.dynamodb))
            .envs([("AWS_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true")])
            .envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")])
            .output()
            .expect("nodemend runs");
        // The machine of the tests may be unhealthy.
        matches!(output.status.code(), Some(0 | 2))
    }

    /// Waits for a step on stdout.
    fn wait_for(&mut self, step: &str) {
        let stdout = BufReader::new(self.child.stdout.as_mut().expect("stdout"));
        let found = stdout.lines().any(|line| {
            let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            line["step"] == step
        });
        assert!(found, "{step}");
    }

    /// Sends a request to the stack's AWS.
    fn request(&self, form: &str) -> String {
        let mut stream = TcpStream::connect(&self.aws).expect("AWS");
        write!(
            stream,
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=x/x/us-east-1/ec2/aws4_request, \r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr_text = String::new();
        self.stderr.read_to_string(&mut stderr_text).expect("UTF-8");
        (self.child.wait().expect("an end").code(), stderr_text)
    }
}

/// All descendants of a process, by ID and name.
fn descendants(of: Pid) -> BTreeMap<i32, String> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name) state ppid …`, and the name may hold anything.
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        let parent: i32 =
            rest.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).expect("a parent");
        parents.insert(pid, (parent, name.split_once('(').expect("a name").1.to_owned()));
    }
    let mut found = BTreeMap::new();
    let mut below = vec![of.as_raw_pid()];
    while let Some(parent) = below.pop() {
        for (pid, (_, name)) in parents.iter().filter(|(_, (of, _))| *of == parent) {
            found.insert(*pid, name.clone());
            below.push(*pid);
        }
    }
    found
}

/// Waits until all of these processes have ended.
fn assert_gone(processes: &BTreeMap<i32, String>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let lives =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    loop {
        let left: Vec<_> = processes.iter().filter(|(pid, _)| lives(pid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// All processes of a stack, as soon as its first functions and the emulator run.
fn processes(of: Pid) -> BTreeMap<i32, String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = descendants(of);
        let runs = |name: &&str| found.values().any(|found| found.starts_with(name));
        if ["nodemend-intake", "nodemend-repair", "python"].iter().all(runs) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_replacement_changes_the_instances_of_aws_and_sigterm_leaves_no_process() {
    let mut running = Running::start(up(&[
        "--fault",
        "06-xid-79-replace",
        "--grace",
        "4s",
        "--nodes",
        "2",
        "--format",
        "json",
    ]));
    running.wait_for("closed");
    let described = running.request("Action=DescribeInstances&Version=2016-11-15");
    let in_state = |state: &str| described.matches(&format!("<name>{state}</name>")).count();
    assert_eq!((in_state("terminated"), in_state("running")), (1, 2), "{described}");
    let children = processes(running.pid());
    kill_process(running.pid(), Signal::TERM).expect("a signal");
    let (code, stderr_text) = running.end();
    assert_eq!((code, stderr_text.contains("failed")), (Some(0), false), "{stderr_text}");
    assert_gone(&children);
}

#[test]
fn a_killed_stack_leaves_no_process() {
    let running = Running::start(up(&["--grace", "4s", "--nodes", "1"]));
    let children = processes(running.pid());
    kill_process(running.pid(), Signal::KILL).expect("a signal");
    assert_eq!(running.end().0, None);
    assert_gone(&children);
}

#[test]
fn a_stack_without_its_parent_ends_and_leaves_no_process() {
    let mut shell = Command::new("sh");
    let stack = up(&["--nodes", "1"]);
    // Without a second command, the shell would replace itself by the first.
    shell.arg("-c").arg("\"$@\"; true").arg("sh").arg(stack.get_program()).args(stack.get_args());
    let running = Running::start({
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    });
    let children = processes(running.pid());
    assert!(children.values().any(|name| name == "nodemend"), "{children:?}");
    kill_process(running.pid(), Signal::KILL).expect("a signal");
    assert_gone(&children);
}

#[test]
fn the_agent_of_this_machine_reports_as_a_node_of_the_cluster() {
    let mut running = Running::start(up(&["--agent", "--nodes", "1"]));
    let node = running.wait_for_line("nodemend: this machine reports as node ");
    let node = node.split(' ').next().expect("a name").to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !running.knows(&node) {
        assert!(Instant::now() < deadline, "no report of {node}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let children = descendants(running.pid());
    assert!(children.values().any(|name| name.starts_with("nodemend-agent")), "{children:?}");
    kill_process(running.pid(), Signal::TERM).expect("a signal");
    assert_eq!(running.end().0, Some(0));
    assert_gone(&children);
}

#[test]
fn a_missing_binary_is_named_and_nothing_is_started() {
    let output = up(&["--functions", "/nowhere"]).output().expect("nodemend runs");
    let stderr_text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr_text.contains("/nowhere/nodemend-intake") && stderr_text.contains("cargo build"),
        "{stderr_text}"
    );
    let output = up(&["--once"]).output().expect("nodemend runs");
    assert_eq!(output.status.code(), Some(64), "nothing to wait for");
}
