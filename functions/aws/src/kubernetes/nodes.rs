//! Reads Node objects from the API servers of EKS clusters: one by its name, or all of a cluster.
//!
//! - A read takes at most five seconds with everything that it needs: verification blocks a repair rather than waiting.
//! - An endpoint that cannot be reached delays one read, not each one: the others fail at once for a while, so that the
//!   faults of that cluster are verified in its log groups in time.
//! - Only an answer of the API server itself shows that a Node does not exist. Every other answer is an error.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_sts::config::SharedCredentialsProvider;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Consistency,
    ident::{ClusterName, NodeName},
    node_snapshot::{NodeSnapshot, NodeSnapshotError},
};
use nodemend_ports::{
    cause::Cause, clock::Clock, cluster_reader::ReadError, config::environment::ClusterAccess,
    kubernetes::KubernetesError,
};

use super::{
    client::{Answer, Api, ClientSettings},
    eks::connect,
    wire,
};
use crate::clock::SystemClock;

/// The timeout of a read with everything that it needs: DescribeCluster, the connection, the request, and one repetition
/// with a new token.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Endpoint, certificate authority and token are renewed together, which costs one DescribeCluster. EKS accepts a token for
/// 15 minutes.
const SESSION_AGE: SignedDuration = SignedDuration::from_mins(5);
/// For so long an endpoint that could not be reached is not tried again: a run can have hundreds of faults to verify, and
/// the next run tries again.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// A Node of a busy cluster is about 8 KiB of JSON (its images and labels), so 5,000 nodes, the most that Kubernetes supports,
/// are about 40 MiB. Twice this fits into the function's 256 MB, for the moment in which the buffer grows.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Reads the Nodes of the clusters of one account.
pub(crate) struct NodeReader {
    eks: aws_sdk_eks::Client,
    credentials: Option<SharedCredentialsProvider>,
    region: Option<String>,
    access: ClusterAccess,
    user_agent: String,
    sessions: Mutex<HashMap<ClusterName, (Timestamp, Arc<Api>)>>,
    /// The clusters whose endpoint could not be reached, when that was, and the error.
    unreachable: Mutex<HashMap<ClusterName, (Timestamp, ReadError)>>,
}

impl fmt::Debug for NodeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeReader").field("access", &self.access).finish_non_exhaustive()
    }
}

impl NodeReader {
    pub(crate) fn new(shared: &SdkConfig, access: ClusterAccess, user_agent: &str) -> Self {
        Self {
            eks: aws_sdk_eks::Client::new(shared),
            credentials: shared.credentials_provider(),
            region: shared.region().map(ToString::to_string),
            access,
            user_agent: user_agent.to_owned(),
            sessions: Mutex::default(),
            unreachable: Mutex::default(),
        }
    }

    /// The same reader with the credentials of another account.
    pub(crate) fn with_config(&self, shared: &SdkConfig) -> Self {
        Self::new(shared, self.access.clone(), &self.user_agent)
    }

    /// The error of a cluster whose API the deployment may not read.
    pub(crate) fn no_access(cluster: &ClusterName) -> ReadError {
        ReadError::NotConfigured(format!(
            "the deployment has no access to the Kubernetes API of cluster {cluster} (parameter ClusterAccess)"
        ))
    }

    /// The Node of this name, by a consistent read.
    pub(crate) async fn node(
        &self,
        cluster: &ClusterName,
        name: &NodeName,
    ) -> Result<Option<NodeSnapshot>, ReadError> {
        // Without resourceVersion the API server reads etcd; with resourceVersion=0 its cache, which may be behind.
        let answer = self.get(cluster, &format!("/api/v1/nodes/{name}")).await?;
        if answer.status == 404 && wire::is_not_found(&answer.body) {
            return Ok(None);
        }
        let answer = accepted(cluster, answer)?;
        let node = NodeSnapshot::read(&answer.body).map_err(|error| unreadable(cluster, error))?;
        if node.name != *name {
            return Err(unavailable(cluster, format!("the answer is Node {}, not {name}", node.name).into()));
        }
        Ok(Some(node))
    }

    /// All Nodes. Without `limit` the API server returns them in one answer.
    pub(crate) async fn nodes(
        &self,
        cluster: &ClusterName,
        consistency: Consistency,
    ) -> Result<Vec<NodeSnapshot>, ReadError> {
        let path = match consistency {
            Consistency::Latest => "/api/v1/nodes",
            Consistency::Cached => "/api/v1/nodes?resourceVersion=0",
        };
        let answer = accepted(cluster, self.get(cluster, path).await?)?;
        NodeSnapshot::read_list(&answer.body).map_err(|error| unreadable(cluster, error))
    }

    /// Sends a request, and repeats it once with a new token after 401.
    async fn get(&self, cluster: &ClusterName, path: &str) -> Result<Answer, ReadError> {
        if !self.access.includes(cluster) {
            return Err(Self::no_access(cluster));
        }
        if let Some(error) = self.recently_unreachable(cluster) {
            return Err(error);
        }
        let read = async {
            let answer = self.session(cluster).await?.send(Method::GET, path, None).await?;
            if answer.status != 401 {
                return Ok(answer);
            }
            self.forget(cluster);
            self.session(cluster).await?.send(Method::GET, path, None).await
        };
        let result = tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| {
            let seconds = READ_TIMEOUT.as_secs();
            Err(KubernetesError::Unavailable(format!("no answer within {seconds} s").into()))
        });
        result.map_err(|error| {
            // The endpoint may have changed: a cluster can be created again under its name.
            self.forget(cluster);
            match error {
                KubernetesError::Denied(source) => ReadError::Denied { what: api_of(cluster), source },
                KubernetesError::Unavailable(source) | KubernetesError::Broken(source) => {
                    unavailable(cluster, source)
                }
                KubernetesError::Unreachable(source) => {
                    let error = unavailable(cluster, source);
                    let known = (SystemClock.now(), error.clone());
                    self.unreachable().insert(cluster.clone(), known);
                    error
                }
            }
        })
    }

    fn recently_unreachable(&self, cluster: &ClusterName) -> Option<ReadError> {
        let (at, error) = self.unreachable().get(cluster).cloned()?;
        (SystemClock.now().duration_since(at) < RETRY_AFTER).then_some(error)
    }

    fn unreachable(&self) -> MutexGuard<'_, HashMap<ClusterName, (Timestamp, ReadError)>> {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn session(&self, cluster: &ClusterName) -> Result<Arc<Api>, KubernetesError> {
        let now = SystemClock.now();
        let known = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).get(cluster).cloned();
        if let Some((made, api)) = known
            && now.duration_since(made) < SESSION_AGE
        {
            return Ok(api);
        }
        let missing = |what: &str| KubernetesError::Denied(format!("the environment has no {what}").into());
        let credentials = self.credentials.as_ref().ok_or_else(|| missing("credentials"))?;
        let region = self.region.as_ref().ok_or_else(|| missing("region"))?;
        let settings =
            ClientSettings { user_agent: self.user_agent.clone(), max_answer: MAX_ANSWER, gzip: true };
        let api = Arc::new(connect(&self.eks, credentials, region, cluster, now, settings).await?);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(cluster.clone(), (now, api.clone()));
        Ok(api)
    }

    fn forget(&self, cluster: &ClusterName) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }
}

fn api_of(cluster: &ClusterName) -> String {
    format!("the Kubernetes API of cluster {cluster}")
}

fn unavailable(cluster: &ClusterName, source: Cause) -> ReadError {
    ReadError::Unavailable { what: api_of(cluster), source }
}

fn unreadable(cluster: &ClusterName, error: NodeSnapshotError) -> ReadError {
    unavailable(cluster, Cause::new(error))
}

/// An answer with a result; every other status is an error.
fn accepted(cluster: &ClusterName, answer: Answer) -> Result<Answer, ReadError> {
    if answer.status == 200 {
        return Ok(answer);
    }
    let what = api_of(cluster);
    let source = Cause::new(wire::message(answer.status, &answer.body));
    Err(match answer.status {
        401 | 403 => ReadError::Denied { what, source },
        429 => ReadError::Throttled { what, source },
        _ => ReadError::Unavailable { what, source },
    })
}
