//! Whose act a termination was.
//!
//! CloudTrail has the caller of a call, Auto Scaling's event the cause of an activity. They arrive in any
//! order, twice, and up to a quarter of an hour apart. Each is joined with what is known already: what
//! identifies the author better replaces what identifies the author less well, also in a case that is closed,
//! and is published by name. Nothing is published as foreign for want of the other: Auto Scaling's own
//! TerminateInstances only carries an activity out, and every other caller is named in its own event.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{
    Case, Departure, Effects, Evidence, IllegalTransition, TransitionContext,
    audit_records::{self, StepRecord},
    notice::SPOT_INTERRUPTION,
};
use crate::{
    audit_log::{Author, CloudTrailEvent, RecordStep},
    condition::RepairAction,
    decide::INSTANCE_GONE,
    group::GroupState,
    repair::{Call, CallResult, LEASE, Phase},
    repair_event::{RepairEvent, Step},
    scaling_activity::{FAILED_STATUS_CHECK, ScalingActivity, TerminationCause},
    status_check::StatusCheck,
    timestamp,
};

/// How long before its end EC2 warns a Spot Instance: two minutes, and the time that an event may take.
const SPOT_WARNING: SignedDuration = SignedDuration::from_mins(15);

/// How long a status check has failed, at most, when Auto Scaling replaces the instance for it. It does after minutes.
const FAILED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// The call of ours that an activity carries out.
enum OurCall {
    /// AWS accepted it.
    Accepted,
    /// Its answer is lost, or still in flight.
    Unanswered(Timestamp),
}

impl Case {
    /// Records CloudTrail's event of a successful termination that no record of ours is about.
    pub fn record_termination(&mut self, event: &CloudTrailEvent, ctx: &TransitionContext<'_>) -> Effects {
        let (how, evidence) = match event.author() {
            // It carries out a call of ours, or one that is about to be known.
            Author::AutoScaling if self.has_called_before(event.event_time, false) => {
                return Effects::default();
            }
            Author::AutoScaling => ("EC2 Auto Scaling terminated it".to_owned(), Evidence::Execution),
            Author::Planned(_) if self.has_called_before(event.event_time, true) => {
                return Effects::default();
            }
            Author::Planned(how) => (how, Evidence::Caller),
            Author::Other => return self.record_foreign_termination(event, ctx),
        };
        let departure = Departure {
            at: event.event_time,
            how: how.clone(),
            foreign: false,
            evidence,
            called: true,
            node_deletion: None,
        };
        if !self.learn_departure(departure) {
            return Effects::default();
        }
        let detail = format!("{how} ({})", event.event_name);
        Effects::of(RepairEvent::new(self, Step::Event, detail, ctx.now))
    }

    /// Records that a principal terminated the instance that nobody planned. No effects if that is recorded already.
    fn record_foreign_termination(
        &mut self,
        event: &CloudTrailEvent,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        if self.departure.as_ref().is_some_and(|departure| departure.foreign) {
            return Effects::default();
        }
        let how = format!("{} terminated it", event.who());
        let data = json!({
            "eventID": event.event_id,
            "requestID": event.request_id,
            "eventName": event.event_name,
            "who": event.who(),
        });
        let entry = audit_records::record_step(
            self,
            StepRecord::new(RecordStep::Foreign, &how, data),
            ctx.caller,
            ctx.now,
        );
        let detail = format!("{how} ({})", event.event_name);
        let published = RepairEvent::new(self, Step::Foreign, detail, ctx.now);
        let evidence = Evidence::Caller;
        self.learn_departure(Departure {
            at: event.event_time,
            how,
            foreign: true,
            evidence,
            called: true,
            node_deletion: None,
        });
        Effects { records: vec![entry], events: vec![published] }
    }

    /// Records the activity by which Auto Scaling terminated the instance, which ended then.
    pub fn record_activity(
        &mut self,
        activity: &ScalingActivity,
        at: Timestamp,
        group: Option<&mut GroupState>,
        ctx: &TransitionContext<'_>,
    ) -> Effects {
        self.group.get_or_insert_with(|| activity.group.clone());
        let cause = activity.cause();
        let mut how = activity.sentence();
        let evidence = match &cause {
            TerminationCause::EndedBefore | TerminationCause::Unknown => Evidence::Text,
            TerminationCause::Decided(_) | TerminationCause::Request { .. } => Evidence::Activity,
        };
        match self.call_behind(&cause) {
            Some(OurCall::Accepted) => {
                return Effects::of(RepairEvent::new(self, Step::Event, how, ctx.now));
            }
            Some(OurCall::Unanswered(call)) => {
                if let Ok(effects) = self.recognize_call(call, group, ctx) {
                    return effects;
                }
                let called = timestamp::seconds(call);
                let ours = format!("our own call of {called}, whose answer was lost, terminated it");
                // The lease or the repair run ends it: the state of the instance shows that the call took effect.
                if self.repair.as_ref().is_some_and(|repair| repair.effective_at().is_some())
                    || self.lease_end().is_some()
                {
                    return Effects::of(RepairEvent::new(self, Step::Event, ours, ctx.now));
                }
                how = ours;
            }
            None => {}
        }
        let may_be_ours = self.is_terminated_by_us();
        if matches!(&cause, TerminationCause::Decided(why) if why == FAILED_STATUS_CHECK)
            && let Some((check, since)) = self.failed_check(at)
        {
            how = format!("{how} (its {} failed at {})", check.name(), timestamp::seconds(since));
        }
        if cause == TerminationCause::EndedBefore
            && let Some(warned) = self.spot_warning(at)
        {
            how = format!("EC2 Spot interrupted it, as warned at {}", timestamp::seconds(warned));
        }
        if evidence == Evidence::Text && may_be_ours {
            return Effects::of(RepairEvent::new(self, Step::Event, how, ctx.now));
        }
        let known = self.departure.as_ref().is_some_and(|known| known.how == how);
        self.learn_departure(Departure {
            at,
            how: how.clone(),
            foreign: false,
            evidence,
            called: false,
            node_deletion: None,
        });
        if known {
            Effects::default()
        } else {
            Effects::of(RepairEvent::new(self, Step::Event, how, ctx.now))
        }
    }

    /// Records that a call without an answer took effect, as Auto Scaling's activity shows. By then the claim holds the
    /// node for another try, or guards block it.
    pub fn recognize_call(
        &mut self,
        call: Timestamp,
        group: Option<&mut GroupState>,
        ctx: &TransitionContext<'_>,
    ) -> Result<Effects, IllegalTransition> {
        let unanswered = |repair: &super::Repair| {
            matches!(repair.phase, Phase::Claimed { .. })
                && repair.calls.iter().any(|known| known.at == call && known.result == CallResult::Unanswered)
        };
        if self.closed.is_some() || !self.repair.as_deref().is_some_and(unanswered) {
            return Err(self.refused("recognize the call of"));
        }
        let Some(repair) = self.repair.as_mut() else { return Err(self.refused("recognize the call of")) };
        repair.phase = Phase::Confirming;
        self.blocked = None;
        if let Some(group) = group {
            group.record_termination(&self.instance_id, call);
        }
        let called = timestamp::seconds(call);
        let detail =
            format!("Replace: no answer came, but Auto Scaling's activity is that of our call of {called}");
        Ok(Effects::of(RepairEvent::new(self, Step::Called, detail, ctx.now)))
    }

    /// Keeps what identifies the author better than what is known. Returns whether that changed the case.
    pub(crate) fn learn_departure(&mut self, new: Departure) -> bool {
        let knows_less = |known: &Departure| {
            !known.foreign && (known.is_contradicted() || known.evidence < new.evidence || new.foreign)
        };
        if !self.departure.as_ref().is_none_or(knows_less) {
            return false;
        }
        let ours = self.is_terminated_by_us();
        if let Some(closed) = &mut self.closed {
            // The end of a repair is its own.
            if !new.foreign && ours {
                return false;
            }
            let known = self.departure.as_ref().map_or(INSTANCE_GONE, |known| &known.how);
            if closed.outcome == known {
                closed.outcome.clone_from(&new.how);
            }
        }
        let called = new.called || self.departure.as_ref().is_some_and(|known| known.called);
        self.departure = Some(Departure { called, ..new });
        true
    }

    /// Whether a call of ours terminated it. One that rebooted it did not.
    pub(super) fn is_terminated_by_us(&self) -> bool {
        self.action() == Some(RepairAction::Replace)
            && self.repair.as_ref().is_some_and(|repair| repair.effective_at().is_some())
    }

    /// Whether a call of ours to terminate it was made before, or at about that time: one that AWS accepted, or also one
    /// of which that is unknown.
    fn has_called_before(&self, at: Timestamp, accepted: bool) -> bool {
        self.terminations().any(|call| {
            let may = if accepted {
                call.result == CallResult::Accepted
            } else {
                call.result != CallResult::Refused
            };
            may && call.at.duration_since(at) <= LEASE
        })
    }

    /// The call of ours that an activity carries out: one that AWS accepted, whatever the text says, or one without an
    /// answer, if the activity is of a request at that time.
    fn call_behind(&self, cause: &TerminationCause) -> Option<OurCall> {
        if self.terminations().any(|call| call.result == CallResult::Accepted) {
            return Some(OurCall::Accepted);
        }
        let TerminationCause::Request { at } = cause else { return None };
        let far = |call: &&Call| at.map_or(SignedDuration::ZERO, |at| call.at.duration_since(at).abs());
        let unanswered = self
            .terminations()
            .filter(|call| matches!(call.result, CallResult::Pending | CallResult::Unanswered));
        unanswered.filter(|call| far(call) <= LEASE).min_by_key(far).map(|call| OurCall::Unanswered(call.at))
    }

    fn terminations(&self) -> impl Iterator<Item = &Call> {
        self.calls().filter(|call| call.action == RepairAction::Replace)
    }

    /// When AWS announced this last.
    fn last_notice(&self, reason: &str) -> Option<Timestamp> {
        let counter = self.counters.iter().find(|counter| *counter.reason == *reason)?;
        counter.span().map(|(_, last, _)| last)
    }

    /// The status check that failed before the instance ended then, and since when, if reconciling has found one.
    fn failed_check(&self, ended: Timestamp) -> Option<(StatusCheck, Timestamp)> {
        let failed = |check: StatusCheck| {
            let since = self.last_notice(check.reason())?;
            (since <= ended && ended.duration_since(since) <= FAILED_FOR).then_some((check, since))
        };
        StatusCheck::ALL.into_iter().find_map(failed)
    }

    /// When EC2 warned of a Spot interruption that ended it then.
    fn spot_warning(&self, ended: Timestamp) -> Option<Timestamp> {
        let warned = self.last_notice(SPOT_INTERRUPTION)?;
        (ended.duration_since(warned).abs() <= SPOT_WARNING).then_some(warned)
    }
}
