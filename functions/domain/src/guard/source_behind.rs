//! The guard `SourceBehind`: a source that is behind may not have reported yet that the node is healthy.

use super::{Block, Guard, GuardContext, block};
use crate::{case::Source, timestamp};

/// A repair waits while the source that it rests on is behind by more than the settling time. It goes on if another due
/// fault of the node rests on a source that is not.
pub(super) fn source_behind(input: &GuardContext<'_>) -> Option<Block> {
    let (policy, now) = (input.policy, input.now);
    let behind = |source| input.context.sources?.behind(source, policy.settling_time, now);
    let log = match input.fault.source {
        Source::Agent => "the agents' log",
        Source::ControlPlane | Source::Inference => "the control plane's audit log",
        Source::Operator => return None,
    };
    let known = behind(input.fault.source)?;
    let has_other = || {
        input
            .case
            .faults(&input.rules, policy, now)
            .iter()
            .any(|f| f.is_due(now) && behind(f.source).is_none())
    };
    if has_other() {
        return None;
    }
    block(
        Guard::SourceBehind,
        format!(
            "the newest line of {log} was {} old at {}, more than {}: it may not show yet that the node is healthy",
            timestamp::duration(known.age()?),
            timestamp::seconds(known.checked_at),
            timestamp::duration(policy.settling_time)
        ),
    )
}
