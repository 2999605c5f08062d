//! The contents of payloads, and which log may report which node.

use jiff::SignedDuration;
use nodemend_domain::{condition::ConditionType, ident::AccountId, policy::Policy, report::MAX_BYTES};
use nodemend_intake::Intake;
use nodemend_ports::{
    store::Store,
    subscription::{
        Batch, Decoder, LogEvent, MAX_PAYLOAD, StreamRecord, SubscriptionRecord, encode, envelope,
    },
};
use nodemend_testkit::{
    Deployment,
    fixture::{
        AGENT_LOGS, AUDIT_STREAM, CONTROL_PLANE_LOGS, INTERFACE_DOWN, agent_payload, at, batch, cleared,
        cluster, control_plane_payload, instance, key, kubelet_ready, node, node_controller_unknown,
        node_deleted, policy, raised,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn deployment() -> Deployment {
    Deployment::new(0, policy())
}

/// The network interface of a node has been down since the start.
fn report(number: u64, seq: u64, written: i64) -> String {
    raised(number, INTERFACE_DOWN, at(0)).seq(seq).line(at(written))
}

#[test]
fn a_report_of_a_problem_makes_its_case_due_after_the_grace_period() {
    let deployment = deployment();
    let result = deployment.deliver(&agent_payload(1, &[report(1, 1, 0)]), at(0));
    assert_eq!((result.reports, result.rejected.len(), result.repair_events.len()), (1, 0, 1));
    assert_eq!(deployment.case(1).due(), Some(at(0) + SignedDuration::from_mins(30)));
    let due = pollster::block_on(deployment.store.due(at(1_800), 10)).expect("a read");
    assert_eq!(due, [key(1)]);
}

#[test]
fn a_control_message_changes_nothing() {
    let deployment = deployment();
    let control = envelope(
        r#"{"messageType":"CONTROL_MESSAGE","owner":"CloudwatchLogs","logGroup":"","logStream":"","subscriptionFilters":[],"logEvents":[{"id":"","timestamp":1510254469274,"message":"CWL CONTROL MESSAGE: Checking health of destination Lambda."}]}"#,
    );
    let result = deployment.deliver(control.as_bytes(), at(0));
    assert_eq!((result.reports, result.observations, result.rejected.len()), (0, 0, 0));
    assert_eq!(deployment.cases(), []);
}

#[test]
fn an_invalid_line_is_rejected_with_its_reason_and_the_others_are_applied() {
    let good = report(1, 2, 60);
    for (invalid, why) in [
        ("{".to_owned(), "not a report"),
        ("null".to_owned(), "not a report"),
        ("\u{1b}[2J".to_owned(), "not a report"),
        (good.replace(r#""v":1"#, r#""v":9"#), "v: version 9 is not 1"),
        (good.replace(r#""seq":2,"#, ""), "seq"),
        (" ".repeat(MAX_BYTES + 1), "more than a report's"),
        (good.replace(r#""cluster":"prod""#, r#""cluster":"test""#), "is not this log group's"),
        (good.replace(instance(1).as_str(), instance(2).as_str()), "is not this log stream's"),
    ] {
        for index in 0..3 {
            let deployment = deployment();
            let mut lines = vec![report(1, 1, 0), good.clone()];
            lines.insert(index, invalid.clone());
            let result = deployment.deliver(&agent_payload(1, &lines), at(60));
            assert_eq!(result.reports, 2, "{why}");
            let [rejected] = result.rejected.as_slice() else { panic!("{why}: {:?}", result.rejected) };
            assert!(rejected.why.contains(why) && rejected.index == index, "{rejected:?}");
            assert!(!rejected.excerpt.chars().any(char::is_control), "{rejected:?}");
            assert_eq!(deployment.faults(1, at(3_600)).len(), 1, "{why}");
        }
    }
}

#[test]
fn a_malformed_log_event_is_rejected_and_the_others_are_applied() {
    let deployment = deployment();
    let event = |message: &str| format!(r#"{{"id":"1","timestamp":1790000000000,"message":{message}}}"#);
    let line = serde_json::to_string(&report(1, 1, 0)).expect("JSON");
    let payload = envelope(&format!(
        r#"{{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"{AGENT_LOGS}","logStream":"{}","subscriptionFilters":[],"logEvents":[{},{}]}}"#,
        instance(1),
        event("7"),
        event(&line),
    ));
    let result = deployment.deliver(payload.as_bytes(), at(0));
    assert_eq!((result.reports, result.rejected.len()), (1, 1), "{:?}", result.rejected);
}

#[test]
fn an_invalid_payload_is_an_error_that_is_not_retryable() {
    for (payload, why) in [
        (b"{}".to_vec(), "Envelope"),
        (br#"{"awslogs":{"data":"!"}}"#.to_vec(), "Base64"),
        (br#"{"awslogs":{"data":"AAAA"}}"#.to_vec(), "Gzip"),
        (vec![b' '; MAX_PAYLOAD + 1], "TooLarge"),
        (envelope(&" ".repeat(9 * 1024 * 1024)).into_bytes(), "OverCap"),
        (envelope("{}").into_bytes(), "Json"),
    ] {
        let error = deployment().try_deliver(&payload, at(0)).expect_err(why);
        assert!(format!("{error:?}").contains(why), "{error:?}");
        assert!(!error.is_retryable(), "{why}");
    }
}

#[test]
fn reports_of_a_cluster_that_is_not_served_are_counted_and_dropped() {
    let deployment = deployment();
    let line = report(1, 1, 0).replace(r#""cluster":"prod""#, r#""cluster":"test""#);
    let group = "/nodemend/test/nodes";
    let payload = encode(&batch(group, instance(1).as_str(), &[line.clone(), line]));
    let result = deployment.deliver(payload.as_bytes(), at(0));
    assert_eq!((result.unknown_cluster, result.reports, result.rejected.len()), (2, 0, 0));
    assert_eq!(deployment.cases(), []);
}

/// The owner of an account can give a log group any name.
#[test]
fn reports_from_another_account_are_counted_and_dropped() {
    let account = |digit: char| AccountId::new(digit.to_string().repeat(12)).ok();
    let payload = |owner: char| {
        let lines = [report(1, 1, 0)];
        let batch = batch(AGENT_LOGS, instance(1).as_str(), &lines);
        encode(&Batch { owner: owner.to_string().repeat(12).into(), ..batch })
    };
    // The policy names no account, or 2; the function is in 1.
    for (named, owner, applied) in
        [(None, '1', true), (None, '2', false), (Some('2'), '2', true), (Some('2'), '1', false)]
    {
        let deployment = deployment();
        deployment.store.set_policy(&cluster(), Policy { account: named.and_then(account), ..policy() });
        let intake = Intake::new(deployment.store.clone()).in_account(account('1'));
        let mut decoder = Decoder::new();
        let result = pollster::block_on(intake.handle(&mut decoder, payload(owner).as_bytes(), at(0)));
        let result = result.expect("intake succeeds");
        assert_eq!(
            (result.reports, result.unknown_cluster),
            if applied { (1, 0) } else { (0, 1) },
            "{named:?}"
        );
        assert_eq!(deployment.cases().is_empty(), !applied);
    }
}

#[test]
fn a_record_of_a_stream_or_a_queue_is_applied_like_a_payload() {
    let by_payload = deployment();
    let payload = agent_payload(1, &[report(1, 1, 0)]);
    by_payload.deliver(&payload, at(0));
    let data: Value = serde_json::from_slice(&payload).expect("JSON");
    let data = data["awslogs"]["data"].as_str().expect("text");
    let of_stream = SubscriptionRecord::Stream {
        kinesis: StreamRecord { sequence_number: "1".into(), data: data.into() },
    };
    let body = String::from_utf8(payload).expect("text").into();
    for record in [of_stream, SubscriptionRecord::Queue { message_id: "a".into(), body }] {
        let deployment = deployment();
        let intake = Intake::new(deployment.store.clone());
        let result = pollster::block_on(intake.apply_record(&mut Decoder::new(), &record, at(0)));
        assert_eq!(result.expect("intake succeeds").reports, 1);
        assert_eq!(deployment.cases(), by_payload.cases());
    }
}

#[test]
fn lines_of_an_unknown_log_group_are_rejected() {
    for group in ["/aws/lambda/x", "/nodemend/prod", "/nodemend//nodes", "/aws/eks/prod/other", ""] {
        let deployment = deployment();
        let lines = [report(1, 1, 0), "x".to_owned()];
        let result =
            deployment.deliver(encode(&batch(group, instance(1).as_str(), &lines)).as_bytes(), at(0));
        assert_eq!((result.rejected.len(), result.reports), (2, 0), "{group}");
        assert_eq!(deployment.cases(), [], "{group}");
    }
}

#[test]
fn a_compromised_node_can_change_its_own_case_only() {
    let deployment = deployment();
    deployment.deliver(&agent_payload(2, &[cleared(2, INTERFACE_DOWN, at(0)).line(at(0))]), at(0));
    let before = deployment.case(2);
    // A node may write to its own log stream only. There, it forges a report of another instance.
    let forged = report(2, 9, 60);
    let result = deployment.deliver(&agent_payload(1, &[forged]), at(60));
    assert_eq!((result.reports, result.rejected.len()), (0, 1));
    // It may use another node's name with its own instance ID, but that is its own case.
    let borrowed = report(1, 1, 60).replace(node(1).as_str(), node(2).as_str());
    assert_eq!(deployment.deliver(&agent_payload(1, &[borrowed]), at(60)).reports, 1);
    assert_eq!(deployment.case(2), before);
}

#[test]
fn a_kubelet_can_report_its_own_node_only() {
    let deployment = deployment();
    let other = kubelet_ready(1, at(0), "False").replace(
        &format!(r#""username":"system:node:{}""#, node(1)),
        &format!(r#""username":"system:node:{}""#, node(2)),
    );
    let result = deployment.deliver(&control_plane_payload(&[other]), at(0));
    assert_eq!((result.observations, result.irrelevant), (0, 1));
    assert_eq!(deployment.cases(), []);
}

#[test]
fn a_control_plane_payload_is_applied_to_many_nodes() {
    let deployment = deployment();
    let lines = [
        kubelet_ready(1, at(0), "False"),
        kubelet_ready(2, at(1), "True"),
        r#"{"kind":"Event","stage":"ResponseComplete","verb":"get","user":{"username":"x"},"objectRef":{"resource":"pods"}}"#.to_owned(),
        "not JSON".to_owned(),
        kubelet_ready(3, at(2), "True"),
    ];
    let result = deployment.deliver(&control_plane_payload(&lines), at(5));
    assert_eq!((result.observations, result.irrelevant, result.rejected.len()), (3, 1, 1));
    assert_eq!(deployment.faults(1, at(3_600))[0].condition, ConditionType::Ready);
    assert!(deployment.faults(2, at(3_600)).is_empty() && deployment.faults(3, at(3_600)).is_empty());
}

#[test]
fn only_the_audit_streams_of_a_control_plane_are_read() {
    let deployment = deployment();
    let lines = [kubelet_ready(1, at(0), "False")];
    for stream in ["kube-controller-manager-1", "authenticator-1", "kube-apiserver-0123"] {
        let result = deployment.deliver(encode(&batch(CONTROL_PLANE_LOGS, stream, &lines)).as_bytes(), at(0));
        assert_eq!((result.observations, result.irrelevant), (0, 1), "{stream}");
    }
    assert_eq!(deployment.cases(), []);
    assert_eq!(deployment.deliver(&control_plane_payload(&lines), at(0)).observations, 1, "{AUDIT_STREAM}");
}

#[test]
fn a_node_known_by_name_only_is_matched_with_its_instance_or_counted() {
    let deployment = deployment();
    let unknown = control_plane_payload(&[node_controller_unknown(1, at(60))]);
    assert_eq!(deployment.deliver(&unknown, at(60)).instance_unknown, 1);
    deployment.deliver(&control_plane_payload(&[kubelet_ready(1, at(0), "True")]), at(60));
    let result = deployment.deliver(&unknown, at(60));
    assert_eq!((result.instance_unknown, result.observations), (0, 1));
    assert_eq!(deployment.faults(1, at(3_600))[0].condition, ConditionType::Ready);
}

#[test]
fn a_node_that_registers_and_is_deleted_in_one_payload_is_deleted() {
    const UID: &str = "2c82579a-e0f3-4271-95aa-4250955441ca";
    let registration = json!({
        "kind": "Event", "stage": "ResponseComplete", "verb": "create", "requestURI": "/api/v1/nodes",
        "user": { "username": format!("system:node:{}", node(1)) },
        "objectRef": { "resource": "nodes", "name": node(1) },
        "responseStatus": { "code": 201 },
        "responseObject": {
            "metadata": { "name": node(1), "uid": UID },
            "spec": { "providerID": format!("aws:///us-east-1a/{}", instance(1)) },
        },
        "stageTimestamp": at(0).to_string(),
    });
    let deletion = |uid: Option<&str>| {
        let mut deletion: Value = serde_json::from_str(&node_deleted(1, at(1))).expect("JSON");
        if let Some(uid) = uid {
            deletion["responseStatus"]["details"] = json!({ "name": node(1), "uid": uid });
        }
        deletion.to_string()
    };
    for (uid, is_deleted) in
        [(Some(UID), true), (None, true), (Some("00000000-0000-4000-8000-000000000001"), false)]
    {
        let deployment = deployment();
        let payload = control_plane_payload(&[registration.to_string(), deletion(uid)]);
        let result = deployment.deliver(&payload, at(2));
        assert_eq!((result.observations, result.rejected.len()), (2, 0));
        let faults = deployment.faults(1, at(3));
        assert_eq!(
            faults.iter().any(|fault| fault.reason == "NodeDeleted"),
            is_deleted,
            "{uid:?}: {faults:?}"
        );
    }
}

#[test]
fn a_node_name_is_matched_with_its_newest_instance() {
    let deployment = deployment();
    for number in [7, 3] {
        let lines = [kubelet_ready(number, at(0), "True").replace(node(number).as_str(), node(1).as_str())];
        deployment.deliver(&control_plane_payload(&lines), at(1));
    }
    deployment.deliver(&control_plane_payload(&[node_controller_unknown(1, at(60))]), at(60));
    assert!(deployment.faults(7, at(3_600)).is_empty(), "the older one");
    assert_eq!(deployment.faults(3, at(3_600)).len(), 1, "the newer one");
    assert_eq!(deployment.find(1), None);
}

/// The reports of one boot of node 1: its interface is down, up and down again.
fn lines() -> Vec<String> {
    let down = |seq, since, written| raised(1, INTERFACE_DOWN, at(since)).seq(seq).line(at(written));
    let up = cleared(1, INTERFACE_DOWN, at(360)).seq(3).line(at(360));
    vec![down(1, 0, 0), down(2, 0, 300), up, down(4, 900, 900), down(5, 900, 1_200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn reports_in_any_order_split_or_repetition_lead_to_the_same_case(
        order in Just(lines().into_iter().chain(lines()).collect::<Vec<_>>()).prop_shuffle(),
        cuts in prop::collection::vec(1usize..5, 1..8),
    ) {
        let expected = deployment();
        expected.deliver(&agent_payload(1, &lines()), at(1_201));

        let shuffled = deployment();
        let mut remaining = order;
        let mut cuts = cuts.into_iter().cycle();
        while !remaining.is_empty() {
            let cut = cuts.next().expect("endless").min(remaining.len());
            let payload: Vec<String> = remaining.drain(..cut).collect();
            shuffled.deliver(&agent_payload(1, &payload), at(1_201));
        }
        let faults = |deployment: &Deployment| -> Vec<_> {
            deployment.faults(1, at(3_600)).into_iter().map(|fault| (fault.condition, fault.since, fault.deadline, fault.health)).collect()
        };
        prop_assert_eq!(faults(&shuffled), faults(&expected));
        let summary = |deployment: &Deployment| {
            let case = deployment.case(1);
            (case.due(), case.unhealthy_reason().cloned())
        };
        prop_assert_eq!(summary(&shuffled), summary(&expected));
    }

    #[test]
    fn no_line_stops_its_batch(lines in prop::collection::vec(any::<String>(), 0..8)) {
        let deployment = deployment();
        let mut lines = lines;
        lines.push(report(1, 1, 0));
        let mut agents = batch(AGENT_LOGS, instance(1).as_str(), &lines);
        agents.events.push(LogEvent { id: "x".into(), timestamp: at(0), message: "{}".into() });
        let result = pollster::block_on(Intake::new(deployment.store.clone()).take(agents, at(0))).expect("intake succeeds");
        prop_assert_eq!((result.reports, result.rejected.len()), (1, lines.len()));
        prop_assert_eq!(deployment.faults(1, at(3_600)).len(), 1);
    }
}

#[test]
fn a_decoder_is_reused_after_an_error() {
    let deployment = deployment();
    let intake = Intake::new(deployment.store.clone());
    let mut decoder = Decoder::new();
    for number in 1..=5 {
        let payload = agent_payload(number, &[report(number, 1, 0)]);
        pollster::block_on(intake.handle(&mut decoder, &payload, at(0))).expect("intake succeeds");
        pollster::block_on(intake.handle(&mut decoder, b"garbage", at(0))).expect_err("an invalid payload");
    }
    assert_eq!(deployment.cases().len(), 5);
}
