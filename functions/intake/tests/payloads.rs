//! What a payload may hold, and who may say what of whom.

mod ward;

use nodemend_domain::{condition::ConditionType, ident::AccountId, policy::Policy, report::MAX_BYTES};
use nodemend_intake::Intake;
use nodemend_ports::{
    store::{CaseKey, Store},
    subscription::{Batch, Decoder, LogEvent, MAX_PAYLOAD, Record, StreamRecord, encode, envelope},
};
use proptest::prelude::*;

use self::ward::{
    AGENTS, AUDIT_STREAM, CONTROL_PLANE, at, batch, case, cluster, faults, find, instance, minutes, node,
    of_agent, of_api_server, ready, report, state, store, take, try_take,
};

#[test]
fn a_bad_report_makes_a_case_that_is_due_when_its_grace_ends() {
    let store = store();
    let taken = take(&store, &of_agent(1, &[report(1, 1, 0, Some(0))]), 0);
    assert_eq!((taken.reports, taken.rejected.len(), taken.repair_events.len()), (1, 0, 1));
    assert_eq!(case(&store, 1).due(), Some(at(0) + minutes(30)));
    let due = pollster::block_on(store.due(at(1_800), 10)).expect("a memory");
    assert_eq!(due, [CaseKey { cluster: cluster(), instance_id: instance(1) }]);
}

#[test]
fn a_control_message_is_no_news() {
    let store = store();
    let control = envelope(
        r#"{"messageType":"CONTROL_MESSAGE","owner":"CloudwatchLogs","logGroup":"","logStream":"","subscriptionFilters":[],"logEvents":[{"id":"","timestamp":1510254469274,"message":"CWL CONTROL MESSAGE: Checking health of destination Lambda."}]}"#,
    );
    let taken = take(&store, control.as_bytes(), 0);
    assert_eq!((taken.reports, taken.observations, taken.rejected.len()), (0, 0, 0));
    assert_eq!(state(&store), []);
}

#[test]
fn a_poison_line_is_kept_with_its_reason_and_the_others_are_taken_in() {
    let good = report(1, 2, 60, Some(0));
    for (poison, why) in [
        ("{".to_owned(), "not a report"),
        ("null".to_owned(), "not a report"),
        ("\u{1b}[2J".to_owned(), "not a report"),
        (good.replace(r#""v":1"#, r#""v":9"#), "v: version 9 is not 1"),
        (good.replace(r#""seq":2,"#, ""), "seq"),
        (" ".repeat(MAX_BYTES + 1), "more than a report's"),
        (good.replace(r#""cluster":"prod""#, r#""cluster":"test""#), "is not this log group's"),
        (good.replace(instance(1).as_str(), instance(2).as_str()), "is not this log stream's"),
    ] {
        for place in 0..3 {
            let store = store();
            let mut lines = vec![report(1, 1, 0, Some(0)), good.clone()];
            lines.insert(place, poison.clone());
            let taken = take(&store, &of_agent(1, &lines), 60);
            assert_eq!(taken.reports, 2, "{why}");
            let [rejected] = taken.rejected.as_slice() else { panic!("{why}: {:?}", taken.rejected) };
            assert!(rejected.why.contains(why) && rejected.index == place, "{rejected:?}");
            assert!(!rejected.excerpt.chars().any(char::is_control), "{rejected:?}");
            assert_eq!(faults(&store, 1).len(), 1, "{why}");
        }
    }
}

#[test]
fn a_log_event_that_is_none_is_kept_with_its_reason_too() {
    let store = store();
    let event = |message: &str| format!(r#"{{"id":"1","timestamp":1790000000000,"message":{message}}}"#);
    let line = serde_json::to_string(&report(1, 1, 0, Some(0))).expect("JSON");
    let payload = envelope(&format!(
        r#"{{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"{AGENTS}","logStream":"{}","subscriptionFilters":[],"logEvents":[{},{}]}}"#,
        instance(1),
        event("7"),
        event(&line),
    ));
    let taken = take(&store, payload.as_bytes(), 0);
    assert_eq!((taken.reports, taken.rejected.len()), (1, 1), "{:?}", taken.rejected);
}

#[test]
fn a_payload_that_is_none_says_so_and_is_not_tried_again() {
    for (payload, why) in [
        (b"{}".to_vec(), "Envelope"),
        (br#"{"awslogs":{"data":"!"}}"#.to_vec(), "Base64"),
        (br#"{"awslogs":{"data":"AAAA"}}"#.to_vec(), "Gzip"),
        (vec![b' '; MAX_PAYLOAD + 1], "TooLarge"),
        (envelope(&" ".repeat(9 * 1024 * 1024)).into_bytes(), "OverCap"),
        (envelope("{}").into_bytes(), "Json"),
    ] {
        let error = try_take(store(), &payload, 0).expect_err(why);
        assert!(format!("{error:?}").contains(why), "{error:?}");
        assert!(!error.is_retryable(), "{why}");
    }
}

#[test]
fn a_cluster_that_is_not_ours_is_counted_and_dropped() {
    let store = store();
    let line = report(1, 1, 0, Some(0)).replace(r#""cluster":"prod""#, r#""cluster":"test""#);
    let group = "/nodemend/test/nodes";
    let payload = encode(&batch(group, instance(1).as_str(), &[line.clone(), line]));
    let taken = take(&store, payload.as_bytes(), 0);
    assert_eq!((taken.unknown_cluster, taken.reports, taken.rejected.len()), (2, 0, 0));
    assert_eq!(state(&store), []);
}

/// Who owns an account can give a log group any name.
#[test]
fn another_accounts_word_of_a_cluster_is_counted_and_dropped() {
    let account = |digit: char| AccountId::new(digit.to_string().repeat(12)).ok();
    let payload = |owner: char| {
        let lines = [report(1, 1, 0, Some(0))];
        let batch = batch("/nodemend/prod/nodes", instance(1).as_str(), &lines);
        encode(&Batch { owner: owner.to_string().repeat(12).into(), ..batch })
    };
    // The policy names no account, or 2; the function is in 1.
    for (named, owner, taken_in) in
        [(None, '1', true), (None, '2', false), (Some('2'), '2', true), (Some('2'), '1', false)]
    {
        let store = store();
        store.set_policy(&cluster(), Policy { account: named.and_then(account), ..ward::policy() });
        let intake = Intake::new(store.clone()).in_account(account('1'));
        let mut decoder = Decoder::new();
        let taken = pollster::block_on(intake.handle(&mut decoder, payload(owner).as_bytes(), at(0)));
        let taken = taken.expect("taken in");
        assert_eq!(
            (taken.reports, taken.unknown_cluster),
            if taken_in { (1, 0) } else { (0, 1) },
            "{named:?}"
        );
        assert_eq!(state(&store).is_empty(), !taken_in);
    }
}

#[test]
fn a_record_of_a_batch_is_what_a_payload_carries() {
    let by_payload = store();
    let payload = of_agent(1, &[report(1, 1, 0, Some(0))]);
    take(&by_payload, &payload, 0);
    let data: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
    let data = data["awslogs"]["data"].as_str().expect("text");
    let of_stream =
        Record::Stream { kinesis: StreamRecord { sequence_number: "1".into(), data: data.into() } };
    let body = String::from_utf8(payload).expect("text").into();
    for record in [of_stream, Record::Queue { message_id: "a".into(), body }] {
        let store = store();
        let intake = Intake::new(store.clone());
        let taken = pollster::block_on(intake.take_record(&mut Decoder::new(), &record, at(0)));
        assert_eq!(taken.expect("taken in").reports, 1);
        assert_eq!(state(&store), state(&by_payload));
    }
}

#[test]
fn a_log_group_that_nobody_should_have_subscribed_is_refused_line_by_line() {
    for group in ["/aws/lambda/x", "/nodemend/prod", "/nodemend//nodes", "/aws/eks/prod/other", ""] {
        let store = store();
        let lines = [report(1, 1, 0, Some(0)), "x".to_owned()];
        let taken = take(&store, encode(&batch(group, instance(1).as_str(), &lines)).as_bytes(), 0);
        assert_eq!((taken.rejected.len(), taken.reports), (2, 0), "{group}");
        assert_eq!(state(&store), [], "{group}");
    }
}

#[test]
fn a_compromised_node_can_only_lie_about_itself() {
    let store = store();
    take(&store, &of_agent(2, &[report(2, 1, 0, None)]), 0);
    let before = case(&store, 2);
    // It may write to its own stream alone: another's name, id or cluster there is a lie.
    let lie = report(2, 9, 60, Some(0));
    let taken = take(&store, &of_agent(1, &[lie]), 60);
    assert_eq!((taken.reports, taken.rejected.len()), (0, 1));
    // It may claim another's name under its own id; that is its own case, and another's name leads elsewhere.
    let borrowed = report(1, 1, 60, Some(0)).replace(&node(1), &node(2));
    assert_eq!(take(&store, &of_agent(1, &[borrowed]), 60).reports, 1);
    assert_eq!(case(&store, 2), before);
}

#[test]
fn a_kubelet_speaks_for_its_own_node_alone() {
    let store = store();
    let other = ready(1, 0, "False", false).replace(
        &format!(r#""username":"system:node:{}""#, node(1)),
        &format!(r#""username":"system:node:{}""#, node(2)),
    );
    let taken = take(&store, &of_api_server(&[other]), 0);
    assert_eq!((taken.observations, taken.irrelevant), (0, 1));
    assert_eq!(state(&store), []);
}

#[test]
fn the_control_plane_tells_of_many_nodes_in_one_payload() {
    let store = store();
    let lines = [
        ready(1, 0, "False", false),
        ready(2, 1, "True", false),
        r#"{"kind":"Event","stage":"ResponseComplete","verb":"get","user":{"username":"x"},"objectRef":{"resource":"pods"}}"#.to_owned(),
        "not JSON".to_owned(),
        ready(3, 2, "True", false),
    ];
    let taken = take(&store, &of_api_server(&lines), 5);
    assert_eq!((taken.observations, taken.irrelevant, taken.rejected.len()), (3, 1, 1));
    assert_eq!(faults(&store, 1)[0].condition, ConditionType::Ready);
    assert!(faults(&store, 2).is_empty() && faults(&store, 3).is_empty());
}

#[test]
fn only_the_audit_streams_of_a_control_plane_are_read() {
    let store = store();
    let lines = [ready(1, 0, "False", false)];
    for stream in ["kube-controller-manager-1", "authenticator-1", "kube-apiserver-0123"] {
        let taken = take(&store, encode(&batch(CONTROL_PLANE, stream, &lines)).as_bytes(), 0);
        assert_eq!((taken.observations, taken.irrelevant), (0, 1), "{stream}");
    }
    assert_eq!(state(&store), []);
    assert_eq!(take(&store, &of_api_server(&lines), 0).observations, 1, "{AUDIT_STREAM}");
}

#[test]
fn who_is_known_by_name_alone_is_placed_or_counted() {
    let store = store();
    let unknown = of_api_server(&[ready(1, 60, "Unknown", true)]);
    assert_eq!(take(&store, &unknown, 60).instance_unknown, 1);
    take(&store, &of_api_server(&[ready(1, 0, "True", false)]), 60);
    let taken = take(&store, &unknown, 60);
    assert_eq!((taken.instance_unknown, taken.observations), (0, 1));
    assert_eq!(faults(&store, 1)[0].condition, ConditionType::Ready);
}

#[test]
fn a_name_leads_to_the_newest_instance_that_still_lives() {
    let store = store();
    for number in [7, 3] {
        let lines = [ready(number, 0, "True", false).replace(&node(number), &node(1))];
        take(&store, &of_api_server(&lines), 1);
    }
    take(&store, &of_api_server(&[ready(1, 60, "Unknown", true)]), 60);
    assert!(faults(&store, 7).is_empty(), "the older one");
    assert_eq!(faults(&store, 3).len(), 1, "the newer one");
    assert_eq!(find(&store, 1), None);
}

fn lines() -> Vec<(u64, String)> {
    let said =
        [(1, 0, Some(0)), (2, 300, Some(0)), (3, 360, None), (4, 900, Some(900)), (5, 1_200, Some(900))];
    let said = said.map(|(seq, written, since)| report(1, seq, written, since));
    said.into_iter().enumerate().map(|(n, line)| (n as u64, line)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Split, repeated and shuffled: the same case in the end.
    #[test]
    fn any_order_any_split_and_any_repetition_come_to_the_same(
        order in Just(lines().into_iter().chain(lines()).collect::<Vec<_>>()).prop_shuffle(),
        cuts in prop::collection::vec(1usize..5, 1..8),
    ) {
        let expected = store();
        let all: Vec<String> = lines().into_iter().map(|(_, line)| line).collect();
        take(&expected, &of_agent(1, &all), 1_201);

        let shuffled = store();
        let mut rest: Vec<String> = order.into_iter().map(|(_, line)| line).collect();
        let mut cuts = cuts.into_iter().cycle();
        while !rest.is_empty() {
            let cut = cuts.next().expect("endless").min(rest.len());
            let payload: Vec<String> = rest.drain(..cut).collect();
            take(&shuffled, &of_agent(1, &payload), 1_201);
        }
        let told = |store| -> Vec<_> {
            faults(store, 1).into_iter().map(|fault| (fault.condition, fault.since, fault.deadline, fault.health)).collect()
        };
        prop_assert_eq!(told(&shuffled), told(&expected));
        let look = |store| (case(store, 1).due(), case(store, 1).unhealthy_reason().cloned());
        prop_assert_eq!(look(&shuffled), look(&expected));
    }

    #[test]
    fn no_text_stops_a_batch(texts in prop::collection::vec(any::<String>(), 0..8)) {
        let store = store();
        let mut lines = texts;
        lines.push(report(1, 1, 0, Some(0)));
        let mut agents = batch(AGENTS, instance(1).as_str(), &lines);
        agents.events.push(LogEvent { id: "x".into(), timestamp: at(0), message: "{}".into() });
        let taken = pollster::block_on(Intake::new(store.clone()).take(agents, at(0))).expect("taken in");
        prop_assert_eq!((taken.reports, taken.rejected.len()), (1, lines.len()));
        prop_assert_eq!(faults(&store, 1).len(), 1);
    }
}

#[test]
fn one_decoder_serves_payload_after_payload() {
    let store = store();
    let intake = Intake::new(store.clone());
    let mut decoder = Decoder::new();
    for number in 1..=5 {
        let payload = of_agent(number, &[report(number, 1, 0, Some(0))]);
        pollster::block_on(intake.handle(&mut decoder, &payload, at(0))).expect("taken in");
        pollster::block_on(intake.handle(&mut decoder, b"garbage", at(0))).expect_err("no payload");
    }
    assert_eq!(state(&store).len(), 5);
}
