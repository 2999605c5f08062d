//! The cloud port on Auto Scaling, EC2, EKS, ARC and CloudWatch Logs.
//!
//! Nothing is cached here: the facts of a decision are never older than its run, and those of a call never older than
//! its claim.

mod call;
mod cluster;
mod ec2;
mod group;
mod hook;
mod instance;
mod log_group;
mod member;
mod reader;
mod status_check;

use std::{sync::Arc, time::Duration};

use aws_config::SdkConfig;
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId},
    status_check::FailedStatusCheck,
    verification::InstanceStatus,
};
use nodemend_ports::{
    cloud::{Cloud, CloudError},
    config::environment::{ClusterAccess, Members},
};

pub use self::hook::AwsHooks;
use self::{ec2::Ec2, member::Accounts};
use crate::{
    error::{read_failed, unreadable},
    kubernetes::NodeReader,
};

/// The timeout of a call. A later answer is lost, and the case waits for the end of its lease. The lease is longer, so
/// that two calls are never in flight at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// AWS through its SDK. Clones share their connections.
#[derive(Debug, Clone)]
pub struct AwsCloud {
    auto_scaling: aws_sdk_autoscaling::Client,
    ec2: Ec2,
    eks: aws_sdk_eks::Client,
    zonal_shift: aws_sdk_arczonalshift::Client,
    logs: aws_sdk_cloudwatchlogs::Client,
    /// None without access to any cluster's Kubernetes API.
    nodes: Option<Arc<NodeReader>>,
    caller: Caller,
    call_timeout: Duration,
    accounts: Arc<Accounts>,
}

impl AwsCloud {
    /// Creates the clients, and gets our identity from STS once.
    pub async fn connect(shared: &SdkConfig) -> Result<Self, CloudError> {
        Ok(Self::with_caller(shared, identify(shared).await?))
    }

    /// The same with a known identity.
    pub fn with_caller(shared: &SdkConfig, caller: Caller) -> Self {
        Self {
            auto_scaling: aws_sdk_autoscaling::Client::new(shared),
            ec2: Ec2::new(shared),
            eks: aws_sdk_eks::Client::new(shared),
            zonal_shift: aws_sdk_arczonalshift::Client::new(shared),
            logs: aws_sdk_cloudwatchlogs::Client::new(shared),
            nodes: None,
            caller,
            call_timeout: CALL_TIMEOUT,
            accounts: Arc::new(Accounts::new(shared, None)),
        }
    }

    /// Assumes these roles in other accounts.
    #[must_use]
    pub fn with_members(self, shared: &SdkConfig, roles: Option<Members>) -> Self {
        Self { accounts: Arc::new(Accounts::new(shared, roles)), ..self }
    }

    /// Reads the Kubernetes API of these clusters, in our own account and in others. `user_agent` names the function.
    #[must_use]
    pub fn with_cluster_access(self, shared: &SdkConfig, access: ClusterAccess, user_agent: &str) -> Self {
        Self { nodes: Some(Arc::new(NodeReader::new(shared, access, user_agent))), ..self }
    }

    /// Sets the timeout of a call.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { call_timeout: patience, ..self }
    }
}

async fn identify(shared: &SdkConfig) -> Result<Caller, CloudError> {
    let Some(region) = shared.region() else {
        return Err(unreadable("no region is configured: set AWS_REGION"));
    };
    let sts = aws_sdk_sts::Client::new(shared);
    let identity = sts.get_caller_identity().send().await.map_err(read_failed)?;
    let (Some(account), Some(arn)) = (identity.account, identity.arn) else {
        return Err(unreadable("STS returned no account or no ARN"));
    };
    // The SDK builds a user agent for each attempt: there is no single value.
    Ok(Caller { account, region: region.to_string(), arn, principal_id: identity.user_id, user_agent: None })
}

impl Cloud for AwsCloud {
    async fn in_account(&self, account: Option<&AccountId>) -> Result<Self, CloudError> {
        match account {
            Some(account) if account.as_str() != self.caller.account => self.accounts.of(account, self).await,
            _ => Ok(self.clone()),
        }
    }

    async fn describe_instances(
        &self,
        instances: &[InstanceId],
    ) -> Result<Vec<InstanceLocation>, CloudError> {
        let known = group::memberships(&self.auto_scaling, instances).await?;
        let others: Vec<&InstanceId> = instances.iter().filter(|id| !known.contains_key(*id)).collect();
        let running = instance::existing(&self.ec2, &others).await?;
        let location = |id| match known.get(id) {
            Some(member) => member.clone(),
            None if running.contains(id) => InstanceLocation::Ungrouped,
            None => InstanceLocation::Gone,
        };
        Ok(instances.iter().map(location).collect())
    }

    async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, CloudError> {
        let Some(mut group) = group::describe(&self.auto_scaling, name).await? else {
            return Ok(None);
        };
        group.eks_repair_enabled = cluster::repairs(&self.eks, &group).await?;
        Ok(Some(Arc::new(group)))
    }

    async fn cluster(&self, name: &ClusterName) -> Result<Arc<ClusterFacts>, CloudError> {
        let zones = instance::nodes_by_zone(&self.ec2, name).await?;
        let away_from = cluster::shifted_away(&self.eks, &self.zonal_shift, name).await?;
        let zonal_shifts = instance::zone_names(&self.ec2, away_from).await?;
        Ok(Arc::new(ClusterFacts { zones, zonal_shifts }))
    }

    async fn instance_status(&self, instance_id: &InstanceId) -> Result<Option<InstanceStatus>, CloudError> {
        instance::status(&self.ec2, instance_id).await
    }

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        instance::console(&self.ec2, instance_id).await
    }

    async fn failed_status_checks(&self) -> Result<Vec<FailedStatusCheck>, CloudError> {
        status_check::failed(&self.ec2).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        match call {
            ApiCall::TerminateInstanceInAutoScalingGroup { instance_id } => {
                call::terminate(&self.auto_scaling, instance_id, self.call_timeout).await
            }
            ApiCall::RebootInstances { instance_id } => {
                call::reboot(&self.ec2, instance_id, self.call_timeout).await
            }
        }
    }

    fn caller(&self) -> &Caller {
        &self.caller
    }
}
