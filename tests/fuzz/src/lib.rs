//! Checks that each reader of outside bytes keeps its promises, whatever the bytes are.
//!
//! A target is a function that panics when a promise is broken. `fuzz_targets/` gives each to libFuzzer (`make fuzz`), and
//! `tests/fuzz_corpora.rs` includes this file and runs each over its corpus and over mutations of it. Both also hold a
//! target to a limit of memory: a small input that makes a reader allocate gigabytes ends a function as a panic does.

mod agent;
mod audit_event;
mod cloud_trail;
mod filter_pattern;
mod memory;
mod pipeline;
mod policy;
mod report;
mod subscription;

/// One reader, and what it is held to.
pub struct Target {
    /// What it is called, here and as a corpus.
    pub name: &'static str,
    /// Panics where a promise is broken.
    hold: fn(&[u8]),
    /// The most memory that it may hold at once, besides what grows with its input.
    bytes: usize,
    /// And for each byte of that.
    bytes_a_byte: usize,
}

const MIB: usize = 1024 * 1024;

/// A reader whose memory grows with its input alone.
const fn target(name: &'static str, hold: fn(&[u8])) -> Target {
    // A value of JSON's is 32 bytes, and a list of them grows by doubling.
    Target { name, hold, bytes: MIB, bytes_a_byte: 1024 }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("audit_event", audit_event::hold),
    target("cloud_trail_event", cloud_trail::hold_event),
    target("dns_answer", agent::dns_answer),
    target("driver_counters", agent::driver_counters),
    target("ebs_page", agent::ebs_page),
    // What aliases unfold to.
    Target { bytes: 8 * MIB, ..target("eksctl_file", policy::hold_eksctl_file) },
    target("event_bridge_event", cloud_trail::hold_happening),
    target("filter_pattern", filter_pattern::hold_text),
    target("filter_pattern_meaning", filter_pattern::hold_meaning),
    // Cases, their records and three ports.
    Target { bytes: 32 * MIB, ..target("pipeline", pipeline::hold) },
    target("iptables_save", agent::iptables_save),
    // The reader's buffers, of two journals at once.
    Target { bytes: 8 * MIB, ..target("journal_file", agent::journal_file) },
    target("kernel_record", agent::kernel_record),
    target("mount_table", agent::mount_table),
    target("netlink_dump", agent::netlink_dump),
    target("outbox_segment", agent::outbox_segment),
    Target { bytes: 8 * MIB, ..target("policy", policy::hold_policy) },
    target("report", report::hold),
    // What aliases unfold to, and compiled patterns.
    Target { bytes: 64 * MIB, ..target("rule_file", agent::rule_file) },
    Target { bytes: 16 * MIB, ..target("subscription_body", subscription::hold_body) },
    // What is compressed is large when it is not: the cap's text, what is copied of it, and as many events.
    Target { bytes: 32 * MIB, ..target("subscription_payload", subscription::hold_payload) },
    target("trail_record", cloud_trail::hold_record),
];

/// The target of that name.
///
/// # Panics
/// When there is none.
pub fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of that name")
}

impl Target {
    /// Runs it over some bytes.
    ///
    /// # Panics
    /// When it breaks a promise.
    pub fn run(&self, bytes: &[u8]) {
        let held = memory::most_held(|| (self.hold)(bytes));
        let most = self.bytes + self.bytes_a_byte * bytes.len();
        assert!(held <= most, "{}: {held} bytes of memory for an input of {}", self.name, bytes.len());
    }
}
