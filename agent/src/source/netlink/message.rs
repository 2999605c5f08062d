//! Splits bytes from the kernel into netlink messages and attributes.
//!
//! Lengths are not trusted: a length beyond the end stops the iteration.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetlinkMessage<'a> {
    pub kind: u16,
    pub flags: u16,
    /// The sequence number of the request.
    pub sequence: u32,
    /// The data after the header.
    pub payload: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The attribute type, without flags.
    pub kind: u16,
    pub value: &'a [u8],
}

const MESSAGE_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The two upper bits are flags: nested, and network byte order.
const KIND_MASK: u16 = 0x3fff;

/// Splits the bytes of one read into messages.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = NetlinkMessage {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            payload: bytes.get(MESSAGE_HEADER..length)?,
        };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits bytes into attributes.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute =
            Attribute { kind: u16_at(bytes, 2)? & KIND_MASK, value: bytes.get(ATTRIBUTE_HEADER..length)? };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The value of the first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|attribute| attribute.kind == kind).map(|attribute| attribute.value)
}

/// A zero-terminated string.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A 16-bit integer in host byte order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// A 32-bit integer in host byte order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// A 32-bit integer in network byte order.
pub fn u32_be(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn attributes_are_read_with_their_padding() {
        let bytes = [packed(3, b"lo\0"), packed(0x8012, &[1, 2, 3, 4])].concat();
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read[0], Attribute { kind: 3, value: b"lo\0" });
        assert_eq!(read[1], Attribute { kind: 0x12, value: &[1, 2, 3, 4] });
        assert_eq!(text(read[0].value), "lo");
    }

    #[test]
    fn a_wrong_length_ends_the_iteration() {
        let mut bytes = [packed(1, &[7; 4]), packed(2, &[8; 4])].concat();
        bytes[8] = 200;
        assert_eq!(attributes(&bytes).count(), 1);
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(messages(&[0; 32]).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
            prop_assert!(messages(&bytes).count() <= bytes.len() / 16);
        }
    }
}
