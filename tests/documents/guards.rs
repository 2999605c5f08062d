//! `docs/guards.md`: each guard blocks a repair that it must block, and its message is on the page.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Fault, Source, UnhealthyReason},
    decide,
    group::{ClusterFacts, Group, GroupState, InstanceLocation, Lifecycle, Member},
    guard::{DecisionContext, GroupCounts, UnhealthyCounts, UnhealthyNode},
    ident::{ClusterName, GroupName, InstanceId, NodeName, Zone},
    instance_traits::InstanceTraits,
    policy::{Hold, Policy},
    sources::{ClusterSources, Freshness},
    verification::{Verification, VerificationResult, VerifiedBy},
};
use nodemend_ports::config::read_policy;
use serde_json::json;

use crate::text;

/// Everything that the guards read about one due repair.
#[derive(Clone)]
struct Situation {
    policy: Policy,
    case: Case,
    fault: Fault,
    location: InstanceLocation,
    group: Option<Group>,
    state: GroupState,
    cluster: ClusterFacts,
    unhealthy_counts: UnhealthyCounts,
    unhealthy_nodes: Vec<UnhealthyNode>,
    group_counts: GroupCounts,
    group_has_nodes: bool,
    holds: Vec<Hold>,
    sources: Option<ClusterSources>,
    verification: Option<Verification>,
    now: Timestamp,
}

fn instance(number: usize) -> InstanceId {
    InstanceId::new(format!("i-{number:017}")).expect("an instance ID")
}

impl Situation {
    /// One of twenty nodes, in two zones and one group, is unhealthy and due. No guard blocks its repair.
    fn due() -> Self {
        let cluster = ClusterName::new("prod").expect("a name");
        let group = GroupName::new("workers").expect("a name");
        let zone = |name| Zone::new(name).expect("a zone");
        let policy = Policy::eks_defaults();
        let now: Timestamp = "2026-08-20T10:00:00Z".parse().expect("a timestamp");
        let mut case = serde_json::to_value(Case::new(cluster.clone(), instance(0))).expect("JSON");
        case["node"] = json!("ip-10-0-1-23.ec2.internal");
        let member = |number| Member {
            instance_id: instance(number),
            zone: zone(["eu-west-1a", "eu-west-1b"][number % 2]),
            lifecycle: Lifecycle::InService,
        };
        Self {
            case: serde_json::from_value(case).expect("a case"),
            fault: Fault::hypothetical(&policy.default_rules(), now),
            policy,
            location: InstanceLocation::Member { group: group.clone(), lifecycle: Lifecycle::InService },
            group: Some(Group {
                name: group.clone(),
                cluster: Some(cluster.clone()),
                members: (0..20).map(member).collect(),
                suspended: Vec::new(),
                tags: [].into(),
                eks_repair_enabled: false,
                desired_capacity: None,
            }),
            state: GroupState::new(cluster, group),
            cluster: ClusterFacts {
                zones: [(zone("eu-west-1a"), 10), (zone("eu-west-1b"), 10)].into(),
                zonal_shifts: Vec::new(),
            },
            unhealthy_counts: UnhealthyCounts {
                unhealthy: 1,
                by_zone: [(zone("eu-west-1a"), 1)].into(),
                ..UnhealthyCounts::default()
            },
            unhealthy_nodes: Vec::new(),
            group_counts: GroupCounts { unhealthy: 1, size: 20 },
            group_has_nodes: true,
            holds: Vec::new(),
            sources: None,
            verification: None,
            now,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut situation = Self::due();
        change(&mut situation);
        situation
    }

    fn with_policy(yaml: &str) -> Self {
        Self::with(|situation| situation.policy = read_policy(yaml).expect(yaml))
    }

    fn held(node: bool, group: bool, cluster: bool) -> Self {
        Self::with(|situation| {
            situation.holds.push(Hold {
                node: node.then(|| NodeName::new("ip-10-0-1-23.ec2.internal").expect("a name")),
                group: group.then(|| situation.state.name().clone()),
                cluster: cluster.then(|| situation.case.cluster().clone()),
                owner: "alice".to_owned(),
                reason: "kernel rollout".to_owned(),
                from: None,
                until: situation.now + SignedDuration::from_hours(2),
            });
        })
    }

    /// A person has set this mark on the Node object.
    fn marked(&mut self, mark: &str, text: &str) {
        let mut case = serde_json::to_value(&self.case).expect("JSON");
        case["marks"][mark] = json!({ "text": text, "at": self.now, "by": "alice" });
        self.case = serde_json::from_value(case).expect("a case");
    }

    fn as_member(lifecycle: Lifecycle) -> Self {
        Self::with(|situation| {
            let group = situation.state.name().clone();
            situation.location = InstanceLocation::Member { group, lifecycle };
        })
    }

    fn unverified(result: VerificationResult) -> Self {
        Self::with(|situation| {
            situation.verification = Some(Verification {
                at: situation.now,
                by: VerifiedBy::ControlPlaneLog,
                read: String::new(),
                result: result.clone(),
                instance: None,
            });
        })
    }

    fn audit_log_behind() -> Self {
        Self::with(|situation| {
            situation.fault.source = Source::ControlPlane;
            let newest = situation.now - SignedDuration::from_mins(40);
            let behind = Some(Freshness { newest: Some(newest), checked_at: situation.now });
            situation.sources = Some(ClusterSources { audit_log: behind, ..ClusterSources::default() });
        })
    }

    /// Repairs were halted, and two other nodes of the group have recovered since.
    fn outage_ends(&mut self) {
        self.state.record_halt(self.now);
        for number in [1, 2] {
            self.unhealthy_nodes.push(UnhealthyNode {
                instance_id: instance(number),
                zone: None,
                unhealthy_reason: UnhealthyReason { recovered: Some(self.now), ..UnhealthyReason::default() },
            });
        }
    }

    /// The instance replaced another one that had the same fault.
    fn replacement_is_as_its_predecessor(&mut self, traits: &InstanceTraits) {
        let reason = self.fault.reason.clone();
        self.state.acquire_slot(instance(99), &reason, self.now);
        self.state.record_traits(&instance(99), traits);
        self.state.record_termination(&instance(99), self.now);
        assert!(self.state.match_replacement(&instance(0), self.now, traits).is_some());
        self.state.release_slot(&instance(99));
    }

    /// A repair for another reason waits for this instance to become Ready.
    fn is_awaited(&mut self) {
        self.state.acquire_slot(instance(99), "NvidiaXID79Error", self.now);
        self.state.record_termination(&instance(99), self.now);
        let traits = InstanceTraits::default();
        assert!(self.state.match_replacement(&instance(0), self.now, &traits).is_some());
    }

    /// An evaluation found the instance out of service five minutes ago.
    fn was_out_of_service(&mut self) {
        let mut case = serde_json::to_value(&self.case).expect("JSON");
        case["outOfServiceAt"] = json!("2026-08-20T09:55:00Z");
        self.case = serde_json::from_value(case).expect("a case");
    }

    /// Other repairs for the same reason.
    fn repair_in_progress(&mut self, count: usize) {
        let reason = self.fault.reason.clone();
        for number in 1..=count {
            self.state.acquire_slot(instance(number), &reason, self.now);
        }
    }

    fn group_mut(&mut self) -> &mut Group {
        self.group.as_mut().expect("a group")
    }

    /// Each guard's name, and its message if it blocks.
    fn guards(&self) -> Vec<(String, Option<String>)> {
        let context = DecisionContext {
            location: &self.location,
            group: self.group.as_ref(),
            state: &self.state,
            cluster: &self.cluster,
            unhealthy_counts: &self.unhealthy_counts,
            unhealthy_nodes: &self.unhealthy_nodes,
            group_counts: self.group_counts,
            group_has_nodes: self.group_has_nodes,
            holds: &self.holds,
            sources: self.sources.as_ref(),
            verification: self.verification.as_ref(),
        };
        decide::explain(&self.case, &self.fault, &context, &self.policy, self.now)
            .into_iter()
            .map(|answer| (answer.guard.name(), answer.block.map(|block| block.sentence)))
            .collect()
    }
}

const ENABLED: &str = "mode: repair\nnodeRepairConfig:\n  enabled: true\n";

/// For every message of every guard, a repair that the guard blocks with it.
fn blocked_situations() -> Vec<(&'static str, Situation)> {
    let never = "maintenanceWindows:\n- {start: \"00:00\", end: \"00:01\"}\n";
    let zone = || Zone::new("eu-west-1a").expect("a zone");
    vec![
        ("Disabled", Situation::with_policy("mode: repair\n")),
        ("EksRepairEnabled", Situation::with(|one| one.group_mut().eks_repair_enabled = true)),
        (
            "OptedOut",
            Situation::with(|one| {
                one.group_mut().tags.insert("nodemend/repair".to_owned(), "disabled".to_owned());
            }),
        ),
        ("NotInGroup", Situation::with(|one| one.group = None)),
        ("NotInGroup", Situation::with(|one| one.location = InstanceLocation::Ungrouped)),
        ("NotInGroup", Situation::with(|one| one.location = InstanceLocation::Gone)),
        ("NotInService", Situation::as_member(Lifecycle::Pending)),
        ("NotInService", Situation::as_member(Lifecycle::OutOfService)),
        ("NotInService", Situation::as_member(Lifecycle::Terminating)),
        ("NotInService", Situation::as_member(Lifecycle::WarmPool)),
        (
            "NoNodeInGroup",
            Situation::with(|one| {
                one.fault.reason = "FailedToJoin".to_owned();
                one.group_has_nodes = false;
            }),
        ),
        ("ScalingSuspended", Situation::with(|one| one.group_mut().suspended.push("Launch".to_owned()))),
        ("ScalingSuspended", Situation::with(|one| one.group_mut().suspended.push("Terminate".to_owned()))),
        ("Fenced", Situation::with(|one| one.fault.source = Source::Agent)),
        ("Held", Situation::held(true, false, true)),
        ("Held", Situation::held(false, true, true)),
        ("Held", Situation::held(false, false, true)),
        ("Held", Situation::held(false, false, false)),
        ("Held", Situation::with(|one| one.marked("hold", "2026-08-21T10:00:00Z core dump"))),
        (
            "Held",
            Situation {
                case: Situation::with(|one| one.marked("cordon", "")).case,
                ..Situation::with_policy(&format!("{ENABLED}respectCordon: true\n"))
            },
        ),
        (
            "OutsideMaintenanceWindow",
            Situation::with_policy(&format!(
                "{ENABLED}maintenanceWindows:\n- {{start: \"22:00\", end: \"04:00\"}}\n"
            )),
        ),
        (
            // After the last window that a timestamp can express.
            "OutsideMaintenanceWindow",
            Situation { now: Timestamp::MAX, ..Situation::with_policy(&format!("{ENABLED}{never}")) },
        ),
        ("UnhealthyThreshold", Situation::with(|one| one.group_counts.unhealthy = 9)),
        (
            "UnhealthyThreshold",
            Situation {
                group_counts: GroupCounts { unhealthy: 3, size: 20 },
                ..Situation::with_policy(&format!("{ENABLED}  maxUnhealthyNodeThresholdCount: 2\n"))
            },
        ),
        ("ClusterThreshold", Situation::with(|one| one.unhealthy_counts.unhealthy = 10)),
        ("ZoneImpaired", Situation::with(|one| one.cluster.zonal_shifts.push(zone()))),
        (
            "ZoneImpaired",
            Situation::with(|one| {
                one.unhealthy_counts.unhealthy = 6;
                one.unhealthy_counts.by_zone.insert(zone(), 6);
            }),
        ),
        ("LogPipelineSuspect", Situation::with(|one| one.unhealthy_counts.silent_at_once = 12)),
        ("LogPipelineSuspect", Situation::with(|one| one.unhealthy_counts.unreachable_at_once = 12)),
        ("OutageEnding", Situation::with(Situation::outage_ends)),
        (
            "SameFaultAgain",
            Situation::with(|one| one.replacement_is_as_its_predecessor(&InstanceTraits::default())),
        ),
        (
            "SameFaultAgain",
            Situation::with(|one| {
                let image = Some("ami-0a1b2c3d4e5f67890".to_owned());
                let traits = InstanceTraits { image, zone: Some(zone()), ..InstanceTraits::default() };
                one.replacement_is_as_its_predecessor(&traits);
            }),
        ),
        ("ReplacementsFailing", Situation::with(|one| one.state.record_failure(one.now, one.now))),
        (
            "ReplacementsFailing",
            Situation::with(|one| {
                one.state.record_failure(one.now, one.now);
                one.state.record_failure(one.now, one.now);
            }),
        ),
        ("NotInService", Situation::with(Situation::was_out_of_service)),
        ("ReplacementsFailing", Situation::with(Situation::is_awaited)),
        (
            "ReplacementsFailing",
            Situation::with(|one| {
                one.state.record_launch_failure(one.now, "We do not have sufficient capacity", false);
            }),
        ),
        (
            "ParallelLimit",
            Situation {
                state: {
                    let mut state = Situation::due().state;
                    state.acquire_slot(instance(7), "KubeletNotReady", Situation::due().now);
                    state
                },
                ..Situation::with_policy(&format!("{ENABLED}  maxParallelNodesRepairedCount: 1\n"))
            },
        ),
        ("GradualLimit", Situation::with(|one| one.repair_in_progress(1))),
        (
            "GradualLimit",
            Situation::with(|one| {
                one.state.record_success(&one.fault.reason, one.now);
                one.repair_in_progress(2);
            }),
        ),
        (
            "GradualLimit",
            Situation::with(|one| {
                one.group_mut().members.truncate(4);
                one.state.acquire_slot(instance(3), "KubeletNotReady", one.now);
            }),
        ),
        (
            "GradualLimit",
            Situation {
                state: {
                    let mut state = Situation::due().state;
                    state.acquire_slot(instance(7), "KubeletNotReady", Situation::due().now);
                    state.release_slot(&instance(7));
                    state
                },
                ..Situation::with_policy(&format!("{ENABLED}outage: {{pause: 10m}}\n"))
            },
        ),
        ("SourceBehind", Situation::audit_log_behind()),
        (
            "Unverified",
            Situation::unverified(VerificationResult::NotVerified(
                "reading the log group is throttled".to_owned(),
            )),
        ),
        (
            "Unverified",
            Situation::unverified(VerificationResult::Contradicted(
                "the Node has a healthy Ready".to_owned(),
            )),
        ),
        ("ObserveMode", Situation::with_policy("mode: observe\nnodeRepairConfig:\n  enabled: true\n")),
    ]
}

/// Whether a message has a form that the page shows, where `…` stands for any text.
fn fits(form: &str, text: &str) -> bool {
    let mut parts = form.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn every_guard_blocks_with_the_messages_of_its_section() {
    let page = text("docs/guards.md");
    let sections: Vec<(&str, &str)> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a title")).collect();
    let passed = Situation::due().guards();
    let titles: Vec<_> = sections.iter().map(|(title, _)| *title).collect();
    let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(titles, names, "the guards, in the order in which they are checked");
    assert!(passed.iter().all(|(_, message)| message.is_none()), "{passed:?}");

    let situations = blocked_situations();
    for (name, section) in sections {
        for part in ["**Blocks when**", "**Message**", "**How to resolve**"] {
            assert!(section.contains(part), "{name} lacks {part}");
        }
        let blocking = situations.iter().filter(|(guard, _)| *guard == name);
        let messages: Vec<String> = blocking
            .map(|(_, situation)| {
                let blocks: Vec<_> = situation
                    .guards()
                    .into_iter()
                    .filter_map(|(guard, message)| Some((guard, message?)))
                    .collect();
                let [(guard, message)] = &blocks[..] else {
                    panic!("{name} is not the only guard that blocks: {blocks:?}")
                };
                assert_eq!(guard, name);
                message.clone()
            })
            .collect();
        // A message may be broken over several lines of the page.
        let joined = section.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown =
            joined.split("**Message**").nth(1).and_then(|rest| rest.split("- **How to").next()).expect(name);
        let forms: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        for message in &messages {
            assert!(forms.iter().any(|form| fits(form, message)), "{name} does not show {message:?}");
        }
        // The other code spans name a part of a message, such as the scope of a hold.
        for form in forms {
            let part = format!("…{form}…");
            assert!(
                messages.iter().any(|message| fits(&part, message)),
                "{name} has no message with {form:?}"
            );
        }
    }
}
