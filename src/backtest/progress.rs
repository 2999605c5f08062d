//! Shows the progress of reading as one line on the terminal, and measures the peak memory.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use crate::output::bytes;

/// The width of the bar in characters.
const WIDTH: usize = 30;

/// A progress bar on stderr.
pub(super) struct ProgressBar(());

impl ProgressBar {
    /// A progress bar, if stderr is a terminal.
    pub(super) fn on_terminal() -> Option<Self> {
        io::stderr().is_terminal().then_some(Self(()))
    }

    pub(super) fn draw(&mut self, fraction: f64, bytes_read: u64, elapsed: Duration) {
        let _ = write!(io::stderr().lock(), "\r{}\u{1b}[K", line(fraction, bytes_read, elapsed));
    }

    pub(super) fn clear(self) {
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
    }
}

fn line(fraction: f64, bytes_read: u64, elapsed: Duration) -> String {
    let fraction = fraction.clamp(0.0, 1.0);
    let full = (fraction * WIDTH as f64) as usize;
    let seconds = elapsed.as_secs_f64();
    let left = if fraction > 0.0 { seconds / fraction - seconds } else { 0.0 };
    format!(
        "reading [{}{}] {:3.0} %  {}  {}/s  {left:.0} s left",
        "#".repeat(full),
        ".".repeat(WIDTH - full),
        fraction * 100.0,
        bytes(bytes_read),
        bytes((bytes_read as f64 / seconds.max(0.001)) as u64),
    )
}

/// The peak resident memory of this process in bytes, where the system reports it (Linux).
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_progress_speed_and_remaining_time() {
        assert_eq!(
            line(0.5, 3_400_000_000, Duration::from_secs(10)),
            "reading [###############...............]  50 %  3.4 GB  340 MB/s  10 s left"
        );
    }
}
