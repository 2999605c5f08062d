use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use super::*;

/// Two interfaces: the first with a pod and an unused address, the second with a pod of a prefix.
const ANSWER: &str = r#"{
  "TotalIPs": 18, "AssignedIPs": 2,
  "ENIs": {
    "eni-0a": {
      "ID": "eni-0a", "IsPrimary": true, "IsTrunk": false, "IsEFA": false, "DeviceNumber": 0,
      "AvailableIPv4Cidrs": {
        "10.0.1.5/32": {"Cidr": {"IP": "10.0.1.5", "Mask": "/////w=="}, "IsPrefix": false, "AddressFamily": "",
          "IPAddresses": {"10.0.1.5": {"Address": "10.0.1.5",
            "IPAMKey": {"networkName": "aws-cni", "containerID": "5f1c", "ifName": "eth0"},
            "IPAMMetadata": {"k8sPodNamespace": "default", "k8sPodName": "web-1"},
            "AssignedTime": "2026-01-01T00:00:00Z", "UnassignedTime": "0001-01-01T00:00:00Z"}}},
        "10.0.1.6/32": {"Cidr": {"IP": "10.0.1.6", "Mask": "/////w=="}, "IsPrefix": false,
          "IPAddresses": {"10.0.1.6": {"Address": "10.0.1.6",
            "IPAMKey": {"networkName": "", "containerID": "", "ifName": ""}, "IPAMMetadata": {},
            "AssignedTime": "0001-01-01T00:00:00Z", "UnassignedTime": "2026-01-01T00:00:00Z"}}}
      },
      "IPv6Cidrs": {}
    },
    "eni-0b": {
      "ID": "eni-0b", "IsPrimary": false, "DeviceNumber": 1,
      "AvailableIPv4Cidrs": {
        "10.0.2.16/28": {"Cidr": {"IP": "10.0.2.16", "Mask": "////8A=="}, "IsPrefix": true,
          "IPAddresses": {"10.0.2.17": {"Address": "10.0.2.17",
            "IPAMKey": {"networkName": "aws-cni", "containerID": "77aa", "ifName": "eth0"}}}}
      },
      "IPv6Cidrs": null
    }
  }
}"#;

fn pods() -> Vec<PodAddress> {
    parse(ANSWER.as_bytes()).expect("a response")
}

fn network(text: &str) -> Network {
    text.parse().expect("a network")
}

fn to(address: &str) -> RoutingRule {
    RoutingRule {
        v6: address.contains(':'),
        priority: TO_POD,
        source: None,
        destination: Some(network(address)),
        table: MAIN_TABLE,
    }
}

fn from(address: &str, table: u32) -> RoutingRule {
    RoutingRule {
        v6: address.contains(':'),
        priority: FROM_POD,
        source: Some(network(address)),
        destination: None,
        table,
    }
}

fn route(table: u32, destination: Option<&str>) -> Route {
    Route {
        v6: destination.is_some_and(|text| text.contains(':')),
        table,
        destination: destination.map(network),
        interface: Some(3),
        passes: true,
    }
}

fn complete() -> (Vec<RoutingRule>, Vec<Route>) {
    (
        vec![to("10.0.1.5"), to("10.0.2.17"), from("10.0.2.17", 2)],
        vec![
            route(MAIN_TABLE, None),
            route(MAIN_TABLE, Some("10.0.1.5")),
            route(MAIN_TABLE, Some("10.0.2.17")),
            route(2, None),
        ],
    )
}

/// The raised findings, as `reason subject`.
fn raised(pods: &[PodAddress], rules: &[RoutingRule], routes: &[Route]) -> Vec<String> {
    let changes = ConditionLatch::default().update(evaluate(pods, rules, routes), Timestamp::UNIX_EPOCH);
    let raised = changes.into_iter().filter_map(|change| match change {
        FindingChange::Raised(finding) => {
            assert_eq!(finding.debounce, TWICE);
            Some(format!("{} {}", finding.reason, finding.subject.unwrap_or_default()))
        }
        FindingChange::Cleared { .. } => None,
    });
    raised.collect()
}

#[test]
fn only_addresses_in_use_are_pods() {
    assert_eq!(
        pods(),
        [
            PodAddress {
                address: "10.0.1.5".parse().expect("an address"),
                name: "default/web-1".into(),
                secondary: false
            },
            PodAddress {
                address: "10.0.2.17".parse().expect("an address"),
                name: String::new(),
                secondary: true
            },
        ]
    );
    assert_eq!(parse(br#"{"TotalIPs":0,"AssignedIPs":0,"ENIs":null}"#).expect("a response"), []);
    assert_eq!(parse(br#"{"ENIs":{}}"#).expect("a response"), []);
}

#[test]
fn an_invalid_response_of_the_daemon_is_an_error() {
    for text in [
        "",
        "[]",
        "null",
        "<html>",
        r#"{"AvailableCommands":["/v1/enis"]}"#,
        &ANSWER[..900],
        &"[".repeat(9_000),
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    let address = ANSWER.replace("\"Address\": \"10.0.1.5\"", "\"Address\": \"10.0.1\"");
    assert!(parse(address.as_bytes()).is_err());
}

#[test]
fn a_node_with_complete_rules_and_routes_is_healthy() {
    let (rules, routes) = complete();
    assert_eq!(raised(&pods(), &rules, &routes), Vec::<String>::new());
    assert_eq!(raised(&[], &[], &[]), Vec::<String>::new());
    let changes = ConditionLatch::default().update(evaluate(&pods(), &rules, &routes), Timestamp::UNIX_EPOCH);
    let cleared: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            FindingChange::Cleared { reason, .. } => Some(&**reason),
            FindingChange::Raised(_) => None,
        })
        .collect();
    assert_eq!(cleared, [NOT_READY, MISSING_DEFAULT, MISSING_ROUTES, MISSING_RULES]);
}

#[test]
fn each_missing_rule_or_route_is_reported() {
    type BreakRouting = fn(&mut Vec<RoutingRule>, &mut Vec<Route>);
    let table: [(BreakRouting, &[&str], &str); 11] = [
        (
            |rules, _| {
                rules.remove(0);
            },
            &["MissingIPRules 10.0.1.5"],
            "a pod's rule",
        ),
        (|rules, _| rules[0].priority = 513, &["MissingIPRules 10.0.1.5"], "of another priority"),
        (|rules, _| rules[0].table = 2, &["MissingIPRules 10.0.1.5"], "to another table"),
        (
            |rules, _| rules[0].destination = Some(network("10.0.1.0/24")),
            &["MissingIPRules 10.0.1.5"],
            "wider",
        ),
        (
            |rules, _| {
                rules.remove(2);
            },
            &["MissingIPRules 10.0.2.17"],
            "the rule by source",
        ),
        (|rules, _| rules.clear(), &["MissingIPRules 10.0.1.5", "MissingIPRules 10.0.2.17"], "all rules"),
        (
            |_, routes| {
                routes.remove(1);
            },
            &["MissingIPRoutes 10.0.1.5"],
            "a pod's route",
        ),
        (|_, routes| routes[1].passes = false, &["MissingIPRoutes 10.0.1.5"], "a blackhole"),
        (|_, routes| routes[1].table = 2, &["MissingIPRoutes 10.0.1.5"], "in another table"),
        (
            |_, routes| {
                routes.remove(3);
            },
            &["MissingDefaultRoutes table 2"],
            "a table's default route",
        ),
        (|_, routes| routes[3].passes = false, &["MissingDefaultRoutes table 2"], "unreachable"),
    ];
    for (break_routing, expected, what) in table {
        let (mut rules, mut routes) = complete();
        break_routing(&mut rules, &mut routes);
        assert_eq!(raised(&pods(), &rules, &routes), expected, "{what}");
    }
}

#[test]
fn rules_that_are_not_of_these_pods_are_ignored() {
    let (mut rules, routes) = complete();
    rules.push(from("10.0.9.9", 77));
    rules.push(from("10.0.2.0/24", 76));
    rules.push(RoutingRule { v6: false, priority: FROM_POD, source: None, destination: None, table: 78 });
    rules.push(RoutingRule { v6: false, priority: 1_024, source: None, destination: None, table: 79 });
    assert_eq!(raised(&pods(), &rules, &routes), Vec::<String>::new());
}

#[test]
fn pods_of_ipv6_have_rules_of_ipv6() {
    let pods = [PodAddress {
        address: "fd00::5".parse().expect("an address"),
        name: String::new(),
        secondary: false,
    }];
    assert_eq!(raised(&pods, &[to("fd00::5")], &[route(MAIN_TABLE, Some("fd00::5"))]), Vec::<String>::new());
    assert_eq!(
        raised(&pods, &[], &[]),
        ["MissingIPRules fd00::5", "MissingIPRoutes fd00::5"].map(String::from)
    );
}

#[test]
fn the_daemons_pods_are_compared_with_the_routes_of_this_machine() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for response in [ANSWER, "{}"] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut [0; 512]).expect("a request");
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{response}")
                .expect("a response");
        }
    });
    let mut probe = PodRoutes::new(address);
    let changes = probe.read(Timestamp::UNIX_EPOCH).expect("a reading");
    let subjects = changes.iter().filter(|change| matches!(change, FindingChange::Raised(_))).count();
    assert_eq!(subjects, 4, "a rule and a route of each: {changes:?}");
    let mut why = || probe.read(Timestamp::UNIX_EPOCH).expect_err("no reading").why;
    assert!(why().contains("is invalid"), "another server's response");
    assert!(why().contains("does not respond"), "no listener");
}
