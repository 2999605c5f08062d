//! Reads the state of the kernel's clock with the system call `adjtimex`.
//!
//! No file has this state, and none of our dependencies makes this call without `unsafe`. Reading needs no privilege;
//! only changing the clock does (adjtimex(2)).
#![allow(unsafe_code)] // One call that fills one structure.

use std::{io, mem::MaybeUninit};

use jiff::SignedDuration;

/// The state of the kernel's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClockState {
    pub(super) unsynchronized: bool,
    /// The maximum error of the clock, as the kernel estimates it.
    pub(super) max_error: SignedDuration,
}

pub(super) fn clock() -> io::Result<ClockState> {
    // With no mode set, the call changes nothing.
    let mut response = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the kernel reads and writes one `timex` at a pointer that is valid for both; its fields are integers,
    // for which zero is a value.
    let (state, response) = unsafe { (libc::adjtimex(response.as_mut_ptr()), response.assume_init()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ClockState {
        unsynchronized: response.status & libc::STA_UNSYNC != 0,
        max_error: SignedDuration::from_micros(response.maxerror),
    })
}
