//! Turns how far the reading is into one line that is drawn over itself.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

const WIDTH: usize = 30;

/// A bar on a terminal.
pub(super) struct Bar(());

impl Bar {
    /// A bar, if anybody can see it.
    pub(super) fn on_terminal() -> Option<Self> {
        io::stderr().is_terminal().then_some(Self(()))
    }

    pub(super) fn draw(&mut self, part: f64, unpacked: u64, took: Duration) {
        let _ = write!(io::stderr().lock(), "\r{}\u{1b}[K", line(part, unpacked, took));
    }

    pub(super) fn clear(self) {
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
    }
}

fn line(part: f64, unpacked: u64, took: Duration) -> String {
    let part = part.clamp(0.0, 1.0);
    let full = (part * WIDTH as f64) as usize;
    let seconds = took.as_secs_f64();
    let left = if part > 0.0 { seconds / part - seconds } else { 0.0 };
    format!(
        "reading [{}{}] {:3.0} %  {}  {}/s  {left:.0} s left",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        part * 100.0,
        bytes(unpacked),
        bytes((unpacked as f64 / seconds.max(0.001)) as u64),
    )
}

/// `512 B`, `3.4 MB`, `12 GB`: powers of ten, as disks and networks are sold.
pub(super) fn bytes(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let number = bytes as f64 / unit;
    if number < 10.0 { format!("{number:.1} {name}") } else { format!("{number:.0} {name}") }
}

/// The most memory that this process has had, where the system tells.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_how_far_and_how_fast() {
        assert_eq!(
            line(0.5, 3_400_000_000, Duration::from_secs(10)),
            "reading [###############...............]  50 %  3.4 GB  340 MB/s  10 s left"
        );
        assert_eq!(bytes(999), "999 B");
    }
}
