//! A cluster's API server, with the endpoint, certificate authority and token from EKS.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use aws_config::SdkConfig;
use aws_sdk_eks::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_sdk_sts::config::{ProvideCredentials, SharedCredentialsProvider};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    drain::{Evicted, Node, Pod, PodId},
    ident::{ClusterName, NodeName},
};
use nodemend_ports::{
    cause::Cause,
    clock::Clock,
    kubernetes::{Kubernetes, KubernetesError},
};

use super::{
    client::{Answer, Api, ClientSettings, escaped, unusable},
    token::token,
    wire,
};
use crate::error::cause;

/// EKS accepts a token for 15 minutes.
const TOKEN_AGE: SignedDuration = SignedDuration::from_mins(10);
/// A page of pods is a few MiB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// More pods than most nodes have.
const PODS_A_PAGE: usize = 250;
/// EKS allows at most 737 pods on a node, plus finished ones.
const MAX_PAGES: usize = 40;

/// One EKS cluster. Endpoint, certificate authority and token are renewed every 10 minutes.
pub struct EksCluster<K> {
    eks: aws_sdk_eks::Client,
    credentials: SharedCredentialsProvider,
    region: String,
    cluster: ClusterName,
    clock: K,
    session: std::sync::Mutex<Option<(Timestamp, Arc<Api>)>>,
}

impl<K> fmt::Debug for EksCluster<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EksCluster").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// A request's body with its content type.
type Body = Option<(&'static str, serde_json::Value)>;

impl<K: Clock> EksCluster<K> {
    /// A cluster, whose endpoint is read from EKS at the first request.
    pub fn new(shared: &SdkConfig, cluster: ClusterName, clock: K) -> Result<Self, KubernetesError> {
        let missing = |what: &str| KubernetesError::Denied(format!("the environment has no {what}").into());
        Ok(Self {
            eks: aws_sdk_eks::Client::new(shared),
            credentials: shared.credentials_provider().ok_or_else(|| missing("credentials"))?,
            region: shared.region().ok_or_else(|| missing("region"))?.to_string(),
            cluster,
            clock,
            session: std::sync::Mutex::default(),
        })
    }

    async fn session(&self) -> Result<Arc<Api>, KubernetesError> {
        let now = self.clock.now();
        let known = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((made, api)) = known
            && now.duration_since(made) < TOKEN_AGE
        {
            return Ok(api);
        }
        let api = Arc::new(self.connect(now).await?);
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, api.clone()));
        Ok(api)
    }

    async fn connect(&self, now: Timestamp) -> Result<Api, KubernetesError> {
        let settings = ClientSettings {
            user_agent: concat!("nodemend-drain/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_answer: MAX_ANSWER,
            gzip: false,
        };
        connect(&self.eks, &self.credentials, &self.region, &self.cluster, now, settings).await
    }

    /// Sends a request, and repeats it once with a new token after 401.
    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Answer, KubernetesError> {
        let answer = self.session().await?.send(method.clone(), path, body.clone()).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.session().await?.send(method, path, body).await
    }
}

/// A client of a cluster, with the endpoint and certificate authority that EKS has of it, and a new token.
pub(super) async fn connect(
    eks: &aws_sdk_eks::Client,
    credentials: &SharedCredentialsProvider,
    region: &str,
    cluster: &ClusterName,
    now: Timestamp,
    settings: ClientSettings,
) -> Result<Api, KubernetesError> {
    let answer = eks.describe_cluster().name(cluster.as_str()).send().await.map_err(rejected)?;
    let described = answer.cluster();
    let endpoint = described.and_then(|described| described.endpoint());
    let authority = described.and_then(|described| described.certificate_authority()?.data());
    let (Some(endpoint), Some(authority)) = (endpoint, authority) else {
        return Err(KubernetesError::Broken("EKS returned no endpoint or no certificate authority".into()));
    };
    let authority = BASE64_STANDARD.decode(authority).map_err(unusable)?;
    let credentials = credentials.provide_credentials().await;
    let credentials = credentials.map_err(|error| KubernetesError::Unavailable(Cause::new(error)))?;
    let token = token(&credentials, region, cluster, now)
        .map_err(|error| KubernetesError::Broken(Cause::new(error)))?;
    Api::new(endpoint, &authority, token, settings)
}

impl<K: Clock> Kubernetes for EksCluster<K> {
    async fn node(&self, name: &NodeName) -> Result<Option<Node>, KubernetesError> {
        let answer = self.send(Method::GET, &format!("/api/v1/nodes/{name}"), None).await?;
        match answer.status {
            404 => Ok(None),
            200 => wire::node(&answer.body).map(Some).map_err(unreadable),
            _ => Err(failed(&answer)),
        }
    }

    async fn cordon(&self, name: &NodeName) -> Result<(), KubernetesError> {
        let body = Some(("application/merge-patch+json", wire::cordoned()));
        let answer = self.send(Method::PATCH, &format!("/api/v1/nodes/{name}"), body).await?;
        match answer.status {
            200 | 404 => Ok(()),
            _ => Err(failed(&answer)),
        }
    }

    async fn pods(&self, name: &NodeName) -> Result<Vec<Pod>, KubernetesError> {
        let mut all = Vec::new();
        let first = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}&limit={PODS_A_PAGE}");
        let mut path = first.clone();
        for _ in 0..MAX_PAGES {
            let answer = self.send(Method::GET, &path, None).await?;
            if answer.status != 200 {
                return Err(failed(&answer));
            }
            let (mut pods, more) = wire::pods(&answer.body).map_err(unreadable)?;
            all.append(&mut pods);
            let Some(more) = more else { return Ok(all) };
            path = format!("{first}&continue={}", escaped(&more));
        }
        Err(KubernetesError::Broken(format!("the node's pods are more than {MAX_PAGES} pages").into()))
    }

    async fn evict(&self, pod: &PodId) -> Result<Evicted, KubernetesError> {
        let PodId { namespace, name, .. } = pod;
        if !is_name(namespace) || !is_name(name) {
            return Ok(Evicted::Never("its name is not a valid Kubernetes name".to_owned()));
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let answer = self.send(Method::POST, &path, Some(("application/json", wire::eviction(pod)))).await?;
        let evicted = wire::evicted(answer.status, &answer.body, answer.retry_after);
        evicted.ok_or_else(|| failed(&answer))
    }
}

/// Whether a name can be part of a path.
fn is_name(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.bytes().all(valid) && !text.starts_with('.')
}

fn failed(answer: &Answer) -> KubernetesError {
    let message = Cause::new(wire::message(answer.status, &answer.body));
    match answer.status {
        401 | 403 => KubernetesError::Denied(message),
        400..=499 if answer.status != 429 && answer.status != 410 => KubernetesError::Broken(message),
        _ => KubernetesError::Unavailable(message),
    }
}

fn unreadable(error: serde_json::Error) -> KubernetesError {
    KubernetesError::Broken(Cause::new(error))
}

fn rejected<E>(error: SdkError<E, HttpResponse>) -> KubernetesError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.code() {
        Some("AccessDeniedException" | "ResourceNotFoundException") => KubernetesError::Denied(cause(error)),
        _ => KubernetesError::Unavailable(cause(error)),
    }
}
