//! The page of `nodemend backtest`, opened in a real browser. npm installs the browser, pinned, into target/:
//! `make nightly-browser`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nodemend_history::Plan;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory with the browser in it.
fn browser() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    fs::create_dir_all(&folder).expect("a folder");
    let lock = fs::read_to_string(root().join("tests/browser/package-lock.json")).expect("a lock file");
    for file in ["package.json", "package-lock.json", "page.mjs"] {
        fs::copy(root().join("tests/browser").join(file), folder.join(file)).expect("copied");
    }
    if fs::read_to_string(folder.join("installed")).ok() != Some(lock.clone()) {
        let installed = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&folder)
            .status();
        assert!(
            installed.is_ok_and(|status| status.success()),
            "npm is missing or failed to install the browser"
        );
        fs::write(folder.join("installed"), lock).expect("written");
    }
    folder
}

#[test]
#[ignore = "needs a browser from npm: make nightly-browser"]
fn the_page_opens_in_a_browser_asks_for_nothing_and_can_be_read_by_everybody() {
    let browser = browser();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let _ = fs::remove_dir_all(&folder);
    let export = folder.join("export");
    Plan { seed: 5, nodes: 32, days: 6, days_between: 2 }.export(&export).expect("an export");
    let policies = [
        ("now <b>&", "nodeRepairConfig:\n  enabled: true\n"),
        ("bold", "nodeRepairConfig:\n  enabled: true\ngrace:\n  conditions:\n    Ready: 5m\n"),
        (
            "held",
            "nodeRepairConfig:\n  enabled: true\nholds:\n  - owner: alice\n    reason: a test\n    until: 2027-01-01T00:00:00Z\n",
        ),
    ];
    let page = folder.join("comparison.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodemend"));
    command.arg("backtest").arg(&export).args(["--format", "json", "--html"]).arg(&page);
    for (number, (name, policy)) in policies.iter().enumerate() {
        let path = folder.join(format!("{number}.yaml"));
        fs::write(&path, policy).expect("a policy");
        command.arg("--policy").arg(format!("{name}={}", path.display()));
    }
    let output = command.output().expect("nodemend runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let comparison: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let output = Command::new("node")
        .arg("page.mjs")
        .args([&page, &folder])
        .current_dir(&browser)
        // The browser unpacks itself there.
        .env("TMPDIR", &browser)
        .output()
        .expect("node runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    // Nothing is loaded from elsewhere, and there are no scripts.
    let requests = report["requests"].as_array().expect("a list");
    let elsewhere =
        |url: &&Value| !url.as_str().is_some_and(|url| url.starts_with("file:") || url.starts_with("data:"));
    assert_eq!(requests.iter().filter(elsewhere).count(), 0, "{requests:?}");
    assert_eq!(report["errors"], json!([]));
    let seen = &report["seen"];
    assert_eq!(seen["scripts"], 0);

    // The page has the numbers of the JSON output.
    let listed = comparison["policies"].as_array().expect("a list");
    let rows = seen["policies"].as_array().expect("a list");
    assert_eq!(rows.len(), 3);
    for (row, policy) in rows.iter().zip(listed) {
        let totals = &policy["totals"];
        let number = |name: &str| totals[name].to_string();
        assert_eq!(row[0], policy["name"]);
        assert_eq!([&row[2], &row[4]], [&json!(number("repairs")), &json!(number("unnecessary"))]);
    }
    let count = |name: &str| -> usize {
        listed.iter().map(|policy| policy[name].as_array().expect("a list").len()).sum()
    };
    let lines = count("repairs") + count("blocked");
    assert!(count("repairs") > 20 && count("blocked") > 5, "{lines} repairs are too few for this test");
    assert_eq!([&seen["marks"], &seen["repairs"]], [lines, lines], "a mark and a row for each repair");
    let days: usize = listed
        .iter()
        .flat_map(|policy| policy["groups"].as_array().expect("a list"))
        .map(|group| group["days"].as_object().expect("an object").len())
        .sum();
    assert_eq!(seen["days"], days);

    // It is readable in light and dark, wide and narrow, by keyboard and with a screen reader.
    assert_eq!([&seen["outside"], &seen["untitled"], &seen["overlapping"]], [0, 0, 0], "{seen}");
    assert_eq!([&seen["captionless"], &seen["unscoped"], &seen["ragged"]], [0, 0, 0], "{seen}");
    assert_eq!([&seen["language"], &seen["title"]], ["en", "nodemend backtest"]);
    let schemes = &report["schemes"];
    assert_ne!(schemes["light"]["back"], schemes["dark"]["back"]);
    for scheme in ["light", "dark"] {
        let ratio = |of: &str| schemes[scheme][of].as_f64().expect("a number");
        assert!(ratio("text") >= 4.5 && ratio("marks") >= 3.0, "{scheme}: {}", schemes[scheme]);
    }
    assert_eq!([&report["narrow"], &report["opened"]], [true, true]);
    assert_eq!(report["roles"]["table"], 4, "{}", report["roles"]);
    assert!(
        report["roles"]["image"].as_u64() >= Some(1) || report["roles"]["img"].as_u64() >= Some(1),
        "{}",
        report["roles"]
    );
}
