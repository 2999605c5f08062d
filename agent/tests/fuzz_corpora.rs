//! Every fuzz target over its kept corpus, and over some thousand mutations of it that are the same in each run.
//!
//! libFuzzer (`make fuzz`) goes further and learns; what it finds goes into the corpus and is held here from then on.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the fuzz crate lends them out")]
mod targets;

use std::{
    collections::BTreeSet,
    fs, panic,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use nodemend_agent::source::{
    firewall::{Family, Rule, nft, save},
    netlink::message::messages,
};

use self::targets::{TARGETS, Target};

const MUTATIONS: usize = 4000;
/// As much as one corpus file may become.
const MAX_BYTES: usize = 16 * 1024;
/// Where a reader's arithmetic is most likely wrong.
const EDGES: [u64; 8] =
    [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
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

fn hold(name: &str) {
    let (_, target): &Target = TARGETS.iter().find(|target| target.0 == name).expect("a target");
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut random = Rng::with_seed(0x6e6f_6465);
    let mutated = (0..MUTATIONS).map(|_| mutate(&corpus, &mut random)).collect::<Vec<_>>();
    for bytes in corpus.iter().chain(&mutated) {
        let held = panic::catch_unwind(|| target(bytes));
        assert!(held.is_ok(), "{name} broke its promise over b\"{}\"", bytes.escape_ascii());
    }
}

/// One of the corpus with some bytes changed, taken out, put in, repeated, or taken from another.
fn mutate(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..=6) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..=32)).min(bytes.len());
        match random.u8(..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let edge = EDGES[random.usize(..EDGES.len())];
                let edge = if random.bool() { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let width = [1, 2, 4, 8][random.usize(..4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            _ => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

#[test]
fn each_target_has_a_corpus_and_a_door_for_libfuzzer() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&folder().join("corpus")), targets);
    assert_eq!(names(&folder().join("fuzz_targets")), targets);
}

#[test]
fn what_iptables_prints_is_read_whatever_it_is() {
    hold("iptables_save");
}

#[test]
fn a_journal_file_is_read_to_an_end_whatever_it_is() {
    hold("journal_file");
}

#[test]
fn a_kernel_record_is_one_line_whatever_it_is() {
    hold("kernel_record");
}

#[test]
fn a_dump_of_the_kernels_is_read_whatever_it_is() {
    hold("netlink_dump");
}

#[test]
fn a_damaged_segment_gives_back_what_is_whole() {
    hold("outbox_segment");
}

#[test]
fn a_rule_file_is_read_or_refused_in_one_line_whatever_it_is() {
    hold("rule_file");
}

#[test]
fn an_answer_of_a_name_server_answers_one_question_whatever_it_is() {
    hold("dns_answer");
}

#[test]
fn a_drivers_counters_keep_to_their_pages_whatever_those_are() {
    hold("driver_counters");
}

#[test]
fn a_page_of_statistics_is_read_by_its_first_part_whatever_it_is() {
    hold("ebs_page");
}

#[test]
fn a_table_of_mounts_is_read_line_by_line_whatever_it_is() {
    hold("mount_table");
}

/// Where two readers see one thing: the kernel's dump of rules, and what iptables printed of the same ones.
#[test]
fn the_kernels_dump_and_the_tools_print_of_the_same_rules_are_read_alike() {
    let read = |folder: &str, name: &str| {
        fs::read(crate::folder().join("corpus").join(folder).join(name)).expect("a file")
    };
    let dumped = read("netlink_dump", "nft-rules");
    let dumped: Vec<_> = messages(&dumped).filter_map(|message| nft::parse_rule(message.payload)).collect();
    // Each orders a rule's conditions in its own way, and shows the rule so.
    let essence = |rule: &Rule| {
        let mut conditions: Vec<_> = rule.conditions.iter().map(|one| format!("{one:?}")).collect();
        conditions.sort_unstable();
        (conditions, rule.verdict.clone(), rule.comment.clone())
    };
    let mut compared = 0;
    for (family, number, print) in [(Family::V4, 2, "nft-save"), (Family::V6, 10, "nft-save6")] {
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
