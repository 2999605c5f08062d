//! A DNS client for a single query: the part of RFC 1035 over UDP that it needs.
//!
//! The C library's resolver has no exact timeout, and reads the configuration of the agent's own image.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

const HEADER: usize = 12;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Without an extension a server sends at most 512 bytes.
const MAX_RESPONSE: usize = 1_024;
const RECURSION_DESIRED: u8 = 0x01;
const IS_RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const INTERNET: u16 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    A = 1,
    Aaaa = 28,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsAnswer {
    /// The name has addresses of this type.
    Addresses,
    /// The name has no addresses of this type.
    None,
    /// The server returned an error.
    Error(DnsFailure),
}

/// The error of a response, by its response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsFailure {
    /// Response code 2, SERVFAIL.
    #[error("the server failed")]
    Server,
    /// Response code 3, NXDOMAIN.
    #[error("no such name")]
    NoSuchName,
    /// Response code 5, REFUSED.
    #[error("the server refused the query")]
    Refused,
    #[error("response code {0}")]
    Other(u8),
}

/// Encodes a query; `None` if the name is invalid.
pub fn query(id: u16, name: &str, kind: RecordType) -> Option<Vec<u8>> {
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

/// Parses a response; `None` if it does not answer the query.
pub fn parse_response(query: &[u8], bytes: &[u8]) -> Option<DnsAnswer> {
    if bytes.get(..2)? != query.get(..2)? || bytes.get(2)? & IS_RESPONSE == 0 {
        return None;
    }
    let (queries, answers) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
    let code = bytes.get(3)? & 0x0f;
    let repeats = bytes
        .get(HEADER..query.len())
        .is_some_and(|repeated| queries == 1 && repeated.eq_ignore_ascii_case(&query[HEADER..]));
    match code {
        0 if !repeats => return None,
        0 => {}
        // A server that cannot parse a query does not repeat it.
        _ if !repeats && queries != 0 => return None,
        2 => return Some(DnsAnswer::Error(DnsFailure::Server)),
        3 => return Some(DnsAnswer::Error(DnsFailure::NoSuchName)),
        5 => return Some(DnsAnswer::Error(DnsFailure::Refused)),
        other => return Some(DnsAnswer::Error(DnsFailure::Other(other))),
    }
    // A truncated response has more addresses than fit.
    if bytes[2] & TRUNCATED != 0 {
        return Some(DnsAnswer::Addresses);
    }
    let kind = u16_at(query, query.len().checked_sub(4)?)?;
    let mut at = query.len();
    for _ in 0..answers {
        at = after_name(bytes, at)?;
        // Type, class, TTL, and the length of the data.
        let (found, length) = (u16_at(bytes, at)?, u16_at(bytes, at + 8)?);
        at += 10 + usize::from(length);
        if found == kind && at <= bytes.len() {
            return Some(DnsAnswer::Addresses);
        }
    }
    Some(DnsAnswer::None)
}

/// Queries one server; an error if it does not respond in time.
pub fn send_query(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<DnsAnswer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // On a connected socket the kernel drops other senders' packets and returns ICMP errors.
    socket.connect(server)?;
    socket.send(query)?;
    let end = Instant::now() + timeout;
    let mut bytes = [0; MAX_RESPONSE];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no response"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut bytes) {
            Ok(length) => {
                if let Some(response) = parse_response(query, &bytes[..length]) {
                    return Ok(response);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The end of a name: an empty label, or a pointer to an earlier name.
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

    fn query_bytes() -> Vec<u8> {
        query(0x1234, HOST, RecordType::A).expect("a question")
    }

    /// A response with records of these types, each with four bytes of data.
    fn response_with(code: u8, kinds: &[u16]) -> Vec<u8> {
        let mut bytes = query_bytes();
        bytes[2] |= IS_RESPONSE;
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
    fn a_query_has_the_bytes_of_the_standard() {
        let bytes = query(0x0102, "eks.aws.", RecordType::Aaaa).expect("a question");
        assert_eq!(
            bytes,
            b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03eks\x03aws\x00\x00\x1c\x00\x01"
        );
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", "b\u{fc}cher", long.as_str(), &"a.".repeat(200)] {
            assert_eq!(query(1, name, RecordType::A), None, "{name}");
        }
    }

    #[test]
    fn responses_are_distinguished() {
        for (bytes, expected) in [
            (response_with(0, &[1]), Some(DnsAnswer::Addresses)),
            (response_with(0, &[5, 1]), Some(DnsAnswer::Addresses)),
            (response_with(0, &[]), Some(DnsAnswer::None)),
            (response_with(0, &[5]), Some(DnsAnswer::None)),
            (response_with(2, &[]), Some(DnsAnswer::Error(DnsFailure::Server))),
            (response_with(3, &[]), Some(DnsAnswer::Error(DnsFailure::NoSuchName))),
            (response_with(5, &[]), Some(DnsAnswer::Error(DnsFailure::Refused))),
            (query_bytes(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(parse_response(&query_bytes(), &bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_response_to_another_query_is_none() {
        let mut other_id = response_with(0, &[1]);
        other_id[0] ^= 1;
        let mut other_name = response_with(0, &[1]);
        other_name[HEADER + 1] = b'x';
        for bytes in [other_id, other_name] {
            assert_eq!(parse_response(&query_bytes(), &bytes), None);
        }
        let shouted: Vec<u8> = response_with(0, &[1])
            .iter()
            .enumerate()
            .map(|(at, byte)| if at > HEADER { byte.to_ascii_uppercase() } else { *byte })
            .collect();
        assert_eq!(parse_response(&query_bytes(), &shouted), Some(DnsAnswer::Addresses));
        // A server that cannot parse a query responds with the header alone.
        let mut bare = response_with(1, &[])[..HEADER].to_vec();
        bare[5] = 0;
        assert_eq!(parse_response(&query_bytes(), &bare), Some(DnsAnswer::Error(DnsFailure::Other(1))));
    }

    #[test]
    fn incomplete_bytes_never_count_as_a_resolved_name() {
        let whole = response_with(0, &[1]);
        for length in query_bytes().len()..whole.len() {
            assert_ne!(
                parse_response(&query_bytes(), &whole[..length]),
                Some(DnsAnswer::Addresses),
                "{length}"
            );
        }
        let mut truncated = response_with(0, &[]);
        truncated[2] |= TRUNCATED;
        assert_eq!(parse_response(&query_bytes(), &truncated), Some(DnsAnswer::Addresses));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), repeat: bool) {
            let mut all = if repeat { response_with(0, &[]) } else { Vec::new() };
            all.extend(&bytes);
            if repeat {
                all[7] = 200;
            }
            let _ = parse_response(&query_bytes(), &all);
            let _ = parse_response(&bytes, &all);
        }
    }
}
