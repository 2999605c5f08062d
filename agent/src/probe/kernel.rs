//! Turns what the kernel counts of itself into changes: one probe for each thing that is read.
//!
//! Nothing here needs a tool or a daemon: small files under the host's `/proc` and `/sys`, and one system call.

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

/// No file that holds a few numbers is longer.
const SHORT: u64 = 4096;

/// All probes of the kernel.
pub fn probes(root: &Path) -> Vec<Box<dyn Probe>> {
    vec![
        Box::new(tasks::Tasks::new(root)),
        Box::new(files::OpenFiles::new(root)),
        Box::new(conntrack::ConnectionTable::new(root)),
        Box::new(pods::PodPids::new(root)),
        Box::new(zombies::Zombies::new(root)),
        Box::new(environment::Environments::new(root)),
        Box::new(clock::ClockState::default()),
        Box::new(memory::MemoryErrors::new(root)),
    ]
}

/// What a short file holds.
fn short(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SHORT).read_to_string(&mut text)?;
    Ok(text)
}

/// What a parser makes of a short file under the root.
fn parsed<T>(root: &Path, path: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, NotCheckable> {
    let text = short(&root.join(path)).map_err(|error| unreadable(path, &error))?;
    parse(&text).ok_or_else(|| not_checkable(format!("/{path} holds what nobody knows")))
}

/// The number that a file under the root holds.
fn number(root: &Path, path: &str) -> Result<u64, NotCheckable> {
    parsed(root, path, |text| text.trim_ascii().parse().ok())
}

fn unreadable(path: &str, error: &io::Error) -> NotCheckable {
    match error.kind() {
        ErrorKind::NotFound => not_checkable(format!("there is no /{path}")),
        _ => not_checkable(format!("/{path} can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
