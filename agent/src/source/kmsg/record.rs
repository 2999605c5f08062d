//! Parses a record of `/dev/kmsg`.
//!
//! The format is documented in the kernel's `Documentation/ABI/testing/dev-kmsg`: `prio,seq,usec,flags[,…];text`, a
//! line break, then lines that start with a space and describe the device. Bytes other than printable ASCII are
//! escaped as `\xNN`, including a line break inside a message, so a message cannot forge a record.

use std::borrow::Cow;

use jiff::SignedDuration;

/// The maximum size of a record: `CONSOLE_EXT_LOG_MAX` up to Linux 6.2, `PRINTK_MESSAGE_MAX` (2 KiB) since. With a
/// smaller buffer the read fails with `EINVAL` and the record is lost.
pub const RECORD_LIMIT: usize = 8 * 1024;

/// A record of the kernel log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRecord<'a> {
    /// The syslog facility: 0 is the kernel itself.
    pub facility: u8,
    /// The syslog level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The sequence number: starts at 0 at boot and increases by one.
    pub seq: u64,
    /// The time since boot.
    pub up: SignedDuration,
    pub fragment: Fragment,
    pub text: Cow<'a, str>,
}

/// Whether a record is a whole line or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    /// A line that the next record may continue (`c`).
    Open,
    /// A continuation of the previous line (`+`).
    Continued,
}

/// Why a record cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It exceeds [`RECORD_LIMIT`].
    #[error("failed to parse a kernel record: it is longer than {RECORD_LIMIT} bytes")]
    TooLong,
    /// The separator `;` is missing.
    #[error("failed to parse a kernel record: the separator is missing")]
    NoText,
    /// A field of the prefix is missing or not a number.
    #[error("failed to parse a kernel record: its {0} is missing or not a number")]
    Prefix(&'static str),
}

/// Parses one record, as returned by one `read(2)`.
///
/// # Errors
///
/// If the record does not have the kernel's format.
pub fn parse(record: &[u8]) -> Result<KernelRecord<'_>, RecordError> {
    if record.len() > RECORD_LIMIT {
        return Err(RecordError::TooLong);
    }
    let semicolon = memchr::memchr(b';', record).ok_or(RecordError::NoText)?;
    let (prefix, rest) = (&record[..semicolon], &record[semicolon + 1..]);
    let text = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];

    let mut fields = prefix.split(|byte| *byte == b',');
    let priority = number(fields.next()).ok_or(RecordError::Prefix("priority"))?;
    let seq = number(fields.next()).ok_or(RecordError::Prefix("sequence number"))?;
    let micros = number(fields.next()).ok_or(RecordError::Prefix("time"))?;
    let fragment = match fields.next() {
        Some(flags) if flags.contains(&b'+') => Fragment::Continued,
        Some(flags) if flags.contains(&b'c') => Fragment::Open,
        _ => Fragment::Whole,
    };
    Ok(KernelRecord {
        facility: u8::try_from(priority >> 3).map_err(|_| RecordError::Prefix("priority"))?,
        level: u8::try_from(priority & 7).map_err(|_| RecordError::Prefix("priority"))?,
        seq,
        up: SignedDuration::from_micros(i64::try_from(micros).map_err(|_| RecordError::Prefix("time"))?),
        fragment,
        text: unescape(text),
    })
}

/// Digits only: `str::parse` would also accept a sign.
fn number(field: Option<&[u8]>) -> Option<u64> {
    let field = field?;
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Decodes `\xNN`. Control characters become spaces, so that a record stays one line.
fn unescape(text: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', text).is_none() {
        return String::from_utf8_lossy(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (b'\\', [b'x', high, low, tail @ ..]) = (byte, rest)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            let decoded = high << 4 | low;
            plain.push(if decoded.is_ascii_control() && decoded != b'\t' { b' ' } else { decoded });
            rest = tail;
        } else {
            plain.push(byte);
        }
    }
    Cow::Owned(match String::from_utf8(plain) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(record: &str) -> KernelRecord<'_> {
        parse(record.as_bytes()).expect("a record")
    }

    #[test]
    fn a_record_of_the_kernel_is_read_whole() {
        let record = read("6,1234,98765432,-;eth0: renamed from veth1\n SUBSYSTEM=net\n DEVICE=n2\n");
        assert_eq!((record.facility, record.level, record.seq), (0, 6, 1234));
        assert_eq!(record.up, SignedDuration::from_micros(98_765_432));
        assert_eq!(record.fragment, Fragment::Whole);
        assert_eq!(record.text, "eth0: renamed from veth1");
        assert!(matches!(record.text, Cow::Borrowed(_)), "nothing to decode, nothing to copy");
    }

    #[test]
    fn a_programs_kernel_record_has_another_facility() {
        let record = read("12,5,1,-;NVRM: Xid (PCI:0000:00:1e): 79, said a program\n");
        assert_eq!((record.facility, record.level), (1, 4));
    }

    #[test]
    fn newer_fields_of_the_prefix_are_skipped() {
        assert_eq!(read("6,7,8,-,caller=T1;text\n").text, "text");
        assert_eq!(read("6,7,8;no flags at all\n").text, "no flags at all");
    }

    #[test]
    fn a_semicolon_in_the_text_stays_there() {
        assert_eq!(read("6,7,8,-;a;b;c\n").text, "a;b;c");
    }

    #[test]
    fn escapes_are_undone_and_forge_no_line() {
        for (raw, plain) in [
            (r"a\x5cb", r"a\b"),
            (r"caf\xc3\xa9", "café"),
            (r"one\x0atwo", "one two"),
            (r"\x1b[31mred", " [31mred"),
            (r"tab\x09stop", "tab\tstop"),
            // The kernel does not write these, so they stay unchanged.
            (r"\x4", r"\x4"),
            (r"\xzz", r"\xzz"),
            (r"C:\temp", r"C:\temp"),
            (r"end\", r"end\"),
            (r"\xff", "\u{fffd}"),
        ] {
            assert_eq!(read(&format!("6,7,8,-;{raw}\n")).text, plain, "{raw}");
        }
    }

    #[test]
    fn parts_of_a_line_are_marked() {
        assert_eq!(read("4,7,8,c;begins\n").fragment, Fragment::Open);
        assert_eq!(read("4,8,8,+;goes on\n").fragment, Fragment::Continued);
    }

    #[test]
    fn an_invalid_record_is_rejected_with_the_reason() {
        for (raw, error) in [
            ("", RecordError::NoText),
            ("6,1,2,-", RecordError::NoText),
            (";text", RecordError::Prefix("priority")),
            ("-6,1,2,-;text", RecordError::Prefix("priority")),
            ("+6,1,2,-;text", RecordError::Prefix("priority")),
            ("9999,1,2,-;text", RecordError::Prefix("priority")),
            ("6;text", RecordError::Prefix("sequence number")),
            ("6,99999999999999999999,2,-;text", RecordError::Prefix("sequence number")),
            ("6,1,x,-;text", RecordError::Prefix("time")),
            ("6,1,18446744073709551615,-;text", RecordError::Prefix("time")),
        ] {
            assert_eq!(parse(raw.as_bytes()), Err(error), "{raw}");
        }
        assert_eq!(parse(&vec![b'6'; RECORD_LIMIT + 1]), Err(RecordError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_text_contains_a_line_break(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            if let Ok(record) = parse(&bytes) {
                prop_assert!(!record.text.contains('\n'));
            }
        }

        #[test]
        fn escapes_of_the_kernel_are_decoded(
            priority in 0_u64..192, seq: u64, micros in 0_u64..1 << 50, text in "[^\\p{Cc}]{0,64}",
        ) {
            let mut raw = format!("{priority},{seq},{micros},-;").into_bytes();
            for byte in text.bytes() {
                match byte {
                    b' '..=b'[' | b']'..=b'~' => raw.push(byte),
                    _ => raw.extend(format!("\\x{byte:02x}").bytes()),
                }
            }
            raw.push(b'\n');
            let record = parse(&raw).expect("a record");
            prop_assert_eq!(u64::from(record.facility) << 3 | u64::from(record.level), priority);
            prop_assert_eq!(record.seq, seq);
            prop_assert_eq!(record.text, text);
        }
    }
}
