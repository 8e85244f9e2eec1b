//! The real disk and its lock, in a directory of this test run.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backhaul_journal::{Access, Disk, Error, FileKind, FileSystem, Journal, Lock, Options, Storage, Urgency};

use crate::support::{Collected, new_disk};

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn disk() -> Arc<dyn Storage> {
    Arc::new(Disk)
}

#[test]
fn a_journal_on_the_real_disk_survives_being_dropped_and_closed() {
    let scratch = Scratch::new("journal");
    let directory = scratch.join("journal");
    for round in 0..3_u64 {
        let lock = Lock::acquire(&disk(), &scratch.join("LOCK"), true).unwrap();
        let mut collected = Collected::default();
        let (journal, report) = Journal::open(disk(), &directory, lock, Options::default(), &mut collected).unwrap();
        assert_eq!(collected.records.len() as u64, round * 10);
        assert_eq!((report.created, report.unknown.len()), (round == 0, 0));
        for index in 0..10_u64 {
            let lsn = journal.append(&index.to_le_bytes(), Urgency::Normal).unwrap();
            journal.sync(lsn).unwrap();
        }
        if round == 1 {
            journal.close().unwrap();
        }
    }
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_second_to_lock_is_told_who_holds_it() {
    let scratch = Scratch::new("lock");
    let path = scratch.join("LOCK");
    let held = Lock::acquire(&disk(), &path, true).unwrap();
    let Err(Error::Locked { path: told, holder }) = Lock::acquire(&disk(), &path, true) else {
        panic!("the lock was given twice");
    };
    assert_eq!(
        (told, holder),
        (path.clone(), Some(format!("pid {}", std::process::id())))
    );
    assert!(fs::read_to_string(&path).unwrap().contains("\nversion "));
    let clone = held.clone();
    drop(held);
    assert!(
        matches!(Lock::acquire(&disk(), &path, true), Err(Error::Locked { .. })),
        "a clone holds it too"
    );
    drop(clone);
    Lock::acquire(&disk(), &path, true).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_lock_file_with_other_text_names_no_holder() {
    let scratch = Scratch::new("text");
    let path = scratch.join("LOCK");
    let _held = Disk.lock(&path).unwrap();
    for text in ["", "pid", "pid x", "pid 12 and more", "\u{0}\u{1}", "somebody"] {
        fs::write(&path, text).unwrap();
        let answer = Lock::acquire(&disk(), &path, true);
        assert!(matches!(answer, Err(Error::Locked { holder: None, .. })), "{text:?}");
    }
}

#[test]
fn a_lock_never_follows_a_symlink() {
    let scratch = Scratch::new("symlink");
    fs::write(scratch.join("target"), "mine").unwrap();
    symlink(scratch.join("target"), scratch.join("LOCK")).unwrap();
    assert!(matches!(
        Lock::acquire(&disk(), &scratch.join("LOCK"), true),
        Err(Error::Io("lock", ..))
    ));
    assert_eq!(fs::read_to_string(scratch.join("target")).unwrap(), "mine");
}

#[test]
fn a_network_file_system_is_refused_unless_allowed() {
    let memory = new_disk();
    memory.set_file_system(FileSystem::Network);
    let path = Path::new("/state/LOCK");
    assert!(matches!(
        Lock::acquire(&memory.storage(), path, false),
        Err(Error::NetworkFileSystem(_))
    ));
    Lock::acquire(&memory.storage(), path, true).unwrap();
}

#[test]
fn files_are_made_once_and_opened_only_if_regular() {
    let scratch = Scratch::new("files");
    let path = scratch.join("file");
    Disk.create(&path, 0o640).unwrap();
    assert_eq!(
        Disk.create(&path, 0o640).err().unwrap().kind(),
        io::ErrorKind::AlreadyExists
    );
    symlink(scratch.join("nowhere"), scratch.join("dangling")).unwrap();
    assert_eq!(
        Disk.create(&scratch.join("dangling"), 0o640).err().unwrap().kind(),
        io::ErrorKind::AlreadyExists
    );
    symlink(&path, scratch.join("link")).unwrap();
    assert!(Disk.open(&scratch.join("link"), Access::Read).is_err());
    assert!(Disk.open(&scratch.0, Access::Read).is_err());
    assert_eq!(
        Disk.open(&scratch.join("none"), Access::Read).err().unwrap().kind(),
        io::ErrorKind::NotFound
    );
    assert_eq!(Disk.stat(&scratch.join("link")).unwrap().kind, FileKind::Symlink);
    assert_eq!(Disk.stat(&scratch.0).unwrap().kind, FileKind::Directory);
    let fifo = scratch.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(Disk.open(&fifo, Access::Read).is_err(), "a pipe is not waited for");
    let mut names = Disk.list(&scratch.0).unwrap();
    names.sort();
    assert_eq!(names, ["dangling", "fifo", "file", "link"]);
}

#[test]
fn a_rename_without_replacing_leaves_a_taken_name_alone() {
    let scratch = Scratch::new("rename");
    let (from, to) = (scratch.join("from"), scratch.join("to"));
    fs::write(&from, "from").unwrap();
    fs::write(&to, "to").unwrap();
    assert_eq!(
        Disk.rename_noreplace(&from, &to).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        (fs::read(&from).unwrap(), fs::read(&to).unwrap()),
        (b"from".to_vec(), b"to".to_vec())
    );
    Disk.remove(&to).unwrap();
    Disk.rename_noreplace(&from, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"from");
    assert!(!from.exists());
    Disk.sync_directory(&scratch.0).unwrap();
}

#[test]
fn reserved_space_does_not_show_in_the_length() {
    let scratch = Scratch::new("reserve");
    let path = scratch.join("file");
    let file = Disk.create(&path, 0o600).unwrap();
    file.reserve(0).unwrap();
    file.reserve(65536).unwrap();
    assert_eq!(file.stat().unwrap().len_bytes, 0);
    file.write_at(b"abc", 2).unwrap();
    file.start_writeback(0, 5);
    file.sync_all().unwrap();
    file.drop_cache();
    file.set_mode(0o400).unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(modified).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 5);
    assert_eq!(&buffer[..5], b"\0\0abc");
    assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.permissions().mode() & 0o777, metadata.modified().unwrap()),
        (0o400, modified)
    );
    assert!(Disk.available_bytes(&scratch.0).unwrap() > 0);
    Disk.file_system(&scratch.0).unwrap();
}

#[test]
fn files_and_directories_are_synced_together_and_each_has_its_own_answer() {
    let scratch = Scratch::new("together");
    // More than the kernel is asked for at once.
    let files: Vec<_> = (0..150)
        .map(|number| {
            let file = Disk.create(&scratch.join(&number.to_string()), 0o600).unwrap();
            file.write_at(b"abc", 0).unwrap();
            file
        })
        .collect();
    let files: Vec<_> = files.iter().map(AsRef::as_ref).collect();
    let missing = scratch.join("missing");
    let synced = Disk.sync_many(&files, &[&scratch.0, &missing, &scratch.0]);
    assert_eq!(synced.files.len(), files.len());
    assert!(synced.files.iter().all(Result::is_ok), "{synced:?}");
    let directories: Vec<_> = synced.directories.iter().map(|result| result.as_ref().err()).collect();
    assert!(directories[0].is_none() && directories[2].is_none(), "{synced:?}");
    assert_eq!(directories[1].map(io::Error::kind), Some(io::ErrorKind::NotFound));
    // What cannot be synced says so, whichever way it is asked.
    let pipe = fs::File::open("/proc/self/status").unwrap();
    let refused = pipe.sync_all().err().map(|error| error.kind());
    assert_eq!(
        Disk.sync_many(&[], &[Path::new("/proc/self")]).directories[0]
            .as_ref()
            .err()
            .map(io::Error::kind),
        refused
    );
    let mixed = Disk.sync_many(&files[..2], &[Path::new("/proc/self")]);
    assert!(mixed.files.iter().all(Result::is_ok), "{mixed:?}");
    assert_eq!(mixed.directories[0].as_ref().err().map(io::Error::kind), refused);
}

/// Files that this process has open in a directory.
fn open_in(directory: &Path) -> usize {
    let names = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = names.filter_map(|name| fs::read_link(name.path()).ok());
    targets.filter(|target| target.starts_with(directory)).count()
}

#[test]
fn however_many_directories_are_synced_few_of_them_are_open_at_once() {
    let scratch = Scratch::new("few");
    let paths: Vec<PathBuf> = (0..300).map(|number| scratch.join(&number.to_string())).collect();
    for path in &paths {
        fs::create_dir(path).unwrap();
    }
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let most = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| Disk.sync_many(&[], &paths));
        let mut most = 0;
        while !syncing.is_finished() {
            most = most.max(open_in(&scratch.0));
        }
        let synced = syncing.join().unwrap();
        assert_eq!(synced.directories.len(), paths.len());
        assert!(synced.directories.iter().all(Result::is_ok));
        most
    });
    assert!(most <= 8, "{most}");
}

#[test]
fn a_file_that_cannot_be_synced_among_others_has_the_error_and_the_others_have_none() {
    let scratch = Scratch::new("refused");
    let create = |name: &str| Disk.create(&scratch.join(name), 0o600).unwrap();
    let (before, after) = (create("before"), create("after"));
    // A regular file by its kind, of which nothing can be synced.
    let refused = Disk.open(Path::new("/proc/self/status"), Access::Read).unwrap();
    let synced = Disk.sync_many(&[before.as_ref(), refused.as_ref(), after.as_ref()], &[&scratch.0]);
    let errors: Vec<_> = synced
        .files
        .iter()
        .map(|result| result.as_ref().err().map(io::Error::kind))
        .collect();
    assert_eq!(errors, [None, Some(io::ErrorKind::InvalidInput), None]);
    assert!(synced.directories[0].is_ok(), "{synced:?}");
}
