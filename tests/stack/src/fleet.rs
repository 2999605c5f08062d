//! A simulated cluster: a group of instances in the emulator, and for each instance a node that writes the
//! log lines of a real one.
//!
//! A node follows what happens to its instance. If the instance is terminated, the node stops writing. If it
//! is launched, the node registers and becomes ready. If it is rebooted, the node reports again, in a new
//! boot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use nodemend_aws::clock::SystemClock;
use nodemend_domain::{
    ident::{ClusterName, InstanceId, InvalidName, NodeName, Zone},
    log_source::{AUDIT_STREAMS, LogSource},
    timestamp,
};
use nodemend_ports::clock::Clock;
use serde_json::json;
use tokio::{sync::Mutex, time::sleep};

use super::{
    cloudtrail::Activity,
    ids,
    node::Node,
    query_client::{QueryClient, QueryError, element, elements},
};

/// The Auto Scaling group of the nodes.
pub const GROUP: &str = "local-nodes";
/// The image of the instances, which the emulator has.
pub(crate) const IMAGE: &str = "ami-12c6146b";
/// The type of the instances.
pub(crate) const INSTANCE_TYPE: &str = "t3.small";
/// The interval between an agent's heartbeats, as in a real agent.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// A real instance takes a minute to boot; shortened here.
const BOOT_TIME: Duration = Duration::from_millis(1_500);
/// The time between two log lines of a node that starts.
const LINE_INTERVAL: Duration = Duration::from_millis(700);

/// Why a node could not be created, or could not write a log line.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A call to the emulated AWS failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The emulator returned an invalid name.
    #[error("failed to create a node: {0}")]
    Name(#[from] InvalidName),
    /// The node is not simulated.
    #[error("failed to write a log line of {0}: group {GROUP} has no such simulated node")]
    NotSimulated(InstanceId),
}

/// The simulated nodes. Clones share them.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    aws: QueryClient,
    cluster: ClusterName,
    nodes: Mutex<BTreeMap<InstanceId, Node>>,
    streams: Mutex<BTreeSet<(String, String)>>,
}

impl Fleet {
    /// Creates a cluster with its log groups and one Auto Scaling group. The group has one instance for each
    /// simulated node and one for each external node. An external node is not simulated: another process
    /// reports for it.
    pub async fn create(
        aws: QueryClient,
        cluster: ClusterName,
        simulated: usize,
        external: usize,
    ) -> Result<Self, FleetError> {
        let fleet =
            Self(Arc::new(Inner { aws, cluster, nodes: Mutex::default(), streams: Mutex::default() }));
        fleet.create_group(simulated + external).await?;
        for source in [fleet.agent_log_group(), fleet.control_plane_log_group()] {
            fleet
                .0
                .aws
                .json("logs", "Logs_20140328.CreateLogGroup", &json!({ "logGroupName": source }))
                .await?;
        }
        for instance_id in fleet.members().await?.iter().take(simulated) {
            fleet.add_existing(instance_id).await?;
        }
        Ok(fleet)
    }

    async fn create_group(&self, size: usize) -> Result<(), FleetError> {
        let aws = &self.0.aws;
        let subnets = aws.query("ec2", &[("Action", "DescribeSubnets"), ("Version", "2016-11-15")]).await?;
        let subnets: Vec<&str> = elements(&subnets, "subnetId").take(3).collect();
        let role = format!("arn:aws:iam::{}:role/eks", ids::ACCOUNT);
        let cluster = json!({
            "name": self.0.cluster, "roleArn": role, "resourcesVpcConfig": { "subnetIds": subnets },
        });
        aws.post("eks", "/clusters", &cluster).await?;
        let version = ("Version", "2011-01-01");
        aws.query(
            "autoscaling",
            &[
                ("Action", "CreateLaunchConfiguration"),
                version,
                ("LaunchConfigurationName", GROUP),
                ("ImageId", IMAGE),
                ("InstanceType", INSTANCE_TYPE),
            ],
        )
        .await?;
        let (size, subnets) = (size.to_string(), subnets.join(","));
        let tag = format!("kubernetes.io/cluster/{}", self.0.cluster);
        aws.query(
            "autoscaling",
            &[
                ("Action", "CreateAutoScalingGroup"),
                version,
                ("AutoScalingGroupName", GROUP),
                ("LaunchConfigurationName", GROUP),
                ("MinSize", &size),
                ("MaxSize", &size),
                ("DesiredCapacity", &size),
                ("VPCZoneIdentifier", &subnets),
                ("Tags.member.1.Key", &tag),
                ("Tags.member.1.Value", "owned"),
                ("Tags.member.1.PropagateAtLaunch", "true"),
                ("Tags.member.1.ResourceId", GROUP),
                ("Tags.member.1.ResourceType", "auto-scaling-group"),
            ],
        )
        .await?;
        Ok(())
    }

    /// The instances that are in the group now.
    pub async fn members(&self) -> Result<Vec<InstanceId>, FleetError> {
        let fields = [
            ("Action", "DescribeAutoScalingGroups"),
            ("Version", "2011-01-01"),
            ("AutoScalingGroupNames.member.1", GROUP),
        ];
        let group = self.0.aws.query("autoscaling", &fields).await?;
        let ids = elements(element(&group, "Instances"), "InstanceId").map(InstanceId::new);
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// The instances of the simulated nodes.
    pub async fn simulated(&self) -> Vec<InstanceId> {
        self.0.nodes.lock().await.keys().cloned().collect()
    }

    /// The first external node: its name, instance and Availability Zone.
    pub async fn external(&self) -> Result<Option<Node>, FleetError> {
        let members = self.members().await?;
        let nodes = self.0.nodes.lock().await;
        match members.iter().find(|member| !nodes.contains_key(*member)) {
            Some(member) => self.describe_node(member).await.map(Some),
            None => Ok(None),
        }
    }

    /// Adds the node of an instance that has existed before.
    async fn add_existing(&self, instance_id: &InstanceId) -> Result<(), FleetError> {
        let node = self.describe_node(instance_id).await?;
        self.0.nodes.lock().await.insert(instance_id.clone(), node);
        self.log_control_plane(instance_id, Node::ready).await?;
        self.log_agent(instance_id, Node::heartbeat).await
    }

    /// The node of an instance, with the name and zone that EC2 describes. All its conditions are healthy.
    pub async fn describe_node(&self, instance_id: &InstanceId) -> Result<Node, FleetError> {
        let fields = [
            ("Action", "DescribeInstances"),
            ("Version", "2016-11-15"),
            ("InstanceId.1", instance_id.as_str()),
        ];
        let described = self.0.aws.query("ec2", &fields).await?;
        let name = NodeName::new(element(&described, "privateDnsName"))?;
        let zone = Zone::new(element(element(&described, "placement"), "availabilityZone"))?;
        Ok(Node::new(self.0.cluster.clone(), name, instance_id.clone(), zone, SystemClock.now())?)
    }

    /// Writes the heartbeats of all agents, until the stack stops. Returns the first error.
    pub async fn send_heartbeats(self) -> FleetError {
        loop {
            sleep(HEARTBEAT_INTERVAL).await;
            let reporting: Vec<InstanceId> = {
                let nodes = self.0.nodes.lock().await;
                nodes.values().filter(|node| node.reports).map(|node| node.instance_id.clone()).collect()
            };
            for instance_id in reporting {
                if let Err(error) = self.log_agent(&instance_id, Node::heartbeat).await {
                    return error;
                }
            }
        }
    }

    /// Writes lines of the control-plane audit log that concern no node, until the stack stops: a real API
    /// server writes all the time. Returns the first error.
    pub async fn log_other_requests(self, interval: Duration) -> FleetError {
        loop {
            let now = SystemClock.now();
            let line = json!({
                "kind": "Event", "stage": "ResponseComplete", "verb": "list",
                "user": { "username": "system:kube-scheduler" }, "objectRef": { "resource": "pods" },
                "responseStatus": { "code": 200 }, "stageTimestamp": timestamp::millis(now),
            });
            let stream = format!("{AUDIT_STREAMS}-local");
            if let Err(error) =
                self.write(self.control_plane_log_group(), stream, line.to_string(), now).await
            {
                return error;
            }
            sleep(interval).await;
        }
    }

    /// Removes the node of a terminated instance. It writes nothing any more.
    pub async fn handle_termination(&self, instance_id: &str) {
        self.0.nodes.lock().await.retain(|known, _| known.as_str() != instance_id);
    }

    /// Adds the node of a new instance: it boots, registers, and becomes ready.
    pub async fn handle_launch(&self, activity: &Activity) -> Result<(), FleetError> {
        let instance_id = InstanceId::new(&activity.instance_id)?;
        sleep(BOOT_TIME).await;
        let node = self.describe_node(&instance_id).await?;
        self.0.nodes.lock().await.insert(instance_id.clone(), node);
        self.log_control_plane(&instance_id, Node::registration).await?;
        sleep(LINE_INTERVAL).await;
        self.log_control_plane(&instance_id, Node::ready).await?;
        self.log_agent(&instance_id, Node::heartbeat).await
    }

    /// Reboots the node of an instance: it reports nothing for some time, and then it is healthy, in a new
    /// boot.
    pub async fn handle_reboot(&self, instance_id: &str) -> Result<(), FleetError> {
        let instance_id = InstanceId::new(instance_id)?;
        if !self.0.nodes.lock().await.contains_key(&instance_id) {
            return Ok(());
        }
        self.log_control_plane(&instance_id, Node::unknown).await?;
        sleep(BOOT_TIME).await;
        if let Some(node) = self.0.nodes.lock().await.get_mut(&instance_id) {
            node.reboot(SystemClock.now())?;
        }
        self.log_control_plane(&instance_id, Node::ready).await?;
        sleep(LINE_INTERVAL).await;
        self.log_agent(&instance_id, Node::heartbeat).await
    }

    /// Disconnects a node: from now on, neither its agent nor its kubelet reports.
    pub async fn disconnect(&self, instance_id: &InstanceId) -> Result<(), FleetError> {
        if let Some(node) = self.0.nodes.lock().await.get_mut(instance_id) {
            node.reports = false;
        }
        self.log_control_plane(instance_id, Node::unknown).await
    }

    /// Writes a line of a node's agent.
    pub async fn log_agent(
        &self,
        instance_id: &InstanceId,
        line: impl FnOnce(&mut Node, Timestamp) -> String,
    ) -> Result<(), FleetError> {
        let now = SystemClock.now();
        let line = {
            let mut nodes = self.0.nodes.lock().await;
            let node = nodes.get_mut(instance_id);
            line(node.ok_or_else(|| FleetError::NotSimulated(instance_id.clone()))?, now)
        };
        self.write(self.agent_log_group(), instance_id.to_string(), line, now).await
    }

    /// Writes a line about a node to the control-plane audit log.
    pub async fn log_control_plane(
        &self,
        instance_id: &InstanceId,
        line: impl FnOnce(&Node, Timestamp) -> String,
    ) -> Result<(), FleetError> {
        let now = SystemClock.now();
        let line = {
            let nodes = self.0.nodes.lock().await;
            let node = nodes.get(instance_id);
            line(node.ok_or_else(|| FleetError::NotSimulated(instance_id.clone()))?, now)
        };
        self.write(self.control_plane_log_group(), format!("{AUDIT_STREAMS}-local"), line, now).await
    }

    fn agent_log_group(&self) -> String {
        LogSource::Agents(self.0.cluster.clone()).to_string()
    }

    fn control_plane_log_group(&self) -> String {
        LogSource::ControlPlane(self.0.cluster.clone()).to_string()
    }

    async fn write(
        &self,
        group: String,
        stream: String,
        line: String,
        now: Timestamp,
    ) -> Result<(), FleetError> {
        let aws = &self.0.aws;
        let key = (group, stream);
        {
            let mut streams = self.0.streams.lock().await;
            if !streams.contains(&key) {
                let stream = json!({ "logGroupName": key.0, "logStreamName": key.1 });
                aws.json("logs", "Logs_20140328.CreateLogStream", &stream).await?;
                streams.insert(key.clone());
            }
        }
        let events = json!([{ "timestamp": now.as_millisecond(), "message": line }]);
        let put = json!({ "logGroupName": key.0, "logStreamName": key.1, "logEvents": events });
        aws.json("logs", "Logs_20140328.PutLogEvents", &put).await?;
        Ok(())
    }
}
