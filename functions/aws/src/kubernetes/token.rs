//! Turns AWS credentials into the token that EKS takes for a Kubernetes user: a signed question to STS, who we are,
//! that EKS asks in our place.
//!
//! <https://github.com/kubernetes-sigs/aws-iam-authenticator#api-authorization-from-outside-a-cluster>

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use aws_sdk_sts::config::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use nodemend_domain::ident::ClusterName;

use super::client::escaped;

/// What every token begins with.
const PREFIX: &str = "k8s-aws-v1.";
/// Signed with the question, so that a token of one cluster opens no other.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";
/// EKS takes a token for 15 minutes whatever this says; it asks for no more than a minute.
const EXPIRY: Duration = Duration::from_secs(60);

/// The question could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("failed to sign a token for EKS: {0}")]
pub(super) struct TokenError(String);

/// The token of these credentials for one cluster.
pub(super) fn token(
    credentials: &Credentials,
    region: &str,
    cluster: &ClusterName,
    now: Timestamp,
) -> Result<String, TokenError> {
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(EXPIRY);
    let since = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
    let at = SystemTime::UNIX_EPOCH + since;
    let failed = |error: &dyn std::error::Error| TokenError(error.to_string());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(at)
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?
        .into();
    let host = format!("sts.{region}.{}", domain(region));
    let mut url = format!("https://{host}/?Action=GetCallerIdentity&Version=2011-06-15");
    let headers = [("host", host.as_str()), (CLUSTER_HEADER, cluster.as_str())];
    let question = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| failed(&error))?;
    let (instructions, _) = sign(question, &params).map_err(|error| failed(&error))?.into_parts();
    for (name, value) in instructions.params() {
        let _ = write!(url, "&{name}={}", escaped(value));
    }
    Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(url)))
}

/// The domain of a region's partition.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the AWS command's own library; tests/infra makes it anew and compares.
    const KNOWN: &str = include_str!("../../fixtures/eks-token.json");

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Known {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        region: String,
        cluster: String,
        at: Timestamp,
        url: String,
    }

    fn parts(url: &str) -> (&str, Vec<&str>) {
        let (host, query) = url.split_once('?').expect("a query");
        let mut query: Vec<&str> = query.split('&').collect();
        query.sort_unstable();
        (host, query)
    }

    #[test]
    fn a_token_is_the_one_that_the_aws_command_makes() {
        let all: Vec<Known> = serde_json::from_str(KNOWN).expect("tokens");
        assert_eq!(all.len(), 3);
        for known in all {
            let credentials = Credentials::new(
                known.access_key_id,
                known.secret_access_key,
                known.session_token,
                None,
                "the test",
            );
            let cluster = ClusterName::new(&known.cluster).expect("a name");
            let made = token(&credentials, &known.region, &cluster, known.at).expect("a token");
            assert!(!made.contains('='));
            let made = made.strip_prefix(PREFIX).expect("the prefix");
            let made = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(made).expect("base64")).expect("text");
            assert_eq!(parts(&made), parts(&known.url));
        }
    }
}
