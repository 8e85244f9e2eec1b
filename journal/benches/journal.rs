//! `cargo bench -p backhaul-journal`: hands over to the program in `against-sqlite`.
//!
//! That is a package of its own, because Cargo builds what a benchmark depends on for every `cargo test` too, and the
//! database that the journal is compared with takes longer to compile than all of the journal and its tests.

use std::env;
use std::process::{Command, exit};

fn main() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/against-sqlite/Cargo.toml");
    let mut run = Command::new(cargo);
    run.args([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "--manifest-path",
        manifest,
        "--",
    ]);
    // Cargo adds `--bench`, for programs that hold tests too.
    run.args(env::args_os().skip(1).filter(|argument| argument != "--bench"));
    let status = run.status().expect("cargo, which runs this, can be run");
    exit(status.code().unwrap_or(1));
}
