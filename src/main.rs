//! The command: see `backhaul --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    backhaul::cli::run()
}
