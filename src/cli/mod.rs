//! The command line: arguments as typed, commands as checked, output, exit codes.

mod args;
mod command;
mod context;
mod daemon;
mod exit;
mod get;
mod group;
pub(crate) mod input;
mod journal;
mod output;
mod progress;
mod reach;
mod reading;
mod signals;
mod transfer;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGCHLD, SIGXFSZ};

use self::exit::Exit;

/// Runs the command that the process was started with; prints an error once, on one line.
#[must_use]
pub fn run() -> ExitCode {
    crate::sys::this_process_is_ours();
    crate::sys::keep_memory_together();
    let result = match args::Args::try_parse() {
        Ok(args) => output::start_log(args.global.verbose)
            .and_then(|()| note_signals())
            .and_then(|()| command::run(args)),
        Err(error) => output::usage(&error),
    };
    let result = match output::failure() {
        Some(error) => Err(Failure::new(
            Exit::Local,
            format!("cannot write to standard output: {error}"),
        )),
        None => result,
    };
    let exit = result.unwrap_or_else(|failure| {
        output::error(&failure.message);
        failure.exit
    });
    ExitCode::from(exit.code())
}

/// Signals that must neither end the process nor be ignored. A file that grows beyond the limit of this process is an error of
/// that file; how a child ended is told to nobody who ignores that it did, which may come from whoever started this process.
fn note_signals() -> Result<(), Failure> {
    let noted = Arc::new(AtomicBool::new(false));
    [SIGXFSZ, SIGCHLD].into_iter().try_for_each(|signal| {
        let registered = signal_hook::flag::register(signal, Arc::clone(&noted));
        registered
            .map_err(|error| crate::Error::io("watch for", "signals", error).into())
            .map(|_| ())
    })
}

/// Why a command ended early: what is printed, and the exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            exit: Exit::for_error(&error),
            message,
        }
    }
}
