//! The sink that writes one report a line, for a log shipper that already runs.

use std::io::Write;

use jiff::Timestamp;

use super::{Sent, Sink, SinkError};
use crate::outbox::SpoolRecord;

/// Writes one report a line.
#[derive(Debug)]
pub struct StdoutSink<W> {
    into: W,
}

impl StdoutSink<std::io::Stdout> {
    /// Writes to standard output.
    pub fn stdout() -> Self {
        Self::new(std::io::stdout())
    }
}

impl<W: Write> StdoutSink<W> {
    /// Writes to any writer.
    pub fn new(into: W) -> Self {
        Self { into }
    }
}

impl<W: Write> Sink for StdoutSink<W> {
    async fn send(&mut self, records: &[SpoolRecord], _now: Timestamp) -> Result<Sent, SinkError> {
        let mut upto = 0;
        let mut delivered = 0;
        for record in records {
            // Each line is flushed, so after an error only unwritten lines are sent again.
            let written = writeln!(self.into, "{}", record.text).and_then(|()| self.into.flush());
            if let Err(error) = written {
                if delivered > 0 {
                    break;
                }
                return Err(SinkError { records: records.len(), why: error.to_string() });
            }
            (upto, delivered) = (record.number, delivered + 1);
        }
        Ok(Sent { upto, delivered, rejected: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::outbox::RecordClass;

    fn record(number: u64) -> SpoolRecord {
        SpoolRecord {
            number,
            class: RecordClass::Change,
            at: Timestamp::UNIX_EPOCH,
            text: format!("{{\"n\":{number}}}"),
        }
    }

    /// Accepts this many lines, then returns an error.
    struct FullWriter(Vec<u8>, usize);

    impl Write for FullWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.iter().filter(|byte| **byte == b'\n').count() >= self.1 {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_report_is_a_line() {
        let mut lines = StdoutSink::new(Vec::new());
        let sent = lines.send(&[record(4), record(7)], Timestamp::UNIX_EPOCH).await;
        assert_eq!(sent, Ok(Sent { upto: 7, delivered: 2, rejected: 0 }));
        assert_eq!(String::from_utf8(lines.into).expect("text"), "{\"n\":4}\n{\"n\":7}\n");
    }

    #[tokio::test]
    async fn unwritten_records_are_not_accepted() {
        let mut lines = StdoutSink::new(FullWriter(Vec::new(), 1));
        let sent = lines.send(&[record(4), record(7)], Timestamp::UNIX_EPOCH).await;
        assert_eq!(sent, Ok(Sent { upto: 4, delivered: 1, rejected: 0 }));
        let error = lines.send(&[record(7)], Timestamp::UNIX_EPOCH).await.expect_err("full");
        assert!(error.to_string().starts_with("failed to deliver 1 reports: "), "{error}");
    }
}
