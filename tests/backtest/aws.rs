//! Log groups that are read through the API.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::Command,
    sync::mpsc,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{comparison, directory, incidents, stderr, stdout, text};

/// CloudWatch Logs on a real socket, with three events per page; returns its address and the requests.
fn cloudwatch(groups: BTreeMap<&'static str, Vec<Value>>) -> (String, mpsc::Receiver<Value>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).expect("a line") == 0 {
                        break;
                    }
                }
                let Some(length) = head.to_lowercase().split_once("content-length: ").map(|(_, rest)| {
                    rest.split("\r\n").next().expect("a length").parse::<usize>().expect("a number")
                }) else {
                    break;
                };
                let mut body = vec![0; length];
                stream.read_exact(&mut body).expect("a body");
                let request: Value = serde_json::from_slice(&body).expect("JSON");
                assert!(head.contains("Logs_20140328.FilterLogEvents"), "{head}");
                let group = request["logGroupName"].as_str().expect("a name");
                let (status, response) = match groups.get(group) {
                    None => (
                        400,
                        json!({ "__type": "ResourceNotFoundException", "message": "The specified log group does not exist." }),
                    ),
                    Some(events) => {
                        let from: usize =
                            request["nextToken"].as_str().map_or(0, |token| token.parse().expect("a number"));
                        let page: Vec<&Value> = events.iter().skip(from).take(3).collect();
                        let mut response = json!({ "events": page, "searchedLogStreams": [] });
                        if from + 3 < events.len() {
                            response["nextToken"] = json!((from + 3).to_string());
                        }
                        (200, response)
                    }
                };
                sender.send(request.clone()).expect("the test receives requests");
                let response = response.to_string();
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n{response}",
                    response.len()
                )
                .expect("answered");
            }
        }
    });
    (address, requests)
}

#[test]
fn log_groups_are_read_page_by_page_with_the_same_result_as_a_file() {
    let directory = directory("backtest-aws");
    let incident =
        incidents().into_iter().find(|path| path.ends_with("01-metadata-service-blocked")).expect("it");
    let lines = fs::read_to_string(incident.join("events.jsonl")).expect("lines");
    let (mut nodes, mut cluster) = (Vec::new(), Vec::new());
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let time = |field: &str| {
            value[field].as_str().and_then(|at| at.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond)
        };
        let (list, stream, at) = if value.get("v").is_some() {
            (&mut nodes, value["instanceId"].clone(), time("at"))
        } else if value.get("verb").is_some() {
            (&mut cluster, json!("kube-apiserver-audit-0a1b"), time("stageTimestamp"))
        } else {
            continue;
        };
        list.push(json!({ "logStreamName": stream, "timestamp": at, "ingestionTime": at, "message": line, "eventId": "1" }));
    }
    let file = directory.join("same.json");
    fs::write(&file, json!({ "events": nodes.iter().chain(&cluster).collect::<Vec<_>>() }).to_string())
        .expect("written");
    let expected = comparison(&[text(&file)]);
    assert_eq!(expected["policies"][0]["totals"]["repairs"], 1);

    let pages = nodes.len().div_ceil(3) + cluster.len().div_ceil(3);
    let (address, requests) =
        cloudwatch([("/nodemend/prod/nodes", nodes), ("/aws/eks/prod/cluster", cluster)].into());
    let backtest = |groups: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodemend"));
        command.args([
            "backtest",
            "--format",
            "json",
            "--since",
            "2026-08-20T00:00:00Z",
            "--until",
            "2026-08-21T00:00:00Z",
        ]);
        for group in groups {
            command.args(["--log-group", group]);
        }
        for (name, value) in [
            ("AWS_ENDPOINT_URL", address.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
        ] {
            command.env(name, value);
        }
        command.output().expect("nodemend runs")
    };
    let output = backtest(&["/nodemend/prod/nodes", "/aws/eks/prod/cluster"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let got: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(got["policies"], expected["policies"]);
    let requests: Vec<Value> = requests.try_iter().collect();
    assert_eq!(requests.len(), pages);
    assert!(requests.iter().all(|request| request["startTime"] == 1_787_184_000_000_i64), "{requests:?}");
    let audit = requests.last().expect("the last");
    assert_eq!(audit["logStreamNamePrefix"], "kube-apiserver-audit");
    assert!(audit["filterPattern"].as_str().expect("a pattern").contains("objectRef.resource"));

    let output = backtest(&["/nodemend/other/nodes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("failed to read log group /nodemend/other/nodes"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("does not exist"), "{}", stderr(&output));
}
