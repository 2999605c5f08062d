//! Turns the kernel's list of interfaces into those that are down.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use super::not_checkable;
use crate::{
    detect::interface::{self, Health},
    finding::{Change, Debounce},
    probe::{
        NotCheckable, Probe,
        standing::{Judged, Standing},
    },
    source::netlink::route,
};

const NOT_UP: &str = "InterfaceNotUp";
const NOT_RUNNING: &str = "InterfaceNotRunning";
const NO_LOOPBACK: &str = "MissingLoopbackInterface";

/// With the jitter of a tenth, two readings see within a minute what goes down.
const INTERVAL: Duration = Duration::from_secs(27);
/// A network plugin sets its interfaces up within moments of making them; what is still down at the next reading is
/// not on its way up.
const TWICE: Debounce = Debounce::Times { count: 2, window: SignedDuration::from_secs(75) };

pub(super) struct Interfaces {
    excluded: Vec<Regex>,
    standing: Standing,
}

impl Interfaces {
    pub(super) fn new(excluded: Vec<Regex>) -> Self {
        Self { excluded, standing: Standing::default() }
    }
}

impl Probe for Interfaces {
    fn name(&self) -> &'static str {
        "interfaces"
    }

    fn reasons(&self) -> &'static [&'static str] {
        &[NOT_UP, NOT_RUNNING, NO_LOOPBACK]
    }

    fn interval(&self) -> Duration {
        INTERVAL
    }

    fn read(&mut self, now: Timestamp) -> Result<Vec<Change>, NotCheckable> {
        let links = route::links().map_err(|error| not_checkable(error.clause()))?;
        let mut judged = vec![Judged::well(NOT_UP), Judged::well(NOT_RUNNING)];
        for (link, health) in interface::judge(&links, &self.excluded) {
            let about = |reason, wrong: Option<&str>| {
                let message = wrong.map(|wrong| format!("interface {} {wrong}", link.name));
                Judged::when(reason, message).about(&link.name).after(TWICE)
            };
            judged.push(about(NOT_UP, (health == Health::NotUp).then_some("is not up")));
            judged.push(about(
                NOT_RUNNING,
                (health == Health::NotRunning).then_some("is up and has no carrier"),
            ));
        }
        let loopback = (!interface::has_loopback(&links)).then(|| "no loopback interface is up".to_owned());
        judged.push(Judged::when(NO_LOOPBACK, loopback).after(TWICE));
        Ok(self.standing.update(judged, now))
    }
}
