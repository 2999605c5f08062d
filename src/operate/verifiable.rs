//! Whether a cluster has a source to verify faults in, for `nodemend policy check --cluster`.
//!
//! It rests on what reconciling wrote to the state table, and reads no source itself: what matters is what the functions
//! can read, not what the operator can. An agent's fault is verified in its own log stream, which exists if it reports.

use std::io::{self, Write};

use jiff::Timestamp;
use nodemend_domain::{
    ident::ClusterName,
    policy::{Policy, VerificationPolicy},
    sources::{CHECK_VALID_FOR, ClusterSources},
    timestamp,
    verification::VerifiedBy,
};
use nodemend_ports::store::Store;

use super::{Deployment, OperateError, PROBLEMS_FOUND, SUCCESS, between};

/// Prints where the cluster's faults can be verified. A cluster without a source is a problem where the policy requires
/// verification.
pub async fn check(policy: &Policy, deployment: &Deployment) -> Result<u8, OperateError> {
    let connection = deployment.connect().await?;
    let sources = connection.store.sources(&connection.cluster).await?;
    let mut out = anstream::stdout().lock();
    let code = write(&mut out, &connection.cluster, sources.as_ref(), policy.verification, connection.now)?;
    out.flush()?;
    Ok(code)
}

fn write(
    out: &mut impl Write,
    cluster: &ClusterName,
    sources: Option<&ClusterSources>,
    policy: VerificationPolicy,
    now: Timestamp,
) -> io::Result<u8> {
    let Some(sources) = sources else {
        writeln!(
            out,
            "\nVerification: not known yet for cluster {cluster}. The reconcile function looks for its sources every 5m, once \
             a policy is applied."
        )?;
        return Ok(SUCCESS);
    };
    if let Some(by) = sources.verified_by(now) {
        let source = match by {
            VerifiedBy::KubernetesApi => "its Kubernetes API",
            VerifiedBy::ControlPlaneLog | VerifiedBy::AgentLog | VerifiedBy::Operator => {
                "its control-plane audit log"
            }
        };
        writeln!(
            out,
            "\nVerification: faults that the control plane of cluster {cluster} reports are verified in {source}."
        )?;
        return Ok(SUCCESS);
    }
    if let Some(last) = sources.last_checked().filter(|last| now.duration_since(*last) > CHECK_VALID_FOR) {
        writeln!(
            out,
            "\nVerification: not known. No source of cluster {cluster} has been read for {}: see ReconcileRunsStopped and \
             ReconcileRunsFailing in the runbook.",
            between(last, now)
        )?;
        return Ok(PROBLEMS_FOUND);
    }
    writeln!(
        out,
        "\nVerification: faults that the control plane of cluster {cluster} reports, such as NodeStatusUnknown, cannot be \
         verified: {}.",
        missing(sources)
    )?;
    let (effect, code) = match policy {
        VerificationPolicy::Required => ("The guard Unverified blocks their repair", PROBLEMS_FOUND),
        VerificationPolicy::Preferred => ("They are repaired unverified", SUCCESS),
    };
    writeln!(
        out,
        "{effect}, because of verification: {}. To change that, enable ClusterAccess, or the audit log of the cluster and \
         ControlPlaneLogs.",
        if code == SUCCESS { "preferred" } else { "required" }
    )?;
    Ok(code)
}

/// Why neither source can be read.
fn missing(sources: &ClusterSources) -> String {
    let since = |last: Option<Timestamp>| {
        last.map(|last| format!(" since {}", timestamp::seconds(last))).unwrap_or_default()
    };
    let nodes = format!("Nodes could not be listed from the Kubernetes API{}", since(sources.listed_at));
    if sources.reads_audit_log {
        let last = sources.audit_log.and_then(|log| log.newest);
        format!("{nodes}, and no line of the control-plane audit log was found{}", since(last))
    } else {
        format!("{nodes}, and the control-plane audit log is not read (ControlPlaneLogs=disabled)")
    }
}
