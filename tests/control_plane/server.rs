//! A control plane on loopback: etcd, kube-apiserver, the controllers that decide about nodes and evictions, and hollow kubelets.
//!
//! - Ports, certificates and keys are made at its start, below a temporary directory.
//! - Everything ends with the value, also when a test fails: each process is killed and waited for, and the kernel kills them all
//!   if the test's own process ends first.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use nodemend_stack::child::Launcher;
use nodemend_testkit::{
    fixture::{instance, node, zone},
    http::ServerCertificate,
};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authenticator::{self, ADMINISTRATOR, CONTROLLERS};

/// Which controllers run: those that write the conditions and taints of nodes, evict for them, and count budgets.
const RUNNING: &str = "node-lifecycle-controller,taint-eviction-controller,disruption-controller";
/// How long any wait may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often something is looked at that nobody announces.
const POLL: Duration = Duration::from_millis(250);
/// How much of a log a failure prints.
const TAIL: usize = 30;

/// A process, which is killed and waited for when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control plane that runs.
pub(crate) struct ControlPlane {
    // Dropped in this order: kubelets, then controllers, API server and etcd, then what they wrote.
    kubelets: RefCell<BTreeMap<u64, Process>>,
    parts: RefCell<Vec<(&'static str, Process)>>,
    directory: TempDir,
    program: PathBuf,
    address: SocketAddr,
    authority: String,
}

impl ControlPlane {
    /// Starts one without kubelets, applies the RBAC of this repository, and waits until it answers.
    pub(crate) async fn start() -> Self {
        let program = std::env::var_os("NODEMEND_CONTROL_PLANE").expect("make control-plane runs this test");
        let directory = tempfile::tempdir().expect("a directory");
        let authority = write_certificates(directory.path());
        let control_plane = Self {
            kubelets: RefCell::default(),
            parts: RefCell::default(),
            directory,
            program: program.into(),
            address: free_port(),
            authority,
        };
        control_plane.start_parts().await;
        for manifest in ["read-rbac.yaml", "drain-rbac.yaml"] {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("infra/examples").join(manifest);
            control_plane.kubectl(&["apply", "--filename", &manifest.to_string_lossy()]).await;
        }
        control_plane
    }

    async fn start_parts(&self) {
        let (etcd, peers) = (format!("http://{}", free_port()), format!("http://{}", free_port()));
        let arguments = [
            format!("--data-dir={}", self.path("etcd").display()),
            format!("--listen-client-urls={etcd}"),
            format!("--advertise-client-urls={etcd}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let program = PathBuf::from("etcd");
        self.start_part("etcd", &program, &arguments);

        let webhook = authenticator::serve().await;
        write(&self.path("webhook"), &kubeconfig(&json!({ "server": format!("http://{webhook}") }), ""));
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control_plane/audit-policy.yaml");
        let in_directory = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let arguments = [
            "apiserver".to_owned(),
            format!("--etcd-servers={etcd}"),
            format!("--bind-address={}", self.address.ip()),
            format!("--secure-port={}", self.address.port()),
            // Nothing in the cluster connects to the API server by the service's address.
            format!("--advertise-address={}", self.address.ip()),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.100.0.0/16".to_owned(),
            in_directory("tls-cert-file", "server.crt"),
            in_directory("tls-private-key-file", "server.key"),
            in_directory("cert-dir", "certificates"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            in_directory("service-account-key-file", "accounts.pub"),
            in_directory("service-account-signing-key-file", "accounts.key"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            // The pods of the tests have no service account: no controller makes one for a namespace.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            in_directory("authentication-token-webhook-config-file", "webhook"),
            "--authentication-token-webhook-version=v1".to_owned(),
            format!("--audit-policy-file={}", policy.display()),
            in_directory("audit-log-path", "audit.log"),
        ];
        let program = self.program.clone();
        self.start_part("apiserver", &program, &arguments);
        for (name, token) in [("administrator", ADMINISTRATOR), ("controllers", CONTROLLERS)] {
            self.write_kubeconfig(name, token);
        }
        self.wait_until("the API server is ready", async || {
            self.try_kubectl(ADMINISTRATOR, &["get", "--raw=/readyz"]).await.is_ok()
        })
        .await;

        let arguments = [
            "controllers".to_owned(),
            format!("--kubeconfig={}", self.path("controllers.kubeconfig").display()),
            format!("--controllers={RUNNING}"),
            // Each controller then acts in its own name, as in EKS.
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        self.start_part("controllers", &program, &arguments);
    }

    /// Starts the kubelet of a node, and waits until the node is ready.
    pub(crate) async fn start_kubelet(&self, number: u64) {
        let (name, instance_id) = (node(number), instance(number));
        let log = format!("kubelet-{number}");
        self.write_kubeconfig(&log, &authenticator::kubelet(&name, &instance_id));
        let arguments = [
            "kubelet".to_owned(),
            format!("--kubeconfig={}", self.path(&format!("{log}.kubeconfig")).display()),
            format!("--name={name}"),
            format!("--provider-id=aws:///{}/{instance_id}", zone()),
        ];
        let process = self.spawn(&log, &self.program, &arguments);
        self.kubelets.borrow_mut().insert(number, process);
        self.wait_for_node(number, "condition=Ready=True").await;
    }

    /// Kills the kubelet of a node.
    pub(crate) fn kill_kubelet(&self, number: u64) {
        self.kubelets.borrow_mut().remove(&number).expect("a kubelet that runs");
    }

    /// Waits until a node is in this state, as `kubectl wait --for` takes it.
    pub(crate) async fn wait_for_node(&self, number: u64, state: &str) {
        let name = format!("node/{}", node(number));
        self.wait_until("the node is registered", async || {
            self.try_kubectl(ADMINISTRATOR, &["get", &name]).await.is_ok()
        })
        .await;
        self.wait_for(&name, state).await;
        self.wait_for_cache(&name).await;
    }

    /// Waits until the server's cache, which the reconciler lists, is not behind what etcd has of this node.
    async fn wait_for_cache(&self, node: &str) {
        let known = self.kubectl(&["get", node, "--output=jsonpath={.metadata.resourceVersion}"]).await;
        let known: u64 = known.trim().parse().expect("a resource version");
        self.wait_until("the cache shows the node's state", async || {
            let listed = self.kubectl(&["get", "--raw", "/api/v1/nodes?resourceVersion=0"]).await;
            let list: Value = serde_json::from_str(&listed).expect("a list");
            let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            version.and_then(|version| version.parse::<u64>().ok()).expect("a resource version") >= known
        })
        .await;
    }

    /// Waits until an object is in this state, as `kubectl wait --for` takes it.
    pub(crate) async fn wait_for(&self, object: &str, state: &str) {
        let (state, timeout) = (format!("--for={state}"), format!("--timeout={}s", PATIENCE.as_secs()));
        self.kubectl(&["wait", object, &state, &timeout, "--namespace=shop"]).await;
    }

    /// Waits until something is so that nobody announces.
    pub(crate) async fn wait_until(&self, what: &str, mut check: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !check().await {
            if let Some(ended) = self.ended() {
                panic!("{ended} has ended before {what}\n{}", self.tails());
            }
            assert!(Instant::now() < end, "not in time: {what}\n{}", self.tails());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs kubectl as the administrator. A failure fails the test.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let result = self.try_kubectl(ADMINISTRATOR, arguments).await;
        result.unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}\n{}", self.tails()))
    }

    /// Runs kubectl with a token: what it printed, or what it printed about its failure.
    pub(crate) async fn try_kubectl(&self, token: &str, arguments: &[&str]) -> Result<String, String> {
        let kubeconfig = self.path("administrator.kubeconfig");
        let output = tokio::process::Command::new(&self.program)
            .arg("kubectl")
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--token={token}"))
            .args(arguments)
            .env("HOME", self.directory.path())
            .kill_on_drop(true)
            .output()
            .await
            .expect("kubectl starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Creates objects.
    pub(crate) async fn create(&self, objects: &[Value]) {
        let file = self.path("objects.json");
        write(&file, &json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
        self.kubectl(&["create", "--filename", &file.to_string_lossy()]).await;
    }

    /// Posts an object to a path as the administrator: what kubectl printed.
    pub(crate) async fn post(&self, path: &str, object: &Value) -> Result<String, String> {
        let file = self.path("object.json");
        write(&file, object);
        let arguments = ["create", "--raw", path, "--filename", &file.to_string_lossy()];
        self.try_kubectl(ADMINISTRATOR, &arguments).await
    }

    /// The lines of the control-plane audit log so far, the oldest first.
    pub(crate) fn audit_lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("audit.log")).expect("an audit log");
        // The last line may still be written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(ToOwned::to_owned).collect()
    }

    /// EKS's answer to DescribeCluster.
    pub(crate) fn described(&self) -> Value {
        json!({ "cluster": {
            "name": "prod",
            "endpoint": format!("https://{}", self.address),
            "certificateAuthority": { "data": self.authority },
        } })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_kubeconfig(&self, name: &str, token: &str) {
        let cluster = json!({
            "server": format!("https://{}", self.address),
            "certificate-authority-data": self.authority,
        });
        write(&self.path(&format!("{name}.kubeconfig")), &kubeconfig(&cluster, token));
    }

    fn start_part(&self, name: &'static str, program: &Path, arguments: &[String]) {
        let process = self.spawn(name, program, arguments);
        // The last one that started is the first one to end.
        self.parts.borrow_mut().insert(0, (name, process));
    }

    /// The part or kubelet that has ended by itself, if any.
    fn ended(&self) -> Option<String> {
        let has_ended = |process: &mut Process| !matches!(process.0.try_wait(), Ok(None));
        let mut parts = self.parts.borrow_mut();
        let part =
            parts.iter_mut().find_map(|(name, process)| has_ended(process).then(|| (*name).to_owned()));
        let mut kubelets = self.kubelets.borrow_mut();
        let kubelet = || {
            kubelets
                .iter_mut()
                .find_map(|(number, process)| has_ended(process).then(|| format!("kubelet {number}")))
        };
        part.or_else(kubelet)
    }

    fn spawn(&self, name: &str, program: &Path, arguments: &[String]) -> Process {
        let log = File::create(self.path(&format!("{name}.log"))).expect("a log file");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = Launcher::new(env!("CARGO_BIN_EXE_nodemend")).command(program);
        command
            .args(arguments)
            .env("PATH", path)
            // Kubelets write below it.
            .env("TMPDIR", self.directory.path())
            .env("HOME", self.directory.path())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        Process(command.as_std_mut().spawn().expect("a process starts"))
    }

    /// The ends of all logs.
    fn tails(&self) -> String {
        let tail = |name: &str| {
            let log = fs::read(self.path(&format!("{name}.log"))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {name}\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"))
        };
        let kubelets = self.kubelets.borrow();
        let kubelets = kubelets.keys().map(|number| tail(&format!("kubelet-{number}")));
        let parts = self.parts.borrow();
        parts.iter().map(|(name, _)| tail(name)).chain(kubelets).collect::<Vec<_>>().join("\n")
    }
}

/// A port that is free now. Another process may take it before it is used; then the start fails, and says so.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("a file");
}

/// A kubeconfig file for one cluster and the bearer of one token. JSON is YAML.
fn kubeconfig(cluster: &Value, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "prod", "cluster": cluster }],
        "users": [{ "name": "user", "user": if token.is_empty() { json!({}) } else { json!({ "token": token }) } }],
        "contexts": [{ "name": "prod", "context": { "cluster": "prod", "user": "user" } }],
        "current-context": "prod",
    })
}

/// Writes the API server's certificate with its key, and the key of service accounts. Returns the authority as EKS returns it.
fn write_certificates(directory: &Path) -> String {
    let ServerCertificate { key, certificate, authority } = ServerCertificate::issue();
    let accounts = KeyPair::generate().expect("a key");
    let files = [
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
        ("accounts.key", accounts.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
    ];
    for (name, text) in files {
        fs::write(directory.join(name), text).expect("a file");
    }
    authority
}
