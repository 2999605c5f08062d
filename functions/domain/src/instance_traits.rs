//! What an instance has in common with others of its group, and what a fault of several of them can come from.
//!
//! - All of it is in one answer of EC2's DescribeInstances. The version of the launch template is in tags that EC2 sets
//!   on each instance that it launches from one.
//! - Each of them can be unknown. No decision depends on them: only a guard's message names them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ident::Zone;

/// The traits of one instance, or those that two instances share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTraits {
    /// The ID of its Amazon Machine Image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its launch template with the version: `lt-0a1b2c3d4e5f67890 version 3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_template: Option<String>,
    /// Its instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Its Availability Zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
}

impl InstanceTraits {
    /// The traits that are known of both instances, and are the same.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Self {
        Self {
            image: same(&self.image, &other.image),
            launch_template: same(&self.launch_template, &other.launch_template),
            instance_type: same(&self.instance_type, &other.instance_type),
            zone: same(&self.zone, &other.zone),
        }
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn same<T: PartialEq + Clone>(one: &Option<T>, other: &Option<T>) -> Option<T> {
    one.clone().filter(|_| one == other)
}

/// The traits as a list: `image ami-…, launch template lt-… version 3, type m6i.large, zone eu-west-1a`.
impl fmt::Display for InstanceTraits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            ("image", self.image.as_deref()),
            ("launch template", self.launch_template.as_deref()),
            ("type", self.instance_type.as_deref()),
            ("zone", self.zone.as_ref().map(Zone::as_str)),
        ];
        let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (position, (name, value)) in known.enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(image: &str, zone: &str) -> InstanceTraits {
        InstanceTraits {
            image: Some(image.to_owned()),
            launch_template: Some("lt-1 version 3".to_owned()),
            instance_type: None,
            zone: Zone::new(zone).ok(),
        }
    }

    #[test]
    fn instances_share_what_is_known_of_both_and_equal() {
        let (first, other) = (traits("ami-1", "eu-west-1a"), traits("ami-1", "eu-west-1b"));
        assert_eq!(first.shared_with(&other).to_string(), "image ami-1, launch template lt-1 version 3");
        assert_eq!(
            first.shared_with(&first).to_string(),
            "image ami-1, launch template lt-1 version 3, zone eu-west-1a"
        );
        assert!(first.shared_with(&InstanceTraits::default()).is_empty(), "what is unknown is not shared");
    }
}
