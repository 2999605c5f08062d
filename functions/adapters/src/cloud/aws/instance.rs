//! Turns what EC2 says of instances, zones and consoles into our words.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_ec2::{
    Client,
    config::Builder,
    error::ProvideErrorMetadata,
    operation::get_console_output::builders::GetConsoleOutputFluentBuilder,
    types::{Filter, Instance, InstanceStateName},
};
use base64::{Engine, prelude::BASE64_STANDARD};
#[cfg(feature = "kubernetes")]
use nodemend_domain::ident::NodeName;
use nodemend_domain::ident::{ClusterName, InstanceId, Zone};

use super::{CloudError, error};

/// A filter takes no more values.
const VALUES_A_FILTER: usize = 200;
/// EC2 would give four times as many, and take longer over it than an attempt may last.
const INSTANCES_A_PAGE: i32 = 250;
/// The repair waits for the console, and goes ahead without it.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);
/// EC2 keeps 64 KiB of a console.
const MAX_CONSOLE: usize = 64 * 1024;

/// Those of the instances that run, or may run again. Asked for by filter: of an id that EC2 has forgotten, the
/// list of ids makes an error, and that of all the others with it.
pub(super) async fn existing(
    client: &Client,
    instances: &[&InstanceId],
) -> Result<HashSet<InstanceId>, CloudError> {
    let mut found = HashSet::new();
    for some in instances.chunks(VALUES_A_FILTER) {
        let ids = some.iter().map(ToString::to_string);
        let exists = |instance: &Instance| {
            let id = InstanceId::new(instance.instance_id()?).ok()?;
            (!is_ending(instance)).then_some(id)
        };
        each(client, vec![filter("instance-id", ids)], |instance| found.extend(exists(instance))).await?;
    }
    Ok(found)
}

/// How many nodes a cluster has in each zone, Karpenter's and those of any group: its cloud controller knows none
/// without the cluster's tag.
pub(super) async fn nodes_by_zone(
    client: &Client,
    cluster: &ClusterName,
) -> Result<BTreeMap<Zone, usize>, CloudError> {
    let filters = vec![
        filter("tag-key", [format!("kubernetes.io/cluster/{cluster}")]),
        filter("instance-state-name", ["pending", "running"].map(ToOwned::to_owned)),
    ];
    let mut zones = BTreeMap::new();
    let zone = |instance: &Instance| Zone::new(instance.placement()?.availability_zone()?).ok();
    each(client, filters, |instance| {
        if let Some(zone) = zone(instance) {
            *zones.entry(zone).or_insert(0) += 1;
        }
    })
    .await?;
    Ok(zones)
}

/// The name that a node gets from its instance: its private DNS name, whether that is made of its address or its id.
#[cfg(feature = "kubernetes")]
pub(super) async fn private_name(
    client: &Client,
    instance_id: &InstanceId,
) -> Result<Option<NodeName>, CloudError> {
    let mut name = None;
    let filters = vec![filter("instance-id", [instance_id.to_string()])];
    each(client, filters, |instance| {
        name = instance.private_dns_name().and_then(|name| NodeName::new(name).ok());
    })
    .await?;
    Ok(name)
}

/// From `terminated`, and from the way to it, no instance comes back.
fn is_ending(instance: &Instance) -> bool {
    let state = instance.state().and_then(|state| state.name());
    matches!(state, Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated))
}

async fn each(
    client: &Client,
    filters: Vec<Filter>,
    mut take: impl FnMut(&Instance) + Send,
) -> Result<(), CloudError> {
    let request = client.describe_instances().set_filters(Some(filters));
    let mut pages = request.into_paginator().page_size(INSTANCES_A_PAGE).send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(error::unread)?;
        page.reservations().iter().flat_map(|reservation| reservation.instances()).for_each(&mut take);
    }
    Ok(())
}

fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

/// The names that this account has for zones that are known by id: `use1-az1` may be anybody's `us-east-1a`.
pub(super) async fn zone_names(client: &Client, ids: Vec<String>) -> Result<Vec<Zone>, CloudError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let described = client.describe_availability_zones().send().await.map_err(error::unread)?;
    let name = |id: String| {
        let known = described
            .availability_zones()
            .iter()
            .find(|zone| zone.zone_id() == Some(&id) || zone.zone_name() == Some(&id));
        let name = known.and_then(|zone| Zone::new(zone.zone_name()?).ok());
        name.ok_or_else(|| {
            error::unreadable(format!("a zonal shift leads away from {id}, a zone without a name"))
        })
    };
    ids.into_iter().map(name).collect()
}

/// The end of an instance's console.
pub(super) async fn console(client: &Client, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
    let request = client.get_console_output().instance_id(instance_id.as_str());
    let answer = match quickly(request.clone().latest(true)).await {
        // Only Nitro instances tell what is on their console now; others, what was there when they booted.
        Err(error) if error.code() == Some("UnsupportedOperation") => quickly(request).await,
        answer => answer,
    };
    let Some(output) = answer.map_err(error::unread)?.output else {
        return Ok(None);
    };
    decode_console(&output)
}

async fn quickly(
    request: GetConsoleOutputFluentBuilder,
) -> Result<
    aws_sdk_ec2::operation::get_console_output::GetConsoleOutputOutput,
    aws_sdk_ec2::error::SdkError<aws_sdk_ec2::operation::get_console_output::GetConsoleOutputError>,
> {
    let timeouts = TimeoutConfig::builder().operation_timeout(CONSOLE_TIMEOUT).build();
    let once = Builder::new().retry_config(RetryConfig::disabled()).timeout_config(timeouts);
    request.customize().config_override(once).send().await
}

fn decode_console(output: &str) -> Result<Option<String>, CloudError> {
    // EC2 breaks the lines of its base64.
    let packed: Vec<u8> = output.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = BASE64_STANDARD
        .decode(packed)
        .map_err(|error| error::unreadable(format!("the console is no base64: {error}")))?;
    let end = &bytes[bytes.len().saturating_sub(MAX_CONSOLE)..];
    Ok((!end.is_empty()).then(|| String::from_utf8_lossy(end).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_decoded_across_its_line_breaks_and_whatever_it_holds() {
        for (output, expected) in [
            ("S2VybmVs\nIHBhbmlj\r\n", Some("Kernel panic")),
            ("", None),
            ("\n", None),
            // Half a character, where the console was cut.
            ("wrk=", Some("\u{b9}")),
            ("uXg=", Some("\u{fffd}x")),
        ] {
            assert_eq!(decode_console(output).expect("a console").as_deref(), expected, "{output:?}");
        }
        assert!(decode_console("<html>").is_err());
    }

    #[test]
    fn of_a_console_that_is_too_long_the_end_is_kept() {
        let long = BASE64_STANDARD.encode([vec![b'a'; MAX_CONSOLE], b"the end".to_vec()].concat());
        let end = decode_console(&long).expect("a console").expect("text");
        assert_eq!(end.len(), MAX_CONSOLE);
        assert!(end.ends_with("the end"));
    }
}
