//! Turns a Kubernetes audit event into an observation of one node.
//!
//! A small cluster writes 800 of these a minute, and a handful matter: what is irrelevant is left as soon as
//! that shows.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    condition::{ConditionType, Health, Status},
    ident::{BootId, InstanceId, NodeName, Zone},
    observation::{Deleter, Observation, ObservedCondition, StatusWriter, What},
    timestamp,
};

/// EKS truncates audit events past 1 MB; CloudWatch Logs takes none longer.
const MAX_BYTES: usize = 2 * 1024 * 1024;
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 512;
/// The node lifecycle controller; on EKS it runs in the controller manager under its own service account.
const NODE_CONTROLLER: &str = "system:serviceaccount:kube-system:node-controller";

/// What an audit event turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedEvent {
    /// A fact about a node.
    Observation(Box<Observation>),
    /// Nothing about a node's health; a word why.
    Irrelevant(&'static str),
}

/// Why a text is no audit event.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneLogError {
    /// Longer than any genuine one.
    #[error("{0} bytes are more than an audit event's {MAX_BYTES}")]
    TooLong(usize),
    /// Not JSON, cut off, or a field of another type.
    #[error("not an audit event: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A field that a fact needs is missing or can't be.
    #[error("{field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    stage: Cow<'a, str>,
    #[serde(borrow, default, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(borrow, default)]
    user_agent: Cow<'a, str>,
    #[serde(borrow)]
    object_ref: Option<ObjectRef<'a>>,
    response_status: Option<ResponseStatus>,
    #[serde(borrow)]
    request_object: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow)]
    response_object: Option<&'a serde_json::value::RawValue>,
    #[serde(default, with = "timestamp::option")]
    stage_timestamp: Option<Timestamp>,
    #[serde(default, with = "timestamp::option")]
    request_received_timestamp: Option<Timestamp>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
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
struct ObjectRef<'a> {
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ResponseStatus {
    code: Option<u16>,
}

/// What a DELETE carries as its body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeleteOptions {
    dry_run: Option<Vec<serde::de::IgnoredAny>>,
}

/// The parts of a Node object, or of a patch of one, that tell of its health.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Node<'a> {
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow)]
    status: NodeStatus<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec<'a> {
    #[serde(borrow, rename = "providerID")]
    provider_id: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus<'a> {
    #[serde(borrow)]
    conditions: Vec<Condition<'a>>,
    #[serde(borrow)]
    node_info: NodeInfo<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeInfo<'a> {
    #[serde(borrow, rename = "bootID")]
    boot_id: Cow<'a, str>,
}

/// A strategic merge patch carries an unchanged condition with its type alone: no status, no statement.
#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(rename = "type")]
    kind: ConditionType,
    #[serde(default)]
    status: Option<Status>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// Reads one audit event.
pub fn read(text: &str) -> Result<ParsedEvent, ControlPlaneLogError> {
    if text.len() > MAX_BYTES {
        return Err(ControlPlaneLogError::TooLong(text.len()));
    }
    let event: Event<'_> = serde_json::from_str(text)?;
    if event.kind != "Event" {
        return Err(field("kind", "not Event"));
    }
    if !matches!(&*event.stage, "" | "ResponseComplete") {
        return Ok(ParsedEvent::Irrelevant("not complete"));
    }
    let Some(object) = &event.object_ref else { return Ok(ParsedEvent::Irrelevant("no object")) };
    if object.resource != "nodes" {
        return Ok(ParsedEvent::Irrelevant("not a node"));
    }
    if event.response_status.as_ref().and_then(|status| status.code).is_some_and(|code| code >= 400) {
        return Ok(ParsedEvent::Irrelevant("refused"));
    }
    if is_dry_run(&event)? {
        return Ok(ParsedEvent::Irrelevant("a dry run: nothing was changed"));
    }
    match (&*event.verb, &*object.subresource) {
        ("patch" | "update", "status") => conditions(&event, object),
        // On EKS the node controller was seen to write the whole node, too.
        ("update", "") if event.user.username == NODE_CONTROLLER => conditions(&event, object),
        ("create", "") => registration(&event, object),
        ("delete", "") => deletion(&event, object),
        // A collection names no node; whoever deletes all of them at once will know.
        ("deletecollection", _) => Ok(ParsedEvent::Irrelevant("names no node")),
        _ => Ok(ParsedEvent::Irrelevant("not about its health")),
    }
}

/// Whether the API server only said what it would have done. It logs a dry run like the deed, with the same code: only
/// the query, or the options that kubectl sends as a DELETE's body, tell them apart.
fn is_dry_run(event: &Event<'_>) -> Result<bool, ControlPlaneLogError> {
    let query = event.request_uri.split_once('?').map_or("", |(_, query)| query);
    if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "dryRun") {
        return Ok(true);
    }
    let options = match (&*event.verb, event.request_object) {
        ("delete" | "deletecollection", Some(body)) => serde_json::from_str::<DeleteOptions>(body.get())?,
        _ => return Ok(false),
    };
    Ok(options.dry_run.is_some_and(|stages| !stages.is_empty()))
}

fn conditions(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let user = &*event.user.username;
    let by = match user.strip_prefix("system:node:") {
        // A kubelet may speak of its own node alone.
        Some(own) if own != object.name => {
            return Ok(ParsedEvent::Irrelevant("a kubelet about another node"));
        }
        Some(_) => StatusWriter::Kubelet,
        None if is_node_controller(user) => StatusWriter::NodeController,
        None => StatusWriter::ThirdParty,
    };
    let whole = if by == StatusWriter::Kubelet { None } else { event.response_object };
    let node = node(whole.or(event.request_object))?;
    let said = |condition: &Condition<'_>| match by {
        StatusWriter::Kubelet => true,
        // It writes the whole status: what it only carries along is no statement of its own.
        StatusWriter::NodeController => {
            condition.kind == ConditionType::Ready
                || matches!(&*condition.reason, "NodeStatusUnknown" | "NodeStatusNeverUpdated")
        }
        // Ready is the kubelet's and the node controller's to say. Anybody may be allowed to patch a status.
        StatusWriter::ThirdParty => {
            !is_kubelets(&condition.kind)
                && !matches!(&*condition.reason, "NodeStatusUnknown" | "NodeStatusNeverUpdated")
        }
    };
    let conditions: Vec<ObservedCondition> = node
        .status
        .conditions
        .iter()
        .filter(|condition| said(condition))
        .filter_map(Condition::observed)
        .collect();
    if conditions.is_empty() && by == StatusWriter::ThirdParty {
        return Ok(ParsedEvent::Irrelevant("no condition that is known"));
    }
    let boot_id =
        if by == StatusWriter::ThirdParty { None } else { BootId::new(&node.status.node_info.boot_id).ok() };
    observation(event, object, &node, boot_id, What::Conditions { by, conditions })
}

fn registration(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    if event.user.username.strip_prefix("system:node:") != Some(&*object.name) {
        return Ok(ParsedEvent::Irrelevant("not created by its kubelet"));
    }
    let node = node(event.response_object.or(event.request_object))?;
    let conditions = node.status.conditions.iter().filter_map(Condition::observed).collect();
    let boot_id = BootId::new(&node.status.node_info.boot_id).ok();
    observation(event, object, &node, boot_id, What::Registered { conditions })
}

fn deletion(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let user = printable(&event.user.username, MAX_REASON);
    let what = What::Deleted { by: deleter(&event.user.username, &event.user_agent), user };
    observation(event, object, &Node::default(), None, what)
}

/// Who deletes. The user agent is the caller's own word, so it only tells apart users that are the system's.
fn deleter(user: &str, user_agent: &str) -> Deleter {
    match user {
        "eks:cloud-controller-manager"
        | "system:cloud-controller-manager"
        | "system:serviceaccount:kube-system:cloud-controller-manager"
        | NODE_CONTROLLER => Deleter::CloudController,
        "eks:node-manager" => Deleter::Eks,
        user if user.starts_with("system:serviceaccount:") && user.ends_with(":karpenter") => {
            Deleter::Karpenter
        }
        user if user.starts_with("system:") && user_agent.ends_with("/node-controller") => {
            Deleter::CloudController
        }
        user if user.starts_with("eks:") => Deleter::Eks,
        _ => Deleter::Manual,
    }
}

fn is_node_controller(user: &str) -> bool {
    user == NODE_CONTROLLER || user == "system:kube-controller-manager"
}

/// The conditions that a kubelet owns.
fn is_kubelets(condition: &ConditionType) -> bool {
    match condition {
        ConditionType::Ready => true,
        ConditionType::Other(other) => matches!(&**other, "MemoryPressure" | "DiskPressure" | "PIDPressure"),
        _ => false,
    }
}

fn node(object: Option<&serde_json::value::RawValue>) -> Result<Node<'_>, ControlPlaneLogError> {
    Ok(match object {
        Some(object) => serde_json::from_str(object.get())?,
        None => Node::default(),
    })
}

fn observation(
    event: &Event<'_>,
    object: &ObjectRef<'_>,
    node: &Node<'_>,
    boot_id: Option<BootId>,
    what: What,
) -> Result<ParsedEvent, ControlPlaneLogError> {
    let at = event.stage_timestamp.or(event.request_received_timestamp);
    let provider_id = &*node.spec.provider_id;
    let zone = provider_id.strip_prefix("aws:///").and_then(|path| path.split('/').next());
    Ok(ParsedEvent::Observation(Box::new(Observation {
        at: at.ok_or_else(|| field("stageTimestamp", "missing"))?,
        node: NodeName::new(&object.name).map_err(|error| field("objectRef.name", &error.to_string()))?,
        instance_id: InstanceId::from_provider_id(provider_id).or_else(|| session_instance(event)),
        zone: zone.and_then(|zone| Zone::new(zone).ok()),
        boot_id,
        what,
    })))
}

/// A kubelet's session is named by its instance.
fn session_instance(event: &Event<'_>) -> Option<InstanceId> {
    if !event.user.username.starts_with("system:node:") {
        return None;
    }
    let extra = &event.user.extra;
    let from_arn = extra.arn.first().and_then(|arn| arn.rsplit('/').next());
    extra
        .session_name
        .first()
        .map(String::as_str)
        .into_iter()
        .chain(from_arn)
        .find_map(|id| InstanceId::new(id).ok())
}

impl Condition<'_> {
    fn observed(&self) -> Option<ObservedCondition> {
        let health = self.status?.health(self.kind.polarity()?);
        let reason = printable(&self.reason, MAX_REASON);
        Some(ObservedCondition {
            condition: self.kind.clone(),
            health,
            reason: if reason.is_empty() && health != Health::Healthy {
                "Unknown".to_owned()
            } else {
                reason
            },
            message: printable(&self.message, MAX_MESSAGE),
        })
    }
}

/// What ends on an operator's terminal holds no control characters.
fn printable(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn field(field: &'static str, why: &str) -> ControlPlaneLogError {
    ControlPlaneLogError::Field { field, why: why.to_owned() }
}
