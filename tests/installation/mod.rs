//! An installation: its two tables in a DynamoDB on loopback, a fleet in memory, and the command that operators run.

use std::{fs, process::Command, sync::mpsc, thread};

use aws_config::Region;
use aws_sdk_dynamodb::{Client, config::Credentials, types::AttributeValue};
use dynoxide::Database;
use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::{DynamoStore, Tables, create_tables},
    sdk,
};
use nodemend_confirm::Confirmer;
use nodemend_domain::{
    audit_log::Caller,
    case::Case,
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::{Fleet, MemoryCloud},
    store::{CaseKey, CaseWrite, Commit, Store},
};
use nodemend_repair::{Explanation, Repairer};
use nodemend_testkit::edit;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

type Item = std::collections::HashMap<String, AttributeValue>;

const STATE: &str = "nodemend-state";
const AUDIT: &str = "nodemend-audit-log";

pub(crate) fn cluster() -> ClusterName {
    ClusterName::new("prod").expect("a name")
}

pub(crate) fn instance(number: u64) -> InstanceId {
    InstanceId::new(format!("i-{number:017x}")).expect("an id")
}

pub(crate) fn node(number: u64) -> NodeName {
    NodeName::new(format!("ip-10-0-0-{number}.ec2.internal")).expect("a name")
}

fn key(number: u64) -> CaseKey {
    CaseKey { cluster: cluster(), instance_id: instance(number) }
}

pub(crate) struct Installation {
    runtime: Runtime,
    address: String,
    client: Client,
    store: DynamoStore,
    pub(crate) cloud: MemoryCloud,
    clock: VirtualClock,
    folder: tempfile::TempDir,
}

impl Installation {
    /// Empty tables, and nodes 1 to 3 in service.
    pub(crate) fn new() -> Self {
        let address = serve();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let config = sdk::defaults()
                .endpoint_url(format!("http://{address}"))
                .region(Region::new("us-east-1"))
                .credentials_provider(Credentials::new("test", "test", None, None, "a test"))
                .load()
                .await;
            let client = Client::new(&config);
            create_tables(&client, &tables()).await.expect("tables");
            client
        });
        let clock = VirtualClock::default();
        clock.advance_to(SystemClock.now() - SignedDuration::from_hours(1));
        let mut fleet = Fleet::default();
        let (group, zone) =
            (GroupName::new("workers").expect("a name"), Zone::new("us-east-1a").expect("a name"));
        for number in 1..=3 {
            fleet.join(&group, Some(&cluster()), &instance(number), &zone);
        }
        let caller = Caller {
            account: "123456789012".to_owned(),
            region: "us-east-1".to_owned(),
            arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".to_owned(),
            principal_id: None,
            user_agent: None,
        };
        let cloud = MemoryCloud::new(clock.clone(), caller, fleet);
        let store = DynamoStore::new(client.clone(), tables());
        let folder = tempfile::tempdir().expect("a folder");
        Self { runtime, address, client, store, cloud, clock, folder }
    }

    /// Exit code, standard output and standard error.
    pub(crate) fn nodemend(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_nodemend"))
            .args(arguments)
            .env("NODEMEND_CLUSTER", "prod")
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .output()
            .expect("nodemend runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Applies a policy, as alice.
    pub(crate) fn apply(&self, policy: &str) -> (i32, String) {
        let file = self.file("policy.yaml", policy);
        let (code, out, error) = self.nodemend(&["policy", "apply", &file, "--by", "alice"]);
        assert_eq!(code, 0, "{error}");
        (code, out)
    }

    pub(crate) fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// A node's agent says that its second interface has been down for so many minutes.
    pub(crate) fn hear(&self, number: u64, minutes: i64) {
        self.hear_of(number, minutes, "eth1 is down");
    }

    pub(crate) fn hear_of(&self, number: u64, minutes: i64, message: &str) {
        let now = self.now();
        let since = now - SignedDuration::from_mins(minutes);
        let finding = Finding {
            reason: "InterfaceNotUp".into(),
            severity: Severity::Condition,
            since,
            last: now,
            count: 1,
            message: message.into(),
        };
        let report = Report {
            cluster: cluster(),
            node: node(number),
            instance_id: instance(number),
            zone: None,
            boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
            seq: 1,
            at: now,
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition: ConditionType::NetworkingReady,
                status: Status::False,
                since,
                sound_secs: None,
                findings: vec![finding],
            }),
        };
        self.runtime.block_on(async {
            let policy = self.store.policy(&cluster()).await.expect("a store").expect("a policy");
            let mut case = Case::new(cluster(), instance(number));
            case.apply_report(&report, now, &policy);
            edit(&mut case, json!({ "group": GroupName::new("workers").expect("a name") }));
            case.plan(&policy, now);
            let change = CaseWrite { case: &case, group: None, entries: &[] };
            assert_eq!(self.store.commit(change).await, Ok(Commit::Won));
        });
    }

    fn repairer(&self) -> Repairer<DynamoStore, MemoryCloud, VirtualClock> {
        Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone())
    }

    pub(crate) fn run_once(&self) {
        self.sweep_at(self.now());
    }

    pub(crate) fn sweep_at(&self, now: Timestamp) {
        self.clock.advance_to(now);
        let swept = self.runtime.block_on(self.repairer().run_once()).expect("swept");
        assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    }

    pub(crate) fn explain(&self, number: u64) -> Explanation {
        self.clock.advance_to(self.now());
        self.runtime.block_on(self.repairer().explain(&key(number))).expect("explained").expect("a case")
    }

    /// CloudTrail tells of the node's last call just what we recorded.
    pub(crate) fn cloudtrail_tells(&self, number: u64) {
        self.runtime.block_on(async {
            let chain = self.store.chain(&key(number)).await.expect("a store");
            let call = chain.iter().rev().find(|entry| entry.request_id.is_some()).expect("a call");
            let mut detail: Value = serde_json::from_str(&call.line).expect("a record");
            detail.as_object_mut().expect("an object").remove("nodemend");
            let event = json!({
                "version": "0", "detail-type": "AWS API Call via CloudTrail", "source": "aws.autoscaling",
                "account": "123456789012", "region": "us-east-1", "time": detail["eventTime"], "detail": detail,
            });
            let audit = Confirmer::new(self.store.clone(), self.cloud.clone());
            let result = audit.handle(event.to_string().as_bytes(), self.clock.now()).await.expect("heard");
            assert_eq!(result.repair_events.len(), 1);
        });
    }

    fn record_key(number: u64, sequence: u64) -> Item {
        let pk = format!("case#{}#{}", cluster(), instance(number));
        Item::from([
            ("pk".to_owned(), AttributeValue::S(pk)),
            ("sk".to_owned(), AttributeValue::N(sequence.to_string())),
        ])
    }

    /// Takes a record out of the trail's table.
    pub(crate) fn take_record(&self, number: u64, sequence: u64) -> Item {
        let request = self
            .client
            .delete_item()
            .table_name(AUDIT)
            .set_key(Some(Self::record_key(number, sequence)))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllOld);
        let taken = self.runtime.block_on(request.send()).expect("taken");
        taken.attributes.expect("a record")
    }

    pub(crate) fn put_record(&self, item: Item) {
        let request = self.client.put_item().table_name(AUDIT).set_item(Some(item));
        self.runtime.block_on(request.send()).expect("put");
    }

    /// Changes a record's text.
    pub(crate) fn forge_record(&self, number: u64, sequence: u64, from: &str, to: &str) {
        let mut item = self.take_record(number, sequence);
        let line = item["line"].as_s().expect("text").replacen(from, to, 1);
        assert!(line.contains(to), "{line}");
        item.insert("line".to_owned(), AttributeValue::S(line));
        self.put_record(item);
    }
}

fn tables() -> Tables {
    Tables { state: STATE.to_owned(), audit: AUDIT.to_owned() }
}

/// A DynamoDB on a thread of its own, for as long as this process lives: commands ask it while the test waits for them.
fn serve() -> String {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            send.send(address).expect("a test that waits");
            let _ = dynoxide::server::serve_on(listener, Database::memory().expect("a database")).await;
        });
    });
    receive.recv().expect("an address")
}
