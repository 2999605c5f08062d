//! AWS itself. Everything is read anew each time: what a decision rests on is never older than its sweep, and what
//! a call rests on never older than its claim.

mod call;
mod cluster;
mod ec2;
mod error;
mod group;
mod hook;
mod instance;
mod member;

use std::{sync::Arc, time::Duration};

use aws_config::SdkConfig;
use nodemend_domain::{
    audit_log::{ApiCall, CallAnswer, Caller},
    group::{ClusterFacts, Group, InstanceLocation},
    ident::{AccountId, ClusterName, GroupName, InstanceId},
};
use nodemend_ports::{
    cloud::{Cloud, CloudError},
    config::environment::Members,
};

pub use self::hook::AwsHooks;
use self::{ec2::Ec2, member::Accounts};

/// How long the answer to a call is waited for. What comes later is lost, and costs the repair its lease; the lease
/// is longer, so that no two calls are on their way at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// AWS, through its SDK. Clones share its connections.
#[derive(Debug, Clone)]
pub struct AwsCloud {
    auto_scaling: aws_sdk_autoscaling::Client,
    ec2: Ec2,
    eks: aws_sdk_eks::Client,
    zonal_shift: aws_sdk_arczonalshift::Client,
    caller: Caller,
    patience: Duration,
    accounts: Arc<Accounts>,
}

impl AwsCloud {
    /// Makes the clients, and asks STS once who we are.
    pub async fn connect(shared: &SdkConfig) -> Result<Self, CloudError> {
        Ok(Self::with_caller(shared, identify(shared).await?))
    }

    /// The same where it is known who we are.
    pub fn with_caller(shared: &SdkConfig, caller: Caller) -> Self {
        Self {
            auto_scaling: aws_sdk_autoscaling::Client::new(shared),
            ec2: Ec2::new(shared),
            eks: aws_sdk_eks::Client::new(shared),
            zonal_shift: aws_sdk_arczonalshift::Client::new(shared),
            caller,
            patience: PATIENCE,
            accounts: Arc::new(Accounts::new(shared, None)),
        }
    }

    /// Goes to other accounts by these roles.
    #[must_use]
    pub fn with_members(self, shared: &SdkConfig, roles: Option<Members>) -> Self {
        Self { accounts: Arc::new(Accounts::new(shared, roles)), ..self }
    }

    /// Waits so long for the answer to a call.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

async fn identify(shared: &SdkConfig) -> Result<Caller, CloudError> {
    let Some(region) = shared.region() else {
        return Err(error::unreadable("no region is set: AWS_REGION does not say it"));
    };
    let sts = aws_sdk_sts::Client::new(shared);
    let us = sts.get_caller_identity().send().await.map_err(error::unread)?;
    let (Some(account), Some(arn)) = (us.account, us.arn) else {
        return Err(error::unreadable("STS names no account or no ARN"));
    };
    // The SDK builds its user agent anew for each attempt: there is no one to tell.
    Ok(Caller { account, region: region.to_string(), arn, principal_id: us.user_id, user_agent: None })
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

    async fn console_output(&self, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
        instance::console(&self.ec2, instance_id).await
    }

    async fn call(&self, call: &ApiCall) -> CallAnswer {
        match call {
            ApiCall::TerminateInstanceInAutoScalingGroup { instance_id } => {
                call::terminate(&self.auto_scaling, instance_id, self.patience).await
            }
            ApiCall::RebootInstances { instance_id } => {
                call::reboot(&self.ec2, instance_id, self.patience).await
            }
        }
    }

    fn caller(&self) -> &Caller {
        &self.caller
    }
}
