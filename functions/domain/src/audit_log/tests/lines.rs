//! The format of a line of the audit log, and what the chain of lines shows.

use serde_json::{Value, json};

use super::*;

#[test]
fn a_step_cannot_be_mistaken_for_an_aws_call() {
    let call = ApiCall::RebootInstances {
        instance_id: InstanceId::new("i-0ab76e62066c9730c").expect("an instance id"),
    };
    let record = step(RecordStep::Observed, call.to_value(), Chain::start());
    let line: Value = serde_json::from_str(&record.to_json_line()).expect("JSON");
    assert_eq!(line["eventSource"], "nodemend");
    assert_eq!(line["eventType"], "NodemendStep");
    assert_eq!(line["eventName"], "RepairObserved");
    assert_eq!(line["requestParameters"], json!({"instanceId": "i-0ab76e62066c9730c"}));
    assert_eq!(line["responseElements"]["eventName"], "RebootInstances");
    assert_eq!(line["nodemend"]["step"], "observed");
    assert_eq!(line["nodemend"]["at"], "2024-12-28T14:06:12.500Z");
    assert_eq!(ComparisonOutcome::of(&record, &event(REAL)), ComparisonOutcome::AnotherCall);
}

#[test]
fn a_record_that_is_written_and_read_is_the_same() {
    let steps = [
        step(RecordStep::Claimed, Value::Null, Chain::start()),
        step(RecordStep::Closed, json!({"activity": {"activityId": "x"}, "_return": 1}), Chain::start()),
    ];
    for record in pairs().into_iter().map(|(_, record)| record).chain(steps) {
        let line = record.to_json_line();
        let read = Record::read(&line).expect("our own record");
        assert_eq!(read, record);
        assert_eq!(read.to_json_line(), line);
        assert!(!line.contains('\n'));
    }
}

fn chain() -> (Vec<String>, Chain) {
    let mut chain = Chain::start();
    let mut lines = Vec::new();
    let write = |record: Record, chain: &mut Chain, lines: &mut Vec<String>| {
        lines.push(record.to_json_line());
        chain.follow(&lines[lines.len() - 1]).expect("a chain");
    };
    write(step(RecordStep::Claimed, Value::Null, chain.clone()), &mut chain, &mut lines);
    let mut call = golden();
    call.nodemend.sequence = chain.next_sequence();
    chain.sha256().clone_into(&mut call.nodemend.previous_sha256);
    write(call, &mut chain, &mut lines);
    for at in [RecordStep::Confirmed, RecordStep::Closed] {
        write(step(at, json!({"seconds": 190}), chain.clone()), &mut chain, &mut lines);
    }
    (lines, chain)
}

#[test]
fn a_chain_starts_at_genesis_and_ends_at_the_last_lines_hash() {
    let (lines, head) = chain();
    assert_eq!(verify_chain(&lines), Ok(head.clone()));
    assert_eq!(head.sha256(), sha256(&lines[3]));
    assert_eq!(head.sequence(), 4);
    assert!(lines[0].contains(&format!(r#""previousSha256":"{GENESIS}""#)));
    // The test vector of FIPS 180-2, so that other tools can verify the chain.
    assert_eq!(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(verify_chain(Vec::<String>::new()), Ok(Chain::start()));
}

#[test]
fn an_altered_byte_breaks_the_chain() {
    let (lines, head) = chain();
    for number in 0..lines.len() {
        for index in 0..lines[number].len() {
            let mut altered = lines.clone();
            let mut bytes = altered[number].clone().into_bytes();
            bytes[index] = if bytes[index] == b'0' { b'1' } else { b'0' };
            altered[number] = String::from_utf8(bytes).expect("ASCII");
            match verify_chain(&altered) {
                // An alteration of the last line shows only by comparison with the stored end.
                Ok(end) => assert!(number == lines.len() - 1 && end != head, "{number} {index}"),
                Err(broken) => {
                    assert!((number as u64 + 1..=number as u64 + 2).contains(&broken.sequence), "{broken}");
                }
            }
        }
    }
}

#[test]
fn a_removed_swapped_repeated_or_foreign_record_breaks_the_chain() {
    let (lines, head) = chain();
    for number in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(number);
        match verify_chain(&removed) {
            Ok(end) => assert!(number == lines.len() - 1 && end != head),
            Err(broken) => assert_eq!(broken.sequence, number as u64 + 1),
        }
        for other in number + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(number, other);
            assert_eq!(verify_chain(&swapped).expect_err("broken").sequence, number as u64 + 1);
        }
        let mut repeated = lines.clone();
        repeated.insert(number, lines[number].clone());
        assert_eq!(verify_chain(&repeated).expect_err("broken").sequence, number as u64 + 2);
    }
    // A record of another instance, correctly linked.
    let mut foreign_record = step(RecordStep::Closed, Value::Null, head);
    "another".clone_into(&mut foreign_record.nodemend.case);
    let mut foreign = lines;
    foreign.push(foreign_record.to_json_line());
    let broken = verify_chain(&foreign).expect_err("broken");
    assert_eq!(broken.sequence, 5);
    assert_eq!(broken.to_string(), "the audit log is broken at record 5: it belongs to another instance");
}

#[test]
fn the_next_repair_of_an_instance_continues_its_chain() {
    let (mut lines, head) = chain();
    let mut next = step(RecordStep::Claimed, Value::Null, head);
    let instance = next.nodemend.case.split('#').next().unwrap_or_default().to_owned();
    next.nodemend.case = format!("{instance}#2");
    lines.push(next.to_json_line());
    assert_eq!(verify_chain(&lines).map(|end| end.sequence()), Ok(5));
}
