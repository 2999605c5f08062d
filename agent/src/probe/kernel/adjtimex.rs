//! Turns the system call `adjtimex` into what it says of the clock.
//!
//! No file says it, and no crate of the tree asks for it without `unsafe`. Asking needs no privilege; only a request
//! to change something does (adjtimex(2)).
#![allow(unsafe_code)] // One call that fills one structure.

use std::{io, mem::MaybeUninit};

use jiff::SignedDuration;

/// What the kernel says of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    pub(super) unsynchronized: bool,
    /// How far off it may be.
    pub(super) max_error: SignedDuration,
}

/// Asks the kernel.
pub(super) fn clock() -> io::Result<Clock> {
    // No mode is set, so that nothing is changed.
    let mut answer = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the kernel reads and writes one `timex` at a pointer that is valid for both; its fields are integers,
    // for which zero is a value.
    let (state, answer) = unsafe { (libc::adjtimex(answer.as_mut_ptr()), answer.assume_init()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Clock {
        unsynchronized: answer.status & libc::STA_UNSYNC != 0,
        max_error: SignedDuration::from_micros(answer.maxerror),
    })
}
