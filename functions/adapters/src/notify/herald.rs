//! Tells beside the work, never before it: puts go on in tasks of their own while the next call is made.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use nodemend_domain::{ident::ClusterName, occurrence::Occurrence};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Bus, Notification, Untold, tell};
use crate::{
    clock::{Clock, SystemClock},
    telemetry::{self, Metric},
};

/// Tells what happens during one invocation.
#[derive(Debug)]
pub struct Herald<B> {
    /// None where nobody wants to be told.
    bus: Option<Arc<B>>,
    /// So long after it was heard of, what could not be told is left. It bounds what an invocation's end waits for.
    time: SignedDuration,
    tasks: JoinSet<()>,
}

impl<B: Bus + 'static> Herald<B> {
    /// One that tells on this bus, or nobody, and has so long for it.
    pub fn new(bus: Option<Arc<B>>, time: SignedDuration) -> Self {
        Self { bus, time, tasks: JoinSet::new() }
    }

    /// Begins to tell, and returns at once.
    pub fn tell(&mut self, occurrences: &[Occurrence]) {
        let Some(bus) = self.bus.clone() else { return };
        let mut by_cluster: BTreeMap<ClusterName, Vec<Notification>> = BTreeMap::new();
        for occurrence in occurrences {
            if let Some(notification) = Notification::of(occurrence) {
                by_cluster.entry(occurrence.cluster.clone()).or_default().push(notification);
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

fn count(cluster: &ClusterName, untold: &[Untold]) {
    for Untold { notification, why } in untold {
        telemetry::log(&json!({ "untold": { "detailType": notification.detail_type, "why": why } }));
    }
    if !untold.is_empty() {
        telemetry::measured(SystemClock.now(), Some(cluster), &[(Metric::Untold, untold.len() as u64)]);
    }
}
