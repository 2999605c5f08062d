//! Region, credentials and endpoint from a pod's environment, each in a child process with that environment only.

use std::{fs, process::Command};

use super::*;

/// Sends one record with the environment's settings. The test below runs it as a child.
#[test]
#[ignore = "a child of the test below"]
fn child() {
    if std::env::var_os("NODEMEND_TEST_CHILD").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut sink = CloudWatchSink::new(GROUP.to_owned(), &instance());
    let sent = runtime.block_on(sink.send(&[record(1, 0)], now()));
    assert_eq!(sent, Ok(Sent { upto: 1, delivered: 1, rejected: 0 }));
}

#[test]
fn each_source_of_credentials_and_endpoints_works() {
    let directory = std::env::temp_dir().join(format!("nodemend-credentials-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let token = directory.join("token");
    fs::write(&token, "the-pods-token").expect("a file");
    let token = token.to_str().expect("a path");
    for (key, environment) in [
        (
            "AKIASTATIC",
            vec![
                ("AWS_ENDPOINT_URL", "http://{address}"),
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ACCESS_KEY_ID", "AKIASTATIC"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
            ],
        ),
        (
            "AKIAIRSA",
            vec![
                ("AWS_ENDPOINT_URL", "http://{address}"),
                ("AWS_REGION", "eu-west-1"),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
                ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/r"),
            ],
        ),
        (
            "AKIAPOD",
            vec![
                ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "http://{address}"),
                ("AWS_REGION", "eu-west-1"),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://{address}/v1/credentials"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
            ],
        ),
        (
            "AKIANODE",
            vec![
                ("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "http://{address}"),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://{address}"),
            ],
        ),
    ] {
        let service = Service::start();
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "credentials::child", "--ignored"])
            .env_clear()
            .env("NODEMEND_TEST_CHILD", "1")
            .envs(
                environment
                    .iter()
                    .map(|(name, value)| (name, value.replace("{address}", &service.address.to_string()))),
            )
            .output()
            .expect("a child");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{key}: {stdout}");
        assert_eq!(service.texts(), ["report 1"], "{key}");
        let keys = service.state.lock().expect("the state").keys.clone();
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), [key]);
    }
    fs::remove_dir_all(&directory).expect("a removed directory");
}
