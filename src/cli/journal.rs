//! Commands on the journal itself. They take no lock and change nothing; `repair` writes a copy.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use backhaul_journal::{Storage, Verdict};

use super::args::Journal;
use super::context::Context;
use super::exit::Exit;
use super::{Failure, output};
use crate::Error;
use crate::config::Layout;
use crate::engine::journal_directory;
use crate::operation::decode;

pub(super) fn run(context: &Context, command: &Journal) -> Result<Exit, Failure> {
    let storage = &context.environment.storage;
    let directory = journal_directory(storage, &Layout::new(&context.state_directory))?;
    match command {
        Journal::Verify => verify(storage, &directory),
        Journal::Dump => dump(storage, &directory),
        Journal::Repair { to } => repair(storage, &directory, to),
    }
}

fn verify(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Exit, Failure> {
    let report = backhaul_journal::verify(storage, directory).map_err(Error::from)?;
    output::report(directory, &report);
    Ok(match report.verdict() {
        Verdict::Clean => Exit::Success,
        Verdict::Torn => Exit::TornTail,
        Verdict::Corrupt => Exit::Corrupt,
    })
}

/// Prints what each record says, in the words of the code; secrets are not in the journal.
fn dump(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Exit, Failure> {
    let result = backhaul_journal::dump(storage, directory, &mut |entry| {
        let text = match entry.record.map(decode) {
            Some(Ok(known)) => format!("{known:?}"),
            Some(Err(unknown)) => format!("{unknown}"),
            None => String::new(),
        };
        let place = format!("{}:{} {} {:?}", entry.file, entry.offset_bytes, entry.lsn.0, entry.kind);
        if output::line(format!("{place} {text}").trim_end()) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    result.map_err(Error::from)?;
    Ok(Exit::Success)
}

fn repair(storage: &Arc<dyn Storage>, directory: &Path, to: &Path) -> Result<Exit, Failure> {
    if to.symlink_metadata().is_ok() {
        let problem = "exists; give a directory that does not exist yet";
        return Err(Error::invalid("to", to.display().to_string(), problem).into());
    }
    let salvaged = backhaul_journal::salvage(storage, directory, to).map_err(Error::from)?;
    output::salvaged(to, &salvaged);
    Ok(Exit::Success)
}
