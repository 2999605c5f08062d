//! Converts errors of the SDK into errors of the ports, with their source.
//!
//! - If AWS answered, the source is its error code and message. The SDK's own `Display` of such an error is either
//!   `unhandled error` or Rust's `Debug` format.
//! - If AWS did not answer, the source is the SDK's error with all of its sources.

use std::error::Error;

use aws_sdk_autoscaling::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use nodemend_ports::{
    cause::{Cause, one_line},
    cloud::CloudError,
};

/// Our own code for a request that AWS did not answer.
const NO_ANSWER: &str = "NoAnswer";
/// Our own code for an answer that is incomplete or contradicts itself.
const UNREADABLE: &str = "UnreadableAnswer";

/// An error that AWS answered with.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
struct ServiceError {
    code: String,
    message: String,
}

/// The source of a port's error.
pub(crate) fn cause<E>(error: SdkError<E, HttpResponse>) -> Cause
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    match (error.code(), &error, status) {
        (Some(code), ..) => {
            let message = error.message().unwrap_or("AWS returned no message");
            Cause::new(ServiceError { code: code.to_owned(), message: one_line(message) })
        }
        (None, SdkError::ServiceError(_), Some(status)) => {
            Cause::new(ServiceError { code: format!("HTTP {status}"), message: "no error code".to_owned() })
        }
        _ => Cause::new(error),
    }
}

/// A read that failed.
pub(crate) fn read_failed<E>(error: SdkError<E, HttpResponse>) -> CloudError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match error.code() {
        // The code is the error's own text, and its message the source.
        Some(code) => CloudError {
            code: code.to_owned(),
            source: one_line(error.message().unwrap_or("AWS returned no message")).into(),
        },
        None => CloudError { code: NO_ANSWER.to_owned(), source: cause(error) },
    }
}

/// An answer that lacks a required field, or contradicts itself.
pub(crate) fn unreadable(why: impl AsRef<str>) -> CloudError {
    CloudError { code: UNREADABLE.to_owned(), source: one_line(why.as_ref()).into() }
}
