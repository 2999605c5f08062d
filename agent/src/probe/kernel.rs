//! Probes of the kernel's own counters.
//!
//! They need no tool and no daemon: they read small files under the host's `/proc` and `/sys`, and make one system
//! call.

mod adjtimex;
mod clock;
mod conntrack;
mod environment;
mod files;
mod memory;
mod pods;
mod process;
mod tasks;
mod usage;
mod zombies;

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

use super::{NotCheckable, Probe, not_checkable};

/// No file with a few numbers is longer, in bytes.
const SHORT: u64 = 4096;

pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(tasks::Tasks::new(root)),
        Box::new(files::OpenFiles::new(root)),
        Box::new(conntrack::ConnectionTable::new(root)),
        Box::new(pods::PodPids::new(root)),
        Box::new(zombies::Zombies::new(root)),
        Box::new(environment::Environments::new(root)),
        Box::new(clock::ClockProbe::default()),
        Box::new(memory::MemoryErrors::new(root)),
    ]
}

/// Reads a short file.
fn short(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SHORT).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads and parses a short file under the root.
fn parsed<T>(root: &Path, path: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, NotCheckable> {
    let text = short(&root.join(path)).map_err(|error| unreadable(path, &error))?;
    parse(&text).ok_or_else(|| not_checkable(format!("/{path} has an unknown format")))
}

/// Reads a file under the root that contains one number.
fn number(root: &Path, path: &str) -> Result<u64, NotCheckable> {
    parsed(root, path, |text| text.trim_ascii().parse().ok())
}

fn unreadable(path: &str, error: &io::Error) -> NotCheckable {
    match error.kind() {
        ErrorKind::NotFound => not_checkable(format!("there is no /{path}")),
        _ => not_checkable(format!("/{path} cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
