//! Every fuzz target of the functions over its kept corpus, and over some mutations of it that are the same in each run.
//!
//! libFuzzer (`fuzz.sh`) goes further and learns; what it finds goes into the corpus and is held here from then on.

#[path = "../functions/fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate lends them out")]
mod targets;

use std::{
    collections::BTreeSet,
    fs, panic,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fastrand::Rng;

/// As much as one corpus file may become.
const MAX_BYTES: usize = 16 * 1024;
/// What a reader's arithmetic, or its idea of time, is most likely wrong about.
const EDGES: [&str; 16] = [
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/fuzz")
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

fn hold(name: &str, mutations: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = targets::named(name);
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut random = Rng::with_seed(0x6e6f_6465);
    for number in 0..corpus.len() + mutations {
        let bytes = corpus.get(number).cloned().unwrap_or_else(|| mutate(&corpus, &mut random));
        let held = panic::catch_unwind(|| target.run(&bytes));
        assert!(held.is_ok(), "{name} broke its promise over b\"{}\"", bytes.escape_ascii());
    }
}

/// One of the corpus with some bytes changed, taken out, put in, repeated, or taken from another; or with a value
/// replaced by one that is hard to bear.
fn mutate(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    bytes.truncate(MAX_BYTES);
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..=32)).min(bytes.len());
        match random.u8(..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = random.u8(b' '..=b'~'),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let (start, end) = value_at(&bytes, at);
                bytes.splice(start..end, EDGES[random.usize(..EDGES.len())].bytes());
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
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
    hold("subscription_payload", 300);
}

#[test]
fn three_readers_of_a_payloads_body_read_the_same_whatever_it_is() {
    hold("subscription_body", 1500);
}

#[test]
fn a_report_is_written_as_it_was_read_whatever_it_is() {
    hold("report", 4000);
}

#[test]
fn an_audit_event_is_what_the_whole_of_it_says_whatever_it_is() {
    hold("audit_event", 3000);
}

#[test]
fn an_event_of_cloudtrails_is_written_as_it_was_read_whatever_it_is() {
    hold("cloud_trail_event", 2000);
}

#[test]
fn an_event_of_eventbridges_is_what_its_detail_says_whatever_it_is() {
    hold("event_bridge_event", 2000);
}

#[test]
fn a_record_of_ours_is_read_as_it_was_written_whatever_it_is() {
    hold("trail_record", 1000);
}

#[test]
fn a_policy_says_the_same_in_yaml_and_in_json_whatever_it_is() {
    hold("policy", 1500);
}

#[test]
fn an_eksctl_file_becomes_a_policy_that_reads_as_itself_whatever_it_is() {
    hold("eksctl_file", 1500);
}

#[test]
fn a_filter_pattern_is_understood_or_refused_whatever_it_is() {
    hold("filter_pattern", 4000);
}

#[test]
fn two_evaluators_of_a_filter_pattern_let_the_same_through() {
    hold("filter_pattern_meaning", 6000);
}

#[test]
fn whatever_can_be_decoded_can_be_borne() {
    hold("heard", 300);
}
