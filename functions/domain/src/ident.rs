//! Names and ids from outside, validated once, when they are parsed.
//!
//! A value of these types is always valid. The limits are those of Kubernetes (a DNS subdomain, 253 bytes), EKS (a
//! cluster name, 100 bytes) and EC2.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidName {
    value: String,
    expected: &'static str,
}

impl InvalidName {
    fn new(value: &str, expected: &'static str) -> Self {
        // The value came from outside: repeat only its start.
        Self { value: value.chars().take(80).collect(), expected }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        // Shared, because a case is often copied.
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            ///
            /// If the name is not valid. The error quotes its start.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidName> {
                let value = value.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(value) { Ok(Self(value.into())) } else { Err(InvalidName::new(value, $expected)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(value: &str) -> Result<Self, InvalidName> {
                Self::new(value)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // A Cow avoids a copy if the input has no escapes.
                #[derive(Deserialize)]
                struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
                Self::new(Text::deserialize(deserializer)?.0).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn is_dns_subdomain(value: &str) -> bool {
    let label_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = value.as_bytes();
    matches!(bytes, [first, .., last] if label_byte(*first) && label_byte(*last))
        && bytes.len() <= 253
        && bytes.iter().all(|&byte| label_byte(byte) || byte == b'-' || byte == b'.')
        || matches!(bytes, [only] if label_byte(*only))
}

fn is_instance_id(value: &str) -> bool {
    value.strip_prefix("i-").is_some_and(|hex| {
        (8..=17).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_printable(value: &str, max: usize) -> bool {
    (1..=max).contains(&value.len()) && value.chars().all(|c| !c.is_control())
}

name!(
    /// An EKS cluster's name.
    ClusterName,
    "an EKS cluster name (letters, digits, - and _, at most 100)",
    |value| (1..=100).contains(&value.len())
        && value.as_bytes()[0].is_ascii_alphanumeric()
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
);
name!(
    /// An AWS account's id.
    AccountId,
    "an AWS account id (12 digits)",
    |value| value.len() == 12 && value.bytes().all(|byte| byte.is_ascii_digit())
);
name!(
    /// The name of a Kubernetes Node object.
    NodeName,
    "a Kubernetes node name (a DNS subdomain of at most 253 bytes)",
    is_dns_subdomain
);
name!(
    /// An EC2 instance id: `^i-[0-9a-f]{8,17}$`. Never derived from a node's name.
    InstanceId,
    "an EC2 instance id (i- and 8 to 17 hexadecimal digits)",
    is_instance_id
);
name!(
    /// `/proc/sys/kernel/random/boot_id`: identifies one boot of an instance.
    BootId,
    "a boot id (a UUID of 36 characters)",
    |value| value.len() == 36 && value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
);
name!(
    /// The uid of a Kubernetes object: two Node objects of one name have different ones.
    NodeUid,
    "an object's uid (a UUID of 36 characters)",
    |value| value.len() == 36 && value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
);
name!(
    /// An Auto Scaling group's name.
    GroupName,
    "an Auto Scaling group name (1 to 255 printable characters)",
    |value| is_printable(value, 255)
);
name!(
    /// An Availability Zone, like `us-east-1a`.
    Zone,
    "an availability zone (at most 64 letters, digits and -)",
    |value| (1..=64).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
);

impl InstanceId {
    /// The instance id in a node's `spec.providerID` (`aws:///us-east-1a/i-…`, `aws:////i-…`). None for a Fargate or
    /// hybrid node.
    pub fn from_provider_id(provider_id: &str) -> Option<Self> {
        let path = provider_id.strip_prefix("aws://")?;
        Self::new(path.rsplit('/').next()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_provider_ids_of_ec2_instances_have_an_instance_id() {
        for (provider_id, expected) in [
            ("aws:///us-east-1a/i-08736224042c4ee75", Some("i-08736224042c4ee75")),
            ("aws:////i-08736224042c4ee75", Some("i-08736224042c4ee75")),
            ("aws:///us-east-1a/fargate-ip-10-0-1-2", None),
            ("eks-hybrid:///us-east-1/c/mi-0123456789abcdef0", None),
            ("aws:///us-east-1a/", None),
            ("", None),
        ] {
            assert_eq!(InstanceId::from_provider_id(provider_id).as_ref().map(InstanceId::as_str), expected);
        }
    }

    #[test]
    fn names_that_aws_or_kubernetes_do_not_allow_are_refused() {
        assert!(InstanceId::new("i-08736224").is_ok());
        for bad in
            ["", "i-", "i-0873622", "i-08736224042c4ee75a", "i-08736224042C4EE75", "mi-08736224042c4ee75"]
        {
            assert!(InstanceId::new(bad).is_err(), "{bad}");
        }
        assert!(NodeName::new("ip-10-0-10-170.ec2.internal").is_ok());
        for bad in ["", "-a", "a-", "A", "a b", "a\u{1b}[31m", &"a".repeat(254)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
        assert!(ClusterName::new("prod_1-a").is_ok());
        assert!(ClusterName::new("a/b").is_err());
        assert!(GroupName::new("a\nb").is_err());
    }

    #[test]
    fn an_error_repeats_only_the_start_of_a_long_name() {
        let message = InstanceId::new("x".repeat(10_000)).expect_err("refused").to_string();
        assert!(message.len() < 200, "{message}");
    }
}
