//! Tells beside the work, never before it: puts go on in tasks of their own while the next call is made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use nodemend_domain::{ident::ClusterName, repair_event::RepairEvent};
use nodemend_ports::{
    clock::Clock,
    notify::{EventBus, Notification, PublishFailure, tell},
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    clock::SystemClock,
    telemetry::{self, Metric},
};

/// Tells what happens during one invocation.
#[derive(Debug)]
pub struct EventPublisher<B> {
    /// None where nobody wants to be told.
    bus: Option<Arc<B>>,
    /// So long after it was heard of, what could not be told is left. It bounds what an invocation's end waits for.
    time: SignedDuration,
    tasks: JoinSet<()>,
}

impl<B: EventBus + 'static> EventPublisher<B> {
    /// One that tells on this bus, or nobody, and has so long for it.
    pub fn new(bus: Option<Arc<B>>, time: SignedDuration) -> Self {
        Self { bus, time, tasks: JoinSet::new() }
    }

    /// Begins to tell, and returns at once.
    pub fn tell(&mut self, repair_events: &[RepairEvent]) {
        let Some(bus) = self.bus.clone() else { return };
        let mut by_cluster: BTreeMap<ClusterName, Vec<Notification>> = BTreeMap::new();
        for repair_event in repair_events {
            if let Some(notification) = Notification::of(repair_event) {
                by_cluster.entry(repair_event.cluster.clone()).or_default().push(notification);
            }
        }
        let until = SystemClock.now() + self.time;
        for (cluster, notifications) in by_cluster {
            let bus = bus.clone();
            self.tasks.spawn(async move {
                let untold = tell(&*bus, notifications, &SystemClock, until, pause).await;
                count(&cluster, &untold);
            });
        }
    }

    /// Waits for what is being told. It takes no longer than the time to tell and one put.
    pub async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn pause(wait: Duration) {
    tokio::time::sleep(wait).await;
}

fn count(cluster: &ClusterName, untold: &[PublishFailure]) {
    for PublishFailure { notification, why } in untold {
        telemetry::log(&json!({ "untold": { "detailType": notification.detail_type, "why": why } }));
    }
    if !untold.is_empty() {
        telemetry::measured(
            SystemClock.now(),
            Some(cluster),
            &[(Metric::PublishFailure, untold.len() as u64)],
        );
    }
}
