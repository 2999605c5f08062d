//! A cluster's API server, found and entered through EKS.

use std::{
    fmt,
    sync::{Arc, PoisonError},
};

use aws_config::SdkConfig;
use aws_sdk_eks::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::config::{ProvideCredentials, SharedCredentialsProvider};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    drain::{Evicted, Node, Pod, PodId},
    ident::{ClusterName, NodeName},
};
use nodemend_ports::{
    clock::Clock,
    kubernetes::{Kubernetes, KubernetesError},
};

use super::{
    client::{Answer, Api, escaped},
    token::token,
    wire,
};

/// EKS takes a token for 15 minutes.
const TOKEN_AGE: SignedDuration = SignedDuration::from_mins(10);
/// More pods a page than most nodes have.
const PODS_A_PAGE: usize = 250;
/// EKS allows a node 737 pods at most; finished ones come on top.
const MAX_PAGES: usize = 40;

/// One EKS cluster. Its endpoint, its authority and a token are asked for anew every ten minutes.
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

/// What was sent as what.
type Body = Option<(&'static str, serde_json::Value)>;

impl<K: Clock> EksCluster<K> {
    /// A cluster that is looked up when it is needed first.
    pub fn new(shared: &SdkConfig, cluster: ClusterName, clock: K) -> Result<Self, KubernetesError> {
        let missing = |what: &str| KubernetesError::Denied(format!("the environment has no {what}"));
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
        let api = Arc::new(self.record_step(now).await?);
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, api.clone()));
        Ok(api)
    }

    async fn record_step(&self, now: Timestamp) -> Result<Api, KubernetesError> {
        let answer = self.eks.describe_cluster().name(self.cluster.as_str()).send().await.map_err(refused)?;
        let cluster = answer.cluster();
        let endpoint = cluster.and_then(|cluster| cluster.endpoint());
        let authority = cluster.and_then(|cluster| cluster.certificate_authority()?.data());
        let (Some(endpoint), Some(authority)) = (endpoint, authority) else {
            return Err(KubernetesError::Broken("EKS names no endpoint or no authority".to_owned()));
        };
        let authority = BASE64_STANDARD
            .decode(authority)
            .map_err(|error| KubernetesError::Broken(format!("the cluster's authority: {error}")))?;
        let credentials = self.credentials.provide_credentials().await;
        let credentials = credentials.map_err(|error| KubernetesError::Unavailable(error.to_string()))?;
        let token = token(&credentials, &self.region, &self.cluster, now)
            .map_err(|error| KubernetesError::Broken(error.to_string()))?;
        Api::new(endpoint, &authority, token)
    }

    /// Sends a request; once more with a new token where the old one was not taken.
    async fn ask(&self, method: Method, path: &str, body: Body) -> Result<Answer, KubernetesError> {
        let answer = self.session().await?.send(method.clone(), path, body.clone()).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.session().await?.send(method, path, body).await
    }
}

impl<K: Clock> Kubernetes for EksCluster<K> {
    async fn node(&self, name: &NodeName) -> Result<Option<Node>, KubernetesError> {
        let answer = self.ask(Method::GET, &format!("/api/v1/nodes/{name}"), None).await?;
        match answer.status {
            404 => Ok(None),
            200 => wire::node(&answer.body).map(Some).map_err(|error| unreadable(&error)),
            _ => Err(unanswered(&answer)),
        }
    }

    async fn cordon(&self, name: &NodeName) -> Result<(), KubernetesError> {
        let body = Some(("application/merge-patch+json", wire::cordoned()));
        let answer = self.ask(Method::PATCH, &format!("/api/v1/nodes/{name}"), body).await?;
        match answer.status {
            200 | 404 => Ok(()),
            _ => Err(unanswered(&answer)),
        }
    }

    async fn pods(&self, name: &NodeName) -> Result<Vec<Pod>, KubernetesError> {
        let mut all = Vec::new();
        let first = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}&limit={PODS_A_PAGE}");
        let mut path = first.clone();
        for _ in 0..MAX_PAGES {
            let answer = self.ask(Method::GET, &path, None).await?;
            if answer.status != 200 {
                return Err(unanswered(&answer));
            }
            let (mut pods, more) = wire::pods(&answer.body).map_err(|error| unreadable(&error))?;
            all.append(&mut pods);
            let Some(more) = more else { return Ok(all) };
            path = format!("{first}&continue={}", escaped(&more));
        }
        Err(KubernetesError::Broken(format!("the node's pods are more than {MAX_PAGES} pages")))
    }

    async fn evict(&self, pod: &PodId) -> Result<Evicted, KubernetesError> {
        let PodId { namespace, name, .. } = pod;
        if !is_name(namespace) || !is_name(name) {
            return Ok(Evicted::Never("its name is none of Kubernetes'".to_owned()));
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let answer = self.ask(Method::POST, &path, Some(("application/json", wire::eviction(pod)))).await?;
        let evicted = wire::evicted(answer.status, &answer.body, answer.retry_after);
        evicted.ok_or_else(|| unanswered(&answer))
    }
}

/// Whether it may stand in a path.
fn is_name(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.bytes().all(sound) && !text.starts_with('.')
}

fn unanswered(answer: &Answer) -> KubernetesError {
    let message = wire::message(answer.status, &answer.body);
    match answer.status {
        401 | 403 => KubernetesError::Denied(message),
        400..=499 if answer.status != 429 && answer.status != 410 => KubernetesError::Broken(message),
        _ => KubernetesError::Unavailable(message),
    }
}

fn unreadable(error: &serde_json::Error) -> KubernetesError {
    KubernetesError::Broken(error.to_string())
}

fn refused<E: ProvideErrorMetadata + std::error::Error + 'static>(error: SdkError<E>) -> KubernetesError {
    let told = format!("{}: {}", error.code().unwrap_or("NoAnswer"), error.message().unwrap_or_default());
    match error.code() {
        Some("AccessDeniedException" | "ResourceNotFoundException") => KubernetesError::Denied(told),
        _ => KubernetesError::Unavailable(told),
    }
}
