//! Generates a month of 1,000 nodes and backtests it under three policies: measures the time, on one thread
//! and on all, and the memory. NODES and DAYS make it smaller. The history is kept, and generated again if
//! the options change.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use nodemend_history::Plan;
use serde_json::Value;

const POLICIES: [(&str, &str); 3] = [
    ("eks", "nodeRepairConfig:\n  enabled: true\n"),
    (
        "bold",
        "nodeRepairConfig:\n  enabled: true\ngrace:\n  conditions:\n    Ready: 10m\n    NetworkingReady: 10m\n",
    ),
    (
        "careful",
        "nodeRepairConfig:\n  enabled: true\n  maxParallelNodesRepairedCount: 1\ngrace:\n  conditions:\n    Ready: 1h\n",
    ),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [nodemend, target] = &arguments[..] else { panic!("usage: nodemend-history NODEMEND DIRECTORY") };
    #[allow(clippy::disallowed_methods, reason = "a measurement has no configuration")]
    let number = |name: &str, default: i64| {
        env::var(name)
            .ok()
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
    };
    let (nodes, days) = (number("NODES", 1_000), number("DAYS", 30));
    let plan = Plan { seed: 1, nodes: usize::try_from(nodes).expect("nodes"), days, days_between: 60 };
    let directory = Path::new(target).join(format!("history-{nodes}-{days}"));
    let done = directory.join("done");
    if fs::read_to_string(&done).ok() != Some(format!("{plan:?}")) {
        let begun = Instant::now();
        let _ = fs::remove_dir_all(&directory);
        plan.export(&directory).expect("an export");
        fs::write(&done, format!("{plan:?}")).expect("written");
        println!(
            "generated {days} days of {nodes} nodes in {:.0} s: {}",
            begun.elapsed().as_secs_f64(),
            directory.display()
        );
    }
    let policies: Vec<(String, PathBuf)> = POLICIES
        .into_iter()
        .map(|(name, policy)| {
            let path = directory.join(format!("{name}.yaml"));
            fs::write(&path, policy).expect("a policy");
            (name.to_owned(), path)
        })
        .collect();
    for threads in [Some("1"), None] {
        let mut command = Command::new(nodemend);
        command.args(["backtest", "--format", "json"]).arg(&directory);
        command.arg("--html").arg(directory.join("comparison.html"));
        for (name, path) in &policies {
            command.arg("--policy").arg(format!("{name}={}", path.display()));
        }
        if let Some(threads) = threads {
            command.args(["--threads", threads]);
        }
        let before = child_cpu_seconds();
        let output = command.output().expect("nodemend runs");
        let used = child_cpu_seconds() - before;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let comparison: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let facts = &comparison["history"];
        let of = |name: &str| facts[name].as_f64().expect("a number");
        println!(
            "{} threads: {:.1} s in total, {:.1} s to read {:.2} GB of {} lines ({:.2} GB of gzip): {:.0} MB/s decompressed; {used:.1} s of CPU, {:.0} MB a CPU-second; {} relevant lines; {:.0} MiB peak memory",
            facts["threads"],
            of("seconds"),
            of("readingSeconds"),
            of("bytes") / 1e9,
            facts["lines"],
            of("bytesOnDisk") / 1e9,
            of("bytes") / 1e6 / of("readingSeconds"),
            of("bytes") / 1e6 / used.max(0.01),
            facts["relevantLines"],
            facts["peakMemoryBytes"].as_f64().unwrap_or_default() / 1_048_576.0,
        );
        if threads.is_none() {
            for policy in comparison["policies"].as_array().expect("a list") {
                println!("  {}: {}", policy["name"], policy["totals"]);
            }
        }
    }
}

/// The CPU time that child processes have used, in seconds: on a shared machine it is more exact than elapsed
/// time.
fn child_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything: `cutime` and `cstime`, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
