//! Runs the agent as the DaemonSet does, with this machine's kernel log, network namespaces and iptables.
//!
//! A test that needs root or a tool that is missing prints that it was skipped and why.

mod harness;

use std::{process::Command, time::Duration};

use harness::{Agent, Namespace, skip};
use serde_json::Value;

/// The limit for a problem to be in a report; the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_line_in_the_kernel_log_comes_out_as_a_report() {
    let Some(mut kernel_log) = harness::kernel_log() else { return };
    let agent = Agent::start("kernel-log", &["--accept-injected"]);
    let mark = std::process::id();
    harness::write_line(
        &mut kernel_log,
        &format!("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [mark{mark}:1]"),
    );
    let report = agent.wait(SOON, |report| {
        harness::findings(report).any(|found| {
            found["reason"] == "SoftLockup"
                && found["message"].as_str().is_some_and(|text| text.contains(&format!("mark{mark}")))
        })
    });
    assert_eq!(report["kind"], "event", "{report}");
    assert_eq!(report["condition"], "KernelReady");
    assert_eq!(report["instanceId"], harness::INSTANCE_ID);
}

#[test]
fn a_programs_kernel_record_is_rejected_by_default() {
    let Some(mut kernel_log) = harness::kernel_log() else { return };
    let agent = Agent::start("unbelieved", &[]);
    let mark = std::process::id();
    let before = agent.metric("lines_total");
    harness::write_line(
        &mut kernel_log,
        &format!("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [lie{mark}:1]"),
    );
    agent.wait_for_metric("lines_total", before + 1, SOON);
    let (reports, _) = agent.stop();
    assert!(
        !reports.iter().any(|report| report.to_string().contains(&format!("lie{mark}"))),
        "a pod with access to /dev/kmsg could have the node replaced"
    );
}

#[test]
fn the_reference_incident_is_detected_in_iptables_and_clears() {
    let Some(namespace) = Namespace::make("iptables") else { return };
    for tool in ["iptables", "iptables-save"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return skip(&format!("{tool} is not installed"));
        }
    }
    let agent = Agent::start_in(&namespace, "iptables", &["--probe-interval", "1s", "--heartbeat", "1s"]);
    agent.wait(SOON, |report| report["kind"] == "heartbeat");
    let rule = ["OUTPUT", "-p", "tcp", "-d", "169.254.169.254", "-j", "DROP"];
    if !namespace.run("iptables", &[&["-I"], &rule[..]].concat()) {
        return skip("iptables can't insert a rule in a network namespace here");
    }
    // One report may contain both.
    let mut missing = vec!["UnexpectedRejectRule", "MetadataServiceBlocked"];
    while !missing.is_empty() {
        let report = agent.wait(SOON, |report| {
            report["kind"] == "event" && missing.iter().any(|reason| harness::has_reason(report, reason))
        });
        assert_eq!(report["condition"], "NetworkingReady");
        for found in harness::findings(&report) {
            assert_eq!(found["severity"], "Event", "{found}");
            missing.retain(|reason| found["reason"] != *reason);
        }
    }
    assert!(namespace.run("iptables", &[&["-D"], &rule[..]].concat()), "the rule can be deleted again");
    agent.wait(SOON, |report| {
        report["kind"] == "heartbeat"
            && !harness::has_reason(report, "UnexpectedRejectRule")
            && !harness::has_reason(report, "MetadataServiceBlocked")
    });
}

#[test]
fn an_interface_that_goes_down_turns_networking_false_and_true_again() {
    let Some(namespace) = Namespace::make("link") else { return };
    if !namespace.run("ip", &["link", "add", "eth9", "type", "veth", "peer", "name", "peer9"])
        || !namespace.run("ip", &["link", "set", "peer9", "up"])
        || !namespace.run("ip", &["link", "set", "eth9", "up"])
    {
        return skip("veth pairs can't be made here");
    }
    let agent = Agent::start_in(&namespace, "link", &["--probe-interval", "1s"]);
    agent.wait(SOON, |report| report["kind"] == "heartbeat");
    assert!(namespace.run("ip", &["link", "set", "eth9", "down"]));
    let networking = |status: &'static str| {
        move |report: &Value| {
            report["kind"] == "condition"
                && report["condition"] == "NetworkingReady"
                && report["status"] == status
        }
    };
    let report = agent.wait(SOON, networking("False"));
    assert!(harness::has_reason(&report, "InterfaceNotUp"), "{report}");
    assert!(namespace.run("ip", &["link", "set", "eth9", "up"]));
    agent.wait(SOON, networking("True"));
}

#[test]
fn a_pod_without_rule_and_route_is_reported_until_they_exist() {
    const POD: &str = "10.0.1.5";
    let Some(namespace) = Namespace::make("pods") else { return };
    if !namespace.run("ip", &["link", "add", "eni5", "type", "veth", "peer", "name", "peer5"])
        || !namespace.run("ip", &["link", "set", "peer5", "up"])
        || !namespace.run("ip", &["link", "set", "eni5", "up"])
    {
        return skip("veth pairs can't be made here");
    }
    // The part of the VPC CNI daemon's response that is read.
    let directory = harness::directory("introspection");
    std::fs::create_dir(directory.join("v1")).expect("a directory");
    let allocated = serde_json::json!({"ENIs": {"eni-0a": {"DeviceNumber": 1, "AvailableIPv4Cidrs": {"10.0.1.5/32":
        {"IPAddresses": {POD: {"Address": POD, "IPAMKey": {"containerID": "5f1c"}}}}}}}});
    std::fs::write(directory.join("v1/enis"), allocated.to_string()).expect("a file");
    let Some(_server) = namespace.serve(&directory, 61_679) else { return };

    let agent = Agent::start_in(&namespace, "pods", &["--probe-interval", "1s", "--heartbeat", "1s"]);
    let mut missing = vec!["MissingIPRules", "MissingIPRoutes"];
    while !missing.is_empty() {
        let report = agent.wait(SOON, |report| {
            report["kind"] == "event" && missing.iter().any(|reason| harness::has_reason(report, reason))
        });
        for found in harness::findings(&report) {
            missing.retain(|reason| found["reason"] != *reason);
        }
    }
    for arguments in [
        &["route", "add", POD, "dev", "eni5"][..],
        &["rule", "add", "to", POD, "priority", "512", "table", "main"],
        &["rule", "add", "from", POD, "priority", "1536", "table", "2"],
    ] {
        assert!(namespace.run("ip", arguments), "{arguments:?}");
    }
    // The pod's traffic now uses a table without a default route.
    let report = agent.wait(SOON, |report| harness::has_reason(report, "MissingDefaultRoutes"));
    assert_eq!(report["kind"], "event", "{report}");
    assert!(namespace.run("ip", &["route", "add", "default", "dev", "eni5", "table", "2"]));
    agent.wait(SOON, |report| {
        let reasons = ["MissingIPRules", "MissingIPRoutes", "MissingDefaultRoutes"];
        report["kind"] == "heartbeat" && !reasons.iter().any(|reason| harness::has_reason(report, reason))
    });
}

#[test]
fn ip_forwarding_is_seen_in_the_agents_own_network_namespace() {
    let Some(namespace) = Namespace::make("forward") else { return };
    let root = harness::directory("forward");
    for directory in ["proc", "var/log/pods", "etc/cni/net.d"] {
        std::fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    std::fs::write(root.join("etc/cni/net.d/10-aws.conflist"), "{}").expect("a file");
    for (value, state) in [("0", "unhealthy"), ("1", "healthy")] {
        let write = format!("echo {value} > /proc/sys/net/ipv4/ip_forward");
        if !namespace.run("sh", &["-c", &write]) {
            return skip("the namespace's settings can't be written here");
        }
        let (_, readings) = harness::scan_node(&namespace, &root);
        let reading = readings.iter().find(|reading| reading["probe"] == "ip-forwarding");
        assert_eq!(reading.map(|reading| &reading["state"]), Some(&state.into()), "{readings:?}");
    }
}

#[test]
fn scan_prints_problems_and_exits_2() {
    let Some(namespace) = Namespace::make("scan") else { return };
    assert!(namespace.run("ip", &["link", "set", "lo", "down"]));
    let (code, readings) = harness::scan(&namespace);
    let of = |readings: &[Value], name: &str| {
        readings.iter().find(|reading| reading["probe"] == name).cloned().unwrap_or_default()
    };
    // The namespace's loopback interface is down, which is a problem of severity Condition.
    assert_eq!(code, Some(2), "{readings:?}");
    assert_eq!(of(&readings, "interfaces")["state"], "unhealthy", "{readings:?}");
    assert!(namespace.run("ip", &["link", "set", "lo", "up"]));
    let (_, readings) = harness::scan(&namespace);
    assert_eq!(of(&readings, "interfaces")["state"], "healthy", "{readings:?}");
    assert!(readings.iter().all(|reading| reading["state"] != "not checkable" || reading["why"].is_string()));
}

#[test]
fn a_kill_loses_no_change_and_uses_no_number_twice() {
    const ROUNDS: usize = 6;
    let Some(mut kernel_log) = harness::kernel_log() else { return };
    let mark = std::process::id();
    // One reason for each round: a repeated one would be reported much later.
    let rules: String = (0..ROUNDS)
        .map(|round| {
            format!(
                "- {{reason: Kill{round}, source: kmsg, facility: any, severity: Event, condition: KernelReady, \
                 pattern: 'kill{mark}-{round} of the test'}}\n"
            )
        })
        .collect();
    let rules = harness::file("kill-rules.yaml", &format!("rules:\n{rules}"));
    let arguments = ["--rules", &rules, "--heartbeat", "1s"];
    let mut reported: Vec<Value> = Vec::new();
    let mut agent = Agent::start("kill", &arguments);
    agent.wait(SOON, |report| report["kind"] == "heartbeat");
    for round in 0..ROUNDS {
        harness::write_line(&mut kernel_log, &format!("kill{mark}-{round} of the test"));
        // Half of the rounds are killed right away, half after the report.
        if round % 2 == 1 {
            reported.push(agent.wait(SOON, |report| harness::has_reason(report, &format!("Kill{round}"))));
        }
        reported.extend(agent.kill());
        agent = Agent::start_again("kill", &arguments);
    }
    let last = format!("Kill{}", ROUNDS - 1);
    let seen =
        |reported: &[Value], reason: &str| reported.iter().any(|report| harness::has_reason(report, reason));
    if !seen(&reported, &last) {
        reported.push(agent.wait(SOON, |report| harness::has_reason(report, &last)));
    }
    reported.extend(agent.stop().0);
    for round in 0..ROUNDS {
        assert!(seen(&reported, &format!("Kill{round}")), "round {round} was never reported");
    }
    // Within a boot, across all restarts, two different reports never have the same number.
    let mut by_seq = std::collections::BTreeMap::new();
    for report in &reported {
        let seq = report["seq"].as_u64().expect("a number");
        let first = by_seq.entry(seq).or_insert_with(|| report.clone());
        assert_eq!(first, report, "two reports have number {seq}");
    }
}

#[test]
fn sigterm_drains_and_exits_0() {
    let agent = Agent::start("sigterm", &["--heartbeat", "1s"]);
    agent.wait(SOON, |report| report["kind"] == "heartbeat");
    let (_, code) = agent.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn wrong_configuration_exits_64_and_names_the_field() {
    for (arguments, expected) in [
        (&["run", "--sink", "syslog"][..], "syslog"),
        (&["scan", "--heartbeat", "soon"], "heartbeat"),
        (&["run", "--sink", "stdout", "--no-imds"], "cluster"),
        (&["run", "--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (&["scan", "--exclude-interfaces", "eth("], "excludeInterfaces"),
        (&["scan", "--without", "no-such-probe"], "no-such-probe"),
        (&["inject", "NoSuchReason", "--yes"], "NoSuchReason"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_nodemend-agent"))
            .args(arguments)
            .env_clear()
            .output()
            .expect("the agent runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}
