//! Classifies DynamoDB's errors: a lost race, temporary, or permanent.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::CancellationReason,
};

use nodemend_ports::store::StoreError;

use crate::error::cause;

/// The most bytes of a transaction's reasons in an error.
const MAX_WHY: usize = 400;

/// Why a transaction wrote nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// Another process wrote these items, by their positions, or is writing them.
    Raced(Vec<usize>),
    /// A temporary error.
    Retryable(String),
    /// A permanent error.
    Permanent(String),
}

/// Reads the reasons, one for each of a transaction's items.
///
/// A conflict is a race with a transaction in progress. Nothing was written, and to read and decide again is always
/// right, even if the same write would have won on a retry.
pub(super) fn cancelled(reasons: &[CancellationReason]) -> Cancelled {
    let with = |codes: &[&str]| -> Vec<usize> {
        let code = |reason: &CancellationReason| reason.code().is_some_and(|code| codes.contains(&code));
        reasons.iter().enumerate().filter(|(_, reason)| code(reason)).map(|(position, _)| position).collect()
    };
    let raced = with(&["ConditionalCheckFailed", "TransactionConflict"]);
    if !raced.is_empty() {
        return Cancelled::Raced(raced);
    }
    let why = || {
        let failed = reasons.iter().filter(|reason| reason.code().is_some_and(|code| code != "None"));
        let failed = failed.map(|reason| {
            let message = reason.message().unwrap_or_default();
            format!("{}: {message}", reason.code().unwrap_or_default())
        });
        short(&failed.collect::<Vec<_>>().join("; "))
    };
    if with(&["ValidationError", "ItemCollectionSizeLimitExceeded"]).is_empty() {
        Cancelled::Retryable(why())
    } else {
        Cancelled::Permanent(why())
    }
}

/// The store's error for a failed request. Only an invalid request is permanent. Throttling and timeouts pass, and an
/// operator can fix a missing permission or table, so until then no report may be dropped.
pub(super) fn failed<E>(error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.code() {
        Some("ValidationException") => StoreError::Broken(cause(error)),
        _ => StoreError::Unavailable(cause(error)),
    }
}

fn short(why: &str) -> String {
    why[..why.floor_char_boundary(MAX_WHY)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(codes: &[&str]) -> Vec<CancellationReason> {
        codes
            .iter()
            .map(|code| CancellationReason::builder().code(*code).message("the message").build())
            .collect()
    }

    #[test]
    fn a_failed_condition_or_a_conflict_is_a_lost_race_among_other_reasons_too() {
        for (codes, raced) in [
            (&["ConditionalCheckFailed", "None"][..], vec![0]),
            (&["None", "TransactionConflict"], vec![1]),
            (&["ThrottlingError", "ConditionalCheckFailed"], vec![1]),
            (&["ConditionalCheckFailed", "TransactionConflict", "None"], vec![0, 1]),
        ] {
            assert_eq!(cancelled(&reasons(codes)), Cancelled::Raced(raced), "{codes:?}");
        }
    }

    #[test]
    fn throttling_is_temporary_and_an_invalid_item_is_permanent() {
        for code in ["ThrottlingError", "ProvisionedThroughputExceeded", "SomethingNew"] {
            let expected = Cancelled::Retryable(format!("{code}: the message"));
            assert_eq!(cancelled(&reasons(&["None", code])), expected);
        }
        for code in ["ValidationError", "ItemCollectionSizeLimitExceeded"] {
            let expected = Cancelled::Permanent(format!("{code}: the message"));
            assert_eq!(
                cancelled(&reasons(&["ThrottlingError", code])),
                Cancelled::Permanent(format!("ThrottlingError: the message; {code}: the message"))
            );
            assert_eq!(cancelled(&reasons(&[code])), expected);
        }
        assert_eq!(cancelled(&[]), Cancelled::Retryable(String::new()));
    }
}
