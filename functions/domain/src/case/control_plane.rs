//! Turns what the control plane's audit log says into what its node's case knows.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Case, Condition, Found, MAX_CONDITIONS, News, Witness};
use crate::{
    clock::{Change, History},
    condition::{ConditionType, Health},
    ident::BootId,
    observation::{Deleter, Observation, ObservedCondition, Reporter, What},
    policy::Policy,
};

impl Case {
    /// Takes what the control plane's audit log says in.
    pub fn hear_observation(&mut self, observation: &Observation, policy: &Policy) -> Vec<News> {
        let mut news = Vec::new();
        let at = observation.at;
        if self.closed.is_some() {
            return news;
        }
        self.node.get_or_insert_with(|| observation.node.clone());
        if self.zone.is_none() {
            self.zone.clone_from(&observation.zone);
        }
        match &observation.what {
            What::Conditions { by, conditions } => {
                if *by == Reporter::Kubelet {
                    self.heard_kubelet = self.heard_kubelet.max(Some(at));
                    self.joined(at);
                }
                if let Some(boot_id) = &observation.boot_id {
                    self.hear_boot_id(boot_id, at, &mut news);
                }
                self.hear_conditions(conditions, at, policy, &mut news);
            }
            What::Registered { conditions } => {
                self.registered(at);
                self.registered = self.registered.max(Some(at));
                self.heard_kubelet = self.heard_kubelet.max(Some(at));
                self.departure.take_if(|departure| departure.at < at && !departure.foreign);
                for condition in &mut self.conditions {
                    if let Witness::ControlPlane(history) = &mut condition.witness {
                        history.restart(at);
                    }
                }
                news.push(News::Registered);
                // A kubelet registers before it is ready: that is no trouble to tell of.
                self.hear_conditions(conditions, at, policy, &mut Vec::new());
            }
            // A name comes again. What is older than this instance is the end of the one that had its name before.
            What::Deleted { .. } if self.came_after(at) => {}
            What::Deleted { by, user } => {
                news.push(News::Deleted { by: *by, user: user.clone() });
                match by {
                    // The instance may well be running: its node is missing, and that is its trouble.
                    Deleter::Manual => {
                        let gone = ObservedCondition {
                            condition: ConditionType::Ready,
                            health: Health::Bad,
                            reason: "NodeDeleted".to_owned(),
                            message: format!("{user} deleted the Node object"),
                        };
                        self.hear_conditions(&[gone], at, policy, &mut news);
                    }
                    Deleter::CloudController => {
                        self.depart(at, "the cloud controller found its instance gone".to_owned(), false);
                    }
                    Deleter::Karpenter => self.depart(at, "Karpenter removed it".to_owned(), false),
                    Deleter::Eks => self.depart(at, "EKS removed it".to_owned(), false),
                }
            }
        }
        news
    }

    fn hear_boot_id(&mut self, boot_id: &BootId, at: Timestamp, news: &mut Vec<News>) {
        let known = self.boot.as_ref().is_some_and(|boot| boot.id == *boot_id || boot.heard > at);
        if !known && !self.old_boots.contains(boot_id) {
            self.begin_boot(boot_id.clone(), at, None, news);
        }
    }

    fn hear_conditions(
        &mut self,
        conditions: &[ObservedCondition],
        at: Timestamp,
        policy: &Policy,
        news: &mut Vec<News>,
    ) {
        for observed in conditions {
            let place = self.conditions.iter().position(|known| {
                known.condition == observed.condition && matches!(known.witness, Witness::ControlPlane(_))
            });
            let place = match place {
                Some(place) => place,
                None if self.conditions.len() >= MAX_CONDITIONS => continue,
                None => {
                    let mut history = History::default();
                    if let Some(registered) = self.registered {
                        history.restart(registered);
                    }
                    self.conditions.push(Condition {
                        condition: observed.condition.clone(),
                        witness: Witness::ControlPlane(history),
                        findings: Arc::default(),
                    });
                    self.conditions.len() - 1
                }
            };
            let known = &mut self.conditions[place];
            let Witness::ControlPlane(history) = &mut known.witness else {
                continue;
            };
            let hold = policy.recovery_hold;
            let before = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            let change = Change { at, health: observed.health, reason: observed.reason.as_str().into() };
            let newest = !history.is_after(at);
            if !history.note(change, hold) {
                continue;
            }
            if newest && observed.health.is_bad() {
                let found = Found {
                    reason: observed.reason.as_str().into(),
                    message: observed.message.as_str().into(),
                };
                known.findings = Arc::new([found]);
            }
            let after = history.read(hold).is_some_and(|reading| reading.health.is_bad());
            if newest
                && observed.condition == ConditionType::Ready
                && observed.health == Health::Sound
                && let Some(arrival) = self.arrival.as_mut().filter(|arrival| arrival.ready.is_none())
            {
                arrival.ready = Some(at);
                news.push(News::Ready);
                continue;
            }
            match (before, after) {
                (false, true) => news.push(News::Trouble(observed.condition.clone())),
                (true, false) => news.push(News::Recovery(observed.condition.clone())),
                _ => {}
            }
        }
    }
}
