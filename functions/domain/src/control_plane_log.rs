//! Turns an event of the Kubernetes audit log into observations of Node objects.
//!
//! Only what the API server carried out counts: refused requests and dry runs change nothing. A Node object is identified
//! by its uid, since a name can come again with another instance. A small cluster writes 800 events a minute of which a
//! handful matter: an event is left as soon as it shows that it is irrelevant.
//!
//! What the audit log never shows: a server-side apply whose body is YAML leaves no line at all (the API
//! server fails to encode it), and an event over 1 MB arrives cut. The reconcile function applies what such a
//! line would have reported.

mod event;
mod node;

pub(crate) use self::node::Node as NodeObject;
use serde::Deserialize;

use self::{
    event::{Event, ObjectRef, User},
    node::{Node, StatusChange},
};
use crate::{
    condition::ConditionType,
    ident::{BootId, NodeName, NodeUid, Zone},
    node_marks::MarkChange,
    observation::{Deleter, Observation, ObservedCondition, Removed, StatusWriter, What},
};

/// EKS truncates audit events past 1 MB; CloudWatch Logs takes none longer.
const MAX_BYTES: usize = 2 * 1024 * 1024;
const MAX_REASON: usize = 128;
const MAX_MESSAGE: usize = 512;
/// The node lifecycle controller; on EKS it runs in the controller manager under its own service account.
const NODE_CONTROLLER: &str = "system:serviceaccount:kube-system:node-controller";

/// The result of reading an audit event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedEvent {
    /// What it reports about each Node object that it changed: one, but for a deletion of a collection.
    Observations(Vec<Observation>),
    /// Nothing about a node's health, and why.
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
    /// A field that an observation needs is missing or invalid.
    #[error("{field}: {why}")]
    Field {
        /// The field's path.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// The node whose kubelet made the request of an audit event.
pub fn kubelet_of(text: &str) -> Option<NodeName> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        user: User<'a>,
    }
    let request: Request<'_> = serde_json::from_str(text).ok()?;
    NodeName::new(request.user.username.strip_prefix("system:node:")?).ok()
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
    if event.is_dry_run()? {
        return Ok(ParsedEvent::Irrelevant("a dry run: nothing was changed"));
    }
    match (&*event.verb, &*object.subresource) {
        ("patch" | "update", "status") => conditions(&event, object),
        // On EKS the node controller was seen to write the whole node, too.
        ("update", "") if event.user.username == NODE_CONTROLLER => conditions(&event, object),
        ("patch" | "update", "") => marks(&event, object),
        ("create", "") => creation(&event, object),
        ("delete", "") => deletion(&event, object),
        ("deletecollection", "") => deletions(&event),
        _ => Ok(ParsedEvent::Irrelevant("not about its health")),
    }
}

fn conditions(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let user = &*event.user.username;
    let by = match event.kubelet() {
        // A kubelet reports on its own node alone.
        Some(own) if own != object.name => {
            return Ok(ParsedEvent::Irrelevant("a kubelet about another node"));
        }
        Some(_) => StatusWriter::Kubelet,
        None if is_node_controller(user) => StatusWriter::NodeController,
        None => StatusWriter::ThirdParty,
    };
    let response = if by == StatusWriter::Kubelet { None } else { event.response_object };
    let change = match (response, event.request_object) {
        (Some(whole), _) => StatusChange::whole(whole)?,
        (None, Some(whole)) if event.verb == "update" => StatusChange::whole(whole)?,
        (None, Some(patch)) => StatusChange::patch(patch)?,
        (None, None) => StatusChange::default(),
    };
    let reported = |condition: &node::Condition<'_>| match by {
        StatusWriter::Kubelet => true,
        // It writes the whole status, and only carries along what others reported.
        StatusWriter::NodeController => {
            condition.kind == ConditionType::Ready
                || matches!(&*condition.reason, "NodeStatusUnknown" | "NodeStatusNeverUpdated")
        }
        // Ready is the kubelet's and the node controller's to report. Anybody may be allowed to patch a status.
        StatusWriter::ThirdParty => {
            !condition.kind.is_kubelets()
                && !matches!(&*condition.reason, "NodeStatusUnknown" | "NodeStatusNeverUpdated")
        }
    };
    let conditions: Vec<ObservedCondition> = change
        .node
        .status
        .conditions
        .iter()
        .filter(|condition| reported(condition))
        .filter_map(node::Condition::observed)
        .collect();
    let removed = change.removed();
    if conditions.is_empty() && removed == Removed::default() && by == StatusWriter::ThirdParty {
        return Ok(ParsedEvent::Irrelevant("no condition that is known"));
    }
    let boot_id = if by == StatusWriter::ThirdParty {
        None
    } else {
        BootId::new(&change.node.status.node_info.boot_id).ok()
    };
    let what = What::Conditions { by, conditions, removed };
    one(observation(event, &object.name, &change.node, boot_id, what))
}

/// A write of the Node object itself: what it reports about the marks that people set.
fn marks(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let whole = event.verb == "update";
    let change = match event.request_object {
        Some(request) => MarkChange::of_request(&serde_json::from_str(request.get())?, whole),
        None => MarkChange::default(),
    };
    if change.is_empty() {
        return Ok(ParsedEvent::Irrelevant("not about its health"));
    }
    let by = printable(&event.user.username, MAX_REASON);
    let answered = Node::read(event.response_object).unwrap_or_default();
    let marked = observation(event, &object.name, &Node::default(), None, What::Marked { by, change })?;
    one(Ok(Observation {
        uid: NodeUid::new(answered.uid()).ok(),
        instance_id: answered.instance_id(),
        ..marked
    }))
}

/// A Node object was created: by its kubelet, which registers, or by somebody who restores it.
fn creation(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let node = Node::read(event.response_object.or(event.request_object))?;
    let conditions = node.status.conditions.iter().filter_map(node::Condition::observed).collect();
    // `generateName` leaves the request without a name.
    let name = if object.name.is_empty() { &node.metadata.name } else { &object.name };
    match event.kubelet() {
        Some(own) if own == *name => {
            let boot_id = BootId::new(&node.status.node_info.boot_id).ok();
            one(observation(event, name, &node, boot_id, What::Registered { conditions }))
        }
        Some(_) => Ok(ParsedEvent::Irrelevant("a kubelet about another node")),
        None => {
            let user = printable(&event.user.username, MAX_REASON);
            one(observation(event, name, &node, None, What::Created { user, conditions }))
        }
    }
}

fn deletion(event: &Event<'_>, object: &ObjectRef<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    // While a finalizer holds the object the API server answers with the object itself, else with a status that names its
    // uid. The answer's other forms have nothing that is needed here.
    let answered = Node::read(event.response_object).unwrap_or_default();
    let details = event.response_status.as_ref().and_then(|status| status.details.as_ref());
    let uid = details.map(|details| &*details.uid).filter(|uid| !uid.is_empty());
    let uid = uid.unwrap_or(&answered.metadata.uid);
    let deleted = observation(event, &object.name, &Node::default(), None, event.deleted())?;
    one(Ok(Observation { uid: NodeUid::new(uid).ok(), instance_id: answered.instance_id(), ..deleted }))
}

/// The answer to a deletion of a collection lists the nodes that it deleted, unless the event was cut.
fn deletions(event: &Event<'_>) -> Result<ParsedEvent, ControlPlaneLogError> {
    let nodes = node::list(event.response_object)?;
    let observations = nodes
        .iter()
        .map(|node| observation(event, &node.metadata.name, node, None, event.deleted()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(match observations.is_empty() {
        true => ParsedEvent::Irrelevant("names no node"),
        false => ParsedEvent::Observations(observations),
    })
}

fn one(observation: Result<Observation, ControlPlaneLogError>) -> Result<ParsedEvent, ControlPlaneLogError> {
    Ok(ParsedEvent::Observations(vec![observation?]))
}

impl Event<'_> {
    /// Impersonation is attributed to the user who impersonates: `user` is that one, `impersonatedUser` the other.
    fn deleted(&self) -> What {
        let user = printable(&self.user.username, MAX_REASON);
        What::Deleted { by: deleter(&self.user.username, &self.user_agent), user }
    }
}

/// Who deletes. The user agent is the caller's own claim, so it only distinguishes users that are the system's.
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

fn observation(
    event: &Event<'_>,
    name: &str,
    node: &Node<'_>,
    boot_id: Option<BootId>,
    what: What,
) -> Result<Observation, ControlPlaneLogError> {
    let at = event.stage_timestamp.or(event.request_received_timestamp);
    Ok(Observation {
        at: at.ok_or_else(|| field("stageTimestamp", "missing"))?,
        node: NodeName::new(name).map_err(|error| field("objectRef.name", &error.to_string()))?,
        uid: NodeUid::new(&node.metadata.uid).ok(),
        // The kubelet's session is the instance that writes; the object may still name the one that had its name before.
        instance_id: event.session_instance().or_else(|| node.instance_id()),
        zone: node.zone().and_then(|zone| Zone::new(zone).ok()),
        boot_id,
        what,
    })
}

/// What reaches an operator's terminal holds no control characters.
fn printable(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn field(field: &'static str, why: &str) -> ControlPlaneLogError {
    ControlPlaneLogError::Field { field, why: why.to_owned() }
}
