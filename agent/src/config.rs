//! Builds a validated configuration from flags, environment variables and one YAML file.
//!
//! Each setting is both a flag and a field of the file (`--state-dir`, `stateDir`). A flag, or its environment
//! variable, overrides the file. `run` and `scan` accept the same settings.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use serde::Deserialize;

use crate::identity::IdentityOverrides;

/// A configuration file is about a page; a larger file is an error.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;

/// Settings as given, not validated yet. An unset field takes its default.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The EKS cluster's name
    #[arg(long, env = "NODEMEND_CLUSTER", global = true, value_name = "NAME")]
    pub cluster: Option<String>,

    /// The Node object's name [default: the private DNS name]
    #[arg(long, env = "NODE_NAME", global = true, value_name = "NAME")]
    pub node: Option<String>,

    /// The EC2 instance ID [default: from the firmware, else from the instance metadata service]
    #[arg(long, env = "NODEMEND_INSTANCE_ID", global = true, value_name = "ID")]
    pub instance_id: Option<String>,

    /// The Availability Zone [default: from the instance metadata service]
    #[arg(long, env = "NODEMEND_ZONE", global = true, value_name = "ZONE")]
    pub zone: Option<String>,

    /// The directory where the host's root filesystem is mounted [default: /]
    #[arg(long, env = "NODEMEND_ROOT", global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// The directory for state that must survive a restart [default: /var/lib/nodemend]
    #[arg(long, env = "NODEMEND_STATE_DIR", global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// The destination of reports [default: cloudwatch]
    #[arg(long, env = "NODEMEND_SINK", global = true, value_enum)]
    pub sink: Option<SinkKind>,

    /// The log group of the cloudwatch sink [default: /nodemend/<cluster>/nodes]
    #[arg(long, env = "NODEMEND_LOG_GROUP", global = true, value_name = "NAME")]
    pub log_group: Option<String>,

    /// Rule files: nodemend's format, or node-problem-detector's system-log-monitor JSON
    #[arg(long, global = true, num_args = 1.., value_name = "FILE")]
    pub rules: Vec<PathBuf>,

    /// The address that serves /healthz and /metrics [default: 127.0.0.1:9102]
    #[arg(long, env = "NODEMEND_LISTEN", global = true, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// The interval between heartbeat reports, which carry all conditions [default: 5m]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub heartbeat: Option<SignedDuration>,

    /// One interval for all probes, instead of each probe's own
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub probe_interval: Option<SignedDuration>,

    /// The maximum size of the on-disk spool of undelivered reports, in MiB [default: 64]
    #[arg(long, global = true, value_name = "MIB")]
    pub spool_mib: Option<u64>,

    /// Probes to turn off, by the names that scan prints
    #[arg(long, global = true, num_args = 1.., value_name = "PROBE")]
    pub without: Vec<String>,

    /// Interfaces that may be down, as regular expressions; they replace the built-in list
    #[arg(long, global = true, num_args = 1.., value_name = "REGEX")]
    pub exclude_interfaces: Vec<String>,

    /// iptables chains whose REJECT and DROP rules are expected, as table/chain
    #[arg(long, global = true, num_args = 1.., value_name = "TABLE/CHAIN")]
    pub expected_reject_chains: Vec<String>,

    /// Accept kernel log records that programs wrote, as inject does. For tests, never for production
    #[arg(long, global = true)]
    pub accept_injected: bool,

    /// Never query the instance metadata service
    #[arg(long, env = "NODEMEND_NO_IMDS", global = true)]
    pub no_imds: bool,
}

/// The destination of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    Cloudwatch,
    /// One report a line on standard output, for a log shipper that already runs.
    Stdout,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Identity values that were set explicitly; they override what the node reports.
    pub overrides: IdentityOverrides,
    /// The directory where the host's root filesystem is mounted.
    pub root: PathBuf,
    /// The directory for state that must survive a restart.
    pub state_dir: PathBuf,
    pub sink: SinkKind,
    /// The log group; `None` means `/nodemend/<cluster>/nodes`.
    pub log_group: Option<String>,
    pub rules: Vec<PathBuf>,
    /// The address of `/healthz` and `/metrics`.
    pub listen: SocketAddr,
    /// The interval between heartbeat reports.
    pub heartbeat: SignedDuration,
    /// One interval for all probes; `None` means each probe's own.
    pub probe_interval: Option<Duration>,
    /// Whether kernel log records that programs wrote are accepted.
    pub accept_injected: bool,
    /// The maximum size of the spool, in bytes.
    pub spool_bytes: u64,
    /// Names of the probes that are turned off.
    pub without: Vec<String>,
    /// Interfaces that may be down. An expression must match the whole name.
    pub exclude_interfaces: Vec<regex::Regex>,
    /// Chains whose REJECT and DROP rules are expected, as (table, chain).
    pub expected_reject_chains: Vec<(String, String)>,
    /// Whether the instance metadata service may be queried.
    pub query_imds: bool,
}

/// Why a configuration is invalid. The text names the field.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is not valid: its syntax, an unknown field, or a value of the wrong type.
    #[error("{}: {field}: {why}", path.display())]
    File {
        path: PathBuf,
        /// The path of the field within the file, or `file`.
        field: String,
        why: String,
    },
    /// A value is out of range or malformed.
    #[error("{field}: {why}")]
    Field {
        /// The field's name in the file.
        field: &'static str,
        why: String,
    },
}

impl Settings {
    /// Reads a configuration file. An empty file is valid.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let invalid = |field: String, why: String| ConfigError::File { path: path.to_owned(), field, why };
        if fs::metadata(path).map_err(failed)?.len() > MAX_CONFIG_BYTES {
            return Err(invalid("file".to_owned(), format!("longer than {MAX_CONFIG_BYTES} bytes")));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let value: serde_json::Value = serde_saphyr::from_str(&text)
            .map_err(|error| invalid("file".to_owned(), one_line(&error.to_string())))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            invalid(
                if field == "." { "file".to_owned() } else { field },
                one_line(&error.inner().to_string()),
            )
        })
    }

    /// Merges two sources: a value of `self` overrides the one of `file`.
    pub fn over(self, file: Self) -> Self {
        let list = |own: Vec<String>, other: Vec<String>| if own.is_empty() { other } else { own };
        Self {
            cluster: self.cluster.or(file.cluster),
            node: self.node.or(file.node),
            instance_id: self.instance_id.or(file.instance_id),
            zone: self.zone.or(file.zone),
            root: self.root.or(file.root),
            state_dir: self.state_dir.or(file.state_dir),
            sink: self.sink.or(file.sink),
            log_group: self.log_group.or(file.log_group),
            rules: if self.rules.is_empty() { file.rules } else { self.rules },
            listen: self.listen.or(file.listen),
            heartbeat: self.heartbeat.or(file.heartbeat),
            probe_interval: self.probe_interval.or(file.probe_interval),
            spool_mib: self.spool_mib.or(file.spool_mib),
            without: list(self.without, file.without),
            exclude_interfaces: list(self.exclude_interfaces, file.exclude_interfaces),
            expected_reject_chains: list(self.expected_reject_chains, file.expected_reject_chains),
            accept_injected: self.accept_injected || file.accept_injected,
            no_imds: self.no_imds || file.no_imds,
        }
    }

    /// Applies defaults and validates all values that do not depend on the node.
    pub fn check(self) -> Result<Config, ConfigError> {
        let field = |field, why: String| ConfigError::Field { field, why };
        let heartbeat = self.heartbeat.unwrap_or(SignedDuration::from_mins(5));
        if !(1..=3_600).contains(&heartbeat.as_secs()) {
            return Err(field("heartbeat", "not between 1s and 1h".to_owned()));
        }
        let probe_interval = match self.probe_interval {
            // Some reasons need several readings within minutes. With a longer interval they would never be raised.
            Some(duration) if !(1..=30).contains(&duration.as_secs()) => {
                return Err(field("probeInterval", "not between 1s and 30s".to_owned()));
            }
            Some(duration) => Some(duration.unsigned_abs()),
            None => None,
        };
        let spool_mib = self.spool_mib.unwrap_or(64);
        if !(1..=4_096).contains(&spool_mib) {
            return Err(field("spoolMib", "not between 1 and 4096".to_owned()));
        }
        let exclude_interfaces = self
            .exclude_interfaces
            .iter()
            .map(|text| {
                let regex = regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(1 << 20).build();
                regex.map_err(|error| {
                    field("excludeInterfaces", format!("{text:?}: {}", one_line(&error.to_string())))
                })
            })
            .collect::<Result<_, _>>()?;
        let expected_reject_chains = self
            .expected_reject_chains
            .iter()
            .map(|text| match text.split_once('/') {
                Some((table, chain)) if !table.is_empty() && !chain.is_empty() => {
                    Ok((table.to_owned(), chain.to_owned()))
                }
                _ => Err(field("expectedRejectChains", format!("{text:?} is not table/chain"))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Config {
            overrides: IdentityOverrides {
                cluster: self.cluster,
                node: self.node,
                instance_id: self.instance_id,
                zone: self.zone,
            },
            root: self.root.unwrap_or_else(|| PathBuf::from("/")),
            state_dir: self.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/nodemend")),
            sink: self.sink.unwrap_or(SinkKind::Cloudwatch),
            log_group: self.log_group,
            rules: self.rules,
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9102))),
            heartbeat,
            probe_interval,
            accept_injected: self.accept_injected,
            spool_bytes: spool_mib * 1024 * 1024,
            without: self.without,
            exclude_interfaces,
            expected_reject_chains,
            query_imds: !self.no_imds,
        })
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    text.parse::<SignedDuration>().map_err(|_| "not a duration like 5m or 90s".to_owned())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Settings, ConfigError> {
        let path = std::env::temp_dir().join(format!("nodemend-config-{}-{name}.yaml", std::process::id()));
        fs::write(&path, text).expect("a file");
        let settings = Settings::read(&path);
        fs::remove_file(&path).expect("no file");
        settings
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = read("wins", "cluster: prod\nheartbeat: 1m\nwithout: [imds]\n").expect("settings");
        let flags = Settings { cluster: Some("test".into()), ..Settings::default() };
        let config = flags.over(file).check().expect("a configuration");
        assert_eq!(config.overrides.cluster.as_deref(), Some("test"));
        assert_eq!(config.heartbeat, SignedDuration::from_mins(1));
        assert_eq!(config.without, ["imds"]);
        assert_eq!(config.listen.to_string(), "127.0.0.1:9102");
        assert_eq!(config.sink, SinkKind::Cloudwatch);
    }

    #[test]
    fn an_error_names_its_field() {
        for (text, expected) in [
            ("clutser: prod\n", "clutser"),
            ("heartbeat: soon\n", "heartbeat: "),
            ("listen: nowhere\n", "listen: "),
            ("sink: syslog\n", "sink: unknown variant `syslog`"),
            ("rules: 3\n", "rules: "),
            ("a: [", "file: "),
        ] {
            let error = read("wrong", text).expect_err(text).to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{text}: {error}");
        }
        let check = |settings: Settings| settings.check().expect_err("wrong").to_string();
        let heartbeat = Some(SignedDuration::from_millis(10));
        assert!(check(Settings { heartbeat, ..Settings::default() }).starts_with("heartbeat: "));
        let probe_interval = Some(SignedDuration::from_mins(1));
        assert!(check(Settings { probe_interval, ..Settings::default() }).starts_with("probeInterval: "));
        let exclude_interfaces = vec!["eth(".to_owned()];
        assert!(
            check(Settings { exclude_interfaces, ..Settings::default() }).starts_with("excludeInterfaces: ")
        );
        let expected_reject_chains = vec!["filter".to_owned()];
        assert!(
            check(Settings { expected_reject_chains, ..Settings::default() })
                .starts_with("expectedRejectChains: ")
        );
    }

    #[test]
    fn an_excluded_interface_is_matched_whole() {
        let exclude_interfaces = vec!["veth.*".to_owned(), "ib|wg0".to_owned()];
        let config = Settings { exclude_interfaces, ..Settings::default() }.check().expect("a configuration");
        let excluded = |name: &str| config.exclude_interfaces.iter().any(|regex| regex.is_match(name));
        assert!(excluded("veth1") && excluded("wg0") && excluded("ib"));
        assert!(!excluded("eth0") && !excluded("wg01") && !excluded("xveth"));
    }
}
