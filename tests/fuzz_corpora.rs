//! Runs every fuzz target over its corpus, and over mutations of it that are the same in each run.
//!
//! libFuzzer (`fuzz.sh`) goes further and learns; what it finds goes into the corpus and is checked here from then on.

#[path = "fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "they are public in the fuzz crate")]
mod targets;

use std::{
    collections::BTreeSet,
    fs, panic,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fastrand::Rng;
use nodemend_agent::source::{
    firewall::{FirewallRule, IpFamily, nft, save},
    netlink::message::messages,
};

/// As much as one corpus file may become.
const MAX_BYTES: usize = 16 * 1024;
/// Numbers at which a reader's arithmetic is most likely wrong, in binary input.
const EDGES: [u64; 8] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];
/// Values that a reader's arithmetic, or its calendar, is most likely wrong about, in text.
const EDGE_VALUES: [&str; 16] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "-9223372036854775808",
    "9999-12-30T21:59:59.999Z",
    "-009999-01-02T01:59:59Z",
    "1970-01-01T00:00:00Z",
    "P10000Y",
    "175307616h",
    "null",
    "\\ud800",
    "\\u001b[2J",
    "\u{202e}é",
    "{\"a\":[[[[[[[[",
    "&a [*a,*a]",
];

/// Memory is counted for the whole process: one target at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    entries.map(|entry| stem(entry.expect("an entry").path())).collect()
}

/// In the order of their names, so that a run is the same everywhere.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder().join("corpus").join(name))
        .expect("a corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// How an input is changed at a place.
type Change = fn(&mut Vec<u8>, usize, &mut Rng);

/// A target that reads text: values are replaced by ones that are hard to read.
fn check_text(name: &str, mutations: usize) {
    check(name, mutations, change_text);
}

/// A target that reads binary data, or lines that anybody may have written.
fn check_bytes(name: &str) {
    check(name, 4000, change_bytes);
}

fn check(name: &str, mutations: usize, change: Change) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = targets::named(name);
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut random = Rng::with_seed(0x6e6f_6465);
    for number in 0..corpus.len() + mutations {
        let bytes = corpus.get(number).cloned().unwrap_or_else(|| mutate(&corpus, change, &mut random));
        let kept = panic::catch_unwind(|| target.run(&bytes));
        assert!(kept.is_ok(), "{name} broke its promise over b\"{}\"", bytes.escape_ascii());
    }
}

/// One of the corpus with up to six parts changed, taken out, repeated, or taken from another.
fn mutate(corpus: &[Vec<u8>], change: Change, random: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    bytes.truncate(MAX_BYTES);
    for _ in 0..random.usize(1..=6) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..=32)).min(bytes.len());
        match random.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            3 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => change(&mut bytes, at, random),
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

fn change_text(bytes: &mut Vec<u8>, at: usize, random: &mut Rng) {
    if random.u8(..4) == 0 && at < bytes.len() {
        bytes[at] = random.u8(b' '..=b'~');
        return;
    }
    let (start, end) = value_at(bytes, at);
    bytes.splice(start..end, EDGE_VALUES[random.usize(..EDGE_VALUES.len())].bytes());
}

fn change_bytes(bytes: &mut Vec<u8>, at: usize, random: &mut Rng) {
    match random.u8(..3) {
        0 if at < bytes.len() => bytes[at] = random.u8(..),
        1 => bytes.truncate(at),
        _ => {
            let edge = EDGES[random.usize(..EDGES.len())];
            let edge = if random.bool() { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let width = [1, 2, 4, 8][random.usize(..4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
    }
}

/// Where the next value begins behind a colon, and ends: a string's inside, or up to the next mark.
fn value_at(bytes: &[u8], from: usize) -> (usize, usize) {
    let Some(colon) = bytes[from..].iter().position(|byte| *byte == b':') else { return (from, from) };
    let mut start = from + colon + 1;
    while bytes.get(start) == Some(&b' ') {
        start += 1;
    }
    let quoted = bytes.get(start) == Some(&b'"');
    start += usize::from(quoted);
    let ends = |byte: &u8| if quoted { *byte == b'"' } else { b",}]\n".contains(byte) };
    let length = bytes[start..].iter().position(ends).unwrap_or(bytes.len() - start);
    (start, start + length)
}

#[test]
fn each_target_has_a_corpus_and_a_door_for_libfuzzer() {
    let targets: BTreeSet<String> = targets::TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&folder().join("corpus")), targets);
    assert_eq!(names(&folder().join("fuzz_targets")), targets);
}

#[test]
fn a_payload_is_unpacked_or_refused_within_its_bounds_whatever_it_is() {
    check_text("subscription_payload", 300);
}

#[test]
fn two_readers_of_a_payloads_body_read_the_same_whatever_it_is() {
    check_text("subscription_body", 1500);
}

#[test]
fn a_report_is_written_as_it_was_read_whatever_it_is() {
    check_text("report", 4000);
}

#[test]
fn an_audit_event_is_what_the_whole_of_it_says_whatever_it_is() {
    check_text("audit_event", 3000);
}

#[test]
fn an_event_of_cloudtrails_is_written_as_it_was_read_whatever_it_is() {
    check_text("cloud_trail_event", 2000);
}

#[test]
fn an_event_of_eventbridges_is_what_its_detail_says_whatever_it_is() {
    check_text("event_bridge_event", 2000);
}

#[test]
fn a_record_of_ours_is_read_as_it_was_written_whatever_it_is() {
    check_text("trail_record", 1000);
}

#[test]
fn a_policy_reads_the_same_in_yaml_and_in_json_whatever_it_is() {
    check_text("policy", 1500);
}

#[test]
fn an_eksctl_file_becomes_a_policy_that_reads_as_itself_whatever_it_is() {
    check_text("eksctl_file", 1500);
}

#[test]
fn a_filter_pattern_is_understood_or_refused_whatever_it_is() {
    check_text("filter_pattern", 4000);
}

#[test]
fn two_evaluators_of_a_filter_pattern_let_the_same_through() {
    check_text("filter_pattern_meaning", 6000);
}

#[test]
fn whatever_can_be_decoded_can_be_borne() {
    check_text("pipeline", 300);
}

#[test]
fn what_iptables_prints_is_read_whatever_it_is() {
    check_bytes("iptables_save");
}

#[test]
fn a_journal_file_is_read_to_an_end_whatever_it_is() {
    check_bytes("journal_file");
}

#[test]
fn a_kernel_record_is_one_line_whatever_it_is() {
    check_bytes("kernel_record");
}

#[test]
fn a_dump_of_the_kernels_is_read_whatever_it_is() {
    check_bytes("netlink_dump");
}

#[test]
fn a_damaged_segment_gives_back_what_is_whole() {
    check_bytes("outbox_segment");
}

#[test]
fn a_rule_file_is_read_or_refused_in_one_line_whatever_it_is() {
    check_bytes("rule_file");
}

#[test]
fn an_answer_of_a_name_server_answers_one_question_whatever_it_is() {
    check_bytes("dns_answer");
}

#[test]
fn a_drivers_counters_keep_to_their_pages_whatever_those_are() {
    check_bytes("driver_counters");
}

#[test]
fn a_page_of_statistics_is_read_by_its_first_part_whatever_it_is() {
    check_bytes("ebs_page");
}

#[test]
fn a_table_of_mounts_is_read_line_by_line_whatever_it_is() {
    check_bytes("mount_table");
}

/// Two readers of the same rules: of the kernel's dump, and of what iptables printed.
#[test]
fn the_kernels_dump_and_the_tools_print_of_the_same_rules_are_read_alike() {
    let read = |folder: &str, name: &str| {
        fs::read(crate::folder().join("corpus").join(folder).join(name)).expect("a file")
    };
    let dumped = read("netlink_dump", "nft-rules");
    let dumped: Vec<_> = messages(&dumped).filter_map(|message| nft::parse_rule(message.payload)).collect();
    // Each orders a rule's conditions in its own way, and shows the rule so.
    let essence = |rule: &FirewallRule| {
        let mut conditions: Vec<_> = rule.matches.iter().map(|one| format!("{one:?}")).collect();
        conditions.sort_unstable();
        (conditions, rule.verdict.clone(), rule.comment.clone())
    };
    let mut compared = 0;
    for (family, number, print) in [(IpFamily::V4, 2, "nft-save"), (IpFamily::V6, 10, "nft-save6")] {
        let printed = save::read(family, &read("iptables_save", print)[..]).expect("rules");
        assert_eq!(printed.unreadable, 0);
        // Of the table nat only rules for the kubelet's port are kept.
        for chain in printed.chains.iter().filter(|chain| chain.table == "filter") {
            let of_the_chain = |(key, _): &&(_, _)| *key == (number, chain.table.clone(), chain.name.clone());
            let others: Vec<_> = dumped.iter().filter(of_the_chain).map(|(_, rule)| essence(rule)).collect();
            assert_eq!(chain.rules.iter().map(essence).collect::<Vec<_>>(), others, "{}", chain.name);
            compared += others.len();
        }
    }
    assert_eq!(compared, 4);
}
