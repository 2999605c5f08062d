//! Finds network interfaces that are down.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use super::not_checkable;
use crate::{
    detect::interface::{self, InterfaceState},
    finding::{Debounce, FindingChange},
    probe::{
        NotCheckable, Probe,
        latch::{ConditionLatch, Evaluation},
    },
    source::netlink::route,
};

const NOT_UP: &str = "InterfaceNotUp";
const NOT_RUNNING: &str = "InterfaceNotRunning";
const NO_LOOPBACK: &str = "MissingLoopbackInterface";

/// With 10 % jitter, two readings are still within one minute.
const INTERVAL: Duration = Duration::from_secs(27);
/// A network plugin sets its interfaces up right after it creates them; one that is still down at the next reading
/// has a problem.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(75) };

pub(super) struct InterfaceProbe {
    excluded: Vec<Regex>,
    latch: ConditionLatch,
}

impl InterfaceProbe {
    pub(super) fn new(excluded: Vec<Regex>) -> Self {
        Self { excluded, latch: ConditionLatch::default() }
    }
}

impl Probe for InterfaceProbe {
    fn name(&self) -> &'static str {
        "interfaces"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_UP, NOT_RUNNING, NO_LOOPBACK]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<FindingChange>, NotCheckable> {
        let links = route::links().map_err(|error| not_checkable(error.clause()))?;
        let mut evaluated = vec![Evaluation::healthy(NOT_UP), Evaluation::healthy(NOT_RUNNING)];
        for (link, state) in interface::evaluate(&links, &self.excluded) {
            let about = |reason, problem: Option<&str>| {
                let message = problem.map(|problem| format!("interface {} {problem}", link.name));
                Evaluation::new(reason, message).about(&link.name).after(TWICE)
            };
            evaluated.push(about(NOT_UP, (state == InterfaceState::NotUp).then_some("is not up")));
            evaluated.push(about(
                NOT_RUNNING,
                (state == InterfaceState::NotRunning).then_some("is up and has no carrier"),
            ));
        }
        let loopback = (!interface::has_loopback(&links)).then(|| "no loopback interface is up".to_owned());
        evaluated.push(Evaluation::new(NO_LOOPBACK, loopback).after(TWICE));
        Ok(self.latch.update(evaluated, now))
    }
}
