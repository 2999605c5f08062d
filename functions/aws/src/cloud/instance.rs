//! Reads instances, zones and console output from EC2.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use aws_sdk_autoscaling::error::ProvideErrorMetadata;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future;
use jiff::Timestamp;
use nodemend_domain::{
    ident::{ClusterName, InstanceId, NodeName, Zone},
    instance_traits::InstanceTraits,
    verification::InstanceStatus,
};

use super::{
    CloudError,
    ec2::{Ec2, Ec2Error, Element, Request, Unreadable},
};
use crate::error::{read_failed, unreadable};

/// The most values of one filter.
const VALUES_A_FILTER: usize = 200;
/// EC2 allows 1,000, but such a page can take longer than an attempt may.
const INSTANCES_A_PAGE: &str = "250";
/// The repair waits this long for the console output, and continues without it.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A verification waits this long for what is evidence alone: it must be young enough for a call afterward.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// EC2 keeps 64 KiB of console output.
const MAX_CONSOLE: usize = 64 * 1024;

/// The fields of an instance that we read.
#[derive(Debug)]
struct Instance {
    id: String,
    state: Option<String>,
    zone: Option<String>,
    private_dns_name: Option<String>,
    launched: Option<Timestamp>,
    image: Option<String>,
    instance_type: Option<String>,
    launch_template: Option<String>,
}

/// A page of instances, and the token of the next one.
#[derive(Debug)]
struct Page {
    instances: Vec<Instance>,
    next: Option<String>,
}

/// The instances that are running, or may run again. They are requested by filter: in a list of IDs, one that EC2 no
/// longer knows makes the whole request fail.
pub(super) async fn existing(
    client: &Ec2,
    instances: &[&InstanceId],
) -> Result<HashSet<InstanceId>, CloudError> {
    let mut found = HashSet::new();
    for chunk in instances.chunks(VALUES_A_FILTER) {
        let ids = chunk.iter().map(ToString::to_string);
        let request = || client.describe_instances().filter(1, "instance-id", ids.clone());
        let exists = |instance: &Instance| {
            let id = InstanceId::new(&instance.id).ok()?;
            (!is_ending(instance)).then_some(id)
        };
        each(request, |instance| found.extend(exists(instance))).await?;
    }
    Ok(found)
}

/// The number of a cluster's nodes in each zone, including Karpenter's. Every node has the cluster's tag: the cloud
/// controller requires it.
pub(super) async fn nodes_by_zone(
    client: &Ec2,
    cluster: &ClusterName,
) -> Result<BTreeMap<Zone, usize>, CloudError> {
    let request = || {
        client.describe_instances().filter(1, "tag-key", [format!("kubernetes.io/cluster/{cluster}")]).filter(
            2,
            "instance-state-name",
            ["pending", "running"].map(ToOwned::to_owned),
        )
    };
    let mut zones = BTreeMap::new();
    each(request, |instance| {
        if let Some(zone) = instance.zone.as_deref().and_then(|zone| Zone::new(zone).ok()) {
            *zones.entry(zone).or_insert(0) += 1;
        }
    })
    .await?;
    Ok(zones)
}

/// The default name of an instance's node: its private DNS name, made from its address or its ID.
pub(super) async fn private_name(
    client: &Ec2,
    instance_id: &InstanceId,
) -> Result<Option<NodeName>, CloudError> {
    let mut name = None;
    let request = || client.describe_instances().filter(1, "instance-id", [instance_id.to_string()]);
    each(request, |instance| {
        name = instance.private_dns_name.as_deref().and_then(|name| NodeName::new(name).ok());
    })
    .await?;
    Ok(name)
}

/// An instance with its status checks. Two answers that are read together: only one has the time of the launch, and only
/// the other the checks.
pub(super) async fn status(
    client: &Ec2,
    instance_id: &InstanceId,
) -> Result<Option<InstanceStatus>, CloudError> {
    let mut described = None;
    let request = || status_request(client.describe_instances(), instance_id);
    let described_now = each(request, |instance| {
        described = Some((instance.state.clone(), instance.launched, traits(instance)));
    });
    let checks = status_request(client.describe_instance_status(), instance_id);
    let checks = checks.field("IncludeAllInstances", "true").send(status_checks);
    let (read, checks) = future::join(described_now, checks).await;
    read?;
    let Some((state, launched, traits)) = described else { return Ok(None) };
    // Without the checks the rest is known all the same.
    let (system_status, instance_status) = checks.map(|answer| answer.value).unwrap_or_default();
    let state = state.unwrap_or_else(|| "in no known state".to_owned());
    Ok(Some(InstanceStatus { state, launched, system_status, instance_status, traits }))
}

fn traits(instance: &Instance) -> InstanceTraits {
    InstanceTraits {
        image: instance.image.clone(),
        launch_template: instance.launch_template.clone(),
        instance_type: instance.instance_type.clone(),
        zone: instance.zone.as_deref().and_then(|zone| Zone::new(zone).ok()),
    }
}

fn status_request<'c>(request: Request<'c>, instance_id: &InstanceId) -> Request<'c> {
    request.filter(1, "instance-id", [instance_id.to_string()]).once(STATUS_TIMEOUT)
}

/// The status checks of the system and of the instance.
fn status_checks(answer: Element<'_, '_>) -> Result<(Option<String>, Option<String>), Unreadable> {
    let check = |name: &str| {
        let status = answer.items("instanceStatusSet").next()?.child(name)?;
        status.text("status").map(ToOwned::to_owned)
    };
    Ok((check("systemStatus"), check("instanceStatus")))
}

/// An instance in one of these states never runs again.
fn is_ending(instance: &Instance) -> bool {
    matches!(instance.state.as_deref(), Some("shutting-down" | "terminated"))
}

async fn each<'c>(
    request: impl Fn() -> Request<'c>,
    mut visit: impl FnMut(&Instance),
) -> Result<(), CloudError> {
    let mut token: Option<String> = None;
    loop {
        let mut request = request().field("MaxResults", INSTANCES_A_PAGE);
        if let Some(token) = &token {
            request = request.field("NextToken", token);
        }
        let page = request.send(page).await.map_err(read_failed)?.value;
        page.instances.iter().for_each(&mut visit);
        match page.next {
            None => return Ok(()),
            next if next == token => {
                return Err(unreadable("EC2 returned the same page of instances again"));
            }
            next => token = next,
        }
    }
}

fn page(answer: Element<'_, '_>) -> Result<Page, Unreadable> {
    let text = |element: Element<'_, '_>, child: &str| element.text(child).map(ToOwned::to_owned);
    // The element is present even if the list is empty: without it, the answer is something else.
    answer.child("reservationSet").ok_or(Unreadable("reservationSet"))?;
    let mut instances = Vec::new();
    for instance in answer.items("reservationSet").flat_map(|reservation| reservation.items("instancesSet")) {
        instances.push(Instance {
            id: text(instance, "instanceId").ok_or(Unreadable("instanceId"))?,
            state: instance.child("instanceState").and_then(|state| text(state, "name")),
            zone: instance.child("placement").and_then(|placement| text(placement, "availabilityZone")),
            private_dns_name: text(instance, "privateDnsName"),
            launched: instance.text("launchTime").and_then(|time| time.parse().ok()),
            image: text(instance, "imageId"),
            instance_type: text(instance, "instanceType"),
            launch_template: launch_template(instance),
        });
    }
    Ok(Page { instances, next: text(answer, "nextToken") })
}

/// The launch template, in the tags that EC2 sets on each instance that it launches from one.
fn launch_template(instance: Element<'_, '_>) -> Option<String> {
    let tag = |key: &str| {
        let tag = instance.items("tagSet").find(|tag| tag.text("key") == Some(key))?;
        tag.text("value")
    };
    let id = tag("aws:ec2launchtemplate:id")?;
    Some(match tag("aws:ec2launchtemplate:version") {
        Some(version) => format!("{id} version {version}"),
        None => id.to_owned(),
    })
}

/// This account's names of zones by ID: `use1-az1` can be `us-east-1a` in one account and `us-east-1b` in another.
pub(super) async fn zone_names(client: &Ec2, ids: Vec<String>) -> Result<Vec<Zone>, CloudError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let described = client.describe_availability_zones().send(zones).await.map_err(read_failed)?.value;
    let name = |id: String| {
        let known = described.iter().find(|zone| zone.id.as_ref() == Some(&id) || zone.name == id);
        let name = known.and_then(|zone| Zone::new(&zone.name).ok());
        name.ok_or_else(|| {
            unreadable(format!(
                "a zonal shift moves traffic away from {id}, which is not the ID of a zone of this region"
            ))
        })
    };
    ids.into_iter().map(name).collect()
}

#[derive(Debug)]
struct NamedZone {
    id: Option<String>,
    name: String,
}

fn zones(answer: Element<'_, '_>) -> Result<Vec<NamedZone>, Unreadable> {
    answer.child("availabilityZoneInfo").ok_or(Unreadable("availabilityZoneInfo"))?;
    let zone = |zone: Element<'_, '_>| {
        let name = zone.text("zoneName").ok_or(Unreadable("zoneName"))?.to_owned();
        Ok(NamedZone { id: zone.text("zoneId").map(ToOwned::to_owned), name })
    };
    answer.items("availabilityZoneInfo").map(zone).collect()
}

/// The end of an instance's console output.
pub(super) async fn console(client: &Ec2, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
    let answer = match read_console(client, instance_id, true).await {
        // Only Nitro instances support the latest output; others have only that of their boot.
        Err(error) if error.code() == Some("UnsupportedOperation") => {
            read_console(client, instance_id, false).await
        }
        answer => answer,
    };
    match answer.map_err(read_failed)? {
        Some(output) => decode_console(&output),
        None => Ok(None),
    }
}

async fn read_console(
    client: &Ec2,
    instance_id: &InstanceId,
    latest: bool,
) -> Result<Option<String>, Ec2Error> {
    let mut request = client.get_console_output().field("InstanceId", instance_id.as_str());
    if latest {
        request = request.field("Latest", "true");
    }
    let read = |answer: Element<'_, '_>| Ok(answer.text("output").map(ToOwned::to_owned));
    Ok(request.once(CONSOLE_TIMEOUT).send(read).await?.value)
}

fn decode_console(output: &str) -> Result<Option<String>, CloudError> {
    // EC2's base64 has line breaks.
    let packed: Vec<u8> = output.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = BASE64_STANDARD
        .decode(packed)
        .map_err(|error| unreadable(format!("the console output is not base64: {error}")))?;
    let end = &bytes[bytes.len().saturating_sub(MAX_CONSOLE)..];
    Ok((!end.is_empty()).then(|| String::from_utf8_lossy(end).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_output_is_decoded_with_line_breaks_and_invalid_utf8() {
        for (output, expected) in [
            ("S2VybmVs\nIHBhbmlj\r\n", Some("Kernel panic")),
            ("", None),
            ("\n", None),
            // Half of a character, where the output was truncated.
            ("wrk=", Some("\u{b9}")),
            ("uXg=", Some("\u{fffd}x")),
        ] {
            assert_eq!(decode_console(output).expect("a console").as_deref(), expected, "{output:?}");
        }
        assert!(decode_console("<html>").is_err());
    }

    #[test]
    fn the_end_of_long_console_output_is_kept() {
        let long = BASE64_STANDARD.encode([vec![b'a'; MAX_CONSOLE], b"the end".to_vec()].concat());
        let end = decode_console(&long).expect("a console").expect("text");
        assert_eq!(end.len(), MAX_CONSOLE);
        assert!(end.ends_with("the end"));
    }
}
