//! Loads the configuration that all AWS clients share: region, credentials, one HTTP connector, and timeouts.
//!
//! - Loaded once, when a process starts: each load reads the environment again and opens its own connections.
//! - The SDK finds and renews credentials itself (Lambda's environment, IRSA, Pod Identity, a profile), and uses
//!   `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// Within a region, a connection takes milliseconds: one that takes a second has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of a request with all its attempts. A run has a minute, and one hanging request must not use it up.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of a request, with the first one.
const MAX_ATTEMPTS: u32 = 3;
/// The SDK's default of one second is longer than most throttling lasts, and too long for the operation timeout.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// No AWS region is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to find the AWS region: set AWS_REGION, or a profile's region")]
pub struct NoRegion;

/// Loads the configuration. Clients whose calls must not be repeated disable retries themselves.
pub async fn load() -> Result<SdkConfig, NoRegion> {
    let config = defaults().load().await;
    if config.region().is_none() {
        return Err(NoRegion);
    }
    Ok(config)
}

/// The defaults before the environment is read, for callers that set values themselves.
pub fn defaults() -> aws_config::ConfigLoader {
    // ring, as in the agent: aws-lc needs a C toolchain, which a static build does not have.
    let http =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    #[cfg(feature = "failpoints")]
    let http = crate::failpoints::numbered(http);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let retries = RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS).with_initial_backoff(FIRST_BACKOFF);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries)
}
