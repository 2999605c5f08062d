//! What the agent reads: kernel records, journals, the dumps of netlink, and files of the node.

use std::{fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    detect::rules,
    outbox::{RecordClass, record},
    source::{
        Clocks, Gap, LINE_LIMIT, Progress, Signal, dns, ethtool,
        firewall::{FirewallChain, FirewallRule, IpFamily, RuleMatch, Ruleset, nft, save},
        journal::Journal,
        kmsg, mounts,
        netlink::{message, route},
        nvme,
    },
};
use tempfile::TempDir;

/// A byte that is no UTF-8 is shown as three.
const SHOWN: usize = 3;

/// One read of `/dev/kmsg`.
pub fn kernel_record(bytes: &[u8]) {
    let Ok(read) = kmsg::parse(bytes) else { return };
    assert!(bytes.len() <= kmsg::RECORD_LIMIT);
    assert!(read.level <= 7);
    assert!(!read.text.contains('\n'), "a record forged a line");
    assert!(read.text.len() <= SHOWN * bytes.len());
    // A driver's text ends where the kernel ends it: what follows are names of devices.
    let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |end| &bytes[..end]);
    if line.contains(&b';') {
        assert_eq!(kmsg::parse(line).as_ref(), Ok(&read), "what follows the line changed it");
    }
}

/// A file of journald's.
pub fn journal_file(bytes: &[u8]) {
    ROOT.with(|root| {
        fs::write(root.path().join(DIRECTORY).join("system.journal"), bytes).expect("a file");
        let mut journal = journal(root.path());
        let read = drain(&mut journal);
        // Read again from the start, it says the same; read on, it says nothing.
        assert_eq!(read, drain(&mut self::journal(root.path())));
        assert!(drain(&mut journal).is_empty(), "something was handed on twice");
    });
}

const DIRECTORY: &str = "var/log/journal/0123456789abcdef0123456789abcdef";

thread_local! {
    /// Made once: a folder for each input costs more than the reading.
    static ROOT: TempDir = {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(root.path().join(DIRECTORY)).expect("a folder");
        root
    };
}

fn journal(root: &Path) -> Journal {
    Journal::new(root, &["kubelet.service", "containerd.service"], Timestamp::UNIX_EPOCH, None)
}

fn drain(journal: &mut Journal) -> Vec<Signal<'static>> {
    let clocks = Clocks { wall: Timestamp::UNIX_EPOCH, up: SignedDuration::ZERO };
    let mut signals = Vec::new();
    for _ in 0..1000 {
        let progress = journal.poll(&clocks, &mut |signal| {
            match &signal {
                Signal::Line(line) => assert!(line.text.len() <= SHOWN * LINE_LIMIT),
                Signal::GapNotice(notice) => assert_ne!(notice.gap, Gap::Lost(Some(0))),
            }
            signals.push(signal.into_owned());
        });
        if progress == Progress::Drained {
            return signals;
        }
    }
    panic!("a file without end");
}

/// What `iptables-save` prints.
pub fn iptables_save(bytes: &[u8]) {
    let arrived = save::read(IpFamily::V4, bytes).expect("bytes in memory");
    check_rules(&arrived, bytes.len());
    // The two readers: one has the text, the other takes it line by line and counts what is no text.
    if let Ok(text) = str::from_utf8(bytes)
        && !text.contains('\r')
    {
        assert_eq!(arrived, save::parse(IpFamily::V4, text), "the two readers disagree");
    }
}

fn check_rules(ruleset: &Ruleset, length: usize) {
    let rules = || ruleset.chains.iter().flat_map(|chain| &chain.rules);
    assert!(ruleset.chains.len() + rules().count() <= length);
    rules().for_each(check_rule);
}

fn check_rule(rule: &FirewallRule) {
    for rule_match in &rule.matches {
        match rule_match {
            RuleMatch::Destination { network, .. } => {
                let longest = if network.address.is_ipv4() { 32 } else { 128 };
                assert!(network.prefix <= longest, "{rule:?}");
            }
            RuleMatch::DestinationPort { ranges, .. } => assert!(ranges.len() <= usize::from(u16::MAX)),
            _ => {}
        }
    }
}

/// One read of a dump of the kernel's packet filters, interfaces, routing rules and routes.
pub fn netlink_dump(bytes: &[u8]) {
    let mut seen = 0;
    for message in message::messages(bytes) {
        seen += 1;
        let payload = message.payload;
        assert!(payload.len() <= bytes.len());
        assert!(message::attributes(payload).count() <= payload.len() / 4);
        // Whatever it says that it is: a reader must bear any message.
        if let Some((_, FirewallChain { table, name, .. })) = nft::parse_chain(payload) {
            assert!(table.len() + name.len() <= SHOWN * payload.len());
        }
        if let Some((_, rule)) = nft::parse_rule(payload) {
            check_rule(&rule);
            // A value of one byte may be written with three digits, a comment's with an escape.
            assert!(rule.text.len() <= 16 * payload.len(), "{rule:?}");
        }
        if let Some(link) = route::parse_link(payload) {
            assert!(link.name.len() + link.kind.len() <= SHOWN * payload.len());
        }
        let networks = [
            route::parse_rule(payload).and_then(|rule| rule.source),
            route::parse_rule(payload).and_then(|rule| rule.destination),
            route::parse_route(payload).and_then(|route| route.destination),
        ];
        for network in networks.into_iter().flatten() {
            assert!(network.contains(network.address), "{network} leaves itself out");
        }
    }
    assert!(seen <= bytes.len() / 16);
}

/// A file of a user's rules, of either form.
pub fn rule_file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match rules::read_rules("rules.yaml", text) {
        Ok(file) => {
            // JSON is YAML: where both readers take it, they take it for the same.
            if text.trim_start().starts_with('{')
                && let Ok(other) = rules::read_rules("rules.yaml", &format!("---\n{text}"))
            {
                assert_eq!(format!("{file:?}"), format!("{other:?}"), "the two readers disagree");
            }
            assert!(file.len() <= 256, "more rules than a file may have");
            assert_eq!(file.sources().count(), file.len());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("failed to read rule file rules.yaml: "), "{message}");
            assert!(!error.why.contains('\n'), "{message}");
        }
    }
}

/// A segment of the spool.
pub fn outbox_segment(bytes: &[u8]) {
    let mut records = Vec::new();
    let scan = record::scan(RecordClass::Change, bytes, |record| records.push(record));
    assert!(scan.end <= bytes.len());
    // Written again, what was complete is complete, and nothing is damaged.
    let mut again = Vec::new();
    for record in &records {
        record::write(record.number, record.at, &record.text, &mut again);
    }
    assert!(again.len() <= scan.end);
    let mut reread = Vec::new();
    let rescan = record::scan(RecordClass::Change, &again, |record| reread.push(record));
    assert_eq!((reread, rescan), (records.clone(), record::SegmentScan { damaged: 0, end: again.len() }));
    // Damage before a frame costs what is damaged, never the frame.
    let mut behind = Vec::new();
    let damaged: Vec<u8> = bytes.iter().chain(&again).copied().collect();
    record::scan(RecordClass::Change, &damaged, |record| behind.push(record));
    assert!(behind.ends_with(&records), "damage took sound frames with it");
}

/// What a name server sends back.
pub fn dns_answer(bytes: &[u8]) {
    let query = dns::query(0x1234, "0123456789ABCDEF.gr7.us-east-1.eks.amazonaws.com", dns::RecordType::A)
        .expect("a question");
    if dns::parse_response(&query, bytes).is_some() {
        let other = dns::query(0x1235, "eks.aws", dns::RecordType::A).expect("a question");
        assert_eq!(dns::parse_response(&other, bytes), None, "it answers two questions");
    }
}

/// A driver's page of names, and after that its page of values.
pub fn driver_counters(bytes: &[u8]) {
    // Wherever the second begins: the reader must find out that they don't belong together.
    for (at, _) in bytes.iter().enumerate().step_by(4) {
        let (names, values) = bytes.split_at(at);
        let Some(pairs) = ethtool::pairs(names, values) else { continue };
        let count = pairs.inspect(|(name, _)| assert!(name.len() <= 32 && !name.contains(&0))).count();
        assert!(32 * count <= names.len() && 8 * count <= values.len());
        let picked = ethtool::pick(names, values, ["bw_in_allowance_exceeded"]).expect("the same pages");
        let wanted = |(name, _): &(&[u8], u64)| *name == b"bw_in_allowance_exceeded";
        let found = ethtool::pairs(names, values).and_then(|pairs| pairs.filter(wanted).last());
        assert_eq!(picked[0], found.map(|(_, value)| value));
    }
}

/// An EBS volume's page of statistics.
pub fn ebs_page(bytes: &[u8]) {
    let read = nvme::decode(bytes);
    assert!(read.is_none() || bytes.len() >= 88);
    // Nothing behind the counters counts.
    assert_eq!(nvme::decode(&bytes[..bytes.len().min(88)]), read);
}

/// The kernel's table of mounts.
pub fn mount_table(bytes: &[u8]) {
    let table = String::from_utf8_lossy(bytes);
    let mut seen = 0;
    for mount in mounts::parse(&table) {
        seen += 1;
        assert!(mount.path().as_os_str().len() <= mount.point.len());
        assert!(mount.device().is_none_or(|device| !device.starts_with("loop")));
        let _ = (mount.is_of_a_pod(), mount.is_read_only(), mount.superblock_has("ro"));
    }
    assert!(seen <= table.lines().count());
}
