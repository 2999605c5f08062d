//! Turns what systemd knows of its units into [`Unit`]s.
//!
//! It is asked over the system bus, and where that does not answer over its own private socket. Single properties are asked for: all of a service's would have systemd read its cgroup.

mod bus;
#[cfg(test)]
pub(crate) mod fake;
mod message;

use std::{fmt, io, path::Path, time::Duration};

use jiff::Timestamp;

use self::{
    bus::Bus,
    message::{Body, Call, Reply},
};

/// systemd answers within milliseconds, unless it reloads a few hundred units.
const TIMEOUT: Duration = Duration::from_secs(5);
/// So many services are asked about; nodes have a few dozen.
const MAX_SERVICES: usize = 512;
/// So many questions are sent before their answers are read: more could fill the socket in both directions.
const AT_ONCE: usize = 32;

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// A unit as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// Whether there is a file for it: `loaded`, `not-found`, `masked`, and more.
    pub load_state: String,
    /// What it does: `active`, `inactive`, `failed`, `activating`, and more.
    pub active_state: String,
    /// The same for its kind of unit: `running`, `dead`, `auto-restart`, and more.
    pub sub_state: String,
    /// Whether it is set to start with the machine: `enabled`, `disabled`, `static`, and more.
    pub file_state: String,
    /// How often systemd restarted it by itself; none where it is no service, or before systemd 235.
    pub n_restarts: Option<u32>,
    /// When it last became active; none if it never did since boot.
    pub active_enter: Option<Timestamp>,
    /// When it last ceased to be active.
    pub active_exit: Option<Timestamp>,
}

impl Unit {
    /// Whether there is such a unit that may run.
    pub fn is_loaded(&self) -> bool {
        self.load_state == "loaded"
    }

    /// Whether it runs, or has done what it is for.
    pub fn is_active(&self) -> bool {
        // Reloading and refreshing are things that an active unit does.
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        self.active_state == "failed"
    }

    /// Whether anybody wants it to run: a unit that is installed, and neither set to start nor ever started, is idle.
    pub fn is_wanted(&self) -> bool {
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

/// Why systemd has nothing to say.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No systemd, no permission, no answer.
    #[error("systemd can't be asked: {0}")]
    Io(#[from] io::Error),
    /// It answered with an error.
    #[error("systemd refuses to say: {0}")]
    Refused(String),
    /// It answered with something else than was asked for.
    #[error("systemd's answer about {0} can't be read")]
    Unreadable(&'static str),
}

/// Asks about one unit. One that does not exist has the load state `not-found`.
pub fn unit(root: &Path, name: &str) -> Result<Unit, SystemdError> {
    let mut units = units(root, &[name])?;
    units.pop().ok_or(SystemdError::Unreadable("a unit"))
}

/// Asks about several units over one connection, in the order of their names.
pub fn units(root: &Path, names: &[&str]) -> Result<Vec<Unit>, SystemdError> {
    let mut bus = Bus::open(root, TIMEOUT)?;
    names.iter().map(|name| ask(&mut bus, name)).collect()
}

/// How often systemd restarted each service that it has loaded, by itself.
pub fn restarts(root: &Path) -> Result<Vec<(String, u32)>, SystemdError> {
    let mut bus = Bus::open(root, TIMEOUT)?;
    let list = Call {
        path: "/org/freedesktop/systemd1".to_owned(),
        interface: "org.freedesktop.systemd1.Manager",
        member: "ListUnitsByPatterns",
        // Whatever their state, and by name.
        signature: "asas",
        body: Body::new().strings(&[]).strings(&["*.service"]),
    };
    let answers = bus.call(&[list])?;
    let answer = answers.into_iter().next().ok_or(SystemdError::Unreadable("its services"))?;
    let services = match answer {
        Reply::Return(values) => {
            values.units(MAX_SERVICES).ok_or(SystemdError::Unreadable("its services"))?
        }
        Reply::Error(name) => return Err(SystemdError::Refused(name)),
    };
    let mut counts = Vec::with_capacity(services.len());
    for services in services.chunks(AT_ONCE) {
        let calls: Vec<Call> =
            services.iter().map(|service| get(path_of(service), SERVICE, "NRestarts")).collect();
        for (service, reply) in services.iter().zip(bus.call(&calls)?) {
            // A service may be gone by now, and an old systemd does not count.
            if let Reply::Return(values) = reply {
                let count = values.u32().ok_or(SystemdError::Unreadable("NRestarts"))?;
                counts.push((service.clone(), count));
            }
        }
    }
    Ok(counts)
}

fn ask(bus: &mut Bus, name: &str) -> Result<Unit, SystemdError> {
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
    let Ok([load, active, sub, file, enter, exit, restarts]) = <[Reply; 7]>::try_from(replies) else {
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
            Reply::Return(values) => Some(values.u32().ok_or(SystemdError::Unreadable("NRestarts"))?),
            Reply::Error(_) => None,
        },
    })
}

fn value(reply: Reply) -> Result<message::Values, SystemdError> {
    match reply {
        Reply::Return(values) => Ok(values),
        Reply::Error(name) => Err(SystemdError::Refused(name)),
    }
}

fn get(path: String, interface: &str, property: &str) -> Call {
    Call {
        path,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        signature: "ss",
        body: Body::new().string(interface).string(property),
    }
}

/// A unit's object path, in which everything but ASCII letters and digits is escaped (`sd_bus_path_encode(3)`). systemd
/// loads a unit that is asked about.
fn path_of(name: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (place, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && place > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests;
