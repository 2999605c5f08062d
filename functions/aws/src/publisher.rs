//! Publishes repair events in background tasks, so that no call waits for EventBridge.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use nodemend_domain::{ident::ClusterName, repair_event::RepairEvent};
use nodemend_ports::{
    clock::Clock,
    notify::{EventBus, Notification, PublishFailure, publish},
};
use tokio::task::JoinSet;

use crate::{
    clock::SystemClock,
    telemetry::{self, Metric},
};

/// Publishes the repair events of one invocation.
#[derive(Debug)]
pub struct EventPublisher<B> {
    /// `None` if no event bus is configured.
    bus: Option<Arc<B>>,
    /// The time to publish an event. It limits how long the end of an invocation waits.
    timeout: SignedDuration,
    tasks: JoinSet<()>,
}

impl<B: EventBus + 'static> EventPublisher<B> {
    /// A publisher on this bus, or on none, with this time for each event.
    pub fn new(bus: Option<Arc<B>>, timeout: SignedDuration) -> Self {
        Self { bus, timeout, tasks: JoinSet::new() }
    }

    /// Starts to publish, and returns at once.
    pub fn publish(&mut self, repair_events: &[RepairEvent]) {
        let Some(bus) = self.bus.clone() else { return };
        let mut by_cluster: BTreeMap<ClusterName, Vec<Notification>> = BTreeMap::new();
        for repair_event in repair_events {
            if let Some(notification) = Notification::of(repair_event) {
                by_cluster.entry(repair_event.cluster.clone()).or_default().push(notification);
            }
        }
        let until = SystemClock.now() + self.timeout;
        for (cluster, notifications) in by_cluster {
            let bus = bus.clone();
            self.tasks.spawn(async move {
                let unpublished = publish(&*bus, notifications, &SystemClock, until, pause).await;
                report(&cluster, &unpublished);
            });
        }
    }

    /// Waits for the background tasks: at most the time to publish and one request.
    pub async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn pause(wait: Duration) {
    tokio::time::sleep(wait).await;
}

fn report(cluster: &ClusterName, unpublished: &[PublishFailure]) {
    unpublished.iter().for_each(telemetry::publish_failed);
    if !unpublished.is_empty() {
        telemetry::measured(
            SystemClock.now(),
            Some(cluster),
            &[(Metric::PublishFailure, unpublished.len() as u64)],
        );
    }
}
