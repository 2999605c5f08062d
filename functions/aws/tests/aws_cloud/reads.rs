//! Reads: the location of instances, groups, clusters, and console output.

use std::time::{Duration, Instant};

use nodemend_domain::{
    group::{Group, InstanceLocation, Lifecycle},
    ident::{ClusterName, GroupName, InstanceId, Zone},
    instance_traits::InstanceTraits,
    status_check::{FailedStatusCheck, StatusCheck},
    verification::InstanceStatus,
};
use nodemend_ports::cloud::Cloud;

use crate::{aws, instance, service::Reply};

const INSTANCES: &str = "DescribeAutoScalingInstances";
const GROUPS: &str = "DescribeAutoScalingGroups";
const CLUSTER: &str = "GET /clusters/prod";
const GPU: &str = "GET /clusters/prod/node-groups/gpu";
const MANAGED: &str = "GET /managedresources/arn:aws:eks:us-west-2:123456789012:cluster/prod";

fn zone(name: &str) -> Zone {
    Zone::new(name).expect("a zone")
}

fn prod() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

fn workers() -> GroupName {
    GroupName::new("my-auto-scaling-group").expect("a name")
}

#[tokio::test]
async fn instances_are_located_in_the_requested_order_across_pages() {
    let (cloud, service) = aws(&[
        (INSTANCES, Reply::File(200, "auto-scaling-instances-1.xml")),
        (INSTANCES, Reply::File(200, "auto-scaling-instances-2.xml")),
        ("DescribeInstances", Reply::File(200, "instances-others.xml")),
    ])
    .await;
    let member = |lifecycle| InstanceLocation::Member { group: workers(), lifecycle };
    let (ids, expected): (Vec<InstanceId>, Vec<InstanceLocation>) = [
        ("i-00000000000000003", InstanceLocation::Gone),
        ("i-0c20ac468fa3049e8", member(Lifecycle::Terminating)),
        ("i-00000000000000001", InstanceLocation::Ungrouped),
        ("i-05b4f7d5be44822a6", member(Lifecycle::InService)),
        ("i-00000000000000002", InstanceLocation::Ungrouped),
        ("i-00000000000000004", InstanceLocation::Gone),
        ("i-00000000000000005", InstanceLocation::Gone),
        ("i-0c20ac468fa3049e9", member(Lifecycle::OutOfService)),
        ("i-05b4f7d5be44822a6", member(Lifecycle::InService)),
    ]
    .into_iter()
    .map(|(id, location)| (instance(id), location))
    .unzip();
    assert_eq!(cloud.describe_instances(&ids).await, Ok(expected));
    assert_eq!(service.received(INSTANCES)[1].form["NextToken"], "the-rest");
    let others = service.received("DescribeInstances");
    assert_eq!(others[0].form["Filter.1.Name"], "instance-id");
    assert!(
        !others[0].form.contains_key("InstanceId.1"),
        "one unknown instance ID would fail the whole request"
    );
}

#[tokio::test]
async fn a_request_describes_at_most_fifty_instances() {
    let none = Reply::File(200, "auto-scaling-instances-none.xml");
    let (cloud, service) = aws(&[
        (INSTANCES, none.clone()),
        (INSTANCES, none),
        ("DescribeInstances", Reply::File(200, "instances-others.xml")),
    ])
    .await;
    let ids: Vec<InstanceId> = (100..151).map(|n| instance(&format!("i-{n:017x}"))).collect();
    assert_eq!(cloud.describe_instances(&ids).await, Ok(vec![InstanceLocation::Gone; 51]));
    let sizes: Vec<usize> = service
        .received(INSTANCES)
        .iter()
        .map(|received| received.form.keys().filter(|name| name.starts_with("InstanceIds.member.")).count())
        .collect();
    assert_eq!(sizes, [50, 1]);
}

#[tokio::test]
async fn a_denied_read_is_an_error_and_no_instance_is_gone() {
    let denied = Reply::File(403, "error-access-denied.xml");
    let (cloud, _) = aws(&[(INSTANCES, denied)]).await;
    let error = cloud.describe_instances(&[instance("i-05b4f7d5be44822a6")]).await.expect_err("no answer");
    assert_eq!(error.code, "AccessDenied");
    let (cloud, _) = aws(&[
        (INSTANCES, Reply::File(200, "auto-scaling-instances-none.xml")),
        ("DescribeInstances", Reply::File(403, "ec2-error-unauthorized.xml")),
    ])
    .await;
    let error = cloud.describe_instances(&[instance("i-05b4f7d5be44822a6")]).await.expect_err("no answer");
    assert_eq!(error.code, "UnauthorizedOperation");
}

#[tokio::test]
async fn a_throttled_or_unanswered_read_is_retried() {
    let (cloud, service) = aws(&[
        (GROUPS, Reply::File(400, "error-throttling.xml")),
        (GROUPS, Reply::Closed),
        (GROUPS, Reply::File(200, "auto-scaling-groups-none.xml")),
    ])
    .await;
    assert_eq!(cloud.group(&workers()).await, Ok(None));
    assert_eq!(service.received(GROUPS).len(), 3);
}

#[tokio::test]
async fn a_group_is_read_each_time_with_its_tags_and_suspended_processes() {
    let (cloud, service) = aws(&[
        (GROUPS, Reply::File(200, "auto-scaling-groups.xml")),
        (GROUPS, Reply::File(200, "auto-scaling-groups-none.xml")),
    ])
    .await;
    let group = cloud.group(&workers()).await.expect("an answer").expect("a group");
    let Group { name, cluster, members, suspended, tags, eks_repair_enabled, desired_capacity: _ } =
        (*group).clone();
    assert_eq!((name, cluster, eks_repair_enabled), (workers(), Some(prod()), false));
    assert_eq!(suspended, ["Launch"]);
    assert_eq!(tags["kubernetes.io/cluster/prod"], "owned");
    let members: Vec<_> =
        members.iter().map(|m| (m.instance_id.as_str(), m.zone.as_str(), m.lifecycle)).collect();
    assert_eq!(
        members,
        [
            ("i-05b4f7d5be44822a6", "us-west-2c", Lifecycle::InService),
            ("i-0c20ac468fa3049e8", "us-west-2b", Lifecycle::OutOfService),
        ]
    );
    assert_eq!(service.received(GROUPS)[0].form["AutoScalingGroupNames.member.1"], workers().as_str());
    assert_eq!(cloud.group(&workers()).await, Ok(None), "groups are not cached");
}

/// The recorded group under the name and with the tags of one that EKS manages.
fn managed_group(tagged: bool) -> (GroupName, Reply) {
    let name = GroupName::new("eks-gpu-a2c6b1e0-8f4b-4c2f-9d2e-0b5f0f6f0f6f").expect("a name");
    (
        name,
        Reply::File(
            200,
            if tagged { "auto-scaling-groups-eks.xml" } else { "auto-scaling-groups-untagged.xml" },
        ),
    )
}

#[tokio::test]
async fn a_managed_group_has_the_node_repair_setting_of_eks() {
    for (file, repairs) in [
        ("nodegroup-repaired.json", true),
        ("nodegroup-not-repaired.json", false),
        ("nodegroup-silent.json", false),
    ] {
        let (name, group) = managed_group(true);
        let (cloud, _) = aws(&[(GROUPS, group), (GPU, Reply::File(200, file))]).await;
        let group = cloud.group(&name).await.expect("an answer").expect("a group");
        assert_eq!(group.eks_repair_enabled, repairs, "{file}");
    }
}

#[tokio::test]
async fn a_managed_group_without_tags_is_found_through_its_node_groups() {
    let (name, group) = managed_group(false);
    let (cloud, service) = aws(&[
        (GROUPS, group),
        ("GET /clusters/prod/node-groups", Reply::File(200, "nodegroups-1.json")),
        ("GET /clusters/prod/node-groups?nextToken=the-rest", Reply::File(200, "nodegroups-2.json")),
        ("GET /clusters/prod/node-groups/cpu", Reply::File(200, "nodegroup-silent.json")),
        (GPU, Reply::File(200, "nodegroup-repaired.json")),
    ])
    .await;
    assert!(cloud.group(&name).await.expect("an answer").expect("a group").eks_repair_enabled);
    assert_eq!(service.received(GPU).len(), 1);
}

#[tokio::test]
async fn a_managed_group_without_any_cluster_tag_counts_as_repaired_by_eks() {
    let (name, _) = managed_group(false);
    let (cloud, _) = aws(&[(GROUPS, Reply::File(200, "auto-scaling-groups-bare.xml"))]).await;
    let group = cloud.group(&name).await.expect("an answer").expect("a group");
    assert_eq!((&group.cluster, group.eks_repair_enabled), (&None, true));
}

#[tokio::test]
async fn a_managed_group_is_an_error_if_eks_denies_its_node_repair_setting() {
    let (name, group) = managed_group(true);
    let denied = Reply::Error(403, "AccessDeniedException", "eks-error-access-denied.json");
    let (cloud, _) = aws(&[(GROUPS, group), (GPU, denied)]).await;
    assert_eq!(cloud.group(&name).await.expect_err("no answer").code, "AccessDeniedException");

    let (name, group) = managed_group(true);
    let not_found = Reply::Error(404, "ResourceNotFoundException", "eks-error-not-found.json");
    let (cloud, _) = aws(&[(GROUPS, group), (GPU, not_found)]).await;
    let group = cloud.group(&name).await.expect("an answer").expect("a group");
    assert!(!group.eks_repair_enabled, "a deleted node group repairs nothing");
}

fn nodes() -> [(&'static str, Reply); 2] {
    [
        ("DescribeInstances", Reply::File(200, "instances-1.xml")),
        ("DescribeInstances", Reply::File(200, "instances-2.xml")),
    ]
}

#[tokio::test]
async fn nodes_are_counted_by_zone_and_zonal_shifts_have_zone_names() {
    let mut script = nodes().to_vec();
    script.push((CLUSTER, Reply::File(200, "cluster.json")));
    script.push((MANAGED, Reply::File(200, "managed-resource.json")));
    script.push(("DescribeAvailabilityZones", Reply::File(200, "availability-zones.xml")));
    let (cloud, service) = aws(&script).await;
    let facts = cloud.cluster(&prod()).await.expect("facts");
    let zones: Vec<_> = facts.zones.iter().map(|(zone, nodes)| (zone.as_str(), *nodes)).collect();
    assert_eq!(zones, [("us-west-2b", 2), ("us-west-2c", 1)]);
    assert_eq!(facts.zonal_shifts, [zone("us-west-2b")], "usw2-az1; the one of usw2-az3 is not applied");
    assert_eq!(
        service.received("DescribeInstances")[0].form["Filter.1.Value.1"],
        "kubernetes.io/cluster/prod"
    );
}

#[tokio::test]
async fn arc_is_not_queried_for_a_cluster_without_zonal_shift() {
    let mut script = nodes().to_vec();
    script.push((CLUSTER, Reply::File(200, "cluster-without-shift.json")));
    let (cloud, service) = aws(&script).await;
    assert_eq!(cloud.cluster(&prod()).await.expect("facts").zonal_shifts, []);
    assert_eq!(service.received(MANAGED).len(), 0);
}

#[tokio::test]
async fn a_shift_from_a_zone_id_without_a_name_is_an_error() {
    let mut script = nodes().to_vec();
    script.push((CLUSTER, Reply::File(200, "cluster.json")));
    script.push((MANAGED, Reply::File(200, "managed-resource-elsewhere.json")));
    script.push(("DescribeAvailabilityZones", Reply::File(200, "availability-zones.xml")));
    let (cloud, _) = aws(&script).await;
    let error = cloud.cluster(&prod()).await.expect_err("no facts");
    assert!(error.source.to_string().contains("usw2-az9"), "{error:?}");
}

#[tokio::test]
async fn a_deleted_cluster_has_no_zonal_shifts() {
    let mut script = nodes().to_vec();
    script.push((CLUSTER, Reply::Error(404, "ResourceNotFoundException", "eks-error-not-found.json")));
    let (cloud, _) = aws(&script).await;
    let facts = cloud.cluster(&prod()).await.expect("facts");
    assert_eq!((facts.nodes(), facts.zonal_shifts.len()), (3, 0));
}

#[tokio::test]
async fn an_instance_has_its_launch_its_traits_and_both_status_checks() {
    let id = instance("i-05b4f7d5be44822a6");
    let launched = ("DescribeInstances", Reply::File(200, "instance-launched.xml"));
    let checks = ("DescribeInstanceStatus", Reply::File(200, "instance-status.xml"));
    let (cloud, service) = aws(&[launched.clone(), checks]).await;
    let known = InstanceStatus {
        state: "running".to_owned(),
        launched: Some("2026-09-21T14:02:10Z".parse().expect("a time")),
        system_status: Some("ok".to_owned()),
        instance_status: Some("impaired".to_owned()),
        traits: InstanceTraits {
            image: Some("ami-0abcdef1234567890".to_owned()),
            launch_template: Some("lt-0123456789abcdef0 version 3".to_owned()),
            instance_type: Some("m6i.large".to_owned()),
            zone: Some(zone("us-west-2c")),
        },
    };
    assert_eq!(cloud.instance_status(&id).await, Ok(Some(known.clone())));
    let request = &service.received("DescribeInstanceStatus")[0].form;
    assert_eq!(
        (request["Filter.1.Value.1"].as_str(), request["IncludeAllInstances"].as_str()),
        (id.as_str(), "true")
    );

    // The checks alone cannot be read, or not in time for a call after this.
    let without = InstanceStatus { system_status: None, instance_status: None, ..known };
    for reply in [Reply::File(403, "ec2-error-unauthorized.xml"), Reply::Hang] {
        let (cloud, _) = aws(&[launched.clone(), ("DescribeInstanceStatus", reply)]).await;
        let begun = Instant::now();
        assert_eq!(cloud.instance_status(&id).await, Ok(Some(without.clone())));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn the_status_checks_that_fail_are_read_by_kind_and_each_is_there_once() {
    const STATUS: &str = "DescribeInstanceStatus";
    let reply = (STATUS, Reply::File(200, "instance-status.xml"));
    let (cloud, service) = aws(&[reply.clone(), reply.clone(), reply]).await;
    let failed = FailedStatusCheck {
        instance_id: instance("i-05b4f7d5be44822a6"),
        check: StatusCheck::Instance,
        since: Some("2026-09-21T14:40:00Z".parse().expect("a time")),
    };
    assert_eq!(cloud.failed_status_checks().await, Ok(vec![failed]));
    let filters: Vec<String> =
        service.received(STATUS).iter().map(|request| request.form["Filter.1.Name"].clone()).collect();
    assert_eq!(filters, ["system-status.status", "instance-status.status", "attached-ebs-status.status"]);
    let denied = (STATUS, Reply::File(403, "ec2-error-unauthorized.xml"));
    let (cloud, _) = aws(&[denied]).await;
    assert!(cloud.failed_status_checks().await.is_err());
}

#[tokio::test]
async fn the_latest_console_output_is_read_or_an_older_one_if_unsupported() {
    const CONSOLE: &str = "GetConsoleOutput";
    let panic = Ok(Some("[  181.331] Kernel panic - not syncing: Fatal exception\n".to_owned()));
    let id = instance("i-05b4f7d5be44822a6");
    let (cloud, service) = aws(&[(CONSOLE, Reply::File(200, "console.xml"))]).await;
    assert_eq!(cloud.console_output(&id).await, panic);
    assert_eq!(service.received(CONSOLE)[0].form["Latest"], "true");

    let (cloud, service) = aws(&[
        (CONSOLE, Reply::File(400, "ec2-error-unsupported-operation.xml")),
        (CONSOLE, Reply::File(200, "console.xml")),
    ])
    .await;
    assert_eq!(cloud.console_output(&id).await, panic);
    assert!(!service.received(CONSOLE)[1].form.contains_key("Latest"));

    let (cloud, service) = aws(&[(CONSOLE, Reply::File(503, "ec2-error-request-limit-exceeded.xml"))]).await;
    assert_eq!(cloud.console_output(&id).await.expect_err("no console").code, "RequestLimitExceeded");
    assert_eq!(service.received(CONSOLE).len(), 1, "the repair does not wait for a retry");
}
