//! Turns what DynamoDB answers into what the port says: lost, not now, or never.

use aws_sdk_dynamodb::{
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    types::CancellationReason,
};

use nodemend_ports::store::StoreError;

/// The excerpt of a message that a reader needs.
const MAX_WHY: usize = 400;

/// Why a transaction wrote nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    /// Of these of its items somebody else was the last, or is just now, to write.
    Raced(Vec<usize>),
    /// It may work in a while.
    NotNow(String),
    /// It will not work by itself.
    Never(String),
}

/// Reads the reasons, one for each of a transaction's items.
///
/// A conflict is a race that somebody else is running right now. Nothing was written, and to read and decide again
/// is never wrong: that the same write would have won the next time round is not known before.
pub(super) fn cancelled(reasons: &[CancellationReason]) -> Cancelled {
    let with = |codes: &[&str]| -> Vec<usize> {
        let code = |reason: &CancellationReason| reason.code().is_some_and(|code| codes.contains(&code));
        reasons.iter().enumerate().filter(|(_, reason)| code(reason)).map(|(place, _)| place).collect()
    };
    let raced = with(&["ConditionalCheckFailed", "TransactionConflict"]);
    if !raced.is_empty() {
        return Cancelled::Raced(raced);
    }
    let why = || {
        let told = reasons.iter().filter(|reason| reason.code().is_some_and(|code| code != "None"));
        let told = told.map(|reason| {
            let message = reason.message().unwrap_or_default();
            format!("{}: {message}", reason.code().unwrap_or_default())
        });
        short(&told.collect::<Vec<_>>().join("; "))
    };
    if with(&["ValidationError", "ItemCollectionSizeLimitExceeded"]).is_empty() {
        Cancelled::NotNow(why())
    } else {
        Cancelled::Never(why())
    }
}

/// What a call's failure means. Only a request that DynamoDB calls malformed is hopeless. Throttling and time-outs
/// pass; a missing permission or table is mended by an operator, and until then nothing heard may be given up.
pub(super) fn failed<E, R>(error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let (code, message) =
        error.as_service_error().map_or((None, None), |error| (error.code(), error.message()));
    match code {
        Some("ValidationException") => StoreError::Broken(short(message.unwrap_or("ValidationException"))),
        Some(code) => StoreError::Unavailable(short(&format!("{code}: {}", message.unwrap_or_default()))),
        None => StoreError::Unavailable(short(&DisplayErrorContext(error).to_string())),
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
            .map(|code| CancellationReason::builder().code(*code).message("as told").build())
            .collect()
    }

    #[test]
    fn a_failed_condition_or_a_conflict_is_a_lost_race_whatever_else_there_is() {
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
    fn throttling_passes_and_a_malformed_item_does_not() {
        for code in ["ThrottlingError", "ProvisionedThroughputExceeded", "SomethingNew"] {
            let expected = Cancelled::NotNow(format!("{code}: as told"));
            assert_eq!(cancelled(&reasons(&["None", code])), expected);
        }
        for code in ["ValidationError", "ItemCollectionSizeLimitExceeded"] {
            let expected = Cancelled::Never(format!("{code}: as told"));
            assert_eq!(
                cancelled(&reasons(&["ThrottlingError", code])),
                Cancelled::Never(format!("ThrottlingError: as told; {code}: as told"))
            );
            assert_eq!(cancelled(&reasons(&[code])), expected);
        }
        assert_eq!(cancelled(&[]), Cancelled::NotNow(String::new()));
    }
}
