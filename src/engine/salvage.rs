//! A damaged journal on a device that nobody attends: what is intact becomes the journal, the damaged one is kept.
//!
//! Steps: copy what is intact to `journal.salvage`, durably; rename `journal` to `journal.corrupt-N`; sync; rename the
//! copy to `journal`; sync. While `journal` is there, a copy counts for nothing and is made anew. Where it is not, the
//! copy is whole, and every open, salvaging or not, gives it its name first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::sort_few_by_key;

use backhaul_journal::{Journal, Lock, Options, Report, Salvaged, Storage};

use super::Rebuilding;
use super::scratch::Shelving;
use crate::config::{Config, Layout};
use crate::environment::Environment;
use crate::error::Error;

/// Segments grow to this where the journal is long (chosen: making one of them holds nobody up for long on a slow card).
const SEGMENT_BYTES_MAX: u32 = 1 << 20;
/// First segment of an engine that is there for one command only: some ten small files fit.
const SHORT_LIVED_SEGMENT_BYTES: u32 = 8 * 1024;

/// How the journal of an engine is written, in a state directory that is new or not.
pub(super) fn journal_options(config: &Config, environment: &Environment, is_new: bool) -> Options {
    let mut id = [0; 16];
    environment.random.fill(&mut id);
    let options = Options {
        segment_bytes_max: SEGMENT_BYTES_MAX,
        checkpoint_bytes: config.checkpoint_bytes,
        journal_id: Some(id),
        new_above: is_new,
        ..Options::default()
    };
    if config.is_short_lived {
        Options {
            first_segment_bytes: SHORT_LIVED_SEGMENT_BYTES,
            brief: true,
            ..options
        }
    } else {
        options
    }
}

/// The damaged journals that a salvage has kept in a state directory.
///
/// # Errors
/// [`Error::Io`].
pub fn damaged_journals(directory: &Path, environment: &Environment) -> Result<Vec<PathBuf>, Error> {
    evidence(&environment.storage, &Layout::new(directory))
}

/// Damaged journals kept in one state directory. Beyond it somebody has to look.
const EVIDENCE_MAX: usize = 8;
/// Gaps that the message of a salvage lists.
const GAPS_SHOWN_MAX: usize = 8;

type Opened = (Journal, Report, Rebuilding);

/// How a journal is opened.
pub(super) struct Terms {
    pub(super) options: Options,
    /// Whether a damaged one is salvaged.
    pub(super) salvage: bool,
    /// Where packed operations go.
    pub(super) shelving: Option<Shelving>,
}

/// Opens the journal, and where it is damaged and that is wished, salvages it before. Only damage is salvaged: what
/// another version wrote, or the operating system refuses to read, is not.
pub(super) fn open(storage: &Arc<dyn Storage>, layout: &Layout, lock: &Lock, terms: &Terms) -> Result<Opened, Error> {
    complete(storage, layout)?;
    match open_as_it_is(storage, layout, lock, terms) {
        Err(damage @ backhaul_journal::Error::Corrupt(_)) if terms.salvage => {
            let damage = Arc::new(damage);
            let (salvaged, evidence) = replace(storage, layout, &damage, terms)?;
            let opened = open_as_it_is(storage, layout, lock, terms)?;
            tell(&damage, &salvaged, &evidence, &opened.2);
            Ok(opened)
        }
        answer => Ok(answer?),
    }
}

fn open_as_it_is(
    storage: &Arc<dyn Storage>,
    layout: &Layout,
    lock: &Lock,
    terms: &Terms,
) -> Result<Opened, backhaul_journal::Error> {
    let mut rebuilding = Rebuilding::on(terms.shelving.clone());
    let (journal, report) = Journal::open(
        Arc::clone(storage),
        &layout.journal(),
        lock.clone(),
        terms.options,
        &mut rebuilding,
    )?;
    Ok((journal, report, rebuilding))
}

/// The journal's directory for those who only read; a crash between the two renames leaves it under the copy's name.
pub(crate) fn journal_directory(storage: &Arc<dyn Storage>, layout: &Layout) -> Result<PathBuf, Error> {
    let (journal, copy) = (layout.journal(), layout.salvage());
    let is_copy = !exists(storage, &journal)? && names(storage, &copy)?.is_some_and(|names| !names.is_empty());
    Ok(if is_copy { copy } else { journal })
}

/// The damaged journals that are kept, oldest first.
pub(crate) fn evidence(storage: &Arc<dyn Storage>, layout: &Layout) -> Result<Vec<PathBuf>, Error> {
    Ok(numbers(storage, layout)?
        .into_iter()
        .map(|number| layout.evidence(number))
        .collect())
}

/// Finishes what a salvage that was cut short left, or clears it away.
fn complete(storage: &Arc<dyn Storage>, layout: &Layout) -> Result<(), Error> {
    let (journal, copy) = (layout.journal(), layout.salvage());
    let Some(names) = names(storage, &copy)?.filter(|names| !names.is_empty()) else {
        return Ok(());
    };
    if exists(storage, &journal)? {
        // It holds nothing that the journal does not; only the next salvage needs the place.
        if let Err(error) = clear(storage, &copy, &names) {
            log::warn!("what an earlier salvage left stays: {error}");
        }
        return Ok(());
    }
    // A copy that is not whole, left alone by somebody who removed the journal, is marked, and not opened.
    rename(storage, layout, &copy, &journal)
}

/// Puts a copy of what is intact in the place of the damaged journal. Before the first rename nothing has changed.
fn replace(
    storage: &Arc<dyn Storage>,
    layout: &Layout,
    damage: &Arc<backhaul_journal::Error>,
    terms: &Terms,
) -> Result<(Salvaged, PathBuf), Error> {
    let unchanged = |problem: String| Error::NotSalvaged {
        damage: Arc::clone(damage),
        problem,
    };
    let kept = numbers(storage, layout)?;
    if kept.len() >= EVIDENCE_MAX {
        let directory = layout.directory.display();
        return Err(unchanged(format!(
            "'{directory}' keeps {EVIDENCE_MAX} damaged journals already; look at them and move them away (journal.corrupt-N)"
        )));
    }
    let number = kept.last().map_or(Some(1), |last| last.checked_add(1));
    let number = number.ok_or_else(|| unchanged("the numbers of damaged journals are used up".into()))?;
    let (journal, copy, evidence) = (layout.journal(), layout.salvage(), layout.evidence(number));
    let salvaged = match copy_intact(storage, &journal, &copy, terms) {
        Ok(salvaged) => salvaged,
        Err(error) => {
            // The room it took may be wanted; what stays is cleared away by the next open.
            if let Ok(Some(names)) = names(storage, &copy) {
                let _ = clear(storage, &copy, &names);
            }
            return Err(unchanged(with_causes(&error)));
        }
    };
    rename(storage, layout, &journal, &evidence)?;
    rename(storage, layout, &copy, &journal)?;
    Ok((salvaged, evidence))
}

/// Makes the copy and reads it: only one that can be opened takes the place of the journal.
fn copy_intact(
    storage: &Arc<dyn Storage>,
    journal: &Path,
    copy: &Path,
    terms: &Terms,
) -> Result<Salvaged, backhaul_journal::Error> {
    let salvaged = backhaul_journal::salvage(storage, journal, copy)?;
    backhaul_journal::read(storage, copy, &mut Rebuilding::on(terms.shelving.clone()))?;
    Ok(salvaged)
}

fn tell(damage: &backhaul_journal::Error, salvaged: &Salvaged, evidence: &Path, rebuilt: &Rebuilding) {
    let shown = salvaged.gaps.iter().take(GAPS_SHOWN_MAX);
    let mut gaps: Vec<String> = shown
        .map(|(first, next)| match next.0 - first.0 {
            1 => first.0.to_string(),
            _ => format!("{} to {}", first.0, next.0 - 1),
        })
        .collect();
    if salvaged.gaps.len() > GAPS_SHOWN_MAX {
        gaps.push("...".into());
    }
    let numbers = if gaps.is_empty() {
        String::new()
    } else {
        format!(" ({})", gaps.join(", "))
    };
    let snapshot = if salvaged.snapshot_damaged {
        ", and a part of the snapshot"
    } else {
        ""
    };
    let strangers = match rebuilt.table.strangers() {
        0 => String::new(),
        count => format!("; the creation of {count} operations is lost, and they with it"),
    };
    let place = match damage {
        backhaul_journal::Error::Corrupt(damage) => {
            format!(
                "{}, byte {}: {}",
                damage.path.display(),
                damage.offset_bytes,
                damage.reason
            )
        }
        other => other.to_string(),
    };
    log::error!(
        "the journal was damaged ({place}) and has been salvaged: records that are lost: {}{numbers}{snapshot}, and \
         perhaps some at its end{strangers}; {} operations are checked again before they are trusted; the damaged journal \
         is kept in '{}'",
        salvaged.missing,
        rebuilt.table.in_doubt(),
        evidence.display()
    );
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn rename(storage: &Arc<dyn Storage>, layout: &Layout, from: &Path, to: &Path) -> Result<(), Error> {
    storage
        .rename(from, to)
        .map_err(|error| Error::io("rename", from, error))?;
    let directory = &layout.directory;
    storage
        .sync_directory(directory)
        .map_err(|error| Error::io("sync", directory, error))
}

fn clear(storage: &Arc<dyn Storage>, copy: &Path, names: &[std::ffi::OsString]) -> Result<(), Error> {
    names.iter().try_for_each(|name| {
        let path = copy.join(name);
        storage.remove(&path).map_err(|error| Error::io("remove", path, error))
    })
}

fn names(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Option<Vec<std::ffi::OsString>>, Error> {
    match storage.list(directory) {
        Ok(names) => Ok(Some(names)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("list", directory, error)),
    }
}

fn numbers(storage: &Arc<dyn Storage>, layout: &Layout) -> Result<Vec<u32>, Error> {
    let names = names(storage, &layout.directory)?.unwrap_or_default();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| Layout::evidence_number(name.to_str()?))
        .collect();
    sort_few_by_key(&mut numbers, |number| *number);
    Ok(numbers)
}

fn exists(storage: &Arc<dyn Storage>, path: &Path) -> Result<bool, Error> {
    match storage.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}
