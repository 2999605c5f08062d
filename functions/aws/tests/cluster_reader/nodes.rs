//! Nodes, as the API server of a cluster returns them.

use std::{
    collections::BTreeSet,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aws_config::Region;
use aws_sdk_sts::config::Credentials;
use flate2::{Compression, write::GzEncoder};
use nodemend_aws::{cloud::AwsCloud, sdk};
use nodemend_domain::{
    case::Consistency,
    ident::{AccountId, ClusterName, InstanceId, NodeName},
};
use nodemend_ports::{
    cause::chain,
    cloud::Cloud,
    cluster_reader::{ClusterReader, ReadError},
    config::environment::{ClusterAccess, Members},
};
use nodemend_testkit::http::{Answer, Reply, ScriptedServer, tls};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{aws, config, connected, kind};

const CLUSTER: &str = "GET /clusters/prod";
const NODE: &str = "ip-10-0-1-23.ec2.internal";
const INSTANCE: &str = "i-0ab76e62066c9730c";
const GET_NODE: &str = "GET /api/v1/nodes/ip-10-0-1-23.ec2.internal";
const STREAMS: &str = "Logs_20140328.DescribeLogStreams";
const LIST: &str = "GET /api/v1/nodes";
const LIST_CACHED: &str = "GET /api/v1/nodes?resourceVersion=0";
const AGENT: &str = "nodemend-repair/test";

fn prod() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

fn instance(id: &str) -> InstanceId {
    InstanceId::new(id).expect("an id")
}

fn name() -> NodeName {
    NodeName::new(NODE).expect("a name")
}

fn node(name: &str, instance: &str) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": { "name": name, "uid": "4ec50a1e-5f4e-4d9a-8e0e-1d6a0a5b2c3d", "creationTimestamp": "2026-08-20T09:00:00Z" },
        "spec": { "providerID": format!("aws:///eu-west-1a/{instance}") },
        "status": {
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "as seen",
                "lastHeartbeatTime": "2026-08-20T10:00:00Z", "lastTransitionTime": "2026-08-20T09:59:00Z",
            }],
            "nodeInfo": { "bootID": "3e5696ab-eba1-4b55-bf1c-9a80963b1cab" },
        },
    })
}

fn status(code: u16, reason: &str, message: &str) -> Reply {
    let status =
        json!({ "kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code });
    Reply::json(code, &status)
}

/// A body that is sent as gzip.
fn gzip(plain: &[u8]) -> Reply {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("compressed");
    encoded(encoder.finish().expect("compressed"))
}

/// A body whose header says that it is gzip.
fn encoded(body: Vec<u8>) -> Reply {
    Reply::Answer(Answer { status: 200, headers: "content-encoding: gzip\r\n".to_owned(), body })
}

/// The API server of a cluster with these answers, and EKS, which describes the cluster as often as needed.
async fn cluster(script: &[(&'static str, Reply)]) -> (AwsCloud, ScriptedServer, ScriptedServer) {
    let (acceptor, authority) = tls();
    let server = ScriptedServer::start(Some(acceptor), script.to_vec()).await;
    let described = described(server.address, &authority);
    let service = aws(&vec![(CLUSTER, described); 3]).await;
    (with_access(&service, ClusterAccess::All).await, server, service)
}

/// EKS's answer to DescribeCluster.
fn described(address: SocketAddr, authority: &str) -> Reply {
    let endpoint = format!("https://{address}");
    let cluster =
        json!({ "name": "prod", "endpoint": endpoint, "certificateAuthority": { "data": authority } });
    Reply::json(200, &json!({ "cluster": cluster }))
}

async fn with_access(service: &ScriptedServer, access: ClusterAccess) -> AwsCloud {
    connected(service).await.with_cluster_access(&config(service.address), access, AGENT)
}

#[tokio::test]
async fn a_node_is_read_consistently_by_its_name_with_one_session() {
    let found = Reply::json(200, &node(NODE, INSTANCE));
    let (cloud, server, service) = cluster(&[(GET_NODE, found.clone()), (GET_NODE, found)]).await;
    for _ in 0..2 {
        let node = cloud.node(&prod(), &name()).await.expect("an answer").expect("a node");
        assert_eq!((node.name, node.instance_id), (name(), Some(instance(INSTANCE))));
        assert_eq!((node.uid.is_some(), node.boot_id.is_some(), node.conditions.len()), (true, true, 1));
    }
    assert_eq!(service.received(CLUSTER).len(), 1);
    for asked in server.all_received() {
        // Without resourceVersion.
        assert_eq!(asked.operation(), GET_NODE);
        assert_eq!(asked.headers["user-agent"], AGENT);
        assert!(asked.headers["authorization"].starts_with("Bearer k8s-aws-v1."));
        assert_eq!(asked.headers["accept-encoding"], "gzip");
    }
}

#[tokio::test]
async fn a_node_of_that_name_can_be_another_instances() {
    let other = "i-00000000000000002";
    let (cloud, ..) = cluster(&[(GET_NODE, Reply::json(200, &node(NODE, other)))]).await;
    let node = cloud.node(&prod(), &name()).await.expect("an answer").expect("a node");
    assert_eq!(node.instance_id, Some(instance(other)));
}

#[tokio::test]
async fn only_the_api_server_itself_shows_that_there_is_no_node() {
    let missing = status(404, "NotFound", "nodes \"ip-10-0-1-23.ec2.internal\" not found");
    let (cloud, ..) =
        cluster(&[(GET_NODE, missing), (GET_NODE, Reply::text(404, "<h1>Not Found</h1>"))]).await;
    assert_eq!(cloud.node(&prod(), &name()).await, Ok(None));
    let error = cloud.node(&prod(), &name()).await.expect_err("a proxy's answer");
    assert!(matches!(error, ReadError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn all_nodes_are_read_as_gzip_from_etcd_or_from_the_cache() {
    let nodes: Vec<Value> = (1..=300).map(|n| node(&format!("node-{n}"), &format!("i-{n:017x}"))).collect();
    let list =
        json!({ "kind": "NodeList", "metadata": { "resourceVersion": "1" }, "items": nodes }).to_string();
    let (cloud, server, _) =
        cluster(&[(LIST, gzip(list.as_bytes())), (LIST_CACHED, Reply::text(200, list.as_str()))]).await;
    for consistency in [Consistency::Latest, Consistency::Cached] {
        let nodes = cloud.nodes(&prod(), consistency).await.expect("nodes");
        assert_eq!((nodes.len(), nodes[299].name.as_str()), (300, "node-300"));
    }
    let asked: Vec<String> = server.all_received().into_iter().map(|asked| asked.operation()).collect();
    assert_eq!(asked, [LIST, LIST_CACHED]);
}

#[tokio::test]
async fn a_list_is_bounded_and_read_as_a_whole() {
    let bomb = vec![b' '; 64 * 1024 * 1024 + 1];
    let half = json!({ "items": [node(NODE, INSTANCE), node("not a name", INSTANCE)] });
    for (answer, expected) in [
        (gzip(&bomb), "more than the cap of 67108864 bytes"),
        (encoded(b"no gzip".to_vec()), "failed to decompress gzip"),
        (Reply::json(200, &half), "metadata.name"),
        (Reply::text(200, "<h1>Log in</h1>"), "not a Node object"),
    ] {
        let (cloud, ..) = cluster(&[(LIST, answer)]).await;
        let error = cloud.nodes(&prod(), Consistency::Latest).await.expect_err("refused");
        assert!(matches!(error, ReadError::Unavailable { .. }), "{error:?}");
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_node_of_another_name_is_no_answer() {
    let (cloud, ..) =
        cluster(&[(GET_NODE, Reply::json(200, &node("ip-10-0-1-24.ec2.internal", INSTANCE)))]).await;
    let error = cloud.node(&prod(), &name()).await.expect_err("refused");
    assert!(chain(&error).contains("ip-10-0-1-24"), "{}", chain(&error));
}

#[tokio::test]
async fn each_refusal_has_its_kind_and_message() {
    let denied = status(403, "Forbidden", "nodes is forbidden: User \"nodemend-read\" cannot list");
    let unknown = || status(401, "Unauthorized", "Unauthorized");
    for (answers, expected, text) in [
        (vec![denied], "denied", "nodes is forbidden"),
        (vec![unknown(), unknown()], "denied", "Unauthorized"),
        (vec![status(429, "TooManyRequests", "too many requests")], "throttled", "too many requests"),
        (vec![status(500, "InternalError", "etcd")], "unavailable", "etcd"),
        (vec![Reply::text(502, "")], "unavailable", "502"),
    ] {
        let (cloud, ..) =
            cluster(&answers.into_iter().map(|answer| (LIST, answer)).collect::<Vec<_>>()).await;
        let error = cloud.nodes(&prod(), Consistency::Latest).await.expect_err("refused");
        assert_eq!(kind(&error), expected, "{error:?}");
        assert!(chain(&error).contains(text), "{}", chain(&error));
        assert!(chain(&error).contains("the Kubernetes API of cluster prod"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed_once() {
    let answers = [
        (GET_NODE, status(401, "Unauthorized", "Unauthorized")),
        (GET_NODE, Reply::json(200, &node(NODE, INSTANCE))),
    ];
    let (cloud, server, service) = cluster(&answers).await;
    assert!(cloud.node(&prod(), &name()).await.expect("an answer").is_some());
    assert_eq!((server.all_received().len(), service.received(CLUSTER).len()), (2, 2));
}

#[tokio::test]
async fn an_api_server_that_cannot_be_reached_is_unavailable_in_time() {
    let (cloud, server, _) = cluster(&[(GET_NODE, Reply::Hang)]).await;
    let error = cloud.node(&prod(), &name()).await.expect_err("no answer");
    let in_time = chain(&error).contains("no answer within 5 s");
    assert_eq!((kind(&error), in_time), ("unavailable", true), "{error:?}");

    let (_, other_authority) = tls();
    let service = aws(&[(CLUSTER, described(server.address, &other_authority))]).await;
    let cloud = with_access(&service, ClusterAccess::All).await;
    let error = cloud.node(&prod(), &name()).await.expect_err("another authority");
    assert_eq!(kind(&error), "unavailable", "{error:?}");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = closed.local_addr().expect("an address");
    drop(closed);
    let service = aws(&[(CLUSTER, described(nobody, &other_authority))]).await;
    let cloud = with_access(&service, ClusterAccess::All).await;
    let error = cloud.node(&prod(), &name()).await.expect_err("nobody listens");
    assert_eq!(kind(&error), "unavailable", "{error:?}");
}

/// An address that answers no SYN, as a private endpoint from outside of its VPC: a listener whose queue is full.
async fn silent_address() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(connection) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(connection.expect("a connection"));
    }
    (address, (listener, waiting))
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_delays_one_read_by_three_seconds_and_the_next_not_at_all() {
    let (address, _silent) = silent_address().await;
    let (_, authority) = tls();
    let service = aws(&[(CLUSTER, described(address, &authority))]).await;
    let cloud = with_access(&service, ClusterAccess::All).await;
    let begun = Instant::now();
    let error = cloud.node(&prod(), &name()).await.expect_err("no connection");
    assert_eq!(kind(&error), "unavailable", "{error:?}");
    let took = begun.elapsed();
    assert!((2_900..4_500).contains(&took.as_millis()), "{took:?}");
    // Verification reads the log groups instead. It has ten seconds for all of it, and the next fault as well.
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(cloud.node(&prod(), &name()).await, Err(error.clone()));
    }
    assert_eq!(cloud.nodes(&prod(), Consistency::Latest).await, Err(error));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(service.received(CLUSTER).len(), 1);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_endpoint_that_could_not_be_reached_is_tried_again_after_half_a_minute() {
    use nodemend_aws::failpoints::{pass_to, use_clock};

    let (acceptor, authority) = tls();
    let found = (GET_NODE, Reply::json(200, &node(NODE, INSTANCE)));
    let server = ScriptedServer::start(Some(acceptor), [found]).await;
    let (_, other_authority) = tls();
    let service = aws(&[
        (CLUSTER, described(server.address, &other_authority)),
        (CLUSTER, described(server.address, &authority)),
    ])
    .await;
    let cloud = with_access(&service, ClusterAccess::All).await;
    let path = std::env::temp_dir().join(format!("nodemend-unreachable-clock-{}", std::process::id()));
    use_clock(&path);
    for (second, is_read) in [(1_800_000_000, false), (1_800_000_029, false), (1_800_000_030, true)] {
        assert!(pass_to(jiff::Timestamp::from_second(second).expect("a time")));
        assert_eq!(cloud.node(&prod(), &name()).await.is_ok(), is_read, "{second}");
    }
    std::fs::remove_file(&path).expect("removed");
}

#[tokio::test]
async fn a_cluster_without_access_is_not_asked() {
    let caller = Reply::text(200, include_str!("../../fixtures/aws/caller.xml"));
    let service = aws(&[("GetCallerIdentity", caller)]).await;
    let test = BTreeSet::from([ClusterName::new("test").expect("a name")]);
    for cloud in [with_access(&service, ClusterAccess::Only(test)).await, connected(&service).await] {
        let expected = ReadError::NotConfigured(
            "the deployment has no access to the Kubernetes API of cluster prod (parameter ClusterAccess)"
                .to_owned(),
        );
        assert_eq!(cloud.node(&prod(), &name()).await, Err(expected.clone()));
        assert_eq!(cloud.nodes(&prod(), Consistency::Cached).await, Err(expected));
    }
    assert_eq!(service.received(CLUSTER).len(), 0);
}

#[tokio::test]
async fn eks_decides_whether_its_cluster_may_be_described() {
    let body = include_str!("../../fixtures/aws/eks-error-access-denied.json");
    let headers = "x-amzn-errortype: AccessDeniedException\r\n".to_owned();
    let denied = Reply::Answer(Answer { status: 403, headers, body: body.into() });
    let service = aws(&[(CLUSTER, denied)]).await;
    let cloud = with_access(&service, ClusterAccess::All).await;
    assert_eq!(kind(&cloud.node(&prod(), &name()).await.expect_err("refused")), "denied");
}

#[tokio::test]
async fn a_cluster_of_another_account_is_read_with_the_role_there() {
    let (acceptor, authority) = tls();
    let server =
        ScriptedServer::start(Some(acceptor), [(GET_NODE, Reply::json(200, &node(NODE, INSTANCE)))]).await;
    // The SDK's clients keep their credentials; the token is signed with new ones.
    let assumed = Reply::text(200, include_str!("../../fixtures/aws/assume-role.xml"));
    let service = aws(&[
        ("AssumeRole", assumed.clone()),
        ("AssumeRole", assumed),
        (CLUSTER, described(server.address, &authority)),
        (STREAMS, Reply::json(200, &json!({ "logStreams": [] }))),
    ])
    .await;
    let shared = sdk::defaults()
        .endpoint_url(format!("http://{}", service.address))
        .region(Region::from_static("us-west-2"))
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "secret", None, None, "the test"))
        .load()
        .await;
    let roles = Members { role: "nodemend/member".to_owned(), calls_as: "nodemend/member".to_owned() };
    let ours = AwsCloud::connect(&shared)
        .await
        .expect("a caller")
        .with_members(&shared, Some(roles))
        .with_cluster_access(&shared, ClusterAccess::All, AGENT);
    let theirs =
        ours.in_account(Some(&AccountId::new("222222222222").expect("an id"))).await.expect("a client");
    assert!(theirs.node(&prod(), &name()).await.expect("an answer").is_some());
    assert_eq!(
        theirs.streams("/aws/eks/prod/cluster", "kube", jiff::Timestamp::UNIX_EPOCH).await,
        Ok(Vec::new())
    );
    for operation in [CLUSTER, STREAMS] {
        let signed = &service.received(operation)[0].headers["authorization"];
        assert!(signed.contains("Credential=ASIAMEMBER/"), "{operation}: {signed}");
    }
    // The token is signed with the same credentials: a URL in base64.
    let token = server.all_received()[0].headers["authorization"].clone();
    let url = base64::Engine::decode(
        &base64::prelude::BASE64_URL_SAFE_NO_PAD,
        token.trim_start_matches("Bearer k8s-aws-v1."),
    );
    assert!(String::from_utf8(url.expect("base64")).expect("text").contains("ASIAMEMBER"));
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn endpoint_and_token_are_renewed_after_five_minutes() {
    use nodemend_aws::failpoints::{pass_to, use_clock};

    let found = Reply::json(200, &node(NODE, INSTANCE));
    let (cloud, server, service) = cluster(&vec![(GET_NODE, found); 3]).await;
    let path = std::env::temp_dir().join(format!("nodemend-nodes-clock-{}", std::process::id()));
    use_clock(&path);
    for (second, described) in [(1_800_000_000, 1), (1_800_000_299, 1), (1_800_000_300, 2)] {
        assert!(pass_to(jiff::Timestamp::from_second(second).expect("a time")));
        assert!(cloud.node(&prod(), &name()).await.expect("an answer").is_some());
        assert_eq!(service.received(CLUSTER).len(), described, "{second}");
    }
    let tokens: BTreeSet<String> =
        server.all_received().into_iter().map(|asked| asked.headers["authorization"].clone()).collect();
    assert_eq!(tokens.len(), 2);
    std::fs::remove_file(&path).expect("removed");
}
