//! Turns real, published and constructed CloudTrail events into facts about the trail.

use std::{fs, path::PathBuf};

use super::*;

pub(super) fn text(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/cloudtrail").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn event(name: &str) -> CloudTrailEvent {
    CloudTrailEvent::read(&text(name)).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}
