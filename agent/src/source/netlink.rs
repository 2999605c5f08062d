//! Reads the kernel's network state over netlink.
//!
//! Netlink shows the network namespace that the agent runs in, whereas sysfs shows the one that it was mounted in,
//! and it needs no tool on the host. All requests are dumps: nothing is changed.

pub mod message;
pub mod route;

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, netlink::SocketAddrNetlink,
    recv, sendto, socket_with, sockopt,
};

use self::message::{NetlinkMessage, messages};

/// The kernel returns at most this much in one read of a dump.
const BUFFER: usize = 64 * 1024;
/// The dump of a node with tens of thousands of services is far below this.
const MAX_DUMP_BYTES: usize = 128 * 1024 * 1024;
/// How often a dump is repeated if the state changed during it.
const ATTEMPTS: usize = 4;
/// The kernel responds immediately or not at all.
const TIMEOUT: Duration = Duration::from_secs(5);

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetlinkFamily {
    /// Interfaces, routing rules and routes.
    Route,
    /// nftables.
    Netfilter,
}

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel returned an error, or the socket failed.
    #[error("failed to read {what} from the kernel")]
    Io {
        /// What was requested.
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The dump exceeded `MAX_DUMP_BYTES`.
    #[error("failed to read {what} from the kernel: more than {MAX_DUMP_BYTES} bytes")]
    TooLong {
        /// What was requested.
        what: &'static str,
    },
    /// The state changed during each attempt.
    #[error("failed to read {what} from the kernel: it changed during each of {ATTEMPTS} attempts")]
    Changing {
        /// What was requested.
        what: &'static str,
    },
}

impl NetlinkError {
    /// The error number that the kernel returned.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::TooLong { .. } | Self::Changing { .. } => None,
        }
    }

    /// The error with its source, as a clause.
    pub fn clause(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::TooLong { .. } | Self::Changing { .. } => self.to_string(),
        }
    }
}

/// Requests all objects of one kind and passes each message to `take`. If the kernel reports that the state changed
/// during the dump, it starts again with a new `T`.
pub fn dump<T: Default>(
    family: NetlinkFamily,
    kind: u16,
    header: &[u8],
    what: &'static str,
    mut take: impl FnMut(&mut T, &NetlinkMessage<'_>),
) -> Result<T, NetlinkError> {
    for attempt in 1..=ATTEMPTS as u32 {
        let mut collected = T::default();
        if dump_once(family, kind, header, what, attempt, &mut |message| take(&mut collected, message))? {
            return Ok(collected);
        }
    }
    Err(NetlinkError::Changing { what })
}

/// Returns false if a change interrupted the dump.
fn dump_once(
    family: NetlinkFamily,
    kind: u16,
    header: &[u8],
    what: &'static str,
    sequence: u32,
    take: &mut dyn FnMut(&NetlinkMessage<'_>),
) -> Result<bool, NetlinkError> {
    let failed = |source: io::Error| NetlinkError::Io { what, source };
    let socket = open(family).map_err(failed)?;
    let mut request = Vec::with_capacity(16 + header.len());
    request.extend_from_slice(&(16 + header.len() as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(header);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        .map_err(|error| failed(error.into()))?;

    let mut buffer = vec![0_u8; BUFFER];
    let mut total = 0;
    let mut whole = true;
    loop {
        let length = loop {
            match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => break length,
                Err(error) if error == rustix::io::Errno::INTR => {}
                Err(error) => return Err(failed(error.into())),
            }
        };
        if length == 0 || length > buffer.len() {
            return Err(failed(io::Error::other("a response that is empty or too long")));
        }
        total += length;
        if total > MAX_DUMP_BYTES {
            return Err(NetlinkError::TooLong { what });
        }
        for message in messages(&buffer[..length]) {
            if message.sequence != sequence {
                continue;
            }
            whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                // Both contain a negative error number, or zero.
                NLMSG_ERROR | NLMSG_DONE => {
                    let number = message.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    match number {
                        0 => return Ok(whole),
                        // The rules changed: nftables reports it as an error, not as a flag.
                        number if -number == rustix::io::Errno::INTR.raw_os_error() => return Ok(false),
                        number => {
                            return Err(failed(io::Error::from_raw_os_error(number.saturating_neg())));
                        }
                    }
                }
                _ => take(&message),
            }
        }
    }
}

fn open(family: NetlinkFamily) -> io::Result<OwnedFd> {
    let protocol = match family {
        NetlinkFamily::Route => None,
        NetlinkFamily::Netfilter => Some(netlink::NETFILTER),
    };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT))?;
    Ok(socket)
}
