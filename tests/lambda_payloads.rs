//! The payloads of `events/lambda` lead to the documented answers of the real functions.

use std::{fs, path::Path, time::Duration};

use nodemend_domain::{ident::ClusterName, policy::Policy};
use nodemend_stack::{
    child::Launcher,
    emulator,
    stack::{Config, Stack},
};
use serde_json::Value;

fn payload(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("events/lambda");
    fs::read_to_string(directory.join(format!("{name}.json"))).expect("a payload")
}

async fn start() -> Stack {
    let nodemend = Path::new(env!("CARGO_BIN_EXE_nodemend"));
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/cache");
    let python =
        emulator::prepare(&Launcher::new(nodemend), &cache, Path::new("python3")).await.expect("an emulator");
    let config = Config {
        launcher: nodemend.to_owned(),
        functions: nodemend.with_file_name(""),
        python,
        cluster: ClusterName::new("local").expect("a name"),
        policy: Policy::eks_defaults(),
        simulated_nodes: 1,
        external_nodes: 0,
        run_interval: Duration::from_secs(3_600),
        environment: Vec::new(),
    };
    Stack::start(config).await.expect("a stack")
}

#[test]
fn each_documented_payload_gets_the_documented_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stack = start().await;
        let answer = async |function: usize, name: &str| -> Value {
            let answer = stack.functions[function].invoke(payload(name).into()).await.expect("an answer");
            serde_json::from_slice(&answer).expect("JSON")
        };
        let result = answer(0, "intake").await;
        assert_eq!((&result["reports"], &result["rejected"]), (&1.into(), &0.into()), "{result}");
        assert!(answer(1, "repair").await["evaluated"].is_u64());
        assert_eq!(answer(2, "confirm").await, serde_json::json!({ "relevant": true, "steps": 1 }));
        stack.stop().await;
    });
}
