//! Reads a network driver's counters by name.
//!
//! Ethtool's netlink interface has only the statistics that all drivers share. A driver's own counters, such as ENA's
//! allowances, need the old ioctl: a page of names and a page of values, in the same order.

#[allow(
    unsafe_code,
    reason = "no safe wrapper of this ioctl exists, and there is no other interface to the counters"
)]
mod ioctl;

use std::io;

use self::ioctl::EthtoolDriver;
use super::netlink::message::u32_at;

/// `ETH_GSTRING_LEN`: the size of a name.
const NAME: usize = 32;
/// `struct ethtool_gstrings`: command, set, count.
const NAMES_HEADER: usize = 12;
/// `struct ethtool_stats`: command, count.
const VALUES_HEADER: usize = 8;
const VALUE: usize = 8;

/// The counters of an interface by name; `None` for each that the driver does not have.
pub fn counters<const N: usize>(interface: &str, wanted: [&str; N]) -> io::Result<[Option<u64>; N]> {
    let driver = EthtoolDriver::of(interface)?;
    let (names, values) = (driver.names()?, driver.values()?);
    pick(&names, &values, wanted).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the driver's counters changed during the read")
    })
}

/// The values of these counters; `None` if the two pages do not match.
pub fn pick<const N: usize>(names: &[u8], values: &[u8], wanted: [&str; N]) -> Option<[Option<u64>; N]> {
    let mut picked = [None; N];
    for (name, value) in pairs(names, values)? {
        if let Some(index) = wanted.iter().position(|wanted| wanted.as_bytes() == name) {
            picked[index] = Some(value);
        }
    }
    Some(picked)
}

/// All counters in two pages; `None` if the pages do not match.
pub fn pairs<'a>(names: &'a [u8], values: &'a [u8]) -> Option<impl Iterator<Item = (&'a [u8], u64)>> {
    let count = u32_at(names, 8)?;
    if u32_at(values, 4)? != count {
        return None;
    }
    let count = usize::try_from(count).ok()?;
    let names = names.get(NAMES_HEADER..)?.get(..count.checked_mul(NAME)?)?;
    let values = values.get(VALUES_HEADER..)?.get(..count.checked_mul(VALUE)?)?;
    let names = names.chunks_exact(NAME).map(|name| {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        &name[..end]
    });
    let values = values.chunks_exact(VALUE).filter_map(|value| value.first_chunk());
    Some(names.zip(values.map(|value| u64::from_ne_bytes(*value))))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// The counters of the veth driver of Linux 6.18, with the peer's index 5.
    const VETH: [&str; 10] = [
        "peer_ifindex",
        "rx_queue_0_xdp_packets",
        "rx_queue_0_xdp_bytes",
        "rx_queue_0_drops",
        "rx_queue_0_xdp_redirect",
        "rx_queue_0_xdp_drops",
        "rx_queue_0_xdp_tx",
        "rx_queue_0_xdp_tx_errors",
        "tx_queue_0_xdp_xmit",
        "tx_queue_0_xdp_xmit_errors",
    ];

    fn names(names: &[&str]) -> Vec<u8> {
        let mut page: Vec<u8> =
            [0x1b_u32, 1, names.len() as u32].iter().flat_map(|word| word.to_ne_bytes()).collect();
        for name in names {
            let mut padded = [0; NAME];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            page.extend(padded);
        }
        page
    }

    fn values(values: &[u64]) -> Vec<u8> {
        let mut page: Vec<u8> =
            [0x1d_u32, values.len() as u32].iter().flat_map(|word| word.to_ne_bytes()).collect();
        page.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        page
    }

    #[test]
    fn counters_are_found_by_name_in_any_order() {
        let ena = names(&["tx_timeout", "pps_allowance_exceeded", "bw_in_allowance_exceeded"]);
        let read =
            pick(&ena, &values(&[1, 2, u64::MAX]), ["bw_in_allowance_exceeded", "bw_in", "tx_timeout"]);
        assert_eq!(read, Some([Some(u64::MAX), None, Some(1)]));
        let veth = pick(&names(&VETH), &values(&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), ["peer_ifindex"]);
        assert_eq!(veth, Some([Some(5)]));
        // A name of the full size has no trailing zero.
        let long = "x".repeat(NAME);
        assert_eq!(pick(&names(&[&long]), &values(&[7]), [&long]), Some([Some(7)]));
        assert_eq!(pick(&names(&[]), &values(&[]), ["x"]), Some([None]));
    }

    #[test]
    fn pages_that_do_not_match_are_rejected() {
        let (whole, fitting) = (names(&["a", "b"]), values(&[1, 2]));
        for (names, values) in [
            (whole.clone(), values(&[1])),
            (whole.clone(), values(&[1, 2, 3])),
            (whole[..whole.len() - 1].to_vec(), fitting.clone()),
            (whole.clone(), fitting[..fitting.len() - 1].to_vec()),
            (whole[..10].to_vec(), fitting.clone()),
            (Vec::new(), fitting),
            (whole, Vec::new()),
        ] {
            assert_eq!(pick(&names, &values, ["a"]), None, "{names:?} {values:?}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        for name in ["nodemend-none", "", "a-name-that-no-interface-can-have", "a\0b"] {
            assert!(counters(name, ["x"]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_driver_without_counters_has_none_of_these() {
        match counters("lo", ["bw_in_allowance_exceeded"]) {
            Ok(read) => assert_eq!(read, [None]),
            Err(error) => assert_eq!(error.raw_os_error(), Some(95), "not supported: {error}"),
        }
    }

    #[test]
    fn the_kernel_fills_the_pages_of_a_veth() {
        let name = format!("nm{}", std::process::id());
        let peer = format!("{name}p");
        let ip = |arguments: &[&str]| Command::new("ip").args(arguments).output();
        match ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]) {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return println!("skipped: a veth: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Err(error) => return println!("skipped: ip is not installed: {error}"),
        }
        let read = counters(&name, ["peer_ifindex", "bw_in_allowance_exceeded"]);
        let index = std::fs::read_to_string(format!("/sys/class/net/{peer}/ifindex"));
        let deleted = ip(&["link", "del", &name]).expect("ip runs").status.success();
        let index: u64 = index.expect("an index").trim().parse().expect("a number");
        assert_eq!(read.expect("counters"), [Some(index), None]);
        assert!(deleted);
    }

    proptest! {
        #[test]
        fn any_bytes_are_counters_or_none(
            names in proptest::collection::vec(any::<u8>(), 0..300),
            values in proptest::collection::vec(any::<u8>(), 0..100),
            count in 0_u32..6,
        ) {
            let (mut names, mut values) = (names, values);
            let _ = pick(&names, &values, ["a"]);
            // With equal counts, the entries are read.
            if names.len() >= NAMES_HEADER && values.len() >= VALUES_HEADER {
                names[8..12].copy_from_slice(&count.to_ne_bytes());
                values[4..8].copy_from_slice(&count.to_ne_bytes());
                let read = pairs(&names, &values).map(Iterator::count);
                prop_assert!(read.is_none_or(|read| read == count as usize));
            }
        }
    }
}
