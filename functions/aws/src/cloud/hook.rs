//! Lifecycle hooks on Auto Scaling.

use aws_config::SdkConfig;
use aws_sdk_autoscaling::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use nodemend_domain::{
    drain::Hook,
    ident::{GroupName, InstanceId, NodeName},
};

use super::{CloudError, ec2::Ec2, group, instance};
use crate::error::read_failed;
use nodemend_ports::lifecycle::{HookState, Hooks, Owner};

/// The instance is terminated either way. The other result, ABANDON, would skip the remaining hooks.
const RESULT: &str = "CONTINUE";

/// Auto Scaling and EC2. Clones share their connections.
#[derive(Debug, Clone)]
pub struct AwsHooks {
    auto_scaling: Client,
    ec2: Ec2,
}

impl AwsHooks {
    /// Creates the clients.
    pub fn new(shared: &SdkConfig) -> Self {
        Self { auto_scaling: Client::new(shared), ec2: Ec2::new(shared) }
    }
}

impl Hooks for AwsHooks {
    async fn owner(&self, name: &GroupName) -> Result<Owner, CloudError> {
        Ok(match group::describe(&self.auto_scaling, name).await? {
            Some(group) => group.cluster.map_or(Owner::Untagged, Owner::Cluster),
            None => Owner::NoGroup,
        })
    }

    async fn private_name(&self, instance_id: &InstanceId) -> Result<Option<NodeName>, CloudError> {
        instance::private_name(&self.ec2, instance_id).await
    }

    async fn heartbeat(&self, hook: &Hook) -> Result<HookState, CloudError> {
        let request = self
            .auto_scaling
            .record_lifecycle_action_heartbeat()
            .auto_scaling_group_name(hook.group.as_str())
            .lifecycle_hook_name(&hook.name)
            .lifecycle_action_token(&hook.token)
            .instance_id(hook.instance_id.as_str());
        hook_state(request.send().await)
    }

    async fn complete(&self, hook: &Hook) -> Result<HookState, CloudError> {
        let request = self
            .auto_scaling
            .complete_lifecycle_action()
            .auto_scaling_group_name(hook.group.as_str())
            .lifecycle_hook_name(&hook.name)
            .lifecycle_action_token(&hook.token)
            .instance_id(hook.instance_id.as_str())
            .lifecycle_action_result(RESULT);
        hook_state(request.send().await)
    }
}

fn hook_state<T, E>(answer: Result<T, SdkError<E>>) -> Result<HookState, CloudError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match answer {
        Ok(_) => Ok(HookState::Held),
        Err(error) if is_over(error.code(), error.message()) => Ok(HookState::Over),
        Err(error) => Err(read_failed(error)),
    }
}

/// Auto Scaling has one error code for all invalid requests. Only this message means that there is no action to
/// complete.
fn is_over(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("ValidationError")
        && message.is_some_and(|message| message.starts_with("No active Lifecycle Action found"))
}
