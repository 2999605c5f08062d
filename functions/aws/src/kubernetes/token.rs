//! Makes an EKS token from AWS credentials: a presigned GetCallerIdentity request, which EKS sends to STS.
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

/// The prefix of every token.
const PREFIX: &str = "k8s-aws-v1.";
/// A signed header, so that a token for one cluster is not valid for another.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";
/// EKS accepts a token for 15 minutes in any case, and requires at most 60 s here.
const EXPIRY: Duration = Duration::from_secs(60);

/// The request could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("failed to sign a token for EKS")]
pub(super) struct TokenError(#[source] Box<dyn std::error::Error + Send + Sync>);

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
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(at)
        .settings(settings)
        .build()
        .map_err(|error| TokenError(error.into()))?
        .into();
    let host = format!("sts.{region}.{}", domain(region));
    let mut url = format!("https://{host}/?Action=GetCallerIdentity&Version=2011-06-15");
    let headers = [("host", host.as_str()), (CLUSTER_HEADER, cluster.as_str())];
    let request = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| TokenError(error.into()))?;
    let (instructions, _) = sign(request, &params).map_err(|error| TokenError(error.into()))?.into_parts();
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

    /// Made by the AWS CLI's library; tests/infra makes them again and compares.
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
    fn a_token_equals_the_one_of_the_aws_cli() {
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
