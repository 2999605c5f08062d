//! Turns the state of a node's storage into changes: one probe for each thing that is read.

mod delays;
mod ebs;
mod inodes;
mod pressure;
mod readonly;

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{NotCheckable, Probe};

/// Files of procfs and sysfs that hold a line or two.
const MAX_SMALL: u64 = 4096;

/// All probes of storage.
pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(readonly::Readonly::new(root)),
        Box::new(inodes::Inodes::new(root)),
        Box::new(pressure::Pressure::new(root)),
        Box::new(delays::Delays::new(root)),
        Box::new(ebs::Volumes::new(root)),
    ]
}

fn not_checkable(why: impl Into<Cow<'static, str>>) -> NotCheckable {
    NotCheckable { why: why.into() }
}

/// What a file of procfs or sysfs says.
fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SMALL).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nodemend_domain::{catalogue, condition::ConditionType};

    use super::*;

    #[test]
    fn every_reason_is_storages_in_the_catalogue_and_every_name_is_given_once() {
        let probes = probes(Path::new("/"));
        for reason in probes.iter().flat_map(|probe| probe.reasons()) {
            let found = catalogue::lookup(reason).expect("a catalogued reason");
            assert_eq!(found.condition, ConditionType::StorageReady, "{reason}");
        }
        let names: BTreeSet<_> = probes.iter().map(|probe| probe.name()).collect();
        assert_eq!(names.len(), probes.len());
    }
}
