//! A disk that fails in one place alone: what was acknowledged is on it, or it was not acknowledged.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backhaul_journal::{Disk, Storage};
use support::loop_disk::{alone, ask, run};
use support::nginx::Nginx;
use support::{Home, Running, assert_same, figure, left_out, until};
use tempfile::TempDir;

const FILES: usize = 600;
const BLOCK_BYTES: u64 = 4096;
/// XFS makes nothing smaller than 300 MiB.
const IMAGE_MIB: u64 = 320;
const KINDS: [Kind; 2] = [
    Kind {
        name: "xfs",
        make: &["-q", "-K", "-s", "size=4096"],
        sound_blocks: [80, 110, 150],
    },
    Kind {
        name: "ext4",
        make: &[
            "-q",
            "-F",
            "-b",
            "4096",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        ],
        sound_blocks: [100, 200, 350],
    },
];
/// What is left beside the image, which is filled up.
const ROOM_MIB: u64 = 64;
/// What never ends because its disk is dead is ended after this time.
const WORK_MAX: Duration = Duration::from_secs(5);

/// Bytes of the file of somebody else.
const NEIGHBOUR_BYTES: usize = 32 << 10;

/// Files after which somebody else syncs: few enough for several times, and so many that he does not use up the log.
const NEIGHBOUR_STEP: usize = 16;

/// A kind of file system, and how one is made.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    make: &'static [&'static str],
    /// Blocks of its log that can still be written, in one run after the other.
    sound_blocks: [u64; 3],
}

/// A file system in a file that lies in memory which is full: where the file has holes, nothing can be written.
struct DyingDisk {
    kind: Kind,
    folder: TempDir,
    device: Option<Device>,
}

/// A loop device, and how large a write it takes by itself, in KiB: that outlasts the file behind it.
struct Device {
    name: String,
    write_kib_max: String,
}

impl Device {
    /// A loop device takes a write that ends early for one that went well, and would lie about one that begins before a hole
    /// and ends in it. So it gets no write that is larger than a block.
    fn on(image: &Path) -> Result<Self, String> {
        let mut set_up = Command::new("losetup");
        let name = ask(set_up.args(["--find", "--show", "--sector-size", "4096"]).arg(image))?;
        let mut device = Self {
            name,
            write_kib_max: String::new(),
        };
        let limit = device.limit();
        let limited = fs::read_to_string(&limit).and_then(|before| {
            device.write_kib_max = before;
            fs::write(&limit, "4")
        });
        limited.map_err(|error| format!("{}: {error}", limit.display()))?;
        Ok(device)
    }

    fn limit(&self) -> PathBuf {
        let name = self.name.trim_start_matches("/dev/");
        PathBuf::from(format!("/sys/block/{name}/queue/max_sectors_kb"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = fs::write(self.limit(), &self.write_kib_max);
        let _ = run(Command::new("losetup").args(["-d", &self.name]));
    }
}

/// Where nothing can be written.
enum Broken {
    /// In its log, but for so many blocks.
    LogAfter(u64),
    /// In the blocks of a file of somebody else.
    Neighbour,
}

impl DyingDisk {
    fn make(kind: Kind, broken: &Broken) -> Result<Self, String> {
        let mut disk = Self {
            kind,
            folder: TempDir::with_prefix("backhaul-dying-").unwrap(),
            device: None,
        };
        for name in ["memory", "mounted"] {
            fs::create_dir(disk.at(name)).unwrap();
        }
        let size = format!("size={}m", IMAGE_MIB + ROOM_MIB);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(disk.at("memory")))?;
        let draft = disk.at("draft");
        fs::File::create(&draft).unwrap().set_len(IMAGE_MIB << 20).unwrap();
        run(Command::new(format!("mkfs.{}", kind.name)).args(kind.make).arg(&draft))?;
        // As it was made it has holes everywhere.
        run(Command::new("cp").arg("--sparse=never").args([&draft, &disk.image()]))?;
        fs::remove_file(&draft).unwrap();
        disk.mount()?;
        fs::create_dir(disk.files()).unwrap();
        if matches!(broken, Broken::Neighbour) {
            fs::write(disk.neighbour(), vec![1; NEIGHBOUR_BYTES]).unwrap();
        }
        run(Command::new("sync").arg("-f").arg(disk.files()))?;
        let (first, count) = match broken {
            Broken::LogAfter(sound_blocks) => {
                let (first, count) = disk.log();
                (first + sound_blocks, count - sound_blocks)
            }
            Broken::Neighbour => disk.blocks_of_neighbour(),
        };
        let (offset, length) = (first * BLOCK_BYTES, count * BLOCK_BYTES);
        run(Command::new("fallocate")
            .args(["-p", "-o", &offset.to_string(), "-l", &length.to_string()])
            .arg(disk.image()))?;
        // Ends where there is no room any more.
        let zeros = Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "status=none"])
            .arg(disk.filling())
            .output();
        assert!(!zeros.unwrap().status.success(), "there is room left");
        Ok(disk)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.at("memory/image")
    }

    fn filling(&self) -> String {
        format!("of={}", self.at("memory/filling").display())
    }

    fn files(&self) -> PathBuf {
        self.at("mounted/files")
    }

    fn neighbour(&self) -> PathBuf {
        self.at("mounted/neighbour")
    }

    /// The first of them in the image, and how many lie there together.
    fn blocks_of_neighbour(&self) -> (u64, u64) {
        let text = ask(Command::new("filefrag").args(["-v", "-b4096"]).arg(self.neighbour())).unwrap();
        // Of each run: its number, where it begins and ends in the file, and on the disk.
        let run = text.lines().find(|line| line.trim_start().starts_with("0:")).unwrap();
        let is_number = |word: &&str| !word.is_empty();
        let words = run.split(|letter: char| !letter.is_ascii_digit()).filter(is_number);
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        (numbers[3], numbers[4] + 1 - numbers[3])
    }

    fn mount(&mut self) -> Result<(), String> {
        let device = self.device.insert(Device::on(&self.image())?);
        run(Command::new("mount")
            .arg(&device.name)
            .arg(self.folder.path().join("mounted")))
    }

    /// First block of the log in the image, and how many there are.
    fn log(&self) -> (u64, u64) {
        let numbers = |program: &str, options: &[&str]| -> Vec<u64> {
            let text = ask(Command::new(program).args(options).arg(self.image())).unwrap();
            let words = text.split_whitespace().filter_map(|word| word.parse().ok());
            words.collect()
        };
        if self.kind.name == "ext4" {
            let blocks = numbers("debugfs", &["-R", "blocks <8>"]);
            return (blocks[0], blocks.len() as u64);
        }
        let asked = ["-r", "-c", "sb 0", "-c", "p logstart logblocks agblklog agblocks"];
        let [start, blocks, shift, group_blocks] = numbers("xfs_db", &asked).try_into().unwrap();
        let (group, within) = (start >> shift, start & ((1 << shift) - 1));
        (group * group_blocks + within, blocks)
    }

    /// It can be written again everywhere, and has recovered by what its log holds.
    fn mend(&mut self) {
        until("the file system to be unmounted", || self.unmount().ok());
        fs::remove_file(self.at("memory/filling")).unwrap();
        self.mount().unwrap();
    }

    fn unmount(&mut self) -> Result<(), String> {
        run(Command::new("umount").arg(self.at("mounted")))?;
        self.device = None;
        Ok(())
    }
}

impl Drop for DyingDisk {
    fn drop(&mut self) {
        for name in ["mounted", "memory"] {
            let _ = run(Command::new("umount").arg("-l").arg(self.at(name)));
        }
    }
}

#[test]
fn what_is_acknowledged_on_a_disk_whose_log_fails_meanwhile_is_there_afterwards() {
    let name = "what_is_acknowledged_on_a_disk_whose_log_fails_meanwhile_is_there_afterwards";
    alone(name, || {
        let nginx = Nginx::start();
        let put = |number: usize| nginx.put_seeded(&number.to_string(), 1_000 + number);
        let contents: Vec<Vec<u8>> = (0..FILES).map(put).collect();
        for kind in KINDS {
            let (mut completed, mut others) = (0, 0);
            for sound_blocks in kind.sound_blocks {
                let mut disk = match DyingDisk::make(kind, &Broken::LogAfter(sound_blocks)) {
                    Ok(disk) => disk,
                    Err(why) => return left_out(&format!("no {} can be mounted from memory here: {why}", kind.name)),
                };
                for shown in fetch_and_mend(&mut disk, &nginx) {
                    if shown["status"] != "Completed" {
                        others += 1;
                        continue;
                    }
                    completed += 1;
                    let path = PathBuf::from(shown["destination"].as_str().unwrap());
                    let number: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                    assert_same(&path, &contents[number]);
                }
            }
            let kind = kind.name;
            figure(&format!(
                "{kind} whose log fails: {completed} files acknowledged and there, {others} not acknowledged"
            ));
            assert!(completed > 0 && others > 0, "the log failed too early or too late");
        }
    });
}

#[test]
fn a_name_that_was_lost_with_the_failed_sync_of_somebody_else_is_not_said_to_be_durable() {
    let name = "a_name_that_was_lost_with_the_failed_sync_of_somebody_else_is_not_said_to_be_durable";
    alone(name, || {
        for kind in KINDS {
            for (how, sync) in SYNCS {
                let disk = match DyingDisk::make(kind, &Broken::LogAfter(kind.sound_blocks[0])) {
                    Ok(disk) => disk,
                    Err(why) => return left_out(&format!("no {} can be mounted from memory here: {why}", kind.name)),
                };
                let directory = disk.files();
                // As /tmp is, where everybody may make files and only the owner may change the directory itself.
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o1777)).unwrap();
                let draft = directory.join("draft");
                let renamed = (0..FILES).find(|number| {
                    fs::write(&draft, "whole").unwrap();
                    fs::File::open(&draft).unwrap().sync_all().unwrap();
                    fs::rename(&draft, directory.join(number.to_string())).unwrap();
                    let other = fs::File::create(directory.join("neighbour"));
                    other.and_then(|file| file.sync_all()).is_err()
                });
                assert!(renamed.is_some(), "the log holds too much");
                assert!(sync(&directory).is_err(), "{}: {how}", kind.name);
            }
        }
    });
}

#[test]
fn what_cannot_be_written_of_somebody_elses_file_on_xfs_fails_no_sync_of_ours() {
    let name = "what_cannot_be_written_of_somebody_elses_file_on_xfs_fails_no_sync_of_ours";
    alone(name, || sync_beside_a_failure(KINDS[0]));
}

#[test]
fn what_cannot_be_written_of_somebody_elses_file_on_ext4_fails_no_sync_of_ours() {
    let name = "what_cannot_be_written_of_somebody_elses_file_on_ext4_fails_no_sync_of_ours";
    alone(name, || sync_beside_a_failure(KINDS[1]));
}

/// Once in a process: it syncs no whole file system again once that has failed.
fn sync_beside_a_failure(kind: Kind) {
    let disk = match DyingDisk::make(kind, &Broken::Neighbour) {
        Ok(disk) => disk,
        Err(why) => return left_out(&format!("no {} can be mounted from memory here: {why}", kind.name)),
    };
    let directory = disk.files();
    let files: Vec<_> = (0..3)
        .map(|number| {
            let file = Disk.create(&directory.join(number.to_string()), 0o600).unwrap();
            file.write_at(b"whole", 0).unwrap();
            file
        })
        .collect();
    // Where much waits to be written, each file is synced by itself. Other tests have file systems of their own.
    run(Command::new("sync").arg("-f").arg(disk.folder.path())).unwrap();
    let neighbour = fs::File::options().write(true).open(disk.neighbour()).unwrap();
    neighbour.write_all_at(&vec![2; NEIGHBOUR_BYTES], 0).unwrap();
    assert!(neighbour.sync_all().is_err(), "{}: all could be written", kind.name);
    let files: Vec<_> = files.iter().map(AsRef::as_ref).collect();
    let synced = Disk.sync_many(&files, &[&directory]);
    assert!(synced.files.iter().all(Result::is_ok), "{:?}", synced.files);
    assert!(synced.directories.iter().all(Result::is_ok), "{:?}", synced.directories);
}

type SyncDirectory = fn(&Path) -> io::Result<()>;

/// Each way in which the names in a directory are made durable.
const SYNCS: [(&str, SyncDirectory); 4] = [
    ("alone", |directory| Disk.sync_directory(directory)),
    ("together", |directory| {
        Disk.sync_many(&[], &[directory]).directories.remove(0)
    }),
    ("as somebody else", sync_as_nobody),
    ("to go on", sync_and_go_on),
];

/// Whoever goes on is told by what comes next, if not before.
fn sync_and_go_on(directory: &Path) -> io::Result<()> {
    Disk.sync_directory_to_go_on(directory)?;
    let file = Disk.create(&directory.join("next"), 0o600)?;
    file.write_at(b"whole", 0)?;
    file.sync_all()
}

/// By somebody who owns no part of it.
fn sync_as_nobody(directory: &Path) -> io::Result<()> {
    // By a path that asks for nothing of the directories above.
    std::env::set_current_dir(directory).unwrap();
    let synced = std::thread::spawn(|| {
        let nobody = rustix::thread::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        Disk.sync_directory(Path::new("."))
    });
    let synced = synced.join().unwrap();
    std::env::set_current_dir("/").unwrap();
    synced
}

/// Somebody else who syncs on the same disk whenever some more files have their names, as long as that goes well: it may be
/// told of a failure that the system then tells nobody else.
fn neighbour(folder: PathBuf) -> JoinHandle<()> {
    let is_named = |entry: &fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
    std::thread::spawn(move || {
        let mut seen = 0;
        let begun = Instant::now();
        while begun.elapsed() < WORK_MAX {
            let Ok(there) = fs::read_dir(&folder) else { return };
            let count = there.flatten().filter(is_named).count();
            if count < seen + NEIGHBOUR_STEP {
                std::thread::yield_now();
                continue;
            }
            seen = count;
            let file = fs::File::create(folder.join("neighbour"));
            if file.and_then(|file| file.sync_all()).is_err() {
                return;
            }
        }
    })
}

/// Fetches all of it until the disk is dead, and gives what is said of them then.
fn fetch_and_mend(disk: &mut DyingDisk, nginx: &Nginx) -> Vec<serde_json::Value> {
    let home = Home::new();
    let url = |number: usize| nginx.url(&format!("/{number}\n"));
    fs::write(home.path().join("list"), (0..FILES).map(url).collect::<String>()).unwrap();
    let output = format!("{}/", disk.files().display());
    let arguments = ["get", "--quiet", "-i", "list", "-o", &output, "--jobs", "16"];
    let begun = Instant::now();
    let neighbour = neighbour(disk.files());
    let mut getting = Running::spawn(&mut home.command(&arguments));
    until("its end, or the time for it", || {
        (getting.has_ended() || begun.elapsed() >= WORK_MAX).then_some(())
    });
    getting.kill();
    neighbour.join().unwrap();
    let listed = home.listing();
    disk.mend();
    listed
}
