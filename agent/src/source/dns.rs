//! Turns questions to a name server into answers: RFC 1035 over UDP, as much of it as one question takes.
//!
//! The C library's resolver can't be told how long to wait, and reads the configuration of the agent's own image.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

const HEADER: usize = 12;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Without an extension, a server sends no more than 512 bytes.
const MAX_ANSWER: usize = 1_024;
const RECURSION_DESIRED: u8 = 0x01;
const IS_ANSWER: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const INTERNET: u16 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Addresses of IPv4.
    A = 1,
    /// Addresses of IPv6.
    Aaaa = 28,
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The name has addresses of that kind.
    Addresses,
    /// It has none.
    None,
    /// The server says why it has no answer.
    Failed(Failure),
}

/// Why a server has no answer: the response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// SERVFAIL.
    #[error("the server failed")]
    Server,
    /// NXDOMAIN.
    #[error("there is no such name")]
    NoSuchName,
    /// REFUSED.
    #[error("the server refused")]
    Refused,
    /// Another one.
    #[error("response code {0}")]
    Other(u8),
}

/// A question; none if the name can't be one.
pub fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let mut bytes = Vec::with_capacity(HEADER + name.len() + 6);
    bytes.extend(id.to_be_bytes());
    bytes.extend([RECURSION_DESIRED, 0]);
    for count in [1_u16, 0, 0, 0] {
        bytes.extend(count.to_be_bytes());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL || !label.is_ascii() {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((kind as u16).to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    Some(bytes)
}

/// Reads what came back; none if it is no answer to the question.
pub fn answer(question: &[u8], bytes: &[u8]) -> Option<Answer> {
    if bytes.get(..2)? != question.get(..2)? || bytes.get(2)? & IS_ANSWER == 0 {
        return None;
    }
    let (asked, answers) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
    let code = bytes.get(3)? & 0x0f;
    let repeats = bytes
        .get(HEADER..question.len())
        .is_some_and(|repeated| asked == 1 && repeated.eq_ignore_ascii_case(&question[HEADER..]));
    match code {
        0 if !repeats => return None,
        0 => {}
        // A server that made nothing of the question does not repeat it.
        _ if !repeats && asked != 0 => return None,
        2 => return Some(Answer::Failed(Failure::Server)),
        3 => return Some(Answer::Failed(Failure::NoSuchName)),
        5 => return Some(Answer::Failed(Failure::Refused)),
        other => return Some(Answer::Failed(Failure::Other(other))),
    }
    // More addresses than fit are addresses.
    if bytes[2] & TRUNCATED != 0 {
        return Some(Answer::Addresses);
    }
    let kind = u16_at(question, question.len().checked_sub(4)?)?;
    let mut at = question.len();
    for _ in 0..answers {
        at = after_name(bytes, at)?;
        // Type, class, time to live, and the length of the data.
        let (found, length) = (u16_at(bytes, at)?, u16_at(bytes, at + 8)?);
        at += 10 + usize::from(length);
        if found == kind && at <= bytes.len() {
            return Some(Answer::Addresses);
        }
    }
    Some(Answer::None)
}

/// Asks one server; an error if it gives no answer in time.
pub fn ask(server: SocketAddr, question: &[u8], timeout: Duration) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // Of a connected socket the kernel drops what others send, and tells what the network refuses.
    socket.connect(server)?;
    socket.send(question)?;
    let end = Instant::now() + timeout;
    let mut bytes = [0; MAX_ANSWER];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut bytes) {
            Ok(length) => {
                if let Some(answer) = answer(question, &bytes[..length]) {
                    return Ok(answer);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where a name ends: with the empty label, or with a pointer to an earlier one.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            0x40..=0xbf => return None,
            _ => at += 1 + usize::from(length),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "0123456789ABCDEF.gr7.us-east-1.eks.amazonaws.com";

    fn asked() -> Vec<u8> {
        question(0x1234, HOST, Kind::A).expect("a question")
    }

    /// An answer with records of these types, each of four bytes.
    fn answered(code: u8, kinds: &[u16]) -> Vec<u8> {
        let mut bytes = asked();
        bytes[2] |= IS_ANSWER;
        bytes[3] = 0x80 | code;
        bytes[7] = kinds.len() as u8;
        for kind in kinds {
            bytes.extend([0xc0, 0x0c]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
        }
        bytes
    }

    #[test]
    fn a_question_has_the_bytes_that_the_standard_says() {
        let bytes = question(0x0102, "eks.aws.", Kind::Aaaa).expect("a question");
        assert_eq!(
            bytes,
            b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03eks\x03aws\x00\x00\x1c\x00\x01"
        );
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "b\u{fc}cher", long.as_str(), &"a.".repeat(200)] {
            assert_eq!(question(1, name, Kind::A), None, "{name}");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        for (bytes, expected) in [
            (answered(0, &[1]), Some(Answer::Addresses)),
            (answered(0, &[5, 1]), Some(Answer::Addresses)),
            (answered(0, &[]), Some(Answer::None)),
            (answered(0, &[5]), Some(Answer::None)),
            (answered(2, &[]), Some(Answer::Failed(Failure::Server))),
            (answered(3, &[]), Some(Answer::Failed(Failure::NoSuchName))),
            (answered(5, &[]), Some(Answer::Failed(Failure::Refused))),
            (asked(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(answer(&asked(), &bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let mut other_id = answered(0, &[1]);
        other_id[0] ^= 1;
        let mut other_name = answered(0, &[1]);
        other_name[HEADER + 1] = b'x';
        for bytes in [other_id, other_name] {
            assert_eq!(answer(&asked(), &bytes), None);
        }
        let shouted: Vec<u8> = answered(0, &[1])
            .iter()
            .enumerate()
            .map(|(at, byte)| if at > HEADER { byte.to_ascii_uppercase() } else { *byte })
            .collect();
        assert_eq!(answer(&asked(), &shouted), Some(Answer::Addresses));
        // A server that can't read a question answers with the header alone.
        let mut bare = answered(1, &[])[..HEADER].to_vec();
        bare[5] = 0;
        assert_eq!(answer(&asked(), &bare), Some(Answer::Failed(Failure::Other(1))));
    }

    #[test]
    fn an_answer_that_is_cut_short_promises_nothing() {
        let whole = answered(0, &[1]);
        for length in asked().len()..whole.len() {
            assert_ne!(answer(&asked(), &whole[..length]), Some(Answer::Addresses), "{length}");
        }
        let mut truncated = answered(0, &[]);
        truncated[2] |= TRUNCATED;
        assert_eq!(answer(&asked(), &truncated), Some(Answer::Addresses));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600), repeat: bool) {
            let mut all = if repeat { answered(0, &[]) } else { Vec::new() };
            all.extend(&bytes);
            if repeat {
                all[7] = 200;
            }
            let _ = answer(&asked(), &all);
            let _ = answer(&bytes, &all);
        }
    }
}
