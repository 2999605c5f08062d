//! What a reboot cures, what it does not, and what is made of either.

mod ward;

use jiff::SignedDuration;
use nodemend_domain::{
    repair::{Confirmation, LEASE, Phase},
    repair_event::Step,
};
use nodemend_ports::{clock::Clock, store::Store};
use nodemend_testkit::edit_stored;
use nodemend_testkit::faults::{Fate, Faults, schedule};
use serde_json::json;

use self::ward::{Episode, Ward, at, cluster, held_until, minutes, policy, reboot, terminate};

/// A reboot was called for at 10 minutes, and confirmed.
fn rebooting() -> Ward {
    let ward = Ward::sick(1, Episode::Accelerator, policy(1));
    ward.sweep_at(minutes(10));
    assert_eq!(ward.cloud.calls(), [reboot(1)]);
    ward.change(1, |case| {
        edit_stored(case, |case| {
            case["repair"]["calls"][0]["confirmation"] = json!(Confirmation::Confirmed);
        });
    });
    ward
}

#[test]
fn a_reboot_that_cures_nothing_is_followed_by_a_replacement() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(12));
    ward.tell(1, Episode::Accelerator, true, 2, 1, 12 * 60);
    ward.run_until(minutes(25) - SignedDuration::from_secs(1));
    assert_eq!(ward.cloud.calls(), [reboot(1)]);
    ward.run_until(minutes(25));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_reboot_without_a_sign_of_life_is_followed_by_a_replacement() {
    let ward = rebooting();
    ward.run_until(minutes(25));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn what_a_reboot_did_not_cure_waits_for_a_hold_and_is_looked_at_once_a_minute() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(12));
    ward.tell(1, Episode::Accelerator, true, 2, 1, 12 * 60);
    ward.store.hold(&cluster(), held_until(minutes(300)));
    let mut blocked = 0;
    for sweeps in 0.. {
        assert!(sweeps < 300, "it stays due at {}", ward.clock.now());
        let due = pollster::block_on(ward.store.next_due()).expect("a memory").expect("due");
        if due >= minutes(300) {
            break;
        }
        let swept = ward.sweep_at(due);
        blocked += swept.repair_events.iter().filter(|told| told.step == Step::Blocked).count();
    }
    assert_eq!((blocked, ward.cloud.calls()), (1, vec![reboot(1)]), "told once");
    ward.run_until(minutes(300));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_that_comes_back_sound_just_before_its_time_is_up_is_given_the_time_to_stay_so() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(24));
    ward.tell(1, Episode::Accelerator, false, 2, 1, 24 * 60);
    ward.run_until(minutes(60));
    assert_eq!(ward.cloud.calls(), [reboot(1)]);
    assert_eq!((ward.case(1).repair(), ward.case(1).closed()), (None, None));
}

#[test]
fn a_node_that_came_back_sound_and_breaks_again_is_replaced() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(24));
    ward.tell(1, Episode::Accelerator, false, 2, 1, 24 * 60);
    ward.clock.advance_to(minutes(25));
    ward.run_once();
    ward.tell(1, Episode::Accelerator, true, 2, 2, 25 * 60);
    ward.run_until(minutes(30));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_that_recovers_while_a_reboot_never_comes_is_not_killed() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(11));
    ward.tell(1, Episode::Accelerator, false, 1, 2, 11 * 60);
    ward.run_until(minutes(180));
    assert_eq!(ward.cloud.calls(), [reboot(1)]);
    assert_eq!((ward.case(1).repair().is_some(), ward.group().slots().len()), (false, 0));
}

#[test]
fn a_boot_that_is_heard_of_when_its_reboot_was_given_up_is_not_followed_by_another_reboot() {
    // The reboot took effect half a minute before its time was up, and word of it came a minute after.
    let ward = rebooting();
    ward.clock.advance_to(minutes(22));
    ward.tell(1, Episode::Accelerator, false, 1, 2, 22 * 60);
    ward.run_until(minutes(25));
    assert_eq!(ward.case(1).repair(), None, "well for three minutes, in the boot that the call found");
    ward.clock.advance_to(minutes(26));
    ward.tell(1, Episode::Accelerator, true, 2, 1, 24 * 60 + 30);
    ward.run_until(minutes(34));
    assert_eq!(ward.cloud.calls(), [reboot(1)], "its own grace period runs");
    ward.run_until(minutes(60));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
    let decision = ward.last_record(1, "RepairClaimed")["nodemend"]["decision"].to_string();
    assert!(decision.contains("; the reboot did not cure it"), "{decision}");
}

#[test]
fn what_the_old_boot_said_is_no_word_of_the_new_one() {
    // The kubelet of the new boot is ready; its agent, whose word is late, never said that the fault is gone.
    let ward = rebooting();
    ward.clock.advance_to(minutes(12));
    ward.tell(1, Episode::Accelerator, true, 1, 2, 0);
    ward.ready(1, 2, at(11 * 60 + 50));
    ward.run_until(minutes(20));
    assert_eq!(ward.case(1).repair().map(|repair| repair.phase()), Some(Phase::Rebooting));
    ward.tell(1, Episode::Accelerator, true, 2, 1, 11 * 60 + 50);
    ward.run_until(minutes(25));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_reboot_that_seemed_to_cure_is_given_its_time_and_is_not_made_again() {
    // It comes back sound, breaks a minute later, and word of that is late: the repair was closed meanwhile.
    let ward = rebooting();
    ward.clock.advance_to(minutes(11));
    ward.tell(1, Episode::Accelerator, false, 2, 1, 11 * 60);
    ward.run_until(minutes(20));
    assert_eq!(ward.case(1).repair(), None, "cured, as far as was known");
    ward.tell(1, Episode::Accelerator, true, 2, 2, 12 * 60);
    ward.run_until(minutes(25) - SignedDuration::from_secs(1));
    assert_eq!(ward.cloud.calls(), [reboot(1)]);
    ward.run_until(minutes(25));
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
}

#[test]
fn a_node_that_a_reboot_cured_and_that_breaks_anew_is_rebooted_again() {
    let ward = rebooting();
    ward.clock.advance_to(minutes(12));
    ward.tell(1, Episode::Accelerator, false, 2, 1, 12 * 60);
    ward.run_until(minutes(18));
    assert_eq!(ward.case(1).repair(), None, "cured");
    ward.tell(1, Episode::Accelerator, true, 2, 2, 18 * 60);
    ward.run_until(minutes(28));
    assert_eq!(ward.cloud.calls(), [reboot(1), reboot(1)]);
}

#[test]
fn a_replacement_names_the_fault_that_it_is_for() {
    // Both are due when the hold ends; the one that asks for less has waited longer.
    let ward = Ward::sick(1, Episode::Accelerator, policy(1));
    ward.tell(1, Episode::Network, true, 1, 2, 0);
    ward.store.hold(&cluster(), held_until(minutes(40)));
    ward.run_until(minutes(40));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
    for name in ["RepairClaimed", "TerminateInstanceInAutoScalingGroup"] {
        let record = ward.last_record(1, name).to_string();
        assert!(record.contains("NetworkingReady") && !record.contains("did not cure"), "{record}");
    }
}

#[test]
fn a_replacement_that_a_reboot_led_to_survives_a_crash() {
    // It was decided at 25 minutes, and its process died. The new boot's own clock has not run out by then.
    let ward = rebooting();
    ward.clock.advance_to(minutes(24));
    ward.tell(1, Episode::Accelerator, true, 2, 1, 24 * 60);
    ward.clock.advance_to(minutes(25));
    let written =
        |ward: &Ward| matches!(ward.case(1).repair().expect("a repair").phase(), Phase::Claimed { .. });
    for operation in 1.. {
        let faults = Faults::at(operation, Fate::DieAfter);
        let _ = schedule::run_one(&faults, ward.repairer(&faults).run_once());
        if written(&ward) {
            break;
        }
    }
    ward.run_until(minutes(25) + LEASE);
    assert_eq!(ward.cloud.calls(), [reboot(1), terminate(1)]);
    assert!(!ward.audit_log(1).contains(&"RepairReleased".to_owned()), "{:?}", ward.audit_log(1));
}

/// Two faults since the start, one that asks for a reboot; AWS refuses each.
fn never_rebooted() -> Ward {
    let ward = Ward::sick(1, Episode::Accelerator, policy(1));
    ward.tell(1, Episode::Network, true, 1, 2, 0);
    for minute in [10, 15, 25] {
        ward.refuse(reboot(1), minutes(minute), "UnauthorizedOperation", "You are not authorized");
    }
    ward
}

#[test]
fn a_reboot_that_was_refused_has_cured_nothing_and_failed_at_nothing() {
    // Its pauses grow, and the last of them ends when a replacement is due, too.
    let ward = never_rebooted();
    ward.run_until(minutes(60));
    assert_eq!(ward.cloud.calls(), [reboot(1), reboot(1), reboot(1), terminate(1)]);
    let record = ward.last_record(1, "TerminateInstanceInAutoScalingGroup").to_string();
    assert!(record.contains("NetworkingReady bad") && !record.contains("did not cure"), "{record}");
}

#[test]
fn a_reboot_that_was_refused_makes_no_other_trouble_due() {
    let ward = never_rebooted();
    ward.refuse(terminate(1), minutes(45), "AccessDenied", "is not authorized to perform");
    ward.run_until(minutes(45));
    let refused = [reboot(1), reboot(1), reboot(1), terminate(1)];
    assert_eq!(ward.cloud.calls(), refused);
    // While it is paused, both end, and one comes back: it is not due when the pause is over.
    for (minute, episode, bad, seq) in [
        (46, Episode::Network, false, 3),
        (46, Episode::Accelerator, false, 4),
        (80, Episode::Accelerator, true, 5),
    ] {
        ward.clock.advance_to(minutes(minute));
        ward.tell(1, episode, bad, 1, seq, minute * 60);
    }
    ward.run_until(minutes(90) - SignedDuration::from_secs(1));
    assert_eq!(ward.cloud.calls(), refused, "its own grace period runs");
    ward.run_until(minutes(90));
    assert_eq!(ward.cloud.calls().last(), Some(&reboot(1)));
}

#[test]
fn a_replacement_whose_fault_ends_before_it_is_made_is_decided_anew() {
    // Its call was refused; what is left asks for a reboot, and is what the record names.
    let ward = Ward::sick(1, Episode::Network, policy(1));
    ward.refuse(terminate(1), minutes(30), "AccessDenied", "is not authorized to perform");
    ward.clock.advance_to(minutes(22));
    ward.tell(1, Episode::Accelerator, true, 1, 2, 22 * 60);
    ward.run_until(minutes(31));
    assert_eq!(ward.cloud.calls(), [terminate(1)]);
    ward.tell(1, Episode::Network, false, 1, 3, 31 * 60);
    ward.run_until(minutes(35));
    assert_eq!(ward.cloud.calls(), [terminate(1), reboot(1)]);
    let decision = ward.last_record(1, "RebootInstances")["nodemend"]["decision"].to_string();
    assert!(decision.contains("AcceleratedHardwareReady bad"), "{decision}");
}
