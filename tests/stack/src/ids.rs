//! IDs in the formats of AWS and Kubernetes.

/// The AWS account of the local stack: the emulator's default.
pub const ACCOUNT: &str = "123456789012";
/// The AWS Region of the local stack.
pub const REGION: &str = "us-east-1";

/// A random UUID.
pub fn uuid() -> String {
    let bits = fastrand::u128(..);
    // Version 4, variant 1.
    let bits = bits & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
