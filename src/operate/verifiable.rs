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
    let found = match sources.verified_by(now) {
        Some(VerifiedBy::KubernetesApi) => Some("its Kubernetes API"),
        Some(VerifiedBy::ControlPlaneLog | VerifiedBy::AgentLog) => Some("its control-plane audit log"),
        None => None,
    };
    if let Some(found) = found {
        writeln!(
            out,
            "\nVerification: what the control plane of cluster {cluster} reports is verified in {found}."
        )?;
        return Ok(SUCCESS);
    }
    writeln!(out, "\nVerification: {}", problem(cluster, sources, now))?;
    match policy {
        VerificationPolicy::Required => {
            writeln!(
                out,
                "The guard Unverified blocks the repair of every node that the control plane reports, because of \
                 verification: required. Enable ClusterAccess or ControlPlaneLogs, and check that the cluster writes its \
                 audit log."
            )?;
            Ok(PROBLEMS_FOUND)
        }
        VerificationPolicy::Preferred => {
            writeln!(
                out,
                "Nodes that the control plane reports are repaired unverified, because of verification: preferred."
            )?;
            Ok(SUCCESS)
        }
    }
}

/// Why neither source can be read.
fn problem(cluster: &ClusterName, sources: &ClusterSources, now: Timestamp) -> String {
    if let Some(last) = sources.last_checked().filter(|last| now.duration_since(*last) > CHECK_VALID_FOR) {
        return format!(
            "no source of cluster {cluster} has been read for {}: see ReconcileRunsStopped and ReconcileRunsFailing in the \
             runbook.",
            between(last, now)
        );
    }
    let log = if sources.reads_audit_log {
        let last = sources.audit_log.and_then(|log| log.newest);
        let last = last.map(|last| format!(" since {}", timestamp::seconds(last)));
        format!("no line of its control-plane audit log was found{}", last.unwrap_or_default())
    } else {
        "its control-plane audit log is not read (ControlPlaneLogs=disabled)".to_owned()
    };
    let listed = sources.listed_at.map(|last| format!(" since {}", timestamp::seconds(last)));
    format!(
        "cluster {cluster} has no source for what its control plane reports: its Nodes could not be listed from the \
         Kubernetes API{}, and {log}.",
        listed.unwrap_or_default()
    )
}
