//! A made-up cluster: a group of instances in the emulator, and for each a node that speaks as a real one would.
//!
//! Nodes answer to what is done to their instances. One that is terminated falls silent, one that is launched
//! registers and gets ready, one that is rebooted comes back in a new boot.

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
    wire::{Wire, WireError, element, elements},
};

/// The group that is repaired.
pub const GROUP: &str = "local-nodes";
/// As often as a real agent's.
const HEARTBEAT: Duration = Duration::from_secs(5 * 60);
/// A real instance takes a minute to boot; nobody wants to watch that.
const BOOT: Duration = Duration::from_millis(1_500);
/// From one word of a node to its next.
const MOMENT: Duration = Duration::from_millis(700);

/// Why a node could not be, or could not say something.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// AWS.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A name of the emulator's is none.
    #[error("failed to make a node: {0}")]
    Name(#[from] InvalidName),
    /// Nobody plays this node.
    #[error("failed to speak for {0}: the group {GROUP} has no such node")]
    Missing(InstanceId),
}

/// The nodes. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    aws: Wire,
    cluster: ClusterName,
    nodes: Mutex<BTreeMap<InstanceId, Node>>,
    streams: Mutex<BTreeSet<(String, String)>>,
}

impl Fleet {
    /// Makes a cluster with a group of so many instances, and its log groups. Of the last so many instances the nodes
    /// are somebody else's to play.
    pub async fn create(
        aws: Wire,
        cluster: ClusterName,
        size: usize,
        others: usize,
    ) -> Result<Self, FleetError> {
        let fleet =
            Self(Arc::new(Inner { aws, cluster, nodes: Mutex::default(), streams: Mutex::default() }));
        fleet.make_group(size + others).await?;
        for source in [fleet.agents(), fleet.control_plane()] {
            fleet
                .0
                .aws
                .json("logs", "Logs_20140328.CreateLogGroup", &json!({ "logGroupName": source }))
                .await?;
        }
        for instance_id in fleet.members().await?.iter().take(size) {
            fleet.join(instance_id).await?;
        }
        Ok(fleet)
    }

    async fn make_group(&self, size: usize) -> Result<(), FleetError> {
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
                ("ImageId", "ami-12c6146b"),
                ("InstanceType", "t3.small"),
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

    /// The instances that the group has now.
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

    /// The instances whose nodes are played here.
    pub async fn played(&self) -> Vec<InstanceId> {
        self.0.nodes.lock().await.keys().cloned().collect()
    }

    /// An instance of the group whose node is played by somebody else: how that node is called, and where it is.
    pub async fn unplayed(&self) -> Result<Option<Node>, FleetError> {
        let members = self.members().await?;
        let nodes = self.0.nodes.lock().await;
        match members.iter().find(|member| !nodes.contains_key(*member)) {
            Some(member) => self.look_up(member).await.map(Some),
            None => Ok(None),
        }
    }

    /// A node comes that has been there all along.
    async fn join(&self, instance_id: &InstanceId) -> Result<(), FleetError> {
        let node = self.look_up(instance_id).await?;
        self.0.nodes.lock().await.insert(instance_id.clone(), node);
        self.control_plane_says(instance_id, Node::ready).await?;
        self.agent_says(instance_id, Node::heartbeat).await
    }

    /// The node of an instance, as it is at its first word.
    pub async fn look_up(&self, instance_id: &InstanceId) -> Result<Node, FleetError> {
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

    /// Every agent's heartbeat, until the stack stops.
    pub async fn beat(self) -> FleetError {
        loop {
            sleep(HEARTBEAT).await;
            let first_seen: Vec<InstanceId> = {
                let nodes = self.0.nodes.lock().await;
                nodes.values().filter(|node| node.is_heard).map(|node| node.instance_id.clone()).collect()
            };
            for instance_id in first_seen {
                if let Err(error) = self.agent_says(&instance_id, Node::heartbeat).await {
                    return error;
                }
            }
        }
    }

    /// Lines of the audit log that concern no node, until the stack stops: an API server writes at every moment.
    pub async fn serve_other_requests(self, every: Duration) -> FleetError {
        loop {
            let now = SystemClock.now();
            let line = json!({
                "kind": "Event", "stage": "ResponseComplete", "verb": "list",
                "user": { "username": "system:kube-scheduler" }, "objectRef": { "resource": "pods" },
                "responseStatus": { "code": 200 }, "stageTimestamp": timestamp::millis(now),
            });
            let stream = format!("{AUDIT_STREAMS}-local");
            if let Err(error) = self.write(self.control_plane(), stream, line.to_string(), now).await {
                return error;
            }
            sleep(every).await;
        }
    }

    /// The node of an instance that is no more says nothing any more.
    pub async fn terminated(&self, instance_id: &str) {
        self.0.nodes.lock().await.retain(|known, _| known.as_str() != instance_id);
    }

    /// The node of a new instance boots, registers, and gets ready.
    pub async fn launched(&self, activity: &Activity) -> Result<(), FleetError> {
        let instance_id = InstanceId::new(&activity.instance_id)?;
        sleep(BOOT).await;
        let node = self.look_up(&instance_id).await?;
        self.0.nodes.lock().await.insert(instance_id.clone(), node);
        self.control_plane_says(&instance_id, Node::registers).await?;
        sleep(MOMENT).await;
        self.control_plane_says(&instance_id, Node::ready).await?;
        self.agent_says(&instance_id, Node::heartbeat).await
    }

    /// The node of a rebooted instance reports nothing for a while, and is back in a new boot, healthy.
    pub async fn rebooted(&self, instance_id: &str) -> Result<(), FleetError> {
        let instance_id = InstanceId::new(instance_id)?;
        if !self.0.nodes.lock().await.contains_key(&instance_id) {
            return Ok(());
        }
        self.control_plane_says(&instance_id, Node::unknown).await?;
        sleep(BOOT).await;
        if let Some(node) = self.0.nodes.lock().await.get_mut(&instance_id) {
            node.reboot(SystemClock.now())?;
        }
        self.control_plane_says(&instance_id, Node::ready).await?;
        sleep(MOMENT).await;
        self.agent_says(&instance_id, Node::heartbeat).await
    }

    /// A node is cut off: neither its agent nor its kubelet reports from here on.
    pub async fn cut_off(&self, instance_id: &InstanceId) -> Result<(), FleetError> {
        if let Some(node) = self.0.nodes.lock().await.get_mut(instance_id) {
            node.is_heard = false;
        }
        self.control_plane_says(instance_id, Node::unknown).await
    }

    /// A node's agent writes a line.
    pub async fn agent_says(
        &self,
        instance_id: &InstanceId,
        line: impl FnOnce(&mut Node, Timestamp) -> String,
    ) -> Result<(), FleetError> {
        let now = SystemClock.now();
        let line = {
            let mut nodes = self.0.nodes.lock().await;
            let node = nodes.get_mut(instance_id);
            line(node.ok_or_else(|| FleetError::Missing(instance_id.clone()))?, now)
        };
        self.write(self.agents(), instance_id.to_string(), line, now).await
    }

    /// The control plane's audit log gets a line about a node.
    pub async fn control_plane_says(
        &self,
        instance_id: &InstanceId,
        line: impl FnOnce(&Node, Timestamp) -> String,
    ) -> Result<(), FleetError> {
        let now = SystemClock.now();
        let line = {
            let nodes = self.0.nodes.lock().await;
            let node = nodes.get(instance_id);
            line(node.ok_or_else(|| FleetError::Missing(instance_id.clone()))?, now)
        };
        self.write(self.control_plane(), format!("{AUDIT_STREAMS}-local"), line, now).await
    }

    fn agents(&self) -> String {
        LogSource::Agents(self.0.cluster.clone()).to_string()
    }

    fn control_plane(&self) -> String {
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
        let place = (group, stream);
        {
            let mut streams = self.0.streams.lock().await;
            if !streams.contains(&place) {
                let stream = json!({ "logGroupName": place.0, "logStreamName": place.1 });
                aws.json("logs", "Logs_20140328.CreateLogStream", &stream).await?;
                streams.insert(place.clone());
            }
        }
        let events = json!([{ "timestamp": now.as_millisecond(), "message": line }]);
        let put = json!({ "logGroupName": place.0, "logStreamName": place.1, "logEvents": events });
        aws.json("logs", "Logs_20140328.PutLogEvents", &put).await?;
        Ok(())
    }
}
