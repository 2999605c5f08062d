//! Reads the status checks of EC2 that fail.

use nodemend_domain::{
    ident::InstanceId,
    status_check::{FailedStatusCheck, StatusCheck},
};

use super::{
    CloudError,
    ec2::{Ec2, Element, Unreadable},
};
use crate::error::{read_failed, unreadable};

/// EC2's most for a page of states.
const CHECKS_A_PAGE: &str = "1000";

/// One page, and the token of the next one.
#[derive(Debug)]
struct Page {
    failed: Vec<FailedStatusCheck>,
    next: Option<String>,
}

/// The checks that fail, of all instances of the account. A filter selects by one kind of check: the values of two filters
/// must both match.
pub(super) async fn failed(client: &Ec2) -> Result<Vec<FailedStatusCheck>, CloudError> {
    let mut found: Vec<FailedStatusCheck> = Vec::new();
    for check in StatusCheck::ALL {
        let mut token: Option<String> = None;
        loop {
            let impaired = ["impaired".to_owned()];
            let mut request = client.describe_instance_status().filter(1, filter(check), impaired);
            request = request.field("MaxResults", CHECKS_A_PAGE);
            if let Some(token) = &token {
                request = request.field("NextToken", token);
            }
            let Page { failed, next } = request.send(page).await.map_err(read_failed)?.value;
            // An instance whose other check fails is in the answers of both.
            for one in failed {
                if !found.contains(&one) {
                    found.push(one);
                }
            }
            match next {
                None => break,
                next if next == token => {
                    return Err(unreadable("EC2 returned the same page of status checks again"));
                }
                next => token = next,
            }
        }
    }
    Ok(found)
}

fn filter(check: StatusCheck) -> &'static str {
    match check {
        StatusCheck::System => "system-status.status",
        StatusCheck::Instance => "instance-status.status",
        StatusCheck::AttachedEbs => "attached-ebs-status.status",
    }
}

fn element(check: StatusCheck) -> &'static str {
    match check {
        StatusCheck::System => "systemStatus",
        StatusCheck::Instance => "instanceStatus",
        StatusCheck::AttachedEbs => "attachedEbsStatus",
    }
}

fn page(answer: Element<'_, '_>) -> Result<Page, Unreadable> {
    // The element is present even if the list is empty: without it, the answer is something else.
    answer.child("instanceStatusSet").ok_or(Unreadable("instanceStatusSet"))?;
    let mut failed = Vec::new();
    for instance in answer.items("instanceStatusSet") {
        let id = instance.text("instanceId").ok_or(Unreadable("instanceId"))?;
        let Ok(instance_id) = InstanceId::new(id) else { continue };
        for check in StatusCheck::ALL {
            let Some(status) = instance.child(element(check)) else { continue };
            if status.text("status") != Some("impaired") {
                continue;
            }
            let since = |detail: Element<'_, '_>| detail.text("impairedSince")?.parse().ok();
            let since = status.items("details").filter_map(since).min();
            failed.push(FailedStatusCheck { instance_id: instance_id.clone(), check, since });
        }
    }
    Ok(Page { failed, next: answer.text("nextToken").map(ToOwned::to_owned) })
}
