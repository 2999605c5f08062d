use super::*;
use crate::source::firewall::save;

fn filter(rules: &str) -> Ruleset {
    let chains = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n\
                  :KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:cali-OUTPUT - [0:0]\n\
                  :KUBE-IPVS-FILTER - [0:0]\n:KUBE-SOURCE-RANGES-FIREWALL - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
                  :OWN - [0:0]\n:INNER - [0:0]\n";
    let ruleset = save::parse(IpFamily::V4, &format!("{chains}{rules}\nCOMMIT\n"));
    assert_eq!(ruleset.unreadable, 0, "{rules}");
    ruleset
}

fn blocked(rules: &str) -> bool {
    metadata_blocked(&filter(rules), Some("ens5")).is_some()
}

#[test]
fn the_metadata_service_is_blocked_by_rules_that_drop_every_packet_to_it() {
    for rules in [
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -j REJECT --reject-with icmp-port-unreachable",
        "-A OUTPUT -d 169.254.0.0/16 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m multiport --dports 443,80 -j DROP",
        "-A OUTPUT -p tcp -m tcp --dport 1:1024 -j DROP",
        "-A OUTPUT ! -d 10.0.0.0/8 -j DROP",
        "-A OUTPUT -p tcp -j DROP",
        "-A OUTPUT -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -o ens5 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -o ens+ -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 ! -o lo -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m state --state NEW -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -m comment --comment \"no -j ACCEPT \\\"here\\\"\" -j DROP",
        "-A OUTPUT -j OWN\n-A OWN -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -d 169.254.0.0/16 -g OWN\n-A OWN -j INNER\n-A INNER -j REJECT",
        "-A OUTPUT -j OWN\n-A OWN -j RETURN\n-A OUTPUT -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\n\
         -A OUTPUT -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -j cali-OUTPUT\n-A cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT\n\
         -A OUTPUT -d 169.254.169.254/32 -j DROP",
    ] {
        assert!(blocked(rules), "{rules}");
    }
}

#[test]
fn rules_that_leave_access_to_the_metadata_service_are_no_block() {
    for rules in [
        "",
        "-A OUTPUT -d 169.254.170.2/32 -j DROP",
        "-A OUTPUT ! -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT ! -d 169.254.0.0/16 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p udp -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 ! -p tcp -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp --dport 8080 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -m tcp ! --dport 80 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -m owner --uid-owner 48 -j REJECT",
        "-A OUTPUT -d 169.254.169.254/32 -m owner ! --uid-owner 0 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -m owner --uid-owner 0 -j ACCEPT\n-A OUTPUT -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -o docker0 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -m conntrack --ctstate INVALID -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -m limit --limit 5/min -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -j ACCEPT\n-A OUTPUT -d 169.254.0.0/16 -j DROP",
        "-A INPUT -d 169.254.169.254/32 -j DROP",
        "-A FORWARD -d 169.254.169.254/32 -j DROP",
        "-A OWN -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -j OWN\n-A OWN -g INNER\n-A OWN -d 169.254.169.254/32 -j DROP\n-A INNER -p udp -j DROP",
        "-A OUTPUT -s 10.0.0.7/32 -j OWN\n-A OWN -d 169.254.169.254/32 -j DROP",
        "-A OUTPUT -m mark --mark 0x8000/0x8000 -j DROP",
        "-A OUTPUT -d 169.254.169.254/32 -j LOG --log-prefix \"imds -j DROP \"",
    ] {
        assert!(!blocked(rules), "{rules}");
    }
}

#[test]
fn a_policy_that_drops_blocks_what_no_rule_accepts() {
    let policy = |rules: &str| {
        let text = format!("*filter\n:OUTPUT DROP [0:0]\n:OWN - [0:0]\n{rules}\nCOMMIT\n");
        metadata_blocked(&save::parse(IpFamily::V4, &text), None)
    };
    assert_eq!(policy("").as_deref(), Some("filter/OUTPUT: the chain's policy is DROP"));
    assert!(policy("-A OUTPUT -p udp -j ACCEPT").is_some());
    assert!(policy("-A OUTPUT -p tcp -j ACCEPT").is_none());
    assert!(policy("-A OUTPUT -j OWN\n-A OWN -d 169.254.169.254/32 -j ACCEPT").is_none());
    assert!(policy("-A OUTPUT -m owner --uid-owner 0 -j ACCEPT").is_none(), "the kubelet passes");
}

#[test]
fn a_block_in_another_table_counts_and_one_of_ipv6_does_not() {
    let text = "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 169.254.169.254/32 -j DROP\nCOMMIT\n";
    assert!(metadata_blocked(&save::parse(IpFamily::V4, text), None).is_some());
    let text = "*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -d 169.254.169.254/32 -j DROP\nCOMMIT\n";
    assert!(metadata_blocked(&save::parse(IpFamily::V4, text), None).is_some());
    let text = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -d fd00:ec2::254/128 -j DROP\nCOMMIT\n";
    let ruleset = save::parse(IpFamily::V6, text);
    assert_eq!(metadata_blocked(&ruleset, None), None);
    assert_eq!(unexpected_rejects(&ruleset, &[]).len(), 1, "still reported as a rule that drops");
}

#[test]
fn chains_that_call_each_other_end() {
    assert!(!blocked("-A OUTPUT -j OWN\n-A OWN -j INNER\n-A INNER -j OWN"));
}

#[test]
fn rules_of_kubernetes_and_its_network_are_expected() {
    for rule in [
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
        "-A KUBE-FIREWALL -m comment --comment \"kubernetes firewall for dropping marked packets\" -m mark \
         --mark 0x8000/0x8000 -j DROP",
        "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
        "-A KUBE-SERVICES -d 10.100.74.1/32 -p tcp -m comment --comment \"shop/cart:http has no endpoints\" -m tcp \
         --dport 80 -j REJECT --reject-with icmp-port-unreachable",
        "-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment \"shop/cart:http has no local endpoints\" -m addrtype \
         --dst-type LOCAL -m tcp --dport 31000 -j DROP",
        "-A KUBE-PROXY-FIREWALL -d 10.100.9.9/32 -p tcp -m comment --comment \"shop/lb:http traffic not accepted by \
         KUBE-FW-6ICVRMDXTBDTWFJ4\" -m tcp --dport 80 -j DROP",
        "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP",
        "-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT",
        "-A cali-OUTPUT -m comment --comment \"cali:abc\" -j DROP",
        "-A OUTPUT -d 10.0.3.7/32 -m comment --comment \"Block Node Local Pod access via NodePort\" -j DROP",
    ] {
        assert_eq!(unexpected_rejects(&filter(rule), &[]), [], "{rule}");
    }
}

#[test]
fn other_rules_are_unexpected() {
    for rule in [
        "-A OUTPUT -d 169.254.169.254/32 -p tcp -j DROP",
        "-A INPUT -p tcp -m tcp --dport 10250 -j REJECT --reject-with tcp-reset",
        "-A FORWARD -j DROP",
        "-A KUBE-FORWARD -j DROP",
        "-A KUBE-FORWARD -d 169.254.169.254/32 -j DROP",
        "-A KUBE-FIREWALL -d 169.254.169.254/32 -j DROP",
        "-A KUBE-SERVICES -d 10.100.74.1/32 -j REJECT",
        "-A OWN -j REJECT",
    ] {
        assert_eq!(unexpected_rejects(&filter(rule), &[]).len(), 1, "{rule}");
    }
}

#[test]
fn rules_of_a_chain_are_reported_together_and_an_expected_chain_not_at_all() {
    let ruleset = filter("-A INPUT -p udp -j DROP\n-A INPUT -p tcp -j DROP\n-A OWN -j DROP");
    let found = unexpected_rejects(&ruleset, &[("filter".to_owned(), "OWN".to_owned())]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].chain, "filter/INPUT");
    assert_eq!(found[0].count, 2);
    assert_eq!(found[0].rule, "-A INPUT -p udp -j DROP");
    assert_eq!(unexpected_rejects(&ruleset, &[("nat".to_owned(), "OWN".to_owned())]).len(), 2);
}

#[test]
fn a_rule_that_diverts_the_kubelets_port_is_a_conflict() {
    let nat = |rules: &str| {
        let text = format!("*nat\n:PREROUTING ACCEPT [0:0]\n:CNI-DN-1 - [0:0]\n{rules}\nCOMMIT\n");
        port_conflicts(&save::parse(IpFamily::V4, &text)).len()
    };
    assert_eq!(nat("-A CNI-DN-1 -p tcp -m tcp --dport 10250 -j DNAT --to-destination 10.0.3.7:8080"), 1);
    assert_eq!(nat("-A PREROUTING -p tcp -m multiport --dports 443,10000:11000 -j REDIRECT --to-ports 1"), 1);
    assert_eq!(nat("-A CNI-DN-1 -p tcp -m tcp --dport 10251 -j DNAT --to-destination 10.0.3.7:10250"), 0);
    assert_eq!(nat("-A PREROUTING -p tcp -m tcp --dport 10250 -j ACCEPT"), 0);
    assert_eq!(nat("-A CNI-DN-1 -p tcp -m tcp ! --dport 10250 -j DNAT --to-destination 10.0.3.7:80"), 0);
}
