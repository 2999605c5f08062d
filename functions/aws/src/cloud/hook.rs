//! Lifecycle hooks, at Auto Scaling itself.

use aws_config::SdkConfig;
use aws_sdk_autoscaling::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
};
use nodemend_domain::{
    drain::Hook,
    ident::{GroupName, InstanceId, NodeName},
};

use super::{CloudError, ec2::Ec2, error, group, instance};
use nodemend_ports::lifecycle::{HookState, Hooks, Owner};

/// What the group does with the instance: it is terminated either way, and the other answer would leave out what other
/// hooks hold it for.
const GO_ON: &str = "CONTINUE";

/// Auto Scaling and EC2, through their SDK. Clones share its connections.
#[derive(Debug, Clone)]
pub struct AwsHooks {
    auto_scaling: Client,
    ec2: Ec2,
}

impl AwsHooks {
    /// Makes the clients.
    pub fn new(shared: &SdkConfig) -> Self {
        Self { auto_scaling: Client::new(shared), ec2: Ec2::new(shared) }
    }
}

impl Hooks for AwsHooks {
    async fn owner(&self, name: &GroupName) -> Result<Owner, CloudError> {
        Ok(match group::describe(&self.auto_scaling, name).await? {
            Some(group) => group.cluster.map_or(Owner::Nobody, Owner::Cluster),
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
            .lifecycle_action_result(GO_ON);
        hook_state(request.send().await)
    }
}

fn hook_state<T, E>(answer: Result<T, SdkError<E>>) -> Result<HookState, CloudError>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match answer {
        Ok(_) => Ok(HookState::Held),
        Err(error) if is_over(error.code(), error.message()) => Ok(HookState::Over),
        Err(error) => Err(error::unread(error)),
    }
}

/// Auto Scaling has one code for all that is wrong with a request. Only this sentence says that there is nothing to do.
fn is_over(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("ValidationError")
        && message.is_some_and(|message| message.starts_with("No active Lifecycle Action found"))
}
