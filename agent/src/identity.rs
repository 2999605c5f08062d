//! Finds the node's identity, which every report carries.
//!
//! Each name comes from the cheapest and most reliable source: a flag or the DaemonSet's environment, then the
//! firmware's tables, which contain a Nitro instance's ID and cannot be blocked by a firewall rule, then the instance
//! metadata service. The agent must start on a node whose metadata service is unreachable, since it exists to report
//! that.

mod imds;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use nodemend_domain::ident::{BootId, ClusterName, InstanceId, InvalidName, NodeName, Zone};

use self::imds::Imds;

/// The address of the instance metadata service.
pub const IMDS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 169, 254)), 80);
/// It responds within milliseconds or not at all.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);
/// The file in which Nitro's firmware publishes the instance ID.
const DMI_ASSET_TAG: &str = "sys/devices/virtual/dmi/id/board_asset_tag";
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
const HOSTNAME: &str = "proc/sys/kernel/hostname";
/// No name, and no file that contains one, is longer than this, in bytes.
const MAX_NAME_FILE: usize = 4_096;

/// The identity of the node and of its current boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub cluster: ClusterName,
    pub node: NodeName,
    pub instance_id: InstanceId,
    /// The Availability Zone, if known.
    pub zone: Option<Zone>,
    pub boot_id: BootId,
}

/// Identity values that were set by flags, environment or file.
#[derive(Debug, Clone, Default)]
pub struct IdentityOverrides {
    /// The EKS cluster's name; no source on a node has it.
    pub cluster: Option<String>,
    pub node: Option<String>,
    pub instance_id: Option<String>,
    pub zone: Option<String>,
}

/// Why the node's identity is unknown.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name is malformed.
    #[error("{field}: {source}")]
    Invalid {
        /// The field's name in the configuration file.
        field: &'static str,
        source: InvalidName,
    },
    /// No source has the value.
    #[error("{field}: not set, and {why}")]
    Unknown {
        /// The field's name in the configuration file.
        field: &'static str,
        /// The reason, with the source that was tried last.
        why: String,
    },
}

impl NodeIdentity {
    /// Finds the node's identity. `imds` is the metadata service's address; `None` means that it must not be queried.
    pub fn find(
        overrides: &IdentityOverrides,
        root: &Path,
        imds: Option<SocketAddr>,
    ) -> Result<Self, IdentityError> {
        let mut imds = imds.map(|address| Imds::new(address, IMDS_TIMEOUT));
        let cluster = overrides.cluster.clone().ok_or_else(|| IdentityError::Unknown {
            field: "cluster",
            why: "a node does not know its cluster's name: set --cluster".to_owned(),
        })?;
        let instance_id = match overrides.instance_id.clone().or_else(|| instance_id_of_firmware(root)) {
            Some(known) => known,
            None => query_imds(&mut imds, "instance-id", "instanceId")?,
        };
        let node = match overrides.node.clone() {
            Some(known) => known,
            // EKS names a node after its private DNS name; the hostname is the next best source.
            None => match query_imds(&mut imds, "local-hostname", "node") {
                Ok(name) => name,
                Err(error) => read_name(root, HOSTNAME).ok_or(error)?,
            },
        };
        // A missing zone is acceptable: the Auto Scaling group has it, too.
        let zone = overrides
            .zone
            .clone()
            .or_else(|| query_imds(&mut imds, "placement/availability-zone", "zone").ok());
        let boot_id = read_name(root, BOOT_ID).ok_or_else(|| IdentityError::Unknown {
            field: "bootId",
            why: format!("{} cannot be read", root.join(BOOT_ID).display()),
        })?;
        let invalid = |field| move |source| IdentityError::Invalid { field, source };
        Ok(Self {
            cluster: ClusterName::new(cluster).map_err(invalid("cluster"))?,
            node: NodeName::new(node).map_err(invalid("node"))?,
            instance_id: InstanceId::new(instance_id).map_err(invalid("instanceId"))?,
            zone: zone.map(Zone::new).transpose().map_err(invalid("zone"))?,
            boot_id: BootId::new(boot_id).map_err(invalid("bootId"))?,
        })
    }
}

fn query_imds(imds: &mut Option<Imds>, path: &str, field: &'static str) -> Result<String, IdentityError> {
    let Some(imds) = imds else {
        return Err(IdentityError::Unknown { field, why: "--no-imds is set".to_owned() });
    };
    imds.get(path).map_err(|error| IdentityError::Unknown {
        field,
        why: format!("the instance metadata service failed: {error}"),
    })
}

fn instance_id_of_firmware(root: &Path) -> Option<String> {
    read_name(root, DMI_ASSET_TAG).filter(|tag| InstanceId::new(tag).is_ok())
}

fn read_name(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path)).ok().filter(|text| text.len() <= MAX_NAME_FILE)?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{Ipv4Addr, TcpListener},
        path::PathBuf,
        thread,
    };

    use super::*;

    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("nodemend-identity-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        root
    }

    fn overrides(cluster: &str) -> IdentityOverrides {
        IdentityOverrides { cluster: Some(cluster.to_owned()), ..IdentityOverrides::default() }
    }

    /// A metadata service that supports only version 2.
    fn imds() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("a connection"));
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut request).expect("a line") == 0 {
                        break;
                    }
                }
                let authorised = request.to_ascii_lowercase().contains("x-aws-ec2-metadata-token: secret");
                let (status, body) = if request.starts_with("PUT /latest/api/token ") {
                    ("200 OK", "secret")
                } else if !authorised {
                    ("401 Unauthorized", "")
                } else if request.starts_with("GET /latest/meta-data/instance-id ") {
                    ("200 OK", "i-0ab76e62066c9730c")
                } else if request.starts_with("GET /latest/meta-data/local-hostname ") {
                    ("200 OK", "ip-10-0-10-170.ec2.internal")
                } else if request.starts_with("GET /latest/meta-data/placement/availability-zone ") {
                    ("200 OK", "us-east-1a")
                } else {
                    ("404 Not Found", "")
                };
                write!(stream.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    .expect("a response");
            }
        });
        address
    }

    const BOOT: (&str, &str) = (BOOT_ID, "0c24b3f3-6a1c-4f43-9f2a-6a3a5b1e0d11\n");

    #[test]
    fn the_metadata_service_fills_in_missing_flags() {
        let root = tree("imds", &[BOOT]);
        let identity = NodeIdentity::find(&overrides("prod"), &root, Some(imds())).expect("an identity");
        assert_eq!(identity.instance_id.as_str(), "i-0ab76e62066c9730c");
        assert_eq!(identity.node.as_str(), "ip-10-0-10-170.ec2.internal");
        assert_eq!(identity.zone.expect("a zone").as_str(), "us-east-1a");
    }

    #[test]
    fn a_node_without_metadata_service_still_has_an_identity() {
        let root = tree(
            "blocked",
            &[BOOT, (DMI_ASSET_TAG, "i-0ab76e62066c9730c\n"), (HOSTNAME, "ip-10-0-10-170.ec2.internal\n")],
        );
        // Port 9 of loopback refuses, as nothing listens there.
        let identity =
            NodeIdentity::find(&overrides("prod"), &root, Some(SocketAddr::from(([127, 0, 0, 1], 9))))
                .expect("an identity");
        assert_eq!(identity.instance_id.as_str(), "i-0ab76e62066c9730c");
        assert_eq!(identity.node.as_str(), "ip-10-0-10-170.ec2.internal");
        assert_eq!(identity.zone, None);
    }

    #[test]
    fn an_asset_tag_that_is_no_instance_id_is_not_taken_for_one() {
        let root = tree("metal", &[BOOT, (DMI_ASSET_TAG, "Not Specified\n"), (HOSTNAME, "worker\n")]);
        let error =
            NodeIdentity::find(&overrides("prod"), &root, None).expect_err("no instance id").to_string();
        assert!(error.starts_with("instanceId: not set"), "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let root = tree("wrong", &[BOOT]);
        let error = NodeIdentity::find(&IdentityOverrides::default(), &root, None)
            .expect_err("no cluster")
            .to_string();
        assert!(error.starts_with("cluster: "), "{error}");
        let all = IdentityOverrides {
            cluster: Some("prod".into()),
            node: Some("Not A Node!".into()),
            instance_id: Some("i-0ab76e62066c9730c".into()),
            zone: None,
        };
        let error = NodeIdentity::find(&all, &root, None).expect_err("no node name").to_string();
        assert!(error.starts_with("node: "), "{error}");
    }
}
