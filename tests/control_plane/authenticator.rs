//! Authenticates tokens for the API server, as the authenticator of EKS does: a webhook that receives TokenReviews.
//!
//! An EKS token is a presigned request to STS. Its signature is not checked here: `functions/aws` compares its tokens with those
//! of the AWS CLI. What is checked is that the token is for this cluster. Access entries map its access key to a user.

use std::net::SocketAddr;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nodemend_domain::ident::{InstanceId, NodeName};
use nodemend_testkit::{
    fixture::{ACCOUNT, cluster},
    http::{self, Answer, Reply, Request, answer},
};
use serde_json::{Value, json};

/// The administrator of the cluster.
pub(crate) const ADMINISTRATOR: &str = "administrator";
/// The controller manager.
pub(crate) const CONTROLLERS: &str = "kube-controller-manager";

/// The access keys of the roles that use the cluster, each with the group that its access entry adds it to.
const ACCESS_ENTRIES: [(&str, &str, &str); 3] = [
    (REPAIR_KEY, "nodemend-repair", "nodemend-read"),
    (DRAIN_KEY, "nodemend-drain", "nodemend-drain"),
    (UNBOUND_KEY, "another", "another"),
];
/// The access key of the repair function.
pub(crate) const REPAIR_KEY: &str = "AKIDREPAIR";
/// The access key of the drain function.
pub(crate) const DRAIN_KEY: &str = "AKIDDRAIN";
/// The access key of a role whose access entry adds it to a group without permissions.
pub(crate) const UNBOUND_KEY: &str = "AKIDUNBOUND";
/// The access key of a role without an access entry.
pub(crate) const UNKNOWN_KEY: &str = "AKIDUNKNOWN";

/// The token of a node's kubelet.
pub(crate) fn kubelet(node: &NodeName, instance_id: &InstanceId) -> String {
    format!("kubelet/{node}/{instance_id}")
}

/// The token that the access key's owner makes for this cluster, but for its signature.
pub(crate) fn eks(access_key: &str) -> String {
    let url = format!(
        "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&X-Amz-Credential={access_key}%2F20260101%2Fus-east-1%2F\
         sts%2Faws4_request&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Signature=0"
    );
    format!("k8s-aws-v1.{}", BASE64_URL_SAFE_NO_PAD.encode(url))
}

/// Serves the webhook until the test ends; its address.
pub(crate) async fn serve() -> SocketAddr {
    http::serve(None, |request| Reply::Answer(respond(&request))).await
}

fn respond(request: &Request) -> Answer {
    let review: Value = serde_json::from_str(&request.body).expect("a TokenReview");
    let token = review["spec"]["token"].as_str().expect("a token");
    let status = match user(token) {
        Some(user) => json!({ "authenticated": true, "user": user }),
        None => json!({ "authenticated": false, "error": "no access entry" }),
    };
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
    Answer { headers: "content-type: application/json\r\n".to_owned(), ..answer(200, review.to_string()) }
}

fn user(token: &str) -> Option<Value> {
    if let Some(token) = token.strip_prefix("k8s-aws-v1.") {
        return role(token);
    }
    match token.split('/').collect::<Vec<_>>()[..] {
        [ADMINISTRATOR] => Some(json!({
            "username": format!("arn:aws:iam::{ACCOUNT}:user/alice"),
            "groups": ["system:masters"],
        })),
        [CONTROLLERS] => Some(json!({ "username": "system:kube-controller-manager" })),
        ["kubelet", node, instance_id] => Some(json!({
            "username": format!("system:node:{node}"),
            "groups": ["system:bootstrappers", "system:nodes"],
            "extra": { "sessionName": [instance_id] },
        })),
        _ => None,
    }
}

/// The user of an EKS token.
fn role(token: &str) -> Option<Value> {
    let url = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (_, query) = url.split_once('?')?;
    let field = |name: &str| query.split('&').find_map(|field| field.strip_prefix(name));
    // A token for another cluster has another value in this header, so that its signature is wrong here.
    field("X-Amz-SignedHeaders=").filter(|headers| headers.contains("x-k8s-aws-id"))?;
    let (access_key, _) = field("X-Amz-Credential=")?.split_once("%2F")?;
    let (_, role, group) = ACCESS_ENTRIES.into_iter().find(|(key, ..)| *key == access_key)?;
    Some(json!({
        "username": format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{role}"),
        "groups": [group],
        "extra": { "accessKeyId": [access_key], "cluster": [cluster()] },
    }))
}
