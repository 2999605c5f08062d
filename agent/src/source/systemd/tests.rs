use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use super::{bus::BUS, fake, *};

fn services() -> Vec<Unit> {
    let failed = Unit {
        active_state: "failed".to_owned(),
        sub_state: "failed".to_owned(),
        n_restarts: Some(5),
        active_exit: Some(Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_micros(1_795_581_846_652_065)),
        ..fake::running("kubelet.service")
    };
    vec![fake::running("containerd.service"), failed]
}

fn check(root: &Path) {
    let services = services();
    for expected in &services {
        assert_eq!(&unit(root, &expected.name).expect("a unit"), expected);
    }
    let unknown = unit(root, "nosuch.service").expect("a unit");
    assert_eq!((unknown.load_state.as_str(), unknown.is_expected()), ("not-found", false));
    let counts = restarts(root).expect("counts");
    assert_eq!(counts, [("containerd.service".to_owned(), 0), ("kubelet.service".to_owned(), 5)]);
}

#[test]
fn units_are_read_over_the_private_socket() {
    let root = tempfile::tempdir().expect("a directory");
    fake::start(root.path(), services());
    check(root.path());
}

struct DbusDaemon(Child);

impl Drop for DbusDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn units_are_read_over_a_bus() {
    let root = tempfile::tempdir().expect("a directory");
    let socket = root.path().join("run/dbus/system_bus_socket");
    fs::create_dir_all(socket.parent().expect("a directory")).expect("a directory");
    let daemon = Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--print-address"])
        .arg(format!("--address=unix:path={}", socket.display()))
        .stdout(Stdio::piped())
        .spawn();
    let mut daemon = match daemon {
        Ok(child) => DbusDaemon(child),
        Err(error) => {
            println!("skipped: no dbus-daemon can be started: {error}");
            return;
        }
    };
    let mut ready = String::new();
    let out = daemon.0.stdout.take().expect("its output");
    BufReader::new(out).read_line(&mut ready).expect("its address");

    let (named, is_named) = mpsc::channel();
    let path = root.path().to_owned();
    let server = thread::spawn(move || {
        let mut bus = SystemdBus::open(&path, Duration::from_secs(60)).expect("a bus");
        let request = DbusCall {
            path: "/org/freedesktop/DBus".to_owned(),
            interface: BUS,
            member: "RequestName",
            signature: "su",
            body: DbusBody::new().string(bus::SYSTEMD).u32(0),
        };
        let replies = bus.call_at(BUS, &[request]).expect("a reply");
        assert!(matches!(replies[..], [DbusReply::Return(_)]), "{replies:?}");
        named.send(()).expect("a listener");
        fake::serve(&mut bus.stream, &services());
    });
    is_named.recv_timeout(Duration::from_secs(60)).expect("a name");
    check(root.path());
    drop(daemon);
    server.join().expect("a server");
}

#[test]
fn without_systemd_a_query_fails() {
    let root = tempfile::tempdir().expect("a directory");
    let error = unit(root.path(), "kubelet.service").expect_err("no systemd");
    assert!(matches!(&error, SystemdError::Io(error) if error.kind() == io::ErrorKind::NotFound), "{error}");
}

#[test]
fn a_unit_that_was_never_started_is_not_expected_to_run() {
    let idle = Unit {
        active_state: "inactive".to_owned(),
        file_state: "disabled".to_owned(),
        active_enter: None,
        ..fake::running("containerd.service")
    };
    assert!(!idle.is_expected());
    assert!(
        Unit { file_state: "enabled".to_owned(), ..idle.clone() }.is_expected(),
        "it should have started"
    );
    assert!(
        Unit { active_enter: Some(Timestamp::UNIX_EPOCH), ..idle.clone() }.is_expected(),
        "it was stopped"
    );
    assert!(Unit { active_state: "failed".to_owned(), ..idle.clone() }.is_expected());
    assert!(
        !Unit { load_state: "masked".to_owned(), active_state: "failed".to_owned(), ..idle }.is_expected()
    );
}

#[test]
fn a_name_is_escaped_as_systemd_does() {
    for (name, path) in [
        ("kubelet.service", "kubelet_2eservice"),
        ("aws-network-policy-agent.service", "aws_2dnetwork_2dpolicy_2dagent_2eservice"),
        ("getty@tty1.service", "getty_40tty1_2eservice"),
        ("9p.service", "_39p_2eservice"),
    ] {
        assert_eq!(path_of(name), format!("/org/freedesktop/systemd1/unit/{path}"));
    }
}
