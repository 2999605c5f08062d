//! `nodemend policy check` as operators run it: what it warns of, and its exit codes.

use std::{path::PathBuf, process::Command};

/// Writes a policy, and checks it. Returns the exit code, the output and the error.
fn check(name: &str, policy: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("policy-check-{name}.yaml"));
    std::fs::write(&file, policy).expect("written");
    let done = Command::new(env!("CARGO_BIN_EXE_nodemend"))
        .args(["policy", "check"])
        .arg(&file)
        .args(options)
        .env_remove("NODEMEND_CLUSTER")
        .output()
        .expect("nodemend runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (done.status.code(), text(done.stdout), text(done.stderr))
}

const REPAIR: &str = "mode: repair\nnodeRepairConfig: {enabled: true}\n";

#[test]
fn a_warning_names_the_file_and_the_field_and_does_not_fail_the_check() {
    let policy = format!(
        "{REPAIR}silence: {{minSilent: 0, percentage: 0}}\nholds:\n- {{owner: alice, reason: test, until: 2020-01-01T00:00:00Z}}\n"
    );
    let (code, out, error) = check("stops-all", &policy, &[]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    let warnings: Vec<_> = out.lines().filter(|line| line.starts_with("warning: ")).collect();
    let [silence, hold] = warnings.as_slice() else { panic!("{out}") };
    assert!(silence.contains("stops-all.yaml: silence.minSilent: "), "{silence}");
    assert!(hold.contains("holds[0].until: "), "{hold}");
    assert_eq!(check("strict", &policy, &["--strict"]).0, Some(1));
}

#[test]
fn a_policy_without_warnings_passes_a_strict_check() {
    let (code, out, error) = check("good", REPAIR, &["--strict"]);
    assert_eq!((code, out.contains("warning"), error.as_str()), (Some(0), false, ""), "{out}");
    assert_eq!(check("join-off", &format!("{REPAIR}joinTimeout: 0s\n"), &["--strict"]).0, Some(0));
}

#[test]
fn a_join_timeout_in_which_no_instance_boots_is_refused() {
    let (code, _, error) = check("join-1s", &format!("{REPAIR}joinTimeout: 1s\n"), &[]);
    assert!(code == Some(64) && error.contains("join-1s.yaml: joinTimeout: "), "{error}");
}
