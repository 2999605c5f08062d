//! Parses the output of `iptables-save`.
//!
//! Kubernetes creates a few rules for each endpoint of a service, so the output may be tens of megabytes. It is read
//! line by line, and only rules are stored that can drop, reject or redirect a packet, or jump.

use std::io::{self, BufRead, Read};

use super::{
    ConntrackStates, FirewallChain, FirewallRule, IpFamily, NetfilterHook, Network, RuleMatch, RuleVerdict,
    Ruleset,
};

/// The rules of ten thousand services take a fifth of this.
const MAX_BYTES: u64 = 128 * 1024 * 1024;
/// A rule has at most a comment of 256 bytes and a handful of matches.
const MAX_LINE: usize = 8 * 1024;
/// A node with ten thousand services has 40,000 chains.
const MAX_CHAINS: usize = 200_000;
/// More rules than this are counted as unreadable.
const MAX_RULES: usize = 100_000;
/// The maximum length of a rule in a message, in characters.
const MAX_SHOWN: usize = 200;

/// Parses a whole output. Rules that cannot be parsed are counted.
pub fn parse(family: IpFamily, text: &str) -> Ruleset {
    let mut parser = SaveParser::new(family);
    text.lines().for_each(|line| parser.line(line));
    parser.ruleset
}

/// Reads the output while it arrives.
pub fn read(family: IpFamily, input: impl Read) -> io::Result<Ruleset> {
    let mut parser = SaveParser::new(family);
    let mut input = io::BufReader::new(input.take(MAX_BYTES + 1));
    let mut line = Vec::new();
    let mut total = 0;
    loop {
        line.clear();
        let length = input.read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(parser.ruleset);
        }
        total += length as u64;
        if total > MAX_BYTES {
            return Err(io::Error::other("the output is too long"));
        }
        match str::from_utf8(&line) {
            Ok(text) => parser.line(text.trim_end_matches(['\n', '\r'])),
            Err(_) => parser.ruleset.unreadable += 1,
        }
    }
}

struct SaveParser {
    family: IpFamily,
    table: String,
    /// The index of the current table's first chain.
    start: usize,
    /// The chain of the last rule, as an index from `start`.
    present: usize,
    stored: usize,
    ruleset: Ruleset,
}

impl SaveParser {
    fn new(family: IpFamily) -> Self {
        Self { family, table: String::new(), start: 0, present: 0, stored: 0, ruleset: Ruleset::default() }
    }

    fn line(&mut self, line: &str) {
        if line.len() > MAX_LINE {
            self.ruleset.unreadable += 1;
            return;
        }
        if let Some(table) = line.strip_prefix('*') {
            table.trim().clone_into(&mut self.table);
            (self.start, self.present) = (self.ruleset.chains.len(), 0);
        } else if let Some(chain) = line.strip_prefix(':') {
            self.chain(chain);
        } else if line.starts_with('-') || line.starts_with('[') {
            // With -c, each rule is preceded by counters.
            let rule = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                Some((_, rule)) => rule,
                None => line,
            };
            self.rule(rule);
        }
    }

    fn chain(&mut self, text: &str) {
        let mut words = text.split_ascii_whitespace();
        let (Some(name), Some(policy)) = (words.next(), words.next()) else {
            self.ruleset.unreadable += 1;
            return;
        };
        if self.ruleset.chains.len() >= MAX_CHAINS {
            self.ruleset.unreadable += 1;
            return;
        }
        let hook = (policy != "-").then_some(match name {
            "OUTPUT" => NetfilterHook::Output,
            "POSTROUTING" => NetfilterHook::Postrouting,
            _ => NetfilterHook::Other,
        });
        self.ruleset.chains.push(FirewallChain {
            family: self.family,
            table: self.table.clone(),
            name: name.to_owned(),
            hook,
            policy_drops: policy == "DROP",
            rules: Vec::new(),
        });
    }

    fn rule(&mut self, line: &str) {
        let Some((name, rule)) = parse_rule(line) else {
            self.ruleset.unreadable += 1;
            return;
        };
        if !rule.matters(&self.table) {
            return;
        }
        // Rules are grouped by chain, in the order in which the chains were declared.
        let own = &self.ruleset.chains[self.start..];
        let from = self.present.min(own.len());
        let index = (from..own.len()).chain(0..from).find(|index| own[*index].name == name);
        match index {
            Some(index) if self.stored < MAX_RULES => {
                self.present = index;
                self.stored += 1;
                self.ruleset.chains[self.start + index].rules.push(rule);
            }
            _ => self.ruleset.unreadable += 1,
        }
    }
}

/// Parses one `-A CHAIN …` line.
pub fn parse_rule(line: &str) -> Option<(String, FirewallRule)> {
    let words = words(line)?;
    let mut words = words.iter().map(String::as_str).peekable();
    if words.next()? != "-A" {
        return None;
    }
    let chain = words.next()?.to_owned();
    let mut rule = FirewallRule {
        matches: Vec::new(),
        verdict: RuleVerdict::Continue,
        comment: String::new(),
        text: shorten(line),
    };
    let mut negated = false;
    while let Some(word) = words.next() {
        let mut value = || words.next();
        let rule_match = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "--jump" => {
                let name = value()?;
                rule.verdict = target(name).unwrap_or_else(|| RuleVerdict::Jump(name.to_owned()));
                // The rest are the target's own options.
                break;
            }
            "-g" | "--goto" => {
                rule.verdict = RuleVerdict::Goto(value()?.to_owned());
                break;
            }
            // A match's options define it; options that are not known below count as matches that are not understood.
            "-m" | "--match" => match value()? {
                "comment" | "tcp" | "udp" | "conntrack" | "state" | "mark" | "multiport" => continue,
                _ => RuleMatch::Other,
            },
            "--comment" => {
                value()?.clone_into(&mut rule.comment);
                continue;
            }
            "-d" | "--destination" => destination(value()?, negated),
            "-p" | "--protocol" => protocol(value()?, negated),
            "-o" | "--out-interface" => RuleMatch::OutInterface { name: value()?.to_owned(), negated },
            "--dport" | "--dports" | "--destination-port" | "--destination-ports" => ports(value()?, negated),
            "--ctstate" | "--state" => states(value()?, negated),
            "--mark" => mark(value()?, negated),
            // The evaluated packet is always the first of a connection.
            "--syn" if !negated => continue,
            "--tcp-flags" => {
                let (mask, set) = (value()?, value()?);
                if set == "SYN" && mask.split(',').any(|flag| flag == "SYN") && !negated {
                    continue;
                }
                RuleMatch::Other
            }
            _ if word.starts_with('-') => {
                while words.peek().is_some_and(|next| !next.starts_with('-') && *next != "!") {
                    words.next();
                }
                RuleMatch::Other
            }
            _ => continue,
        };
        negated = false;
        rule.matches.push(rule_match);
    }
    Some((chain, rule))
}

/// The verdict of a built-in target; `None` for any other name.
pub(super) fn target(name: &str) -> Option<RuleVerdict> {
    Some(match name {
        "ACCEPT" => RuleVerdict::Accept,
        // A tarpit holds the packet and its sender indefinitely.
        "DROP" | "TARPIT" => RuleVerdict::Drop,
        "REJECT" => RuleVerdict::Reject,
        "RETURN" => RuleVerdict::Return,
        "DNAT" | "REDIRECT" => RuleVerdict::Divert,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "MASQUERADE" | "SNAT" | "NOTRACK" | "CT" | "TCPMSS"
        | "DSCP" | "TOS" | "CHECKSUM" | "SET" | "CLASSIFY" | "SECMARK" | "CONNSECMARK" | "TRACE"
        | "TPROXY" | "ULOG" | "AUDIT" | "NETMAP" | "TTL" | "HL" | "TEE" | "NFQUEUE" | "QUEUE"
        | "IDLETIMER" | "RATEEST" => RuleVerdict::Continue,
        _ => return None,
    })
}

fn destination(text: &str, negated: bool) -> RuleMatch {
    match text.parse::<Network>() {
        Ok(network) => RuleMatch::Destination { network, negated },
        Err(_) => RuleMatch::Other,
    }
}

fn protocol(text: &str, negated: bool) -> RuleMatch {
    let number = match text {
        "all" => Some(0),
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "esp" => Some(50),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "sctp" => Some(132),
        other => other.parse().ok(),
    };
    number.map_or(RuleMatch::Other, |number| RuleMatch::Protocol { number, negated })
}

fn ports(text: &str, negated: bool) -> RuleMatch {
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some((first.parse::<u16>().ok()?, last.parse::<u16>().ok()?))
    };
    match text.split(',').map(range).collect() {
        Some(ranges) => RuleMatch::DestinationPort { ranges, negated },
        None => RuleMatch::Other,
    }
}

fn states(text: &str, negated: bool) -> RuleMatch {
    let has = |names: &[&str]| text.split(',').any(|state| names.contains(&state)) != negated;
    RuleMatch::State(ConntrackStates {
        new: has(&["NEW"]),
        invalid: has(&["INVALID"]),
        known: has(&["ESTABLISHED", "RELATED"]),
    })
}

fn mark(text: &str, negated: bool) -> RuleMatch {
    let value = text.split('/').next().unwrap_or(text);
    let number = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    };
    number.map_or(RuleMatch::Other, |number| RuleMatch::Mark { unmarked: (number == 0) != negated })
}

/// Splits a line with the tool's quoting: double quotes, and a backslash before a quote or backslash.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(characters.next()?),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_counted_and_the_rest_is_kept() {
        let text = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j\n-A NOWHERE -j DROP\n-A OUTPUT --comment \"open\n\
                    [3:180] -A OUTPUT -p tcp -j DROP\nCOMMIT\n";
        let ruleset = parse(IpFamily::V4, text);
        assert_eq!(ruleset.unreadable, 3);
        assert_eq!(ruleset.chains[0].rules.len(), 1);
    }

    #[test]
    fn a_large_cluster_costs_its_text_and_not_its_rules() {
        let mut text = String::from("*nat\n:PREROUTING ACCEPT [0:0]\n");
        for index in 0..5_000 {
            text += &format!(":KUBE-SEP-{index} - [0:0]\n");
        }
        for index in 0..5_000 {
            text += &format!(
                "-A KUBE-SEP-{index} -p tcp -m comment --comment \"shop/cart:http\" -m tcp -j DNAT --to-destination 10.0.1.2:80\n"
            );
        }
        text += "COMMIT\n*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 169.254.169.254/32 -j DROP\nCOMMIT\n";
        let ruleset = read(IpFamily::V4, text.as_bytes()).expect("rules");
        assert_eq!(ruleset, parse(IpFamily::V4, &text));
        assert_eq!(ruleset.chains.iter().map(|chain| chain.rules.len()).sum::<usize>(), 1);
        assert_eq!(ruleset.unreadable, 0);
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in ".{0,200}", options in "(-[a-z]{1,2}|!|[a-z0-9.:/,\"\\\\]{0,9}| ){0,20}") {
            let lines = format!("*filter\n:OUTPUT ACCEPT [0:0]\n{text}\n-A OUTPUT {options}\n:OUTPUT\n-A {text}\n");
            let ruleset = parse(IpFamily::V4, &lines);
            prop_assert!(ruleset.chains.len() <= 3);
        }
    }
}
