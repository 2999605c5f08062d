//! Reads the state of systemd's units.
//!
//! It calls systemd over the system bus, or over systemd's private socket if the bus does not respond. Only single
//! properties are read: reading all of a service's would make systemd read its cgroup.

mod bus;
#[cfg(test)]
pub(crate) mod fake;
mod message;

use std::{fmt, io, path::Path, time::Duration};

use jiff::Timestamp;

use self::{
    bus::SystemdBus,
    message::{DbusBody, DbusCall, DbusReply},
};

/// systemd responds within milliseconds, except while it reloads a few hundred units.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum number of services; nodes have a few dozen.
const MAX_SERVICES: usize = 512;
/// The number of calls that are sent before their replies are read: more could fill the socket in both directions.
const CALLS_AT_ONCE: usize = 32;

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// The state of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// `LoadState`: `loaded`, `not-found`, `masked`, and others.
    pub load_state: String,
    /// `ActiveState`: `active`, `inactive`, `failed`, `activating`, and others.
    pub active_state: String,
    /// `SubState`: `running`, `dead`, `auto-restart`, and others.
    pub sub_state: String,
    /// `UnitFileState`: `enabled`, `disabled`, `static`, and others.
    pub file_state: String,
    /// `NRestarts`: how often systemd restarted it automatically; `None` if it is not a service, or before systemd
    /// 235.
    pub n_restarts: Option<u32>,
    /// When it last became active; `None` if not since boot.
    pub active_enter: Option<Timestamp>,
    /// When it last stopped being active.
    pub active_exit: Option<Timestamp>,
}

impl Unit {
    /// Whether it exists and may run.
    pub fn is_loaded(&self) -> bool {
        self.load_state == "loaded"
    }

    /// Whether it runs, or has completed.
    pub fn is_active(&self) -> bool {
        // An active unit may be reloading or refreshing.
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    pub fn is_failed(&self) -> bool {
        self.active_state == "failed"
    }

    /// Whether it should run. A unit that is installed, but neither enabled nor ever started, should not.
    pub fn is_expected(&self) -> bool {
        self.is_loaded()
            && (self.active_state != "inactive"
                || self.active_enter.is_some()
                || self.file_state.starts_with("enabled"))
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} is {} ({})", self.name, self.active_state, self.sub_state)
    }
}

/// Why systemd's state is not available.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No systemd, no permission, or no response.
    #[error("failed to query systemd: {0}")]
    Io(#[from] io::Error),
    /// systemd returned a D-Bus error.
    #[error("systemd returned the error {0}")]
    ErrorReply(String),
    /// The reply has an unexpected type.
    #[error("systemd's reply about {0} cannot be parsed")]
    Unreadable(&'static str),
}

/// Reads one unit. One that does not exist has the load state `not-found`.
pub fn unit(root: &Path, name: &str) -> Result<Unit, SystemdError> {
    let mut units = units(root, &[name])?;
    units.pop().ok_or(SystemdError::Unreadable("a unit"))
}

/// Reads several units over one connection, in the order of `names`.
pub fn units(root: &Path, names: &[&str]) -> Result<Vec<Unit>, SystemdError> {
    let mut bus = SystemdBus::open(root, TIMEOUT)?;
    names.iter().map(|name| read_unit(&mut bus, name)).collect()
}

/// The number of automatic restarts of each loaded service.
pub fn restarts(root: &Path) -> Result<Vec<(String, u32)>, SystemdError> {
    let mut bus = SystemdBus::open(root, TIMEOUT)?;
    let list = DbusCall {
        path: "/org/freedesktop/systemd1".to_owned(),
        interface: "org.freedesktop.systemd1.Manager",
        member: "ListUnitsByPatterns",
        // Any state, and by name.
        signature: "asas",
        body: DbusBody::new().strings(&[]).strings(&["*.service"]),
    };
    let responses = bus.call(&[list])?;
    let response = responses.into_iter().next().ok_or(SystemdError::Unreadable("its services"))?;
    let services = match response {
        DbusReply::Return(values) => {
            values.units(MAX_SERVICES).ok_or(SystemdError::Unreadable("its services"))?
        }
        DbusReply::Error(name) => return Err(SystemdError::ErrorReply(name)),
    };
    let mut counts = Vec::with_capacity(services.len());
    for services in services.chunks(CALLS_AT_ONCE) {
        let calls: Vec<DbusCall> =
            services.iter().map(|service| get(path_of(service), SERVICE, "NRestarts")).collect();
        for (service, reply) in services.iter().zip(bus.call(&calls)?) {
            // The service may have been unloaded, and an old systemd has no counter.
            if let DbusReply::Return(values) = reply {
                let count = values.u32().ok_or(SystemdError::Unreadable("NRestarts"))?;
                counts.push((service.clone(), count));
            }
        }
    }
    Ok(counts)
}

fn read_unit(bus: &mut SystemdBus, name: &str) -> Result<Unit, SystemdError> {
    let path = path_of(name);
    let calls = [
        get(path.clone(), UNIT, "LoadState"),
        get(path.clone(), UNIT, "ActiveState"),
        get(path.clone(), UNIT, "SubState"),
        get(path.clone(), UNIT, "UnitFileState"),
        get(path.clone(), UNIT, "ActiveEnterTimestamp"),
        get(path.clone(), UNIT, "ActiveExitTimestamp"),
        get(path, SERVICE, "NRestarts"),
    ];
    let replies = bus.call(&calls)?;
    let Ok([load, active, sub, file, enter, exit, restarts]) = <[DbusReply; 7]>::try_from(replies) else {
        return Err(SystemdError::Unreadable("a unit"));
    };
    let text = |reply, what| value(reply)?.text().ok_or(SystemdError::Unreadable(what));
    let time = |reply, what| {
        let micros = value(reply)?.u64().ok_or(SystemdError::Unreadable(what))?;
        let at = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
        Ok::<_, SystemdError>(at.filter(|_| micros > 0))
    };
    Ok(Unit {
        name: name.to_owned(),
        load_state: text(load, "LoadState")?,
        active_state: text(active, "ActiveState")?,
        sub_state: text(sub, "SubState")?,
        file_state: text(file, "UnitFileState")?,
        active_enter: time(enter, "ActiveEnterTimestamp")?,
        active_exit: time(exit, "ActiveExitTimestamp")?,
        n_restarts: match restarts {
            DbusReply::Return(values) => Some(values.u32().ok_or(SystemdError::Unreadable("NRestarts"))?),
            DbusReply::Error(_) => None,
        },
    })
}

fn value(reply: DbusReply) -> Result<message::DbusValues, SystemdError> {
    match reply {
        DbusReply::Return(values) => Ok(values),
        DbusReply::Error(name) => Err(SystemdError::ErrorReply(name)),
    }
}

fn get(path: String, interface: &str, property: &str) -> DbusCall {
    DbusCall {
        path,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        signature: "ss",
        body: DbusBody::new().string(interface).string(property),
    }
}

/// A unit's object path, with everything but ASCII letters and digits escaped (`sd_bus_path_encode(3)`). systemd
/// loads a unit when its path is accessed.
fn path_of(name: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && index > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests;
