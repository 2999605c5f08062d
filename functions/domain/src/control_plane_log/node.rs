//! A Node object, or a change of its status, as an audit event carries it.
//!
//! A change comes as a whole object (a PUT, or the response to a patch), as a merge patch, strategic or not, or as a JSON
//! patch (RFC 6902). A merge patch names what it changes; a condition that a whole object lacks is no longer there.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{ControlPlaneLogError, MAX_MESSAGE, MAX_REASON, printable};
use crate::{
    condition::{ConditionType, Health, Status},
    ident::InstanceId,
    node_marks::annotation_text,
    observation::{ObservedCondition, Removed},
};

/// The parts of a Node object that matter here.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Node<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    spec: Spec<'a>,
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) status: NodeStatus<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) uid: Cow<'a, str>,
    #[serde(borrow, rename = "creationTimestamp", deserialize_with = "or_default")]
    created: Cow<'a, str>,
    #[serde(deserialize_with = "or_default")]
    annotations: Annotations,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    /// [`HOLD_ANNOTATION`](crate::node_marks::HOLD_ANNOTATION).
    #[serde(rename = "nodemend.io/hold")]
    hold: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec<'a> {
    #[serde(borrow, rename = "providerID")]
    provider_id: Cow<'a, str>,
    unschedulable: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NodeStatus<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) conditions: Vec<Condition<'a>>,
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) node_info: NodeInfo<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NodeInfo<'a> {
    #[serde(borrow, rename = "bootID")]
    pub(super) boot_id: Cow<'a, str>,
}

/// A strategic merge patch lists an unchanged condition with its type alone: no status, no report. Its directives
/// (`$patch`) take an entry, or all others, off the list.
#[derive(Deserialize)]
struct ConditionEntry<'a> {
    #[serde(rename = "type")]
    kind: Option<ConditionType>,
    #[serde(default)]
    status: Option<Status>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default, rename = "lastTransitionTime")]
    since: Cow<'a, str>,
    #[serde(borrow, default, rename = "$patch")]
    directive: Cow<'a, str>,
}

/// One condition of a Node.
pub(super) struct Condition<'a> {
    pub(super) kind: ConditionType,
    status: Option<Status>,
    pub(super) reason: Cow<'a, str>,
    message: Cow<'a, str>,
    since: Cow<'a, str>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Condition<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entry = ConditionEntry::deserialize(deserializer)?;
        entry.condition().ok_or_else(|| serde::de::Error::missing_field("type"))
    }
}

impl<'a> ConditionEntry<'a> {
    fn condition(self) -> Option<Condition<'a>> {
        Some(Condition {
            kind: self.kind?,
            status: self.status,
            reason: self.reason,
            message: self.message,
            since: self.since,
        })
    }
}

/// The API server writes null where a client left a struct or a list out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl<'a> Node<'a> {
    pub(super) fn read(object: Option<&'a RawValue>) -> Result<Self, ControlPlaneLogError> {
        Ok(match object {
            Some(object) => serde_json::from_str(object.get())?,
            None => Self::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    pub(crate) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    pub(crate) fn created(&self) -> &str {
        &self.metadata.created
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.status.node_info.boot_id
    }

    pub(crate) fn hold(&self) -> Option<String> {
        self.metadata.annotations.hold.as_deref().map(annotation_text)
    }

    pub(crate) fn is_cordoned(&self) -> bool {
        self.spec.unschedulable == Some(true)
    }

    pub(crate) fn instance_id(&self) -> Option<InstanceId> {
        InstanceId::from_provider_id(&self.spec.provider_id)
    }

    /// Its conditions of a known polarity, each with its `lastTransitionTime`.
    pub(crate) fn observed_conditions(&self) -> impl Iterator<Item = (ObservedCondition, &str)> {
        self.status.conditions.iter().filter_map(|condition| Some((condition.observed()?, &*condition.since)))
    }

    pub(super) fn zone(&self) -> Option<&str> {
        self.spec.provider_id.strip_prefix("aws:///").and_then(|path| path.split('/').next())
    }
}

/// The nodes of a list.
pub(super) fn list(object: Option<&RawValue>) -> Result<Vec<Node<'_>>, ControlPlaneLogError> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow, default, deserialize_with = "or_default")]
        items: Vec<Node<'a>>,
    }
    Ok(match object {
        Some(object) => serde_json::from_str::<List<'_>>(object.get())?.items,
        None => Vec::new(),
    })
}

/// A change of a node's status.
#[derive(Default)]
pub(super) struct StatusChange<'a> {
    /// The node, with the conditions that the change lists.
    pub(super) node: Node<'a>,
    /// Whether those are all that the node has.
    whole: bool,
    /// Conditions that the change takes off the node.
    deleted: Vec<ConditionType>,
}

impl<'a> StatusChange<'a> {
    /// A whole Node object.
    pub(super) fn whole(object: &'a RawValue) -> Result<Self, ControlPlaneLogError> {
        Ok(Self { node: Node::read(Some(object))?, whole: true, deleted: Vec::new() })
    }

    /// A patch: an object is a merge patch, an array a JSON patch.
    pub(super) fn patch(patch: &'a RawValue) -> Result<Self, ControlPlaneLogError> {
        if patch.get().trim_start().starts_with('[') {
            Self::json_patch(patch)
        } else {
            Self::merge_patch(patch)
        }
    }

    fn merge_patch(patch: &'a RawValue) -> Result<Self, ControlPlaneLogError> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Patch<'a> {
            #[serde(borrow, deserialize_with = "or_default")]
            metadata: Metadata<'a>,
            #[serde(borrow, deserialize_with = "or_default")]
            spec: Spec<'a>,
            #[serde(borrow, deserialize_with = "or_default")]
            status: StatusPatch<'a>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct StatusPatch<'a> {
            #[serde(borrow)]
            conditions: Conditions<'a>,
            #[serde(borrow, deserialize_with = "or_default")]
            node_info: NodeInfo<'a>,
        }
        let Patch { metadata, spec, status } = serde_json::from_str(patch.get())?;
        let mut change = Self::default();
        change.node.metadata = metadata;
        change.node.spec = spec;
        change.node.status.node_info = status.node_info;
        change.apply_list(status.conditions);
        Ok(change)
    }

    fn apply_list(&mut self, conditions: Conditions<'a>) {
        let entries = match conditions {
            Conditions::Absent => return,
            Conditions::Null => {
                self.whole = true;
                return;
            }
            Conditions::List(entries) => entries,
        };
        for entry in entries {
            match (&*entry.directive, entry.kind.clone()) {
                ("delete", Some(kind)) => self.deleted.push(kind),
                ("replace", _) => self.whole = true,
                _ => self.node.status.conditions.extend(entry.condition()),
            }
        }
    }

    /// Entries are addressed by their index, and only a `test` of the same patch, as careful clients send
    /// one, shows which condition that is.
    fn json_patch(patch: &'a RawValue) -> Result<Self, ControlPlaneLogError> {
        #[derive(Deserialize)]
        struct Operation<'a> {
            #[serde(borrow)]
            op: Cow<'a, str>,
            #[serde(borrow)]
            path: Cow<'a, str>,
            #[serde(borrow)]
            value: Option<&'a RawValue>,
        }
        let operations: Vec<Operation<'a>> = serde_json::from_str(patch.get())?;
        let mut change = Self::default();
        let mut entries: BTreeMap<String, ConditionEntry<'a>> = BTreeMap::new();
        for Operation { op, path, value } in operations {
            let value = value.map_or("null", RawValue::get);
            if path == "/status" && matches!(&*op, "add" | "replace") {
                change.node.status =
                    serde_json::from_str::<Option<NodeStatus<'a>>>(value)?.unwrap_or_default();
                change.whole = true;
                continue;
            }
            let Some(rest) = path.strip_prefix("/status/conditions") else { continue };
            let (index, member) = match rest.strip_prefix('/') {
                None if rest.is_empty() => {
                    change.node.status.conditions =
                        serde_json::from_str::<Option<_>>(value)?.unwrap_or_default();
                    change.whole = true;
                    continue;
                }
                None => continue,
                Some(rest) => rest.split_once('/').map_or((rest, ""), |(index, member)| (index, member)),
            };
            match (&*op, index, member) {
                ("add" | "replace", "-", "") => {
                    change.node.status.conditions.push(serde_json::from_str(value)?);
                }
                ("add" | "replace" | "test", _, "") => {
                    let entry: ConditionEntry<'a> = serde_json::from_str(value)?;
                    // A test states what was there: its status is no report.
                    let status = if op == "test" { None } else { entry.status };
                    entries.insert(index.to_owned(), ConditionEntry { status, ..entry });
                }
                ("add" | "replace" | "test", _, _) => {
                    let entry = entries.entry(index.to_owned()).or_insert_with(ConditionEntry::empty);
                    match member {
                        "type" => entry.kind = serde_json::from_str(value)?,
                        "status" if op != "test" => entry.status = serde_json::from_str(value)?,
                        "reason" => entry.reason = text(value)?,
                        "message" => entry.message = text(value)?,
                        _ => {}
                    }
                }
                ("remove", _, "") => {
                    change.deleted.extend(entries.remove(index).and_then(|entry| entry.kind));
                }
                _ => {}
            }
        }
        change.node.status.conditions.extend(entries.into_values().filter_map(ConditionEntry::condition));
        Ok(change)
    }

    /// The conditions that are no longer on the node.
    pub(super) fn removed(&self) -> Removed {
        if self.whole {
            Removed::AllBut(
                self.node.status.conditions.iter().map(|condition| condition.kind.clone()).collect(),
            )
        } else {
            Removed::Only(self.deleted.clone())
        }
    }
}

fn text(value: &str) -> Result<Cow<'_, str>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(serde_json::from_str::<Text<'_>>(value)?.0)
}

/// The list of a merge patch.
#[derive(Default)]
enum Conditions<'a> {
    /// Not mentioned: nothing changes.
    #[default]
    Absent,
    /// Null: all of them are taken off.
    Null,
    List(Vec<ConditionEntry<'a>>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Conditions<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::List))
    }
}

impl ConditionEntry<'_> {
    fn empty() -> Self {
        Self {
            kind: None,
            status: None,
            reason: Cow::Borrowed(""),
            message: Cow::Borrowed(""),
            since: Cow::Borrowed(""),
            directive: Cow::Borrowed(""),
        }
    }
}

impl Condition<'_> {
    /// Its report; none where it carries no status, or is of a type whose polarity nobody knows.
    pub(super) fn observed(&self) -> Option<ObservedCondition> {
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
