//! A deployment as an operator sees it: its tables in DynamoDB on loopback, an AWS account in memory, and the command.

use std::{fs, net::SocketAddr, process::Command};

use aws_config::Region;
use aws_sdk_dynamodb::{Client, config::Credentials, types::AttributeValue};
use jiff::{SignedDuration, Timestamp};
use nodemend_aws::{
    clock::SystemClock,
    dynamodb::{DynamoStore, create_tables},
    sdk,
};
use nodemend_confirm::Confirmer;
use nodemend_domain::{
    case::Case,
    ident::{ClusterName, GroupName},
    sources::ClusterSources,
};
use nodemend_intake::Intake;
use nodemend_ports::{
    audit_log::AuditLog,
    clock::{Clock, VirtualClock},
    cloud::MemoryCloud,
    store::{CaseWrite, Commit, Store},
    subscription::Decoder,
};
use nodemend_repair::{Explanation, Repairer};
use nodemend_stack::dynamodb;
use nodemend_testkit::{
    edit,
    fixture::{
        INTERFACE_DOWN, caller, cloudtrail_event_of_record, cluster, cluster_named, control_plane_payload,
        fleet, group, group_named, instance, key, node_marked, raised, zone,
    },
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

type Item = std::collections::HashMap<String, AttributeValue>;

pub(crate) struct Deployment {
    runtime: Runtime,
    address: SocketAddr,
    client: Client,
    store: DynamoStore,
    pub(crate) cloud: MemoryCloud,
    clock: VirtualClock,
    directory: tempfile::TempDir,
}

impl Deployment {
    /// Empty tables, and nodes 1 to 3 in service.
    pub(crate) fn new() -> Self {
        let address = dynamodb::serve().expect("DynamoDB");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(async {
            let config = sdk::defaults()
                .endpoint_url(format!("http://{address}"))
                .region(Region::new("us-east-1"))
                .credentials_provider(Credentials::new("test", "test", None, None, "a test"))
                .load()
                .await;
            let client = Client::new(&config);
            create_tables(&client, &dynamodb::tables()).await.expect("tables");
            client
        });
        let clock = VirtualClock::default();
        clock.advance_to(SystemClock.now() - SignedDuration::from_hours(1));
        let cloud = MemoryCloud::new(clock.clone(), caller(), fleet(3, &[zone()]));
        let store = DynamoStore::new(client.clone(), dynamodb::tables());
        let directory = tempfile::tempdir().expect("a directory");
        Self { runtime, address, client, store, cloud, clock, directory }
    }

    /// Runs the command: exit code, standard output and standard error.
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
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Applies a policy, as alice.
    pub(crate) fn apply(&self, policy: &str) -> (i32, String) {
        let file = self.file("policy.yaml", policy);
        let (code, out, error) = self.nodemend(&["policy", "apply", &file, "--by", "alice"]);
        assert_eq!(code, 0, "{error}");
        (code, out)
    }

    /// Reconciling knows this of the cluster's sources.
    pub(crate) fn put_sources(&self, sources: &ClusterSources) {
        self.runtime.block_on(self.store.put_sources(&cluster(), sources)).expect("a write");
    }

    pub(crate) fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// The agent of a node reports that its second interface has been down for so many minutes.
    pub(crate) fn report(&self, number: u64, minutes: i64) {
        self.report_with_message(number, minutes, INTERFACE_DOWN.message);
    }

    pub(crate) fn report_with_message(&self, number: u64, minutes: i64, message: &str) {
        self.report_of(&cluster(), &group(), number, minutes, message);
    }

    /// The same in a group of another cluster, which its instance joins.
    pub(crate) fn report_in(&self, name: &str, number: u64, minutes: i64) {
        let (cluster, group) = (cluster_named(name), group_named(name));
        self.cloud.change(|fleet| {
            fleet.leave(&instance(number));
            fleet.join(&group, Some(&cluster), &instance(number), &zone());
        });
        self.report_of(&cluster, &group, number, minutes, INTERFACE_DOWN.message);
    }

    fn report_of(&self, cluster: &ClusterName, group: &GroupName, number: u64, minutes: i64, message: &str) {
        let now = self.now();
        let since = now - SignedDuration::from_mins(minutes);
        // It was reported at once, and again now.
        let report = |seq| raised(number, INTERFACE_DOWN, since).message(message).seq(seq);
        self.runtime.block_on(async {
            let policy = self.store.policy(cluster).await.expect("a read").expect("a policy");
            let mut case = Case::new(cluster.clone(), instance(number));
            case.apply_report(&report(1).written(since), since, &policy);
            case.apply_report(&report(2).written(now), now, &policy);
            edit(&mut case, json!({ "group": group }));
            case.plan(&policy, now);
            let change = CaseWrite { case: &case, group: None, entries: &[] };
            assert_eq!(self.store.commit(change).await, Ok(Commit::Won));
        });
    }

    /// The API server logs that a user patched the Node object.
    pub(crate) fn mark(&self, number: u64, user: &str, patch: &Value) {
        let now = self.now();
        let payload = control_plane_payload(&[node_marked(number, user, patch, now)]);
        let intake = Intake::new(self.store.clone());
        let result =
            self.runtime.block_on(intake.handle(&mut Decoder::new(), &payload, now)).expect("a result");
        assert!(result.rejected.is_empty(), "{:?}", result.rejected);
    }

    fn repairer(&self) -> Repairer<DynamoStore, MemoryCloud, VirtualClock> {
        Repairer::new(self.store.clone(), self.cloud.clone(), self.clock.clone())
    }

    pub(crate) fn run_once(&self) {
        self.run_at(self.now());
    }

    pub(crate) fn run_at(&self, now: Timestamp) {
        self.clock.advance_to(now);
        let report = self.runtime.block_on(self.repairer().run_once()).expect("a run");
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    }

    pub(crate) fn explain(&self, number: u64) -> Explanation {
        self.clock.advance_to(self.now());
        self.runtime.block_on(self.repairer().explain(&key(number))).expect("an explanation").expect("a case")
    }

    /// Confirm handles CloudTrail's event about the last call for a node, which matches our record.
    pub(crate) fn confirm(&self, number: u64) {
        self.runtime.block_on(async {
            let chain = self.store.chain(&key(number)).await.expect("a read");
            let call = chain.iter().rev().find(|entry| entry.request_id.is_some()).expect("a call");
            let event = cloudtrail_event_of_record(&call.line).to_string();
            let confirmer = Confirmer::new(self.store.clone(), self.cloud.clone());
            let result =
                confirmer.handle(event.as_bytes(), self.clock.now()).await.expect("confirm succeeds");
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

    /// Deletes an audit record from the table.
    pub(crate) fn delete_record(&self, number: u64, sequence: u64) -> Item {
        let request = self
            .client
            .delete_item()
            .table_name(dynamodb::tables().audit)
            .set_key(Some(Self::record_key(number, sequence)))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllOld);
        let deleted = self.runtime.block_on(request.send()).expect("a write");
        deleted.attributes.expect("a record")
    }

    pub(crate) fn put_record(&self, item: Item) {
        let request = self.client.put_item().table_name(dynamodb::tables().audit).set_item(Some(item));
        self.runtime.block_on(request.send()).expect("a write");
    }

    /// Changes the text of an audit record.
    pub(crate) fn forge_record(&self, number: u64, sequence: u64, from: &str, to: &str) {
        let mut item = self.delete_record(number, sequence);
        let line = item["line"].as_s().expect("text").replacen(from, to, 1);
        assert!(line.contains(to), "{line}");
        item.insert("line".to_owned(), AttributeValue::S(line));
        self.put_record(item);
    }
}
