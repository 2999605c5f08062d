//! Turns what the SDK says of a failed read into a [`CloudError`]: AWS's own code and message, or what kept us from
//! having any.

use std::error::Error;

use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};

use super::CloudError;

/// The code of our own for a read that AWS did not answer.
const NO_ANSWER: &str = "NoAnswer";
/// The code of our own for an answer that can't be right.
const UNREADABLE: &str = "UnreadableAnswer";

/// A message that is stored and shown: more than AWS ever says.
const MAX_MESSAGE: usize = 1_024;

/// Why a read failed.
pub(super) fn unread<E: ProvideErrorMetadata + Error + 'static>(error: SdkError<E>) -> CloudError {
    match error.code() {
        Some(code) => CloudError {
            code: code.to_owned(),
            message: one_line(error.message().unwrap_or("AWS gives no message")),
        },
        None => CloudError { code: NO_ANSWER.to_owned(), message: causes(&error) },
    }
}

/// AWS's answer lacks what it always has, or contradicts itself.
pub(super) fn unreadable(why: impl AsRef<str>) -> CloudError {
    CloudError { code: UNREADABLE.to_owned(), message: one_line(why.as_ref()) }
}

/// An error and all that caused it.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (**error).source());
    one_line(&causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// One line of bearable length.
pub(super) fn one_line(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_MESSAGE)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
