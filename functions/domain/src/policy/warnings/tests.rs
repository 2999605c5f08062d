use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// The fields that a policy, in JSON, is warned of.
fn warned(json: &str) -> Vec<PolicyWarning> {
    let policy: Policy = serde_json::from_str(json).expect(json);
    assert_eq!(policy.check(), Ok(()), "{json}");
    let cluster = ClusterName::new("prod").expect("a name");
    policy.warnings(at("2026-11-30T12:00:00Z"), Some(&cluster))
}

fn fields(json: &str) -> Vec<String> {
    warned(json).into_iter().map(|warning| warning.field).collect()
}

const REPAIR: &str = r#""mode":"repair","nodeRepairConfig":{"enabled":true}"#;

#[test]
fn a_policy_that_means_what_it_says_has_no_warnings() {
    for json in [
        "{}".to_owned(),
        r#"{"mode":"observe","nodeRepairConfig":{"enabled":true}}"#.to_owned(),
        format!("{{{REPAIR}}}"),
        format!(
            r#"{{{REPAIR},"groups":[{{"name":"gpu-a*","mode":"observe"}},{{"name":"gpu-*","nodeRepairConfig":{{}}}},{{"tags":{{"team":"a"}},"grace":{{"reasons":{{"KubeletNotReady":"45m","NvidiaXID79Error":"5m"}},"conditions":{{"DiskPressure":"1h"}}}}}}]}}"#
        ),
        format!(
            r#"{{{REPAIR},"promotions":[{{"reason":"OOMKilling","count":5,"window":"10m"}}],"grace":{{"reasons":{{"OOMKilling":"15m"}}}},"joinTimeout":"0s","silence":{{"agentSilentAfter":null}}}}"#
        ),
        r#"{"mode":"repair","nodeRepairConfig":{"enabled":true,"nodeRepairConfigOverrides":[{"nodeMonitoringCondition":"AcceleratedHardwareReady","nodeUnhealthyReason":"NvidiaXID64Error","minRepairWaitTimeMins":5,"repairAction":"Replace"},{"nodeMonitoringCondition":"KernelDeadlock","nodeUnhealthyReason":"DockerHung","minRepairWaitTimeMins":5,"repairAction":"Reboot"},{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"NodeStatusUnknown","minRepairWaitTimeMins":20,"repairAction":"Replace"}]}}"#.to_owned(),
        r#"{"holds":[{"owner":"a","reason":"b","cluster":"prod","until":"2026-12-01T00:00:00Z"}]}"#.to_owned(),
    ] {
        assert_eq!(warned(&json), [], "{json}");
    }
}

#[test]
fn settings_that_stop_every_repair_are_warned_of() {
    for (setting, field) in [
        (r#""silence":{"minSilent":0,"percentage":0}"#, "silence.minSilent"),
        (r#""silence":{"minSilent":1,"percentage":0}"#, "silence.percentage"),
        (r#""silence":{"agentSilentAfter":"1m"}"#, "silence.agentSilentAfter"),
        (r#""silence":{"agentSilentAfter":"5m"}"#, "silence.agentSilentAfter"),
        (r#""outage":{"maxUnhealthy":0,"percentage":0}"#, "outage.maxUnhealthy"),
        (r#""outage":{"cooldown":"72h"}"#, "outage.cooldown"),
        (r#""zones":{"minUnhealthy":1,"zonePercentage":0}"#, "zones.zonePercentage"),
        (r#""settlingTime":"48h""#, "settlingTime"),
        (r#""replacementTimeout":"0s""#, "replacementTimeout"),
        (r#""optOutTag":"""#, "optOutTag"),
    ] {
        let json = format!("{{{REPAIR},{setting}}}");
        assert_eq!(fields(&json), [field], "{json}");
    }
    assert_eq!(fields(r#"{"mode":"repair"}"#), ["nodeRepairConfig.enabled"]);
    assert_eq!(
        fields(r#"{"groups":[{"name":"a","mode":"repair"}]}"#),
        ["nodeRepairConfig.enabled", "groups[0].mode"]
    );
}

#[test]
fn settings_that_hasten_repairs_beyond_what_their_sources_deliver_are_warned_of() {
    for (setting, field) in [
        (r#""joinTimeout":"30s""#, "joinTimeout"),
        (r#""joinTimeout":"2m""#, "joinTimeout"),
        (r#""settlingTime":"0s""#, "settlingTime"),
        (r#""recoveryHold":"0s""#, "recoveryHold"),
        (r#""rebootTimeout":"30s""#, "rebootTimeout"),
        (r#""failureBackoff":"0s""#, "failureBackoff"),
        (r#""confirmationTimeout":"1m""#, "confirmationTimeout"),
    ] {
        let json = format!("{{{REPAIR},{setting}}}");
        assert_eq!(fields(&json), [field], "{json}");
    }
}

#[test]
fn a_percentage_above_100_is_never_reached() {
    for (block, field) in [
        ("zones", "zonePercentage"),
        ("zones", "sharePercentage"),
        ("silence", "percentage"),
        ("outage", "percentage"),
    ] {
        for (value, expected) in [(101, vec![format!("{block}.{field}")]), (100, vec![])] {
            let json = format!(r#"{{{REPAIR},"{block}":{{"{field}":{value}}}}}"#);
            assert_eq!(fields(&json), expected, "{json}");
        }
    }
}

#[test]
fn an_unknown_name_is_warned_of_with_the_one_that_was_meant() {
    let of_override = |condition: &str, reason: &str| {
        format!(
            r#"{{"mode":"repair","nodeRepairConfig":{{"enabled":true,"nodeRepairConfigOverrides":[{{"nodeMonitoringCondition":"{condition}","nodeUnhealthyReason":"{reason}","minRepairWaitTimeMins":5,"repairAction":"Replace"}}]}}}}"#
        )
    };
    let of_grace =
        |kind: &str, name: &str| format!(r#"{{{REPAIR},"grace":{{"{kind}":{{"{name}":"20m"}}}}}}"#);
    let of_promotion = |reason: &str| {
        format!(r#"{{{REPAIR},"promotions":[{{"reason":"{reason}","count":3,"window":"1h"}}]}}"#)
    };
    for (json, field, named) in [
        (of_override("Ready", "KubeletNotRedy"), "nodeUnhealthyReason", "KubeletNotReady"),
        (of_override("Ready", "kubeletnotready"), "nodeUnhealthyReason", "KubeletNotReady"),
        (of_override("AcceleratedHardwareReady", "XID79"), "nodeUnhealthyReason", "NvidiaXID79Error"),
        (
            of_override("AcceleratedHardwareReady", "NvidiaXID13Error"),
            "nodeUnhealthyReason",
            "NvidiaXID13Warning",
        ),
        (of_override("KernelReady", "InterfaceNotUp"), "nodeMonitoringCondition", "NetworkingReady"),
        (of_override("KernelReady", "OOMKilling"), "nodeUnhealthyReason", "promotions"),
        (of_override("KernelRedy", "SomethingElse"), "nodeMonitoringCondition", "KernelReady"),
        (of_override("NetworkReady", "SomethingElse"), "nodeMonitoringCondition", "NetworkingReady"),
        (of_override("Ready", ""), "nodeUnhealthyReason", "empty"),
        (of_override("", "KubeletNotReady"), "nodeMonitoringCondition", "empty"),
        (of_grace("reasons", "InterfaceNotup"), "grace.reasons.InterfaceNotup", "InterfaceNotUp"),
        (of_grace("reasons", "OOMKilling"), "grace.reasons.OOMKilling", "promotions"),
        (of_grace("conditions", "Storageready"), "grace.conditions.Storageready", "StorageReady"),
        (of_promotion("OOMKiling"), "promotions[0].reason", "OOMKilling"),
        (of_promotion("Zzz"), "promotions[0].reason", "catalogue"),
    ] {
        let warnings = warned(&json);
        let [warning] = warnings.as_slice() else { panic!("{json}: {warnings:?}") };
        assert!(warning.field.ends_with(field) && warning.why.contains(named), "{json}: {warning:?}");
    }
}

#[test]
fn what_comes_second_and_never_applies_is_warned_of() {
    for (groups, expected) in [
        (r#"[{"name":"*","mode":"observe"},{"name":"gpu-*","mode":"observe"}]"#, vec!["groups[1]"]),
        (r#"[{"name":"gpu-*","mode":"observe"},{"name":"gpu-a","mode":"observe"}]"#, vec!["groups[1]"]),
        (r#"[{"name":"gpu-*","mode":"observe"},{"name":"gpu-*","mode":"observe"}]"#, vec!["groups[1]"]),
        (r#"[{"name":"*","mode":"observe"},{"tags":{"a":"b"},"mode":"observe"}]"#, vec!["groups[1]"]),
        (
            r#"[{"tags":{"a":"*"},"mode":"observe"},{"name":"x","tags":{"a":"b"},"mode":"observe"}]"#,
            vec!["groups[1]"],
        ),
        (r#"[{"name":"gpu-a","mode":"observe"},{"name":"gpu-*","mode":"observe"}]"#, vec![]),
        (r#"[{"name":"gpu-*","tags":{"a":"b"},"mode":"observe"},{"name":"gpu-*","mode":"observe"}]"#, vec![]),
        (r#"[{"name":"a"}]"#, vec!["groups[0]"]),
        (r#"[{"name":"","mode":"observe"}]"#, vec!["groups[0].name"]),
        (r#"[{"name":" gpu","mode":"observe"}]"#, vec!["groups[0].name"]),
        (r#"[{"tags":{"":"x"},"mode":"observe"}]"#, vec!["groups[0].tags"]),
        (
            r#"[{"name":"a","nodeRepairConfig":{"maxParallelNodesRepairedCount":1}}]"#,
            vec!["groups[0].nodeRepairConfig.enabled"],
        ),
        (r#"[{"name":"a","nodeRepairConfig":{"enabled":false}}]"#, vec![]),
    ] {
        let found: Vec<_> = fields(&format!("{{{REPAIR},\"groups\":{groups}}}"));
        assert_eq!(found, expected, "{groups}");
    }
    let twice = r#"{"nodeMonitoringCondition":"Ready","nodeUnhealthyReason":"KubeletNotReady","minRepairWaitTimeMins":5,"repairAction":"Replace"}"#;
    let json = format!(
        r#"{{"mode":"repair","nodeRepairConfig":{{"enabled":true,"nodeRepairConfigOverrides":[{twice},{twice}]}}}}"#
    );
    assert_eq!(fields(&json), ["nodeRepairConfig.nodeRepairConfigOverrides[1]"]);
    let promotion = r#"{"reason":"OOMKilling","count":5,"window":"10m"}"#;
    let json = format!(r#"{{{REPAIR},"promotions":[{promotion},{promotion}]}}"#);
    assert_eq!(fields(&json), ["promotions[1]"]);
}

#[test]
fn a_hold_that_is_over_or_never_applies_is_warned_of() {
    for (hold, field) in [
        (r#""until":"2026-11-30T12:00:00Z""#, Some("holds[0].until")),
        (r#""until":"2026-11-30T12:00:01Z""#, None),
        (r#""from":"2026-12-03T00:00:00Z","until":"2026-12-02T00:00:00Z""#, Some("holds[0].from")),
        (r#""from":"2026-12-02T00:00:00Z","until":"2026-12-02T00:00:00Z""#, Some("holds[0].from")),
        (r#""from":"2026-12-01T00:00:00Z","until":"2026-12-02T00:00:00Z""#, None),
        (r#""until":"2036-12-02T00:00:00Z""#, Some("holds[0].until")),
        (r#""cluster":"dev","until":"2026-12-02T00:00:00Z""#, Some("holds[0].cluster")),
        (r#""group":"gpu-*","until":"2026-12-02T00:00:00Z""#, Some("holds[0].group")),
    ] {
        let json = format!(r#"{{{REPAIR},"holds":[{{"owner":"alice","reason":"test",{hold}}}]}}"#);
        assert_eq!(fields(&json), field.into_iter().collect::<Vec<_>>(), "{json}");
    }
}
