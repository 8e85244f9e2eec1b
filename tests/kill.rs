//! `kill -9` at random moments and at every deciding system call, again and again until the work is done: nothing
//! accepted is lost, nothing is spliced, at most one window is fetched again for each kill, and nothing partial is left
//! behind.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use backhaul_backends::TAIL_BYTES_MAX;
use support::crashes::Crashes;
use support::nginx::Nginx;
use support::strace::{Scene, Tampered, Work};
use support::{Home, Running, STEP_MAX, Seeded, assert_same, figure, names_in, number_from, until};

/// Kills at random moments while one engine transfers and another accepts; `BACKHAUL_KILLS` asks for more.
const KILLS: u64 = 100;
/// Commands that are killed at the n-th system call at the same time.
const WORKERS: usize = 2;

/// The most that one crash may cost, in bytes.
const WINDOW_BYTES: u64 = 16 << 20;

/// Bytes in the part files and finished files of a folder.
fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    // A file may be renamed or removed between the listing and the look.
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// A moment to kill at: so many more bytes on the disk, or so long after the start, whichever the dice say.
enum Moment {
    AfterBytes(u64),
    After(Duration),
}

impl Moment {
    fn random(dice: &mut Seeded, bytes_max: u64) -> Self {
        // A third of the kills hit opening, recovery and claiming, which are over in milliseconds.
        if dice.below(3) == 0 {
            Self::After(Duration::from_micros(dice.below(60_000)))
        } else {
            Self::AfterBytes(dice.below(bytes_max))
        }
    }

    /// Waits for the moment; `false` if the process ended before.
    fn wait(&self, running: &mut Running, folder: &Path) -> bool {
        let (started, before) = (Instant::now(), bytes_in(folder));
        until("the moment to kill", || {
            if running.has_ended() {
                return Some(false);
            }
            let come = match self {
                // The part file may be cut or begun anew; growth is counted from its lowest point.
                Self::AfterBytes(bytes) => bytes_in(folder) >= before.saturating_add(*bytes),
                Self::After(delay) => started.elapsed() >= *delay,
            };
            // Where growth does not come that far, for example because the rest is shorter, time decides.
            (come || started.elapsed() > Duration::from_secs(5)).then_some(true)
        })
    }
}

/// Runs the engine and kills it at a random moment; `false` once it ended by itself, which must be with exit code 0.
fn run_and_kill(home: &Home, dice: &mut Seeded, bytes_max: u64) -> bool {
    let mut running = home.spawn(&["run", "--until-idle"]);
    if Moment::random(dice, bytes_max).wait(&mut running, &home.downloads()) {
        running.kill();
        return true;
    }
    running.finish().expect_code(0);
    false
}

#[test]
fn a_download_killed_at_random_moments_ends_complete_and_refetches_a_window_at_most() {
    let (mut dice, seed) = Seeded::from_environment();
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("big.bin", 160 << 20);
    let home = Home::new();
    home.add(&nginx.url("/rate/40000k/big.bin"), &home.download("big.bin"), &[]);
    let mut kills = 0_u32;
    while kills < 12 && run_and_kill(&home, &mut dice, 28 << 20) {
        kills += 1;
        let shown = home.operation();
        assert_eq!(
            shown["error"],
            serde_json::Value::Null,
            "seed {seed}, after kill {kills}: {shown}"
        );
        if home.download("big.bin").exists() {
            // Published just before the kill; whole even then.
            assert_same(&home.download("big.bin"), &bytes);
        }
    }
    home.run(&["run", "--until-idle"]).expect_code(0);
    assert_same(&home.download("big.bin"), &bytes);
    assert_eq!(
        names_in(&home.downloads()),
        ["big.bin"],
        "seed {seed}: partial data is left behind"
    );
    let served = nginx.bytes_served("big.bin");
    let refetched = served.saturating_sub(bytes.len() as u64);
    figure(&format!(
        "160 MiB at 40 MB/s, {kills} kills (seed {seed}): {:.1} MiB fetched again, {:.1} MiB a kill, at most 16",
        to_mib(refetched),
        to_mib(refetched) / f64::from(kills.max(1)),
    ));
    assert!(
        refetched <= u64::from(kills) * WINDOW_BYTES,
        "seed {seed}: {refetched} bytes again after {kills} kills"
    );
    check_completed(&home.operation(), bytes.len() as u64, seed);
    home.run(&["journal", "verify"]).expect_code(0);
}

fn to_mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes >> 10).unwrap()) / 1024.0
}

fn check_completed(shown: &serde_json::Value, bytes: u64, seed: u64) {
    assert_eq!(shown["status"], "Completed", "seed {seed}: {shown}");
    assert_eq!(shown["bytes_done"], bytes, "seed {seed}: {shown}");
    assert_eq!(shown["bytes_total"], bytes, "seed {seed}: {shown}");
    assert_eq!(shown["restarts"], 0, "seed {seed}: {shown}");
    assert!(
        shown["ended_at"].is_string() || shown["ended_at"].is_number(),
        "seed {seed}: {shown}"
    );
    assert_eq!(
        (&shown["error"], &shown["reason"]),
        (&serde_json::Value::Null, &serde_json::Value::Null),
        "{shown}"
    );
}

#[test]
fn a_slow_download_is_claimed_by_time_and_nothing_claimed_is_fetched_again_after_a_kill() {
    let nginx = Nginx::start();
    // Less than what makes a claim due by itself, at a rate that takes longer than the time after which one is.
    let rate_bytes = 400 * 1024;
    let bytes = nginx.put_seeded("slow.bin", 12 * rate_bytes);
    let home = Home::new();
    home.add(&nginx.url("/rate/400k/slow.bin"), &home.download("slow.bin"), &[]);
    let mut running = home.spawn(&["run", "--until-idle", "--connections", "1"]);
    // While it runs, the bytes done are those received, and the ranges those claimed.
    let claimed = || home.operation()["ranges"][0][1].as_u64().unwrap_or_default();
    until("a claim", || (claimed() > 0 || running.has_ended()).then_some(()));
    running.kill();
    let claimed = claimed();
    assert!(
        (1..bytes.len() as u64).contains(&claimed),
        "{claimed} of {} bytes were claimed in the middle",
        bytes.len()
    );
    home.run(&["run", "--until-idle", "--connections", "1"]).expect_code(0);
    assert_same(&home.download("slow.bin"), &bytes);
    let served = nginx.served();
    let rest = served.iter().find(|served| served.status == 206);
    let range = rest.map(|served| served.range.as_str()).unwrap_or_default();
    let first = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
    let first: u64 = first.and_then(|first| first.parse().ok()).unwrap_or_default();
    // The end of what is held is asked for once more, and compared.
    assert!(
        first + TAIL_BYTES_MAX as u64 >= claimed,
        "with {claimed} bytes claimed, '{range}' was asked for"
    );
    figure(&format!(
        "400 KiB/s, 1 kill: {} KiB claimed before it, asked for from {} KiB on after it",
        claimed / 1024,
        first / 1024
    ));
}

#[test]
fn many_tiny_files_killed_at_random_moments_are_each_published_whole_or_not_at_all() {
    let (mut dice, seed) = Seeded::from_environment();
    let nginx = Nginx::start();
    let files: BTreeMap<String, Vec<u8>> = (0..1500)
        .map(|number| {
            let name = format!("tiny-{number:04}.bin");
            // Empty files and files of some kilobytes are among them.
            let bytes = nginx.put_seeded(&name, number * 7 % 3000);
            (name, bytes)
        })
        .collect();
    let home = Home::new();
    let list: String = files.keys().map(|name| nginx.url(&format!("/{name}\n"))).collect();
    fs::write(home.path().join("list"), list).unwrap();
    let folder = format!("{}/", home.downloads().display());
    let ids = home.run(&["add", "-i", "list", "-o", &folder]).expect_code(0).stdout;
    assert_eq!(ids.lines().count(), files.len());
    let mut kills = 0;
    while kills < 15 && run_and_kill(&home, &mut dice, 400_000) {
        kills += 1;
        check_published(&home, &files, seed);
    }
    home.run(&["run", "--until-idle"]).expect_code(0);
    check_published(&home, &files, seed);
    assert!(
        names_in(&home.downloads()).iter().eq(files.keys()),
        "seed {seed}: not exactly the files of the list"
    );
    let shown = home.listing();
    assert_eq!(shown.len(), files.len(), "seed {seed}");
    assert!(
        shown.iter().all(|operation| operation["status"] == "Completed"),
        "seed {seed}"
    );
    let again = nginx
        .served()
        .iter()
        .filter(|served| served.status == 200)
        .count()
        .saturating_sub(files.len());
    figure(&format!(
        "1500 tiny files, {kills} kills (seed {seed}): {again} files fetched again"
    ));
    home.run(&["journal", "verify"]).expect_code(0);
}

fn check_published(home: &Home, files: &BTreeMap<String, Vec<u8>>, seed: u64) {
    for name in names_in(&home.downloads()) {
        if let Some(bytes) = files.get(&name) {
            assert_eq!(&fs::read(home.download(&name)).unwrap(), bytes, "seed {seed}: {name}");
        } else {
            assert!(
                name.starts_with('.') && name.contains(".part"),
                "seed {seed}: unknown file {name}"
            );
        }
    }
}

#[test]
fn every_printed_id_survives_the_kill_of_the_command_that_printed_it() {
    let (mut dice, seed) = Seeded::from_environment();
    let home = Home::new();
    let lines: Vec<String> = (0..3000)
        .map(|number| format!("http://127.0.0.1:9/{number}\n"))
        .collect();
    let list = lines.concat();
    fs::write(home.path().join("list"), list).unwrap();
    let folder = format!("{}/", home.downloads().display());
    let printed = home.path().join("printed");
    let enough = dice.below(3000) * 33;
    let mut command = home.command(&["add", "--hold", "-i", "list", "-o", &folder]);
    let mut child = command.stdout(fs::File::create(&printed).unwrap()).spawn().unwrap();
    until("some ids", || {
        let ended = child.try_wait().unwrap().is_some();
        (ended || fs::metadata(&printed).unwrap().len() >= enough).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let text = fs::read_to_string(&printed).unwrap();
    let listed: Vec<String> = home
        .listing()
        .iter()
        .map(|shown| shown["id"].as_str().unwrap().to_owned())
        .collect();
    // The kill may cut the last line.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    for id in whole.map(str::trim_end) {
        assert!(
            listed.iter().any(|listed| listed == id),
            "seed {seed}: {id} was printed and is lost"
        );
    }
}

#[test]
fn get_killed_and_called_again_goes_on_with_the_same_operation() {
    let nginx = Nginx::start();
    let bytes = nginx.put_seeded("again.bin", 48 << 20);
    let home = Home::new();
    let url = nginx.url("/rate/20000k/again.bin");
    let destination = home.download("again.bin");
    let arguments = ["get", url.as_str(), "-o", destination.to_str().unwrap()];
    let mut running = home.spawn(&arguments);
    until("half of the file", || {
        (bytes_in(&home.downloads()) > 24 << 20 || running.has_ended()).then_some(())
    });
    running.kill();
    let id = home.operation()["id"].clone();
    Running::spawn(&mut home.command(&arguments))
        .finish_within(STEP_MAX)
        .expect_code(0);
    assert_same(&destination, &bytes);
    assert_eq!(home.operation()["id"], id);
    let served = nginx.served();
    let resumed = served
        .iter()
        .find(|served| served.status == 206)
        .unwrap_or_else(|| panic!("{served:?}"));
    assert!(
        resumed.range.starts_with("bytes=") && resumed.if_range.starts_with('"'),
        "{resumed:?}"
    );
}

#[test]
fn kills_at_random_moments_lose_nothing_that_was_acknowledged() {
    let kills_max = number_from("BACKHAUL_KILLS").unwrap_or(KILLS);
    let mut crashes = Crashes::by_kill();
    crashes.lose_nothing(kills_max);
    let counts = &crashes.counts;
    figure(&format!(
        "{kills_max} kills of an engine, and of the 'add' beside it (seed {}): {} operations and {} ends acknowledged \
         before, none lost; {} KiB of big files fetched again a kill, at most 16384",
        crashes.seed,
        counts.accepted,
        counts.ends,
        (counts.fetched_again >> 10) / kills_max.max(1),
    ));
}

/// Kills a command just before each call of each kind that makes something durable, visible or gone; it makes calls of all
/// kinds but `unused`.
fn killed_at_every_call(work: Work, unused: &[&str]) -> u32 {
    let scene = Scene::new();
    let case = |tampered: &Tampered, place: &str| {
        scene.check(tampered, work, place);
        assert_eq!(tampered.home.ids_with("Error"), Vec::<String>::new(), "{place}");
        scene.finish(tampered, place);
    };
    let kills = scene.at_every_call(WORKERS, work, |count| format!("signal=KILL:when={count}"), case);
    let without = kills.iter().filter(|(_, kills)| *kills == 0);
    let without: Vec<&str> = without.map(|(calls, _)| *calls).collect();
    assert_eq!(without, unused, "the calls that matter have other names now: {kills:?}");
    kills.iter().map(|(_, kills)| kills).sum()
}

#[test]
fn run_killed_at_any_write_sync_rename_or_removal_is_recovered_from() {
    let kills = killed_at_every_call(Work::Run, &[]);
    // 39 to 43, as it falls to one thread or another to make them.
    assert!(
        kills >= 36,
        "only {kills} kills: the calls that matter have other names now"
    );
    figure(&format!(
        "kills of 'run' at the n-th deciding system call: {kills}, all recovered from"
    ));
}

#[test]
fn get_killed_at_any_write_sync_rename_or_removal_is_recovered_from() {
    let kills = killed_at_every_call(Work::Get, &[]);
    // As above.
    assert!(
        kills >= 36,
        "only {kills} kills: the calls that matter have other names now"
    );
    figure(&format!(
        "kills of 'get' at the n-th deciding system call: {kills}, all recovered from"
    ));
}

#[test]
fn add_killed_at_any_write_sync_rename_or_removal_accepts_the_whole_list_or_nothing() {
    let kills = killed_at_every_call(Work::Add, &["?io_submit,?syncfs", "?unlink,?unlinkat"]);
    assert!(
        kills >= 10,
        "only {kills} kills: the calls that matter have other names now"
    );
    figure(&format!(
        "kills of 'add' at the n-th deciding system call: {kills}, all recovered from"
    ));
}
