//! Shortens texts to a maximum length.

/// The first `bytes` bytes of a text, cut at a character boundary.
pub(super) fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
