use std::{fs, net::UdpSocket, thread};

use super::*;

const NAME: &str = "0123456789abcdef.gr7.us-east-1.eks.amazonaws.com";

/// The kubeconfig of EKS's images.
fn kubeconfig(server: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Config\nclusters:\n  - name: kubernetes\n    cluster:\n      \
         certificate-authority: /etc/kubernetes/pki/ca.crt\n      server: {server}\ncurrent-context: kubelet\n\
         contexts:\n  - name: kubelet\n    context:\n      cluster: kubernetes\n      user: kubelet\nusers:\n  - \
         name: kubelet\n    user:\n      exec:\n        apiVersion: client.authentication.k8s.io/v1beta1\n        \
         command: aws\n        args: [eks, get-token, --cluster-name, prod]\n"
    )
}

/// A node whose kubeconfig names this server and whose name server listens on this port of the loopback interface.
struct DnsNode {
    directory: tempfile::TempDir,
    port: u16,
}

impl DnsNode {
    fn new(server: &str, port: u16) -> Self {
        let node = Self { directory: tempfile::tempdir().expect("a directory"), port };
        node.write("var/lib/kubelet/kubeconfig", &kubeconfig(server));
        node.write("etc/resolv.conf", "search ec2.internal\nnameserver 127.0.0.1\n");
        node
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn probe(&self) -> DnsProbe {
        DnsProbe { root: self.directory.path().to_owned(), port: self.port, latch: ConditionLatch::default() }
    }

    fn failure(&self) -> Option<String> {
        self.probe().failure(NAME).expect("a reading")
    }
}

/// A name server that responds with the result of `answer`, or not at all if it is empty. Returns its port.
fn name_server(response: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("an address").port();
    thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let response = response(&bytes[..length]);
            if !response.is_empty() {
                socket.send_to(&response, from).expect("a response");
            }
        }
    });
    port
}

/// A response with this code, and with an address if the query has this type.
fn response_with(query: &[u8], code: u8, kind: Option<RecordType>) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    bytes[3] = code;
    if kind.is_some_and(|kind| query[query.len() - 3] == kind as u8) {
        bytes[7] = 1;
        bytes.extend([0xc0, 0x0c, 0, kind.expect("a kind") as u8, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
    }
    bytes
}

#[test]
fn a_name_that_resolves_is_healthy_in_either_family() {
    for kind in [RecordType::A, RecordType::Aaaa] {
        let port = name_server(move |query| response_with(query, 0, Some(kind)));
        let node = DnsNode::new(&format!("https://{NAME}"), port);
        let changes = node.probe().read(Timestamp::UNIX_EPOCH).expect("a reading");
        assert!(
            matches!(&changes[..], [FindingChange::Cleared { reason, .. }] if reason == FAILING),
            "{changes:?}"
        );
    }
}

#[test]
fn a_server_that_fails_refuses_or_does_not_know_the_name_is_named_with_why() {
    for (code, why) in [(2, "the server failed"), (3, "no such name"), (5, "the server refused the query")] {
        let node = DnsNode::new("https://x", name_server(move |query| response_with(query, code, None)));
        assert_eq!(node.failure(), Some(format!("{NAME} does not resolve: 127.0.0.1: {why}")));
    }
    let node = DnsNode::new("https://x", name_server(|query| response_with(query, 0, None)));
    assert!(node.failure().is_some_and(|why| why.ends_with("the name has no addresses")));
}

#[test]
fn a_server_without_a_valid_response_times_out_after_a_second() {
    let node = DnsNode::new("https://x", name_server(|_| Vec::new()));
    assert!(
        node.failure().is_some_and(|why| why.ends_with("127.0.0.1: no response")),
        "{:?}",
        node.failure()
    );
    let node = DnsNode::new("https://x", name_server(|_| b"HTTP/1.1 400 Bad Request".to_vec()));
    assert!(node.failure().is_some_and(|why| why.ends_with("127.0.0.1: no response")));
}

#[test]
fn a_refused_query_fails_at_once() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = socket.local_addr().expect("an address").port();
    drop(socket);
    let why = DnsNode::new("https://x", port).failure().expect("a failure");
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn the_next_server_is_queried_after_a_failure_but_not_after_nxdomain() {
    // Both servers use the same port and differ in the address.
    let first = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).expect("a port");
    let port = first.local_addr().expect("an address").port();
    let second = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), port)).expect("a port");
    for (socket, codes) in [(first, [2, 3]), (second, [0, 0])] {
        thread::spawn(move || {
            let mut bytes = [0; 512];
            for code in codes {
                let (length, from) = socket.recv_from(&mut bytes).expect("a question");
                let kind = (code == 0).then_some(RecordType::A);
                socket.send_to(&response_with(&bytes[..length], code, kind), from).expect("a response");
            }
        });
    }
    let node = DnsNode::new("https://x", port);
    node.write("etc/resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.3\n");
    assert_eq!(node.failure(), None, "the first fails, the second resolves the name");
    assert!(node.failure().is_some(), "no such name");
}

#[test]
fn a_name_in_the_hosts_file_needs_no_server() {
    let node = DnsNode::new("https://x", 1);
    node.write("etc/hosts", &format!("127.0.0.1 localhost\n# 10.0.0.1 {NAME}\n"));
    assert!(node.failure().is_some());
    node.write("etc/hosts", &format!("127.0.0.1 localhost\n10.0.0.1\t{} # api\n", NAME.to_uppercase()));
    assert_eq!(node.failure(), None);
}

#[test]
fn without_a_host_name_in_the_kubeconfig_it_is_not_checkable() {
    for (text, why) in [
        (kubeconfig("https://10.0.0.1:6443"), "configured by IP address"),
        (kubeconfig("https://[fd00::1]:443"), "configured by IP address"),
        (kubeconfig("https://"), "without a host"),
        ("clusters: []\n".to_owned(), "has no API server"),
        ("clusters: [\n".to_owned(), "has no API server"),
        (String::new(), "has no API server"),
        ("x".repeat(70_000), "longer than"),
    ] {
        let node = DnsNode::new("https://x", 1);
        node.write("var/lib/kubelet/kubeconfig", &text);
        let error = node.probe().read(Timestamp::UNIX_EPOCH).expect_err("no reading");
        assert!(error.why.contains(why), "{error}");
    }
    let empty = tempfile::tempdir().expect("a directory");
    assert!(DnsProbe::new(empty.path()).read(Timestamp::UNIX_EPOCH).is_err());
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
fn the_host_of_a_url_is_found_in_any_form() {
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
