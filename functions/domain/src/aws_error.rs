//! Classifies AWS's errors by what a repair does next: locate the instance, retry after a pause, or wait for an
//! operator.
//!
//! Unknown codes count as denied, which has the longest pause.

use jiff::SignedDuration;

/// What an error of AWS means for a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsErrorKind {
    /// The instance is gone, or is no longer in its group. Describe it again before the next call.
    NotFound,
    /// Another scaling activity is in progress. Retry later.
    InProgress,
    /// Throttled, or AWS is unavailable. Retry later.
    Throttled,
    /// Not allowed, or not valid: an operator must change something. Retries are rare.
    Denied,
}

impl AwsErrorKind {
    /// Classifies an error by its code and message. The API and CloudTrail spell some codes differently; both are
    /// known.
    pub fn of(code: &str, message: &str) -> Self {
        let code = code.strip_prefix("Client.").or_else(|| code.strip_prefix("Server.")).unwrap_or(code);
        match code {
            "ScalingActivityInProgress" | "ScalingActivityInProgressFault" => Self::InProgress,
            "ResourceContention" | "ResourceContentionFault" => Self::InProgress,
            "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequestsException" => {
                Self::Throttled
            }
            "ServiceUnavailable" | "Unavailable" | "InternalFailure" | "InternalError" | "RequestTimeout" => {
                Self::Throttled
            }
            // Our own code for a request that was not sent, because no connection could be made.
            "NotSent" => Self::Throttled,
            "InvalidInstanceID.NotFound" => Self::NotFound,
            "ValidationError" | "ValidationException" if message.contains("nstance Id not found") => {
                Self::NotFound
            }
            "ValidationError" | "ValidationException" if message.contains("No managed instance found") => {
                Self::NotFound
            }
            "IncorrectInstanceState" | "IncorrectState" => Self::NotFound,
            _ => Self::Denied,
        }
    }

    /// The pause before the next try, after this number of refusals in a row.
    pub fn pause(self, refusals: u32) -> SignedDuration {
        let doubled = |first: i64, most: i64| {
            SignedDuration::from_secs((first << refusals.saturating_sub(1).min(10)).min(most))
        };
        match self {
            Self::NotFound => doubled(5, 300),
            Self::Throttled => doubled(15, 600),
            Self::InProgress => doubled(30, 600),
            Self::Denied => doubled(300, 3_600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_errors_are_classified() {
        for (code, message, expected) in [
            (
                "ValidationError",
                "Instance Id not found - No managed instance found for instance ID: i-0abc",
                AwsErrorKind::NotFound,
            ),
            (
                "ValidationException",
                "No managed instance found for instance ID i-0abc",
                AwsErrorKind::NotFound,
            ),
            ("InvalidInstanceID.NotFound", "The instance ID 'i-0abc' does not exist", AwsErrorKind::NotFound),
            ("ValidationError", "Currently, desiredSize equals minSize (1).", AwsErrorKind::Denied),
            ("ScalingActivityInProgress", "", AwsErrorKind::InProgress),
            ("ResourceContention", "", AwsErrorKind::InProgress),
            ("Throttling", "Rate exceeded", AwsErrorKind::Throttled),
            ("ThrottlingException", "Rate exceeded", AwsErrorKind::Throttled),
            ("Client.RequestLimitExceeded", "", AwsErrorKind::Throttled),
            ("NotSent", "connection refused", AwsErrorKind::Throttled),
            ("AccessDenied", "", AwsErrorKind::Denied),
            ("Client.UnauthorizedOperation", "", AwsErrorKind::Denied),
            ("SomethingNew", "", AwsErrorKind::Denied),
        ] {
            assert_eq!(AwsErrorKind::of(code, message), expected, "{code}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(AwsErrorKind::Throttled.pause(1).as_secs(), 15);
        assert_eq!(AwsErrorKind::Throttled.pause(3).as_secs(), 60);
        assert_eq!(AwsErrorKind::Throttled.pause(u32::MAX).as_secs(), 600);
        assert_eq!(AwsErrorKind::Denied.pause(9).as_secs(), 3_600);
    }
}
