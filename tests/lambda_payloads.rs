//! The payloads that `events/lambda` documents are what the functions accept, and come to what it says.

use std::{fs, path::Path, time::Duration};

use nodemend_domain::{ident::ClusterName, policy::Policy};
use nodemend_stack::{
    child::Launcher,
    emulator,
    stack::{Config, Stack},
};
use serde_json::Value;

fn payload(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events/lambda");
    fs::read_to_string(folder.join(format!("{name}.json"))).expect("a payload")
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
        nodes: 1,
        others: 0,
        every: Duration::from_secs(3_600),
        environment: Vec::new(),
    };
    Stack::start(config).await.expect("a stack")
}

#[test]
fn each_functions_documented_payload_comes_to_the_documented_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stack = start().await;
        let answer = async |function: usize, name: &str| -> Value {
            let answer = stack.functions[function].invoke(payload(name).into()).await.expect("an answer");
            serde_json::from_slice(&answer).expect("JSON")
        };
        let taken = answer(0, "intake").await;
        assert_eq!((&taken["reports"], &taken["rejected"]), (&1.into(), &0.into()), "{taken}");
        assert!(answer(1, "repair").await["evaluated"].is_u64());
        assert_eq!(answer(2, "confirm").await, serde_json::json!({ "relevant": true, "steps": 1 }));
        stack.stop().await;
    });
}
