//! `nodemend repair NODE`: a person asks for the repair of a node, which is due at once. All guards are asked.

use clap::Args;
use jiff::SignedDuration;
use nodemend_domain::{
    case::{Case, Effects, IllegalTransition, RepairRequest},
    timestamp,
};
use nodemend_ports::write::{self, Target, Update};

use super::{Connection, Deployment, OperateError, PROBLEMS_FOUND, SUCCESS, identity};
use crate::output::printable;

/// The longest time for which a request counts.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);

/// The arguments of `nodemend repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodemend repair ip-10-0-1-23.ec2.internal --reason 'driver hangs' --cluster prod
  nodemend repair i-0123456789abcdef0 --for 4h --reason 'old kernel' --by alice
  nodemend repair ip-10-0-1-23.ec2.internal --cancel

The next run of the repair function, within a minute, replaces the node unless a
guard says no: holds, thresholds, limits, windows and the others hold for a
request as for a fault. It needs neither a fault nor a grace period. While a
guard blocks it, it is tried again until --for is over. See what blocks it with
nodemend explain NODE.

Exit codes: 0 success, 1 unknown node, its repair is under way already, or there
is nothing to cancel, 64 usage or configuration error")]
pub struct RepairOptions {
    /// A node name, an instance id or a case id
    #[arg(value_name = "NODE")]
    node: String,

    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", required_unless_present = "cancel")]
    reason: Option<String>,

    /// For how long the request counts while guards block it, at most 24 h
    #[arg(long = "for", id = "for_", value_name = "DURATION", default_value = "1h")]
    duration: SignedDuration,

    /// Who asks [default: your ARN, from AWS STS]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,

    /// Take the request back, unless the call was made
    #[arg(long, conflicts_with_all = ["reason", "for_", "by"])]
    cancel: bool,

    #[command(flatten)]
    deployment: Deployment,
}

/// Stores the request in the node's case, or takes it back.
pub async fn run(options: &RepairOptions) -> Result<u8, OperateError> {
    let duration = options.duration;
    if !options.cancel && (duration <= SignedDuration::ZERO || duration > LONGEST) {
        return Err(OperateError::Usage("--for: must be more than 0 and at most 24h".to_owned()));
    }
    let reason = options.reason.as_deref().map(|reason| text("--reason", reason)).transpose()?;
    let connection = options.deployment.connect().await?;
    let Some(reason) = reason else { return cancel(&options.node, &connection).await };
    let owner = identity(options.by.as_ref()).await?;
    let request = RepairRequest {
        owner: text("--by", &owner)?,
        reason,
        at: connection.now,
        until: connection.now + duration,
    };
    let update =
        change(&options.node, &connection, |case| case.request_repair(request.clone()).map(|()| true));
    match update.await? {
        (Update::Refused(refused), _) => {
            anstream::eprintln!(
                "nodemend: {refused}. See what it does with nodemend explain {}",
                options.node
            );
            Ok(PROBLEMS_FOUND)
        }
        _ => {
            anstream::println!(
                "{} is due now, and until {} while guards block it. See their answers: nodemend explain {}",
                printable(&options.node),
                timestamp::seconds(request.until),
                printable(&options.node),
            );
            Ok(SUCCESS)
        }
    }
}

async fn cancel(node: &str, connection: &Connection) -> Result<u8, OperateError> {
    let now = connection.now;
    match change(node, connection, |case| Ok(case.cancel_request(now))).await? {
        (_, true) => {
            anstream::println!("The request for {} is taken back.", printable(node));
            Ok(SUCCESS)
        }
        (_, false) => {
            anstream::eprintln!("nodemend: nobody asks for the repair of {}", printable(node));
            Ok(PROBLEMS_FOUND)
        }
    }
}

/// Changes the case of a node; returns what the change did, too.
async fn change(
    node: &str,
    connection: &Connection,
    mut change: impl FnMut(&mut Case) -> Result<bool, IllegalTransition>,
) -> Result<(Update, bool), OperateError> {
    let Connection { store, cluster, now } = connection;
    let key = connection.case_of(node).await?;
    let policy = store.newest_policy(cluster).await?.map(|newest| newest.policy).ok_or_else(|| {
        OperateError::NotFound(format!("cluster {cluster} has no policy: nothing is repaired"))
    })?;
    let mut changed = false;
    let update = write::update(store, Target::case(&key), &policy, *now, |case, _| {
        changed = change(case)?;
        Ok(Effects::default())
    });
    match update.await? {
        Update::NoCase => Err(OperateError::NotFound(format!(
            "{node} has no case: no report or audit event of it was received"
        ))),
        update => Ok((update, changed)),
    }
}

fn text(argument: &str, text: &str) -> Result<String, OperateError> {
    let text = text.trim();
    if text.is_empty() || text.len() > RepairRequest::MAX_TEXT {
        let most = RepairRequest::MAX_TEXT;
        return Err(OperateError::Usage(format!("{argument}: must have 1 to {most} bytes")));
    }
    Ok(text.to_owned())
}
