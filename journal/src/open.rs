//! Opening for writing: recover, write anew what nothing vouches for, and only then hand out the journal.

use std::path::Path;

use crate::directory::{Directory, Layout};
use crate::error::Error;
use crate::format::{FIRST_LSN, check_writable};
use crate::group::Group;
use crate::lock::Lock;
use crate::options::Options;
use crate::recovery::{Scan, scan};
use crate::replay::Replay;
use crate::report::Report;
use crate::reserve::Reserve;
use crate::segment::Log;
use crate::steps;
use crate::storage::Storage;
use crate::sync::{Condvar, Mutex};
use crate::writer::{Journal, State, Stats};

pub(crate) fn open(
    directory: Directory,
    lock: Lock,
    options: Options,
    replay: &mut dyn Replay,
) -> Result<(Journal, Report), Error> {
    let layout = if let Some(layout) = directory.layout()? {
        layout
    } else {
        make_directory(&directory)?;
        Layout::default()
    };
    if layout.incomplete {
        return Err(Error::Incomplete(directory.path.clone()));
    }
    let (scan, id) = if layout.is_empty() {
        let id = options.journal_id.map_or_else(|| random_id(&directory), Ok)?;
        (nothing_yet(id, &layout), id)
    } else {
        let scan = scan(&directory, &layout, replay)?;
        let id = scan.report.id;
        (scan, id)
    };
    if let Some(name) = scan.unwritable {
        return Err(Error::Unsupported(
            directory.join(&name),
            "a feature of a later format beside which nothing may be written".to_owned(),
        ));
    }
    check_writable(scan.report.next.0)?;
    check_writable(scan.segments.last().map_or(0, |entry| entry.seq))?;
    let mut log = log(&directory, &layout, &scan, id, options)?;
    for name in layout
        .temporaries
        .iter()
        .filter(|_| steps::is_taken("removal of leftovers"))
    {
        let path = directory.path.join(name);
        directory.storage.remove(&path).map_err(Error::io("remove", &path))?;
    }
    let (state, report) = take_over(&layout, scan, &mut log, options)?;
    let journal = Journal {
        directory,
        id,
        options,
        state: Mutex::new(State {
            log: Some(Box::new(log)),
            ..state
        }),
        progress: Condvar::new(),
        checkpointing: Mutex::new(()),
        _lock: lock,
    };
    Ok((journal, report))
}

/// Makes the first segment of a new journal, unless that waits for its first records, or the one for what nothing vouches
/// for.
///
/// The records of the latter are in the page cache at least, and perhaps nowhere else. In a segment of their own they
/// are durable before anybody acts on them, and the old file is trusted for what was proven only.
fn take_over(layout: &Layout, scan: Scan, log: &mut Log, options: Options) -> Result<(State, Report), Error> {
    let mut report = scan.report;
    let mut segments = scan.segments;
    let mut unproven = scan.unproven;
    let mut segments_since_snapshot = report.segments.len();
    let unvouched = !unproven.is_empty() && steps::is_taken("copy of the unproven tail");
    // Whoever made the directory may have been killed before its name was durable.
    log.is_new = report.created;
    if (report.created && !options.brief) || unvouched {
        report.relogged = unproven.records();
        let made = log.rotate(&mut unproven, segments.len())?;
        segments.push(made);
        segments_since_snapshot += 1;
    }
    let used = report.snapshot.map(|snapshot| snapshot.lsn.0);
    let others = layout.snapshots.iter().filter(|(lsn, _)| Some(**lsn) != used);
    let next = report.next.0;
    unproven.clear(next);
    let state = State {
        pending: Group::new(next),
        spare: unproven,
        log: None,
        durable: next,
        poison: None,
        reserve_spent: log.reserve.is_spent(),
        segments,
        snapshot: report.snapshot,
        previous: None,
        other_snapshots: others
            .map(|(&lsn, parts)| (lsn, parts.iter().copied().collect()))
            .collect(),
        obsolete: Vec::new(),
        segments_since_snapshot,
        bytes_since_snapshot: scan.bytes_since_snapshot,
        stats: Stats::default(),
    };
    Ok((state, report))
}

fn nothing_yet(id: [u8; 16], layout: &Layout) -> Scan {
    let mut report = Report::new(id, FIRST_LSN);
    report.created = true;
    report.unknown.clone_from(&layout.unknown);
    Scan {
        report,
        unproven: Group::new(FIRST_LSN),
        segments: Vec::new(),
        bytes_since_snapshot: 0,
        unwritable: None,
    }
}

fn log(directory: &Directory, layout: &Layout, scan: &Scan, id: [u8; 16], options: Options) -> Result<Log, Error> {
    let newest = scan.segments.last().map_or(0, |entry| entry.seq);
    let path = &directory.path;
    let file_system = directory
        .storage
        .file_system(path)
        .map_err(Error::io("find the file system of", path))?;
    let reserve = match (options.reserve, layout.has_reserve) {
        (false, _) => Reserve::Off,
        (true, true) => Reserve::Held,
        (true, false) => Reserve::Missing,
    };
    let zero_fill = options.preallocate.zero_fill(file_system);
    Ok(Log::new(directory.clone(), id, options, zero_fill, newest + 1, reserve))
}

pub(crate) fn make_directory(directory: &Directory) -> Result<(), Error> {
    let path = &directory.path;
    directory
        .storage
        .create_directory(path, 0o700)
        .map_err(Error::io("create the directory", path))
}

/// Makes a directory's own name durable.
pub(crate) fn sync_above(storage: &dyn Storage, path: &Path) -> Result<(), Error> {
    let above = above(path);
    storage
        .sync_directory_to_go_on(above)
        .map_err(Error::io("sync the directory", above))
}

/// The directory in which a directory has its name.
pub(crate) fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn random_id(directory: &Directory) -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    let mut filled = 0;
    while filled < id.len() {
        match rustix::rand::getrandom(&mut id[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Io("draw a random id for", directory.path.clone(), error.into())),
        }
    }
    Ok(id)
}
