//! The pages of `docs/` agree with the code: the policy's reference, the picture of the states and the diagram of the
//! transitions are generated from it, and the guards' page is compared with what each guard writes.
//! `UPDATE_GOLDEN=1` generates them again.

mod guards;
mod policy;
mod states;

use std::{fs, path::PathBuf};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}

#[track_caller]
fn compare(name: &str, generated: &str) {
    let differs = text(name) != generated;
    // A page that is unchanged is not written: another test may be reading it.
    if differs && std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(name), generated).expect(name);
        return;
    }
    assert!(!differs, "{name} differs: UPDATE_GOLDEN=1 cargo test --test documents writes it");
}
