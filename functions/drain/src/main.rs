//! The drain Lambda.
fn main() {}
