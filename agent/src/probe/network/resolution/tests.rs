use std::{fs, net::UdpSocket, thread};

use super::*;

const NAME: &str = "0123456789abcdef.gr7.us-east-1.eks.amazonaws.com";

/// As EKS's images write it.
fn kubeconfig(server: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Config\nclusters:\n  - name: kubernetes\n    cluster:\n      \
         certificate-authority: /etc/kubernetes/pki/ca.crt\n      server: {server}\ncurrent-context: kubelet\n\
         contexts:\n  - name: kubelet\n    context:\n      cluster: kubernetes\n      user: kubelet\nusers:\n  - \
         name: kubelet\n    user:\n      exec:\n        apiVersion: client.authentication.k8s.io/v1beta1\n        \
         command: aws\n        args: [eks, get-token, --cluster-name, prod]\n"
    )
}

/// A node whose kubeconfig names that server and whose name server listens on that port of the loopback.
struct Node {
    folder: tempfile::TempDir,
    port: u16,
}

impl Node {
    fn new(server: &str, port: u16) -> Self {
        let node = Self { folder: tempfile::tempdir().expect("a folder"), port };
        node.write("var/lib/kubelet/kubeconfig", &kubeconfig(server));
        node.write("etc/resolv.conf", "search ec2.internal\nnameserver 127.0.0.1\n");
        node
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn probe(&self) -> Resolution {
        Resolution { root: self.folder.path().to_owned(), port: self.port, standing: Standing::default() }
    }

    fn failure(&self) -> Option<String> {
        self.probe().failure(NAME).expect("a reading")
    }
}

/// A name server on a port of its own; what it sends back is for the caller to say, nothing if empty.
fn name_server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("an address").port();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let answer = answer(&bytes[..length]);
            if !answer.is_empty() {
                socket.send_to(&answer, from).expect("an answer");
            }
        }
    });
    port
}

/// The answer with that code, and an address if the question is for that kind.
fn answered(question: &[u8], code: u8, kind: Option<Kind>) -> Vec<u8> {
    let mut bytes = question.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = code;
    if kind.is_some_and(|kind| question[question.len() - 3] == kind as u8) {
        bytes[7] = 1;
        bytes.extend([0xc0, 0x0c, 0, kind.expect("a kind") as u8, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    }
    bytes
}

#[test]
fn a_name_that_resolves_is_well_in_either_family() {
    for kind in [Kind::A, Kind::Aaaa] {
        let port = name_server(move |question| answered(question, 0, Some(kind)));
        let node = Node::new(&format!("https://{NAME}"), port);
        let changes = node.probe().read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(matches!(&changes[..], [Change::Cleared { reason, .. }] if reason == FAILING), "{changes:?}");
    }
}

#[test]
fn a_server_that_fails_refuses_or_does_not_know_the_name_is_named_with_why() {
    for (code, why) in [(2, "the server failed"), (3, "there is no such name"), (5, "the server refused")] {
        let node = Node::new("https://x", name_server(move |question| answered(question, code, None)));
        assert_eq!(node.failure(), Some(format!("{NAME} does not resolve: 127.0.0.1: {why}")));
    }
    let node = Node::new("https://x", name_server(|question| answered(question, 0, None)));
    assert!(node.failure().is_some_and(|why| why.ends_with("the name has no addresses")));
}

#[test]
fn a_server_that_is_silent_or_says_something_else_costs_a_second() {
    let node = Node::new("https://x", name_server(|_| Vec::new()));
    assert!(node.failure().is_some_and(|why| why.ends_with("127.0.0.1: no answer")), "{:?}", node.failure());
    let node = Node::new("https://x", name_server(|_| b"HTTP/1.1 400 Bad Request".to_vec()));
    assert!(node.failure().is_some_and(|why| why.ends_with("127.0.0.1: no answer")));
}

#[test]
fn nobody_there_is_a_failure_at_once() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("an address").port();
    drop(socket);
    let why = Node::new("https://x", port).failure().expect("a failure");
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn the_next_server_is_asked_if_the_first_fails_but_not_if_it_knows_of_no_such_name() {
    // Both servers have the same port: which is which, the address says.
    let first = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).expect("a port");
    let port = first.local_addr().expect("an address").port();
    let second = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), port)).expect("a port");
    for (socket, codes) in [(first, [2, 3]), (second, [0, 0])] {
        thread::spawn(move || {
            let mut bytes = [0; 512];
            for code in codes {
                let (length, from) = socket.recv_from(&mut bytes).expect("a question");
                let kind = (code == 0).then_some(Kind::A);
                socket.send_to(&answered(&bytes[..length], code, kind), from).expect("an answer");
            }
        });
    }
    let node = Node::new("https://x", port);
    node.write("etc/resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.3\n");
    assert_eq!(node.failure(), None, "the first fails, the second knows");
    assert!(node.failure().is_some(), "there is no such name");
}

#[test]
fn a_name_in_the_hosts_file_needs_no_server() {
    let node = Node::new("https://x", 1);
    node.write("etc/hosts", &format!("127.0.0.1 localhost\n# 10.0.0.1 {NAME}\n"));
    assert!(node.failure().is_some());
    node.write("etc/hosts", &format!("127.0.0.1 localhost\n10.0.0.1\t{} # api\n", NAME.to_uppercase()));
    assert_eq!(node.failure(), None);
}

#[test]
fn what_the_kubeconfig_does_not_name_can_not_be_checked() {
    for (text, why) in [
        (kubeconfig("https://10.0.0.1:6443"), "known by its address"),
        (kubeconfig("https://[fd00::1]:443"), "known by its address"),
        (kubeconfig("https://"), "has no name"),
        ("clusters: []\n".to_owned(), "names no API server"),
        ("clusters: [\n".to_owned(), "names no API server"),
        (String::new(), "names no API server"),
        ("x".repeat(70_000), "longer than"),
    ] {
        let node = Node::new("https://x", 1);
        node.write("var/lib/kubelet/kubeconfig", &text);
        let error = node.probe().read(Timestamp::UNIX_EPOCH).expect_err("no reading");
        assert!(error.why.contains(why), "{error}");
    }
    let empty = tempfile::tempdir().expect("a folder");
    assert!(Resolution::new(empty.path()).read(Timestamp::UNIX_EPOCH).is_err());
}

#[test]
fn a_kubeconfig_is_read_on_the_stack_that_a_probe_has() {
    let text = kubeconfig("https://x.eks.amazonaws.com");
    let read = thread::Builder::new().stack_size(256 * 1024).spawn(move || server(&text)).expect("a thread");
    assert_eq!(read.join().expect("no overflow").as_deref(), Some("https://x.eks.amazonaws.com"));
    let json = r#"{"clusters":[{"cluster":{"server":"https://y"},"name":"k"}]}"#;
    assert_eq!(server(json).as_deref(), Some("https://y"));
    let nodeadm = r#"{"kind":"NodeConfig","spec":{"cluster":{"name":"prod","apiServerEndpoint":"https://z","cidr":
        "172.20.0.0/16"},"kubelet":{}},"status":{}}"#;
    assert_eq!(server(nodeadm).as_deref(), Some("https://z"));
}

#[test]
fn the_host_of_a_url_is_found_whatever_stands_around_it() {
    for (url, expected) in [
        ("https://a.eks.amazonaws.com", Some("a.eks.amazonaws.com")),
        ("https://a.eks.amazonaws.com:443/x?y", Some("a.eks.amazonaws.com")),
        ("https://user:word@a:443", Some("a")),
        ("https://[fd00::1]:443", Some("fd00::1")),
        ("a:6443", Some("a")),
        ("https://[fd00::1", None),
        ("https://:443", None),
        ("", None),
    ] {
        assert_eq!(host_of(url), expected, "{url}");
    }
}

#[test]
fn name_servers_are_read_as_the_c_library_reads_them() {
    for (text, expected) in [
        ("nameserver 10.0.0.2\n", &["10.0.0.2"][..]),
        (
            "# nameserver 1.1.1.1\noptions edns0\nnameserver\t10.0.0.2 \nnameserver fd00:ec2::253\n",
            &["10.0.0.2", "fd00:ec2::253"],
        ),
        ("nameserver fe80::1%eth0\nnameserver 10.0.0.2\n", &["10.0.0.2"]),
        (
            "nameserver 1.0.0.1\nnameserver 1.0.0.2\nnameserver 1.0.0.3\nnameserver 1.0.0.4\n",
            &["1.0.0.1", "1.0.0.2", "1.0.0.3"],
        ),
        ("nameserver\n", &["127.0.0.1"]),
        ("", &["127.0.0.1"]),
    ] {
        let read: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(read, expected, "{text}");
    }
}

#[test]
fn only_an_interface_that_runs_beside_the_loopback_connects() {
    let link = |loopback, up, running| route::Link {
        index: 1,
        name: "eth0".to_owned(),
        kind: String::new(),
        up,
        running,
        loopback,
        reaches_many: true,
    };
    assert!(is_connected(&[link(true, true, true), link(false, true, true)]));
    for links in
        [&[link(true, true, true)][..], &[link(false, true, false)], &[link(false, false, false)], &[]]
    {
        assert!(!is_connected(links), "{links:?}");
    }
}
