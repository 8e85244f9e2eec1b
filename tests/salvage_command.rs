//! `run --salvage` as its user sees it: what it says, what it keeps, and that everything arrives.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::nginx::Nginx;
use support::{Home, assert_same, names_in, until};

/// Length of the files.
const LEN: usize = 3 << 20;
/// Numbers of the lives of the binary that ran transfers, each with a segment of its own.
const FIRST_RUN: usize = 1;
const SECOND_RUN: usize = 4;

/// One download that is done, one half done, one half done and paused, one queued.
struct World {
    nginx: Nginx,
    home: Home,
    files: BTreeMap<&'static str, Vec<u8>>,
    ids: BTreeMap<&'static str, String>,
}

impl World {
    fn new() -> Self {
        let (nginx, home) = (Nginx::start(), Home::new());
        let mut world = Self {
            nginx,
            home,
            files: BTreeMap::new(),
            ids: BTreeMap::new(),
        };
        world.add("done", "");
        world.home.run(&["run", "--until-idle"]).expect_code(0);
        world.add("half", "/rate/2000k");
        world.add("paused", "/rate/2000k");
        let running = world.home.spawn(&["run"]);
        until("some bytes of both", || {
            let shown = world.home.listing();
            let has_some = |name: &str| {
                let mut of_it = shown.iter().filter(|shown| shown["id"] == world.ids[name]);
                of_it.any(|shown| shown["bytes_done"].as_u64() > Some(0) || world.received(name) > 500_000)
            };
            (has_some("half") && has_some("paused")).then_some(())
        });
        running.signal(Signal::TERM);
        running.finish().expect_code(0);
        world.home.run(&["pause", &world.ids["paused"]]).expect_code(0);
        world.add("queued", "");
        world
    }

    fn add(&mut self, name: &'static str, prefix: &str) {
        let bytes = self.nginx.put_seeded(name, LEN);
        let url = self.nginx.url(&format!("{prefix}/{name}"));
        let id = self.home.add(&url, &self.home.download(name), &[]);
        self.files.insert(name, bytes);
        self.ids.insert(name, id);
    }

    /// Bytes in the part file of a download.
    fn received(&self, name: &str) -> u64 {
        let names = names_in(&self.home.downloads()).into_iter();
        let parts = names.filter(|part| part.starts_with(&format!(".{name}.")));
        // It may be renamed between the listing and the look.
        let sizes = parts.map(|part| fs::metadata(self.home.download(&part)).map_or(0, |metadata| metadata.len()));
        sizes.sum()
    }

    fn segment(&self, life: usize) -> PathBuf {
        let journal = self.home.state().join("journal");
        let mut segments = names_in(&journal).into_iter().filter(|name| is_segment(name));
        journal.join(segments.nth(life).unwrap())
    }
}

fn is_segment(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "seg")
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = names_in(directory).into_iter();
    names
        .map(|name| (name.clone(), fs::read(directory.join(name)).unwrap()))
        .collect()
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[usize::midpoint(64, end)] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn zero_a_sector(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[..512].fill(0);
    fs::write(path, bytes).unwrap();
}

fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// Damages one life, runs with `--salvage`, and expects everything to arrive. Gives the bytes served of the half-done
/// download.
fn salvage_after(life: usize, damage: fn(&Path)) -> u64 {
    let world = World::new();
    let home = &world.home;
    let (journal, kept) = (home.state().join("journal"), home.state().join("journal.corrupt-1"));
    damage(&world.segment(life));
    let evidence = contents(&journal);
    let refused = home.run(&["run", "--until-idle"]).expect_code(5).stderr;
    assert!(
        refused.contains("backhaul run --salvage") && refused.contains("backhaul journal repair --to DIR"),
        "does not say what to do: {refused}"
    );
    assert!(contents(&journal) == evidence, "a refused journal was changed");

    let ended = home.run(&["run", "--until-idle", "--salvage"]).expect_code(0);
    for words in [
        "damaged",
        "salvaged",
        "are lost",
        "checked again",
        kept.to_str().unwrap(),
    ] {
        assert!(ended.stderr.contains(words), "does not say '{words}': {}", ended.stderr);
    }
    assert!(contents(&kept) == evidence, "the evidence was changed");

    // Nobody has looked at the paused one yet, and whoever asks is told.
    let paused = &world.ids["paused"];
    let shown = home.run(&["show", "--json", paused]).expect_code(0).json();
    assert_eq!(shown["unverified"], true, "{shown}");
    for arguments in [&["explain"][..], &["explain", paused], &["show", paused]] {
        let said = home.run(arguments).expect_code(0).stdout;
        assert!(
            said.contains("after the journal was salvaged: what is on the disk is checked again before it is trusted"),
            "{arguments:?}: {said}"
        );
    }
    let listed = home.run(&["list"]).expect_code(0);
    assert!(listed.stdout.contains("(unverified)") && listed.stderr.contains(kept.to_str().unwrap()));

    home.run(&["resume", paused]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    for (name, bytes) in &world.files {
        assert_same(&home.download(name), bytes);
        let shown = home.run(&["show", "--json", &world.ids[name]]).expect_code(0).json();
        assert_eq!(
            (&shown["status"], &shown["unverified"]),
            (&"Completed".into(), &false.into()),
            "{shown}"
        );
    }
    assert_eq!(
        names_in(&home.downloads()),
        ["done", "half", "paused", "queued"],
        "parts are left"
    );
    home.run(&["journal", "verify"]).expect_code(0);
    fs::remove_dir_all(&kept).unwrap();
    assert_eq!(
        home.run(&["list"]).expect_code(0).stderr,
        "",
        "the note ends with the evidence"
    );
    world.nginx.bytes_served("half")
}

#[test]
fn a_flipped_byte_is_salvaged_and_everything_arrives() {
    salvage_after(FIRST_RUN, flip_a_byte);
    salvage_after(SECOND_RUN, flip_a_byte);
}

#[test]
fn a_zeroed_sector_is_salvaged_and_everything_arrives() {
    salvage_after(FIRST_RUN, zero_a_sector);
    salvage_after(SECOND_RUN, zero_a_sector);
}

#[test]
fn a_deleted_segment_is_salvaged_and_only_what_lost_its_claims_is_fetched_again() {
    let served = salvage_after(FIRST_RUN, delete);
    // Whole buffers were under way when the first run was stopped.
    assert!(served < LEN as u64 + (1 << 20), "{served} bytes served of {LEN}");
    salvage_after(SECOND_RUN, delete);
}

#[test]
fn a_sound_journal_is_not_salvaged_and_the_manual_tells_of_it() {
    let home = Home::new();
    home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let ended = home.run(&["run", "--until-idle", "--salvage"]).expect_code(0);
    assert_eq!(ended.stderr, "");
    assert!(names_in(&home.state()).iter().all(|name| !name.starts_with("journal.")));
    for arguments in [&["run", "--help"][..], &["man"]] {
        let said = home.run(arguments).expect_code(0).stdout.replace("\\-", "-");
        assert!(
            said.contains("--salvage") && said.contains("journal.corrupt-N"),
            "{said}"
        );
    }
}

#[test]
fn a_repaired_copy_in_the_place_of_the_journal_goes_on_from_the_claims() {
    let world = World::new();
    let (home, journal) = (&world.home, world.home.state().join("journal"));
    delete(&world.segment(FIRST_RUN));
    let copy = home.path().join("copy");
    home.run(&["journal", "repair", "--to", copy.to_str().unwrap()])
        .expect_code(0);
    fs::rename(&journal, home.path().join("aside")).unwrap();
    fs::rename(&copy, &journal).unwrap();
    home.run(&["resume", &world.ids["paused"]]).expect_code(0);
    home.run(&["run", "--until-idle"]).expect_code(0);
    for (name, bytes) in &world.files {
        assert_same(&home.download(name), bytes);
    }
    assert_eq!(names_in(&home.downloads()).len(), 4, "parts are left");
    assert!(world.nginx.bytes_served("half") < LEN as u64 + (1 << 20));
}

#[test]
fn a_crash_between_the_two_renames_is_made_good_by_the_next_command() {
    let home = Home::new();
    let id = home.add("http://127.0.0.1:9/a", &home.download("a"), &["--hold"]);
    let (journal, copy) = (home.state().join("journal"), home.state().join("journal.salvage"));
    fs::rename(&journal, &copy).unwrap();
    assert_eq!(home.operation()["id"], id.as_str());
    home.run(&["journal", "verify"]).expect_code(0);
    home.run(&["start", &id]).expect_code(0);
    assert_eq!(
        (home.operation()["id"].as_str(), copy.exists()),
        (Some(id.as_str()), false)
    );
    assert!(journal.exists());
}
