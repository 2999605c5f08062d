//! Records an incident in the form of `events/`: runs steps against the control plane, and keeps what it wrote about nodes.
//!
//! `make control-plane-record STEPS=steps.txt INCIDENT=events/40-name` records the steps of a file, one in a line:
//!
//! ```text
//! start 1                                          # the kubelet of node 1, ip-10-0-0-1.ec2.internal
//! kill 1
//! kubectl delete node ip-10-0-0-1.ec2.internal     # as alice, an administrator
//! wait 1 condition=Ready=Unknown                   # as `kubectl wait --for`
//! sleep 60
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use nodemend_testkit::fixture::{AUDIT_STREAM, CONTROL_PLANE_LOGS, cluster, group, instance, zone};
use serde_json::{Value, json};

use crate::server::ControlPlane;

/// What is recorded where no file is named: a dry run deletes nothing.
const DRY_RUN: &str = "start 1\nkubectl delete node ip-10-0-0-1.ec2.internal --dry-run=server\n";
/// How many lines about leases are kept. A kubelet renews its lease every 10 s.
const LEASES: usize = 4;

async fn run(control_plane: &ControlPlane, step: &str) {
    let step = step.split('#').next().unwrap_or_default();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match step.split_whitespace().collect::<Vec<_>>()[..] {
        [] => {}
        ["start", kubelet] => control_plane.start_kubelet(number(kubelet)).await,
        ["kill", kubelet] => control_plane.kill_kubelet(number(kubelet)),
        ["wait", kubelet, state] => control_plane.wait_for_node(number(kubelet), state).await,
        ["sleep", seconds] => tokio::time::sleep(Duration::from_secs(number(seconds))).await,
        ["kubectl", ref arguments @ ..] => {
            control_plane.kubectl(arguments).await;
        }
        _ => panic!("not a step: {step}"),
    }
}

/// The lines about nodes but for reads, as `aws logs filter-log-events` prints them.
fn events(control_plane: &ControlPlane) -> Vec<String> {
    let mut leases = 0;
    let mut events = Vec::new();
    for line in control_plane.audit_lines() {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if ["get", "list", "watch"].contains(&event["verb"].as_str().unwrap_or_default()) {
            continue;
        }
        match event["objectRef"]["resource"].as_str() {
            Some("nodes") => {}
            Some("leases") if event["objectRef"]["namespace"] == "kube-node-lease" && leases < LEASES => {
                leases += 1;
            }
            _ => continue,
        }
        let written: Timestamp = event["stageTimestamp"].as_str().expect("a time").parse().expect("a time");
        let id = format!("{:056}", events.len());
        let log_event = json!({ "id": id, "timestamp": written.as_millisecond(), "message": line });
        let batch =
            json!({ "logGroup": CONTROL_PLANE_LOGS, "logStream": AUDIT_STREAM, "logEvents": [log_event] });
        events.push(batch.to_string());
    }
    events
}

/// The Auto Scaling group of the kubelets that were started, as `aws autoscaling describe-auto-scaling-groups` prints it.
fn fleet(steps: &str) -> Value {
    let mut numbers: Vec<u64> = steps
        .lines()
        .filter_map(|step| step.strip_prefix("start ")?.split_whitespace().next()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    let instances: Vec<Value> = numbers
        .iter()
        .map(|number| {
            json!({
                "InstanceId": instance(*number), "AvailabilityZone": zone(), "LifecycleState": "InService",
                "HealthStatus": "Healthy", "ProtectedFromScaleIn": false,
            })
        })
        .collect();
    let tags = json!([{ "Key": format!("kubernetes.io/cluster/{}", cluster()), "Value": "owned" }]);
    json!({ "AutoScalingGroups": [{
        "AutoScalingGroupName": group(), "MinSize": 0, "MaxSize": 100, "DesiredCapacity": instances.len(),
        "AvailabilityZones": [zone()], "Instances": instances, "Tags": tags,
    }] })
}

#[tokio::test]
#[ignore = "needs the server of make control-plane"]
async fn a_recording_is_an_incident_that_replay_reads() {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let steps = given("NODEMEND_STEPS").map_or_else(
        || DRY_RUN.to_owned(),
        |file| fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
    );
    let temporary = tempfile::tempdir().expect("a directory");
    let incident = given("NODEMEND_INCIDENT").unwrap_or_else(|| temporary.path().join("incident"));
    let incident = Path::new(env!("CARGO_MANIFEST_DIR")).join(incident);

    let control_plane = ControlPlane::start().await;
    for step in steps.lines() {
        run(&control_plane, step).await;
    }
    fs::create_dir_all(&incident).expect("a directory");
    let lines = events(&control_plane);
    fs::write(incident.join("events.jsonl"), lines.join("\n") + "\n").expect("a file");
    fs::write(incident.join("fleet.json"), format!("{:#}\n", fleet(&steps))).expect("a file");

    let replay =
        Command::new(env!("CARGO_BIN_EXE_nodemend")).arg("replay").arg(&incident).output().expect("replay");
    let (output, errors) = (String::from_utf8_lossy(&replay.stdout), String::from_utf8_lossy(&replay.stderr));
    println!("{} lines\n{output}", lines.len());
    assert!(replay.status.success(), "{errors}");
    if given("NODEMEND_STEPS").is_none() {
        assert!(!output.contains("called"), "{output}");
        assert!(!output.contains("suspect"), "{output}");
    }
}
