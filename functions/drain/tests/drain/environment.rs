//! The environment of a drain: an instance, its lifecycle hook, its node and its pods, on a clock that the test sets.

use std::sync::{Arc, Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use nodemend_ports::clock::{Clock, VirtualClock};

pub(crate) const CLUSTER: &str = "prod";
pub(crate) const GROUP: &str = "workers";
pub(crate) const HOOK: &str = "nodemend-drain";
pub(crate) const TOKEN: &str = "71514b9d-6a40-4b26-8523-05e7ee35fa40";
pub(crate) const INSTANCE: &str = "i-0ab76e62066c9730c";
pub(crate) const NODE: &str = "ip-10-0-1-23.eu-west-1.compute.internal";

/// A pod of the node.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) uid: String,
    pub(crate) controller: Option<&'static str>,
    pub(crate) mirror: bool,
    pub(crate) phase: &'static str,
    /// How long it takes to terminate.
    pub(crate) ends_in: SignedDuration,
    pub(crate) deleted: Option<Timestamp>,
    /// Until then, its disruption budget allows no eviction.
    pub(crate) budget_blocks_until: Option<Timestamp>,
    /// Evicting it is forbidden.
    pub(crate) forbidden: bool,
}

pub(crate) fn pod(name: &'static str) -> Pod {
    Pod {
        name,
        uid: format!("uid-of-{name}"),
        controller: Some("ReplicaSet"),
        mirror: false,
        phase: "Running",
        ends_in: SignedDuration::from_secs(5),
        deleted: None,
        budget_blocks_until: None,
        forbidden: false,
    }
}

#[derive(Debug)]
pub(crate) struct State {
    // Auto Scaling and EC2.
    /// The key of the group's tag; empty if there is no such group.
    pub(crate) tag: String,
    pub(crate) heartbeats_refused: bool,
    pub(crate) held: bool,
    pub(crate) heartbeats: Vec<Timestamp>,
    pub(crate) completions: Vec<Timestamp>,
    /// How many requests to complete the hook are throttled first.
    pub(crate) throttled: usize,
    pub(crate) private_name: String,
    // The cluster.
    pub(crate) provider_id: String,
    pub(crate) node_exists: bool,
    pub(crate) ready: &'static str,
    /// From then on, the node is not ready.
    pub(crate) not_ready_from: Option<Timestamp>,
    pub(crate) cordoned: Option<Timestamp>,
    pub(crate) pods: Vec<Pod>,
    /// Each requested eviction, and the status of its answer.
    pub(crate) evictions: Vec<(String, u16)>,
    pub(crate) tokens: Vec<String>,
    /// Until then, the API server answers 503.
    pub(crate) unavailable_until: Option<Timestamp>,
    /// How many requests are answered with 401 first.
    pub(crate) rejected_tokens: usize,
    /// Every request is answered with 403.
    pub(crate) denied: bool,
    pub(crate) pods_a_page: usize,
    pub(crate) requests: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) clock: VirtualClock,
    state: Arc<Mutex<State>>,
}

pub(crate) fn began() -> Timestamp {
    "2026-08-20T09:55:00Z".parse().expect("a time")
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    began() + SignedDuration::from_secs(seconds)
}

impl Environment {
    pub(crate) fn new(pods: Vec<Pod>) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(began());
        let state = State {
            tag: format!("kubernetes.io/cluster/{CLUSTER}"),
            heartbeats_refused: false,
            held: true,
            heartbeats: Vec::new(),
            completions: Vec::new(),
            throttled: 0,
            private_name: NODE.to_owned(),
            provider_id: format!("aws:///eu-west-1a/{INSTANCE}"),
            node_exists: true,
            ready: "True",
            not_ready_from: None,
            cordoned: None,
            pods,
            evictions: Vec::new(),
            tokens: Vec::new(),
            unavailable_until: None,
            rejected_tokens: 0,
            denied: false,
            pods_a_page: 250,
            requests: Vec::new(),
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.state());
        self
    }

    /// The state now: terminated pods are gone.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let now = self.clock.now();
        let mut state = self.state.lock().expect("the state");
        state.pods.retain(|pod| pod.deleted.is_none_or(|deleted| deleted + pod.ends_in > now));
        state
    }

    /// EventBridge's event about the lifecycle hook.
    pub(crate) fn event(&self) -> String {
        event(HOOK, began())
    }
}

pub(crate) fn event(hook: &str, at: Timestamp) -> String {
    let event = serde_json::json!({
        "version": "0",
        "id": "12345678-1234-1234-1234-123456789012",
        "detail-type": "EC2 Instance-terminate Lifecycle Action",
        "source": "aws.autoscaling",
        "account": "123456789012",
        "time": at.to_string(),
        "region": "eu-west-1",
        "resources": [],
        "detail": {
            "LifecycleActionToken": TOKEN,
            "AutoScalingGroupName": GROUP,
            "LifecycleHookName": hook,
            "EC2InstanceId": INSTANCE,
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "Origin": "AutoScalingGroup",
            "Destination": "EC2"
        }
    });
    event.to_string()
}
