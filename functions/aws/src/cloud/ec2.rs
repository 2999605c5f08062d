//! A client for the few EC2 operations that we use, on the SDK's runtime.
//!
//! The crate of EC2 has about 600 operations and took a fifth of the build time (ADR 22). The SDK's runtime signs,
//! sends, times out and retries as for every other service; only the form of the request and the parsing of the answer
//! are ours.

mod answer;

use std::{borrow::Cow, time::Duration};

use aws_config::{SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_runtime::{
    auth::{SigV4OperationSigningConfig, sigv4},
    retries::classifiers::AwsErrorCodeClassifier,
    user_agent::{ApiMetadata, UserAgentInterceptor},
};
use aws_sdk_autoscaling::{
    config::{
        IdentityCache, Layer, SharedIdentityCache,
        endpoint::{DefaultResolver, Params, ResolveEndpoint},
    },
    error::{BoxError, ErrorMetadata, SdkError},
};
use aws_smithy_runtime::client::{
    orchestrator::operation::Operation,
    retries::classifiers::{HttpStatusCodeClassifier, TransientErrorClassifier},
};
use aws_smithy_runtime_api::client::{
    auth::{
        AuthSchemeOptionResolverParams, SharedAuthScheme, SharedAuthSchemeOptionResolver,
        static_resolver::StaticAuthSchemeOptionResolver,
    },
    identity::SharedIdentityResolver,
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponentsBuilder,
    runtime_plugin::StaticRuntimePlugin,
};
use aws_smithy_types::body::SdkBody;
use aws_types::{SigningName, region::SigningRegion, service_config::ServiceConfigKey};

pub(super) use self::answer::{Answered, Element, Unreadable};

/// The version of the API, the same for ten years.
const VERSION: &str = "2016-11-15";
const SERVICE: &str = "EC2";

/// EC2's error, or why there is no readable answer.
pub(super) type Ec2Error = SdkError<ErrorMetadata>;

/// A client for EC2. Clones share connections and credentials.
#[derive(Debug, Clone)]
pub(super) struct Ec2 {
    shared: SdkConfig,
    identities: SharedIdentityCache,
}

/// One request that has not been sent yet.
#[derive(Debug)]
pub(super) struct Request<'c> {
    client: &'c Ec2,
    action: &'static str,
    form: Form,
    retries: RetryConfig,
    timeouts: TimeoutConfig,
}

/// The fields of the request's form, in order.
type Form = Vec<(Cow<'static, str>, String)>;

impl Ec2 {
    pub(super) fn new(shared: &SdkConfig) -> Self {
        let identities = shared.identity_cache().unwrap_or_else(|| IdentityCache::lazy().build());
        Self { shared: shared.clone(), identities }
    }

    pub(super) fn describe_availability_zones(&self) -> Request<'_> {
        self.request("DescribeAvailabilityZones")
    }

    pub(super) fn describe_instances(&self) -> Request<'_> {
        self.request("DescribeInstances")
    }

    pub(super) fn describe_instance_status(&self) -> Request<'_> {
        self.request("DescribeInstanceStatus")
    }

    pub(super) fn get_console_output(&self) -> Request<'_> {
        self.request("GetConsoleOutput")
    }

    pub(super) fn reboot_instances(&self) -> Request<'_> {
        self.request("RebootInstances")
    }

    fn request(&self, action: &'static str) -> Request<'_> {
        Request {
            client: self,
            action,
            form: vec![("Action".into(), action.to_owned()), ("Version".into(), VERSION.to_owned())],
            retries: self.shared.retry_config().cloned().unwrap_or_else(RetryConfig::standard),
            timeouts: self.shared.timeout_config().cloned().unwrap_or_else(TimeoutConfig::disabled),
        }
    }

    /// The endpoint of EC2 in this region. In every partition it follows the rules of Auto Scaling's, except for the
    /// name.
    async fn endpoint(&self) -> Result<String, BoxError> {
        let own = self.shared.service_config().and_then(|services| {
            let key = ServiceConfigKey::builder()
                .service_id(SERVICE)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build();
            services.load_config(key.ok()?)
        });
        if let Some(endpoint) = own.or_else(|| self.shared.endpoint_url().map(ToOwned::to_owned)) {
            return Ok(endpoint);
        }
        let params = Params::builder()
            .set_region(self.shared.region().map(ToString::to_string))
            .set_use_fips(self.shared.use_fips())
            .set_use_dual_stack(self.shared.use_dual_stack())
            .build()?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await?;
        Ok(endpoint.url().replacen("//autoscaling", "//ec2", 1))
    }

    /// The credentials and scope of signatures.
    fn signature(&self) -> StaticRuntimePlugin {
        let mut layer = Layer::new(SERVICE);
        layer.store_put(AuthSchemeOptionResolverParams::new(()));
        layer.store_put(SigV4OperationSigningConfig::default());
        layer.store_put(SigningName::from_static("ec2"));
        layer.store_put(ApiMetadata::new("ec2", env!("CARGO_PKG_VERSION")));
        layer.store_or_unset(self.shared.region().cloned().map(SigningRegion::from));
        let mut components = RuntimeComponentsBuilder::new(SERVICE)
            .with_auth_scheme(SharedAuthScheme::new(sigv4::SigV4AuthScheme::new()))
            .with_auth_scheme_option_resolver(Some(SharedAuthSchemeOptionResolver::new(
                StaticAuthSchemeOptionResolver::new(vec![sigv4::SCHEME_ID]),
            )))
            .with_identity_cache(Some(self.identities.clone()));
        if let Some(credentials) = self.shared.credentials_provider() {
            components =
                components.with_identity_resolver(sigv4::SCHEME_ID, SharedIdentityResolver::new(credentials));
        }
        StaticRuntimePlugin::new().with_config(layer.freeze()).with_runtime_components(components)
    }
}

impl Request<'_> {
    pub(super) fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.form.push((name.into(), value.into()));
        self
    }

    /// Adds a filter with its values.
    pub(super) fn filter(self, number: usize, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        let named = self.field(format!("Filter.{number}.Name"), name);
        values.into_iter().zip(1..).fold(named, |request, (value, position)| {
            request.field(format!("Filter.{number}.Value.{position}"), value)
        })
    }

    /// Disables retries, and sets the timeout.
    pub(super) fn once(mut self, timeout: Duration) -> Self {
        self.retries = RetryConfig::disabled();
        let timeouts = self.timeouts.to_builder();
        self.timeouts = timeouts.operation_attempt_timeout(timeout).operation_timeout(timeout).build();
        self
    }

    /// Sends the request, and parses the answer.
    pub(super) async fn send<T>(
        self,
        read: fn(Element<'_, '_>) -> Result<T, Unreadable>,
    ) -> Result<Answered<T>, Ec2Error>
    where
        T: std::fmt::Debug + Send + Sync + 'static,
    {
        let (shared, action) = (&self.client.shared, self.action);
        let endpoint = self.client.endpoint().await.map_err(SdkError::construction_failure)?;
        let mut operation = Operation::builder()
            .service_name(SERVICE)
            .operation_name(action)
            .endpoint_url(&endpoint)
            .standard_retry(&self.retries)
            .timeout_config(self.timeouts)
            .retry_classifier(HttpStatusCodeClassifier::default())
            .retry_classifier(TransientErrorClassifier::<ErrorMetadata>::new())
            .retry_classifier(AwsErrorCodeClassifier::<ErrorMetadata>::new())
            .with_connection_poisoning()
            .interceptor(UserAgentInterceptor::new())
            .runtime_plugin(self.client.signature())
            .serializer(posted)
            .deserializer(move |response| answer::read(response, action, read));
        if let Some(version) = shared.behavior_version() {
            operation = operation.behavior_version(version);
        }
        if let Some(client) = shared.http_client() {
            operation = operation.http_client(client);
        }
        if let Some(sleep) = shared.sleep_impl() {
            operation = operation.sleep_impl(sleep);
        }
        if let Some(time) = shared.time_source() {
            operation = operation.time_source(time);
        }
        operation.build().invoke(self.form).await
    }
}

fn posted(form: Form) -> Result<HttpRequest, BoxError> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = HttpRequest::new(SdkBody::from(body));
    request.set_method("POST")?;
    request.set_uri("/")?;
    request.headers_mut().insert("content-type", "application/x-www-form-urlencoded");
    Ok(request)
}

#[cfg(test)]
mod tests {
    use aws_config::Region;

    use super::*;

    #[tokio::test]
    async fn the_endpoint_follows_region_and_partition() {
        let endpoint = async |region: &'static str, fips, dual_stack| {
            let shared = SdkConfig::builder()
                .region(Region::from_static(region))
                .use_fips(fips)
                .use_dual_stack(dual_stack)
                .build();
            Ec2::new(&shared).endpoint().await.expect("an endpoint")
        };
        for (region, fips, dual_stack, expected) in [
            ("us-west-2", false, false, "https://ec2.us-west-2.amazonaws.com"),
            ("us-west-2", true, false, "https://ec2-fips.us-west-2.amazonaws.com"),
            ("us-west-2", false, true, "https://ec2.us-west-2.api.aws"),
            ("us-gov-west-1", true, false, "https://ec2.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", false, false, "https://ec2.cn-north-1.amazonaws.com.cn"),
            ("us-iso-east-1", false, false, "https://ec2.us-iso-east-1.c2s.ic.gov"),
        ] {
            assert_eq!(endpoint(region, fips, dual_stack).await, expected);
        }
        let shared = SdkConfig::builder().endpoint_url("http://127.0.0.1:1").build();
        assert_eq!(Ec2::new(&shared).endpoint().await.expect("an endpoint"), "http://127.0.0.1:1");
        let without_region = Ec2::new(&SdkConfig::builder().build()).endpoint().await;
        assert!(without_region.is_err());
    }
}
