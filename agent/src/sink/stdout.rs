//! Turns records into lines, for a log shipper that already runs.

use std::io::Write;

use jiff::Timestamp;

use super::{Sent, Sink, SinkError};
use crate::outbox::Record;

/// Writes one report a line.
#[derive(Debug)]
pub struct Lines<W> {
    into: W,
}

impl Lines<std::io::Stdout> {
    /// To stdout.
    pub fn stdout() -> Self {
        Self::new(std::io::stdout())
    }
}

impl<W: Write> Lines<W> {
    /// To anything that takes bytes.
    pub fn new(into: W) -> Self {
        Self { into }
    }
}

impl<W: Write> Sink for Lines<W> {
    async fn send(&mut self, records: &[Record], _now: Timestamp) -> Result<Sent, SinkError> {
        let mut upto = 0;
        let mut delivered = 0;
        for record in records {
            // Each line by itself: after an error only those that are not out are written again.
            let written = writeln!(self.into, "{}", record.text).and_then(|()| self.into.flush());
            if let Err(error) = written {
                if delivered > 0 {
                    break;
                }
                return Err(SinkError { records: records.len(), why: error.to_string() });
            }
            (upto, delivered) = (record.number, delivered + 1);
        }
        Ok(Sent { upto, delivered, refused: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::outbox::Class;

    fn record(number: u64) -> Record {
        Record {
            number,
            class: Class::Change,
            at: Timestamp::UNIX_EPOCH,
            text: format!("{{\"n\":{number}}}"),
        }
    }

    /// Takes so many lines, then none.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
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
        let mut lines = Lines::new(Vec::new());
        let sent = lines.send(&[record(4), record(7)], Timestamp::UNIX_EPOCH).await;
        assert_eq!(sent, Ok(Sent { upto: 7, delivered: 2, refused: 0 }));
        assert_eq!(String::from_utf8(lines.into).expect("text"), "{\"n\":4}\n{\"n\":7}\n");
    }

    #[tokio::test]
    async fn what_was_not_written_is_not_taken() {
        let mut lines = Lines::new(Full(Vec::new(), 1));
        let sent = lines.send(&[record(4), record(7)], Timestamp::UNIX_EPOCH).await;
        assert_eq!(sent, Ok(Sent { upto: 4, delivered: 1, refused: 0 }));
        let error = lines.send(&[record(7)], Timestamp::UNIX_EPOCH).await.expect_err("full");
        assert!(error.to_string().starts_with("failed to deliver 1 reports: "), "{error}");
    }
}
