//! What is so while a node is drained: one instance, its hook, its node and its pods, on one clock that tests set.

use std::sync::{Arc, Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use nodemend_ports::clock::{Clock, VirtualClock};

pub(crate) const CLUSTER: &str = "prod";
pub(crate) const GROUP: &str = "workers";
pub(crate) const HOOK: &str = "nodemend-drain";
pub(crate) const TOKEN: &str = "71514b9d-6a40-4b26-8523-05e7ee35fa40";
pub(crate) const INSTANCE: &str = "i-0ab76e62066c9730c";
pub(crate) const NODE: &str = "ip-10-0-1-23.eu-west-1.compute.internal";

/// A pod, as the cluster knows it.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) uid: String,
    pub(crate) controller: Option<&'static str>,
    pub(crate) mirror: bool,
    pub(crate) phase: &'static str,
    /// How long it takes to end.
    pub(crate) ends_in: SignedDuration,
    pub(crate) deleted: Option<Timestamp>,
    /// Until then its budget allows no eviction.
    pub(crate) guarded_until: Option<Timestamp>,
    /// Nobody lets us evict it.
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
        guarded_until: None,
        forbidden: false,
    }
}

#[derive(Debug)]
pub(crate) struct State {
    // Auto Scaling and EC2.
    /// Of the group; none where there is no such group.
    pub(crate) tag: String,
    /// Heartbeats are refused.
    pub(crate) deaf: bool,
    pub(crate) held: bool,
    pub(crate) beats: Vec<Timestamp>,
    pub(crate) completions: Vec<Timestamp>,
    /// So many requests to complete are throttled first.
    pub(crate) throttled: usize,
    pub(crate) private_name: String,
    // The cluster.
    pub(crate) provider_id: String,
    pub(crate) there: bool,
    pub(crate) ready: &'static str,
    /// From then on the kubelet is dead.
    pub(crate) dies_at: Option<Timestamp>,
    pub(crate) cordoned: Option<Timestamp>,
    pub(crate) pods: Vec<Pod>,
    /// Every eviction that was asked for, and its status.
    pub(crate) evictions: Vec<(String, u16)>,
    pub(crate) tokens: Vec<String>,
    /// Until then the API server answers 503.
    pub(crate) down_until: Option<Timestamp>,
    /// How many requests are answered with 401 first.
    pub(crate) strangers: usize,
    /// Nothing is allowed.
    pub(crate) denied: bool,
    pub(crate) pods_a_page: usize,
    pub(crate) requests: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: VirtualClock,
    state: Arc<Mutex<State>>,
}

pub(crate) fn began() -> Timestamp {
    "2026-08-20T09:55:00Z".parse().expect("a time")
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    began() + SignedDuration::from_secs(seconds)
}

impl World {
    pub(crate) fn new(pods: Vec<Pod>) -> Self {
        let clock = VirtualClock::default();
        clock.advance_to(began());
        let state = State {
            tag: format!("kubernetes.io/cluster/{CLUSTER}"),
            deaf: false,
            held: true,
            beats: Vec::new(),
            completions: Vec::new(),
            throttled: 0,
            private_name: NODE.to_owned(),
            provider_id: format!("aws:///eu-west-1a/{INSTANCE}"),
            there: true,
            ready: "True",
            dies_at: None,
            cordoned: None,
            pods,
            evictions: Vec::new(),
            tokens: Vec::new(),
            down_until: None,
            strangers: 0,
            denied: false,
            pods_a_page: 250,
            requests: Vec::new(),
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.now());
        self
    }

    /// What is so now: pods whose time is up are gone.
    pub(crate) fn now(&self) -> MutexGuard<'_, State> {
        let now = self.clock.now();
        let mut state = self.state.lock().expect("the state");
        state.pods.retain(|pod| pod.deleted.is_none_or(|deleted| deleted + pod.ends_in > now));
        state
    }

    /// The event that EventBridge tells of the hook with.
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
