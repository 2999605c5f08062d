//! The shape of an audit event, as far as Node objects need it.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ControlPlaneLogError;
use crate::{ident::InstanceId, timestamp};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    #[serde(borrow, default)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) stage: Cow<'a, str>,
    #[serde(borrow, default, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) verb: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) user: User<'a>,
    #[serde(borrow)]
    impersonated_user: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) user_agent: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object_ref: Option<ObjectRef<'a>>,
    #[serde(borrow)]
    pub(super) response_status: Option<ResponseStatus<'a>>,
    #[serde(borrow)]
    pub(super) request_object: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) response_object: Option<&'a RawValue>,
    #[serde(default, with = "timestamp::option")]
    pub(super) stage_timestamp: Option<Timestamp>,
    #[serde(default, with = "timestamp::option")]
    pub(super) request_received_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct User<'a> {
    #[serde(borrow, default)]
    pub(super) username: Cow<'a, str>,
    #[serde(default)]
    extra: Extra,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Extra {
    #[serde(default)]
    session_name: Vec<String>,
    #[serde(default)]
    arn: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct ObjectRef<'a> {
    #[serde(borrow, default)]
    pub(super) resource: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) subresource: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) name: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct ResponseStatus<'a> {
    pub(super) code: Option<u16>,
    #[serde(borrow)]
    pub(super) details: Option<Details<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Details<'a> {
    #[serde(borrow, default)]
    pub(super) uid: Cow<'a, str>,
}

/// The body of a DELETE.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeleteOptions {
    dry_run: Option<Vec<serde::de::IgnoredAny>>,
}

impl Event<'_> {
    /// Whether the API server only answered what it would have done. It logs a dry run like the real request, with the same
    /// code: only the query, or the options that kubectl sends as a DELETE's body, show it.
    pub(super) fn is_dry_run(&self) -> Result<bool, ControlPlaneLogError> {
        let query = self.request_uri.split_once('?').map_or("", |(_, query)| query);
        if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "dryRun") {
            return Ok(true);
        }
        let options = match (&*self.verb, self.request_object) {
            ("delete" | "deletecollection", Some(body)) => serde_json::from_str::<DeleteOptions>(body.get())?,
            _ => return Ok(false),
        };
        Ok(options.dry_run.is_some_and(|stages| !stages.is_empty()))
    }

    /// The node whose kubelet made the request. Somebody who impersonates a kubelet is none, and neither is a kubelet's
    /// credential that impersonates somebody else.
    pub(super) fn kubelet(&self) -> Option<&str> {
        let kubelet = self.user.username.strip_prefix("system:node:");
        kubelet.filter(|_| self.impersonated_user.is_none())
    }

    /// The instance whose kubelet made the request: EKS names the kubelet's session by it.
    pub(super) fn session_instance(&self) -> Option<InstanceId> {
        self.kubelet()?;
        let extra = &self.user.extra;
        let from_arn = extra.arn.first().and_then(|arn| arn.rsplit('/').next());
        extra
            .session_name
            .first()
            .map(String::as_str)
            .into_iter()
            .chain(from_arn)
            .find_map(|id| InstanceId::new(id).ok())
    }
}
