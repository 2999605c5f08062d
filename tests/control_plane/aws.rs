//! AWS around the control plane: EKS's DescribeCluster, STS, EC2, and Auto Scaling with one termination on hold.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use nodemend_aws::{cloud::AwsCloud, sdk};
use nodemend_ports::config::environment::ClusterAccess;
use nodemend_testkit::{
    fixture::{ACCOUNT, REPAIR_ROLE, cluster, group, instance, node},
    http::{self, Answer, Reply, Request, answer},
};
use serde_json::Value;

const REGION: &str = "us-east-1";
const AUTO_SCALING: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";

/// AWS on loopback.
pub(crate) struct Aws {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Aws {
    /// Serves until the test ends. The termination that is on hold is the first node's.
    pub(crate) async fn start(described: Value) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let own = requests.clone();
        let respond = move |request: Request| Reply::Answer(respond(&own, &described, &request));
        Self { address: http::serve(None, respond).await, requests }
    }

    /// The requests so far: their actions, and the paths of those that have none.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("the requests").clone()
    }

    /// The client that functions have, with the credentials of this access key and access to the Kubernetes API.
    pub(crate) async fn client(&self, access_key: &str) -> AwsCloud {
        let config = self.config(access_key).await;
        let cloud = AwsCloud::connect(&config).await.expect("a caller");
        cloud.with_cluster_access(&config, ClusterAccess::All, "nodemend-repair/test")
    }

    async fn config(&self, access_key: &str) -> SdkConfig {
        sdk::defaults()
            .endpoint_url(format!("http://{}", self.address))
            .region(Region::new(REGION))
            .credentials_provider(Credentials::new(access_key, "secret", None, None, "the test"))
            .load()
            .await
    }

    /// The environment of a function with this access key.
    pub(crate) fn environment(&self, access_key: &str, dynamodb: SocketAddr) -> Vec<(String, String)> {
        let tables = nodemend_stack::dynamodb::tables();
        let variables = [
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", access_key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{dynamodb}")),
            ("NODEMEND_STATE_TABLE", tables.state),
            ("NODEMEND_AUDIT_LOG_TABLE", tables.audit),
            ("NODEMEND_CLUSTER", cluster().to_string()),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn respond(requests: &Mutex<Vec<String>>, described: &Value, request: &Request) -> Answer {
    let action = request.form().get("Action").cloned().unwrap_or_else(|| request.path.clone());
    requests.lock().expect("the requests").push(action.clone());
    match action.as_str() {
        "/clusters/prod" => answer(200, described.to_string()),
        "GetCallerIdentity" => answer(
            200,
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
                 <Arn>{REPAIR_ROLE}</Arn><UserId>AROAEXAMPLE:nodemend</UserId><Account>{ACCOUNT}</Account>\
                 </GetCallerIdentityResult></GetCallerIdentityResponse>"
            ),
        ),
        "DescribeInstances" => answer(
            200,
            format!(
                "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet><item>\
                 <instancesSet><item><instanceId>{}</instanceId><privateDnsName>{}</privateDnsName></item></instancesSet>\
                 </item></reservationSet></DescribeInstancesResponse>",
                instance(1),
                node(1)
            ),
        ),
        "DescribeAutoScalingGroups" => result(
            &action,
            &format!(
                "<AutoScalingGroups><member><AutoScalingGroupName>{}</AutoScalingGroupName><Instances/><Tags><member>\
                 <Key>kubernetes.io/cluster/{}</Key><Value>owned</Value></member></Tags></member></AutoScalingGroups>",
                group(),
                cluster()
            ),
        ),
        "RecordLifecycleActionHeartbeat" | "CompleteLifecycleAction" => result(&action, ""),
        _ => answer(418, "the test has no answer"),
    }
}

fn result(action: &str, body: &str) -> Answer {
    answer(
        200,
        format!(
            "<{action}Response xmlns=\"{AUTO_SCALING}\"><{action}Result>{body}</{action}Result></{action}Response>"
        ),
    )
}
