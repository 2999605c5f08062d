//! Clients for other accounts, through a role there that is assumed at the first use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_config::{SdkConfig, sts::AssumeRoleProvider};
use nodemend_domain::{audit_log::Caller, ident::AccountId};

use super::{AwsCloud, CloudError};
use nodemend_ports::config::environment::Members;

/// The name of our sessions in the other account's CloudTrail.
const SESSION: &str = "nodemend";

/// One client for each account. The clients keep and renew their credentials.
#[derive(Debug)]
pub(super) struct Accounts {
    shared: SdkConfig,
    roles: Option<Members>,
    known: Mutex<HashMap<AccountId, AwsCloud>>,
}

impl Accounts {
    pub(super) fn new(shared: &SdkConfig, roles: Option<Members>) -> Self {
        Self { shared: shared.clone(), roles, known: Mutex::default() }
    }

    /// The client for an account that is not our own.
    pub(super) async fn of(
        self: &Arc<Self>,
        account: &AccountId,
        own: &AwsCloud,
    ) -> Result<AwsCloud, CloudError> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(account) {
            return Ok(known.clone());
        }
        let Some(roles) = &self.roles else {
            return Err(CloudError {
                code: "NoMemberRole".to_owned(),
                source: format!("account {account} is another account, and no member role is configured")
                    .into(),
            });
        };
        // `arn:aws:sts::…`: what follows `arn` is the partition.
        let partition = own.caller.arn.split(':').nth(1).unwrap_or("aws");
        let role = AssumeRoleProvider::builder(format!("arn:{partition}:iam::{account}:role/{}", roles.role))
            .session_name(SESSION)
            .configure(&self.shared)
            .build()
            .await;
        let config = self
            .shared
            .to_builder()
            .credentials_provider(aws_sdk_sts::config::SharedCredentialsProvider::new(role))
            .build();
        let name = roles.calls_as.rsplit('/').next().unwrap_or_default();
        let caller = Caller {
            account: account.to_string(),
            region: own.caller.region.clone(),
            arn: format!("arn:{partition}:sts::{account}:assumed-role/{name}/{SESSION}"),
            principal_id: None,
            user_agent: None,
        };
        let cloud = AwsCloud {
            call_timeout: own.call_timeout,
            nodes: own.nodes.as_ref().map(|nodes| Arc::new(nodes.with_config(&config))),
            ..AwsCloud::with_caller(&config, caller)
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(account.clone(), cloud.clone());
        Ok(cloud)
    }
}
