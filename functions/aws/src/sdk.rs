//! Loads what all clients of AWS share: region, credentials, one HTTP connector, and how long to wait.
//!
//! Loaded once, where a process starts, and lent from there: each load reads the environment anew and opens its own
//! connections. The SDK finds credentials by itself (a Lambda's environment, IRSA, Pod Identity, a profile), renews
//! them, and honours `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// Within a region a connection takes milliseconds: what takes a second is lost.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// One try.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// A call with all its tries. A sweep has a minute, and a call that hangs must not cost it the rest.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// The first try included.
const MAX_ATTEMPTS: u32 = 3;
/// The SDK's own second is longer than most throttling lasts, and three of them than an operation may.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// AWS has regions, and nobody said which is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to find the AWS region: set AWS_REGION, or a profile's region")]
pub struct NoRegion;

/// Loads it all. Clients for calls that must not be made twice switch the retries off for themselves.
pub async fn load() -> Result<SdkConfig, NoRegion> {
    let config = defaults().load().await;
    if config.region().is_none() {
        return Err(NoRegion);
    }
    Ok(config)
}

/// The same before the environment is read, for callers that know better than it.
pub fn defaults() -> aws_config::ConfigLoader {
    // ring, as in the agent: aws-lc needs a C tool chain that a static build hasn't.
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
