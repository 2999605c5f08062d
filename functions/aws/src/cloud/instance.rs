//! Turns what EC2 says of instances, zones and consoles into our words.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use aws_sdk_autoscaling::error::ProvideErrorMetadata;
use base64::{Engine, prelude::BASE64_STANDARD};
use nodemend_domain::ident::{ClusterName, InstanceId, NodeName, Zone};

use super::{
    CloudError,
    ec2::{Ec2, Ec2Error, Element, Request, Unreadable},
    error,
};

/// A filter takes no more values.
const VALUES_A_FILTER: usize = 200;
/// EC2 would give four times as many, and take longer over it than an attempt may last.
const INSTANCES_A_PAGE: &str = "250";
/// The repair waits for the console, and goes ahead without it.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);
/// EC2 keeps 64 KiB of a console.
const MAX_CONSOLE: usize = 64 * 1024;

/// What we read of an instance.
#[derive(Debug)]
struct Instance {
    id: String,
    state: Option<String>,
    zone: Option<String>,
    private_dns_name: Option<String>,
}

/// A page of them, and what asks for the next.
#[derive(Debug)]
struct Page {
    instances: Vec<Instance>,
    next: Option<String>,
}

/// Those of the instances that run, or may run again. Asked for by filter: of an id that EC2 has forgotten, the
/// list of ids makes an error, and that of all the others with it.
pub(super) async fn existing(
    client: &Ec2,
    instances: &[&InstanceId],
) -> Result<HashSet<InstanceId>, CloudError> {
    let mut found = HashSet::new();
    for some in instances.chunks(VALUES_A_FILTER) {
        let ids = some.iter().map(ToString::to_string);
        let asked = || client.describe_instances().filter(1, "instance-id", ids.clone());
        let exists = |instance: &Instance| {
            let id = InstanceId::new(&instance.id).ok()?;
            (!is_ending(instance)).then_some(id)
        };
        each(asked, |instance| found.extend(exists(instance))).await?;
    }
    Ok(found)
}

/// How many nodes a cluster has in each zone, Karpenter's and those of any group: its cloud controller knows none
/// without the cluster's tag.
pub(super) async fn nodes_by_zone(
    client: &Ec2,
    cluster: &ClusterName,
) -> Result<BTreeMap<Zone, usize>, CloudError> {
    let asked = || {
        client.describe_instances().filter(1, "tag-key", [format!("kubernetes.io/cluster/{cluster}")]).filter(
            2,
            "instance-state-name",
            ["pending", "running"].map(ToOwned::to_owned),
        )
    };
    let mut zones = BTreeMap::new();
    each(asked, |instance| {
        if let Some(zone) = instance.zone.as_deref().and_then(|zone| Zone::new(zone).ok()) {
            *zones.entry(zone).or_insert(0) += 1;
        }
    })
    .await?;
    Ok(zones)
}

/// The name that a node gets from its instance: its private DNS name, whether that is made of its address or its id.
pub(super) async fn private_name(
    client: &Ec2,
    instance_id: &InstanceId,
) -> Result<Option<NodeName>, CloudError> {
    let mut name = None;
    let asked = || client.describe_instances().filter(1, "instance-id", [instance_id.to_string()]);
    each(asked, |instance| {
        name = instance.private_dns_name.as_deref().and_then(|name| NodeName::new(name).ok());
    })
    .await?;
    Ok(name)
}

/// From `terminated`, and from the way to it, no instance comes back.
fn is_ending(instance: &Instance) -> bool {
    matches!(instance.state.as_deref(), Some("shutting-down" | "terminated"))
}

async fn each<'c>(
    asked: impl Fn() -> Request<'c>,
    mut take: impl FnMut(&Instance),
) -> Result<(), CloudError> {
    let mut token: Option<String> = None;
    loop {
        let mut request = asked().field("MaxResults", INSTANCES_A_PAGE);
        if let Some(token) = &token {
            request = request.field("NextToken", token);
        }
        let page = request.send(page).await.map_err(error::unread)?.value;
        page.instances.iter().for_each(&mut take);
        match page.next {
            None => return Ok(()),
            next if next == token => {
                return Err(error::unreadable("EC2 gives the same page of instances again"));
            }
            next => token = next,
        }
    }
}

fn page(answer: Element<'_, '_>) -> Result<Page, Unreadable> {
    let text = |element: Element<'_, '_>, child: &str| element.text(child).map(ToOwned::to_owned);
    // An empty list is there all the same: without it, this is no list of instances.
    answer.child("reservationSet").ok_or(Unreadable("reservationSet"))?;
    let mut instances = Vec::new();
    for instance in answer.items("reservationSet").flat_map(|reservation| reservation.items("instancesSet")) {
        instances.push(Instance {
            id: text(instance, "instanceId").ok_or(Unreadable("instanceId"))?,
            state: instance.child("instanceState").and_then(|state| text(state, "name")),
            zone: instance.child("placement").and_then(|placement| text(placement, "availabilityZone")),
            private_dns_name: text(instance, "privateDnsName"),
        });
    }
    Ok(Page { instances, next: text(answer, "nextToken") })
}

/// The names that this account has for zones that are known by id: `use1-az1` may be anybody's `us-east-1a`.
pub(super) async fn zone_names(client: &Ec2, ids: Vec<String>) -> Result<Vec<Zone>, CloudError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let described = client.describe_availability_zones().send(zones).await.map_err(error::unread)?.value;
    let name = |id: String| {
        let known = described.iter().find(|zone| zone.id.as_ref() == Some(&id) || zone.name == id);
        let name = known.and_then(|zone| Zone::new(&zone.name).ok());
        name.ok_or_else(|| {
            error::unreadable(format!("a zonal shift leads away from {id}, a zone without a name"))
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

/// The end of an instance's console.
pub(super) async fn console(client: &Ec2, instance_id: &InstanceId) -> Result<Option<String>, CloudError> {
    let answer = match read_console(client, instance_id, true).await {
        // Only Nitro instances tell what is on their console now; others, what was there when they booted.
        Err(error) if error.code() == Some("UnsupportedOperation") => {
            read_console(client, instance_id, false).await
        }
        answer => answer,
    };
    match answer.map_err(error::unread)? {
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
