//! Crashes at random moments while one engine transfers and another accepts, and what must be there after each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempDir};

use super::loop_disk::{LoopDisk, cover_boot_id};
use super::nginx::Nginx;
use super::strace::until_begun;
use super::{Home, Running, Seeded, names_in, until};

/// Crashes before everything is brought to its end, checked, and begun anew in an empty place.
const EPOCH_CRASHES: u64 = 20;
/// The longest time until a crash.
const CRASH_AFTER_MS_MAX: u64 = 300;
/// The most that one crash may cost, in bytes.
const WINDOW_BYTES: u64 = 16 << 20;
const BIG: &str = "big.bin";
const BIG_BYTES: usize = 32 << 20;
/// Number of small resources, of 0 to 40 KB.
const SMALL: usize = 64;

/// Something that was acknowledged before a crash and is not there, or not right, after it.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) kind: &'static str,
    #[expect(dead_code, reason = "printed where a test fails")]
    what: String,
}

fn loss(kind: &'static str, what: impl Into<String>) -> Loss {
    let what = what.into();
    Loss { kind, what }
}

/// Where everything lies, and what a crash is there.
enum Place {
    /// The processes are killed; the kernel keeps what they wrote.
    Memory(TempDir),
    /// The power fails; the next boot has another identity, from a file that covers the kernel's.
    Disk {
        disk: LoopDisk,
        kind: &'static str,
        boot: NamedTempFile,
    },
}

/// One state directory with its destinations.
struct Side {
    home: Home,
    files: PathBuf,
    /// Ids that `add` printed, with the names of their files.
    acknowledged: BTreeMap<String, String>,
    /// Ids that were reported as completed.
    completed: BTreeSet<String>,
    /// All names that were asked for, acknowledged or not, with their contents.
    asked: BTreeMap<String, usize>,
}

/// What was counted over all crashes.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) crashes: u64,
    /// Operations whose acceptance was read before a crash.
    pub(crate) accepted: usize,
    /// Ends that were read before a crash.
    pub(crate) ends: usize,
    /// Requests that went on with the claimed bytes of a big file.
    pub(crate) continued: usize,
    /// Bytes of big files that were fetched more than once.
    pub(crate) fetched_again: u64,
}

/// A place, a server, and two engines that take turns: one transfers while the other accepts.
pub(crate) struct Crashes {
    place: Place,
    /// What starts the command, for example strace; they take turns.
    starters: Vec<Vec<String>>,
    epochs: usize,
    nginx: Nginx,
    /// By number; the big one comes last.
    contents: Vec<Vec<u8>>,
    dice: Seeded,
    pub(crate) seed: u64,
    sides: [Side; 2],
    /// Names that were handed out.
    names: u64,
    pub(crate) counts: Counts,
}

impl Crashes {
    /// Crashes by SIGKILL.
    pub(crate) fn by_kill() -> Self {
        Self::new(
            Place::Memory(TempDir::with_prefix("backhaul-kill-").unwrap()),
            vec![Vec::new()],
        )
    }

    /// Crashes by cutting the power of a file system, in a mount namespace of our own; or why there is none here.
    pub(crate) fn by_power_cut(kind: &'static str, starters: Vec<Vec<String>>) -> Result<Self, String> {
        let disk = LoopDisk::make(kind)?;
        let boot = NamedTempFile::new().unwrap();
        cover_boot_id(boot.path())?;
        Ok(Self::new(Place::Disk { disk, kind, boot }, starters))
    }

    fn new(place: Place, starters: Vec<Vec<String>>) -> Self {
        let nginx = Nginx::start();
        let small = |number: usize| nginx.put_seeded(&format!("small-{number}.bin"), number * number * 10);
        let mut contents: Vec<_> = (0..SMALL).map(small).collect();
        contents.push(nginx.put_seeded(BIG, BIG_BYTES));
        let (dice, seed) = Seeded::from_environment();
        let mut crashes = Self {
            sides: place.sides(),
            place,
            starters,
            epochs: 0,
            nginx,
            contents,
            dice,
            seed,
            names: 0,
            counts: Counts::default(),
        };
        crashes.begin();
        crashes
    }

    /// Crashes so often, and everything must be right each time and in the end.
    pub(crate) fn lose_nothing(&mut self, crashes_max: u64) {
        while self.counts.crashes < crashes_max {
            let losses = self.crash();
            assert!(losses.is_empty(), "{}: {losses:#?}", self.moment());
            let is_last = self.counts.crashes == crashes_max;
            if is_last || self.counts.crashes.is_multiple_of(EPOCH_CRASHES) {
                self.finish();
                if !is_last {
                    self.begin();
                }
            }
        }
    }

    /// How to see a failure again.
    pub(crate) fn moment(&self) -> String {
        let (crashes, seed) = (self.counts.crashes, self.seed);
        let command = match self.place {
            Place::Memory(_) => {
                format!("BACKHAUL_KILLS={crashes} BACKHAUL_TEST_SEED={seed} tests/run -- --test kill random_moments")
            }
            // They are shared out to two kinds of file system.
            Place::Disk { .. } => format!("tests/powercut --cycles {} --seed {seed}", 2 * crashes),
        };
        format!("{}, crash {crashes}, seed {seed}; again: {command}", self.place.name())
    }

    /// Begins anew in an empty place, with a big file to fetch for each side.
    pub(crate) fn begin(&mut self) {
        self.epochs += 1;
        self.place.empty(&mut self.dice);
        self.sides = self.place.sides();
        self.place.sync();
        for side in 0..2 {
            let wanted = self.wanted(1, SMALL);
            let ended = self.add(side, &wanted).finish();
            self.accepted(side, &wanted, &ended.expect_code(0).stdout);
        }
    }

    /// So many fresh names with contents, the first of them with this one.
    fn wanted(&mut self, count: u64, first: usize) -> Vec<(String, usize)> {
        let mut content = first;
        let mut wanted = Vec::new();
        for _ in 0..count {
            self.names += 1;
            wanted.push((format!("{:06}.bin", self.names), content));
            content = usize::try_from(self.dice.below(SMALL as u64)).unwrap();
        }
        wanted
    }

    fn add(&mut self, side: usize, wanted: &[(String, usize)]) -> Running {
        let list = wanted.iter().fold(String::new(), |list, (name, content)| {
            let resource = resource(*content);
            list + &self.nginx.url(&format!("{resource}?{name}")) + " " + name + "\n"
        });
        let starter = &self.starters[self.epochs % self.starters.len()];
        let side = &mut self.sides[side];
        side.asked.extend(wanted.iter().cloned());
        let folder = format!("{}/", side.files.display());
        let mut command = side.home.command_under(starter, &["add", "-i", "-", "-o", &folder]);
        Running::spawn_with_input(&mut command, list.as_bytes())
    }

    /// Ids that were printed stand for accepted operations. A crash may have cut the last line.
    fn accepted(&mut self, side: usize, wanted: &[(String, usize)], printed: &str) {
        let lines = printed.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let names = wanted.iter().map(|(name, _)| name.clone());
        for (id, name) in lines.map(|line| line.trim_end().to_owned()).zip(names) {
            self.sides[side].acknowledged.insert(id, name);
            self.counts.accepted += 1;
        }
    }

    /// Looks which operations have completed.
    fn look(&mut self, side: usize) {
        let moment = self.moment();
        let side = &mut self.sides[side];
        let listed = side
            .list()
            .unwrap_or_else(|| panic!("{moment}: list failed before the crash"));
        let completed = listed.into_iter().filter(|(_, status)| status == "Completed");
        for (id, _) in completed {
            self.counts.ends += usize::from(side.completed.insert(id));
        }
    }

    /// Works until a crash at a random moment, and says what was lost by it.
    pub(crate) fn crash(&mut self) -> Vec<Loss> {
        let transferring = usize::from(self.counts.crashes % 2 == 1);
        let accepting = 1 - transferring;
        let crash_after = Duration::from_micros(self.dice.below(CRASH_AFTER_MS_MAX * 1000));
        let starter = &self.starters[self.epochs % self.starters.len()];
        let side = &self.sides[transferring];
        let mut engine = Running::spawn(&mut side.home.command_under(starter, &["run"]));
        let begun = Instant::now();
        let is_over = || begun.elapsed() >= crash_after;
        loop {
            if self.dice.below(3) == 0 {
                self.look(transferring);
            }
            let count = if self.dice.below(2) == 0 {
                1
            } else {
                self.dice.below(60) + 1
            };
            let first = usize::try_from(self.dice.below(SMALL as u64)).unwrap();
            let wanted = self.wanted(count, first);
            let mut add = self.add(accepting, &wanted);
            let has_ended = until("the end of add, or the moment of the crash", || {
                add.has_ended().then_some(true).or(is_over().then_some(false))
            });
            if has_ended {
                self.accepted(accepting, &wanted, &add.finish().expect_code(0).stdout);
                if !is_over() {
                    continue;
                }
                self.place.crash();
            } else {
                self.place.crash();
                until_begun(&add);
                add.kill();
                if let Place::Memory(_) = self.place {
                    self.accepted(accepting, &wanted, &add.finish().stdout);
                }
                // What a cut takes with it while we did not read it does not count: a sync that races with a cut may
                // return although its bytes are lost.
            }
            break;
        }
        until_begun(&engine);
        engine.kill();
        self.counts.crashes += 1;
        self.place.recover(&mut self.dice);
        self.sides.iter().flat_map(|side| side.losses(&self.contents)).collect()
    }

    /// Brings everything to its end and checks it.
    fn finish(&mut self) {
        let moment = self.moment();
        for side in &self.sides {
            let ended = side.home.run(&["run", "--until-idle"]);
            assert_eq!(ended.code(), Some(0), "{moment}: {}", ended.stderr);
            let losses = side.losses(&self.contents);
            assert!(losses.is_empty(), "{moment}: {losses:#?}");
            for shown in side.home.listing() {
                // The resources never change, so whoever begins again has lost what was claimed.
                assert_eq!(shown["restarts"], 0, "{moment}: {shown}");
            }
            let listed = side.list().unwrap();
            let open: Vec<_> = listed.iter().filter(|(_, status)| *status != "Completed").collect();
            assert!(open.is_empty(), "{moment}: {open:?}");
            // Nothing is left behind: there are as many files as operations, and each has a name that was asked for.
            let names = names_in(&side.files);
            assert_eq!(names.len(), listed.len(), "{moment}: files and operations differ");
            assert!(
                names.iter().all(|name| side.asked.contains_key(name)),
                "{moment}: {names:?}"
            );
            side.home.run(&["journal", "verify"]).expect_code(0);
        }
        self.count_fetched();
    }

    /// A crash may cost one window of the one big file that was under way.
    fn count_fetched(&mut self) {
        let served = self.nginx.served();
        let (mut bytes, mut files) = (0, BTreeSet::new());
        self.counts.continued = 0;
        for served in served.iter().filter(|served| served.path.contains(BIG)) {
            bytes += served.body_bytes;
            files.insert(&served.path);
            self.counts.continued += usize::from(served.status == 206);
        }
        self.counts.fetched_again = bytes.saturating_sub(files.len() as u64 * BIG_BYTES as u64);
        assert!(
            self.counts.fetched_again <= self.counts.crashes * WINDOW_BYTES,
            "{}: {} bytes fetched again",
            self.moment(),
            self.counts.fetched_again
        );
    }
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Self::Memory(_) => "kill -9",
            Self::Disk { kind, .. } => kind,
        }
    }

    fn sides(&self) -> [Side; 2] {
        let folder = match self {
            Self::Memory(folder) => folder.path().to_owned(),
            Self::Disk { disk, .. } => disk.path(),
        };
        ["left", "right"].map(|name| Side::new(&folder.join(name)))
    }

    fn empty(&mut self, dice: &mut Seeded) {
        match self {
            Self::Memory(folder) => *folder = TempDir::with_prefix("backhaul-kill-").unwrap(),
            Self::Disk { disk, kind, .. } => *disk = LoopDisk::make(kind).unwrap(),
        }
        self.next_boot(dice);
    }

    /// Makes the folders themselves durable.
    fn sync(&self) {
        if let Self::Disk { disk, .. } = self {
            disk.sync();
        }
    }

    fn crash(&self) {
        if let Self::Disk { disk, .. } = self {
            disk.cut();
        }
    }

    /// No process of the time before the crash is left.
    fn recover(&self, dice: &mut Seeded) {
        if let Self::Disk { disk, .. } = self {
            disk.power_on();
        }
        self.next_boot(dice);
    }

    fn next_boot(&self, dice: &mut Seeded) {
        if let Self::Disk { boot, .. } = self {
            let id = format!("{:016x}{:016x}\n", dice.number(), dice.number());
            // In place, for it is the file that covers the kernel's, not its name.
            fs::write(boot.path(), id).unwrap();
        }
    }
}

impl Side {
    fn new(folder: &Path) -> Self {
        let files = folder.join("files");
        fs::create_dir_all(&files).unwrap();
        Self {
            home: Home::with_state(folder.join("state")),
            files,
            acknowledged: BTreeMap::new(),
            completed: BTreeSet::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Ids and statuses as `list` shows them; `None` where it refuses.
    fn list(&self) -> Option<BTreeMap<String, String>> {
        let ended = self.home.run(&["list", "--json", "--all-apps"]);
        if ended.code() != Some(0) {
            return None;
        }
        let text = |shown: &serde_json::Value, name: &str| shown[name].as_str().unwrap().to_owned();
        let shown = ended.json();
        let rows = shown.as_array().unwrap().iter();
        Some(rows.map(|shown| (text(shown, "id"), text(shown, "status"))).collect())
    }

    /// What is not there, or not right, after a crash.
    fn losses(&self, contents: &[Vec<u8>]) -> Vec<Loss> {
        let mut losses = Vec::new();
        let verified = self.home.run(&["journal", "verify"]);
        if !matches!(verified.code(), Some(0 | 1)) {
            losses.push(loss("the journal is damaged", verified.stdout + &verified.stderr));
        }
        let Some(listed) = self.list() else {
            losses.push(loss("the journal is refused", ""));
            return losses;
        };
        for (id, name) in &self.acknowledged {
            match listed.get(id).map(String::as_str) {
                None => losses.push(loss("an operation is gone", format!("{id} {name}"))),
                Some("Error" | "Canceled") => losses.push(loss("an operation failed", format!("{id} {name}"))),
                Some("Completed") => losses.extend(self.wrong(name, contents)),
                Some(_) if self.completed.contains(id) => losses.extend(self.wrong(name, contents)),
                Some(_) => {}
            }
        }
        // What is under a final name is whole at any time, whatever anybody was told.
        for name in names_in(&self.files) {
            if self.asked.contains_key(&name) {
                losses.extend(self.wrong(&name, contents));
            } else if !is_part(&name) {
                losses.push(loss("an unknown file", name));
            }
        }
        losses
    }

    fn wrong(&self, name: &str, contents: &[Vec<u8>]) -> Option<Loss> {
        match fs::read(self.files.join(name)) {
            Ok(bytes) if bytes == contents[self.asked[name]] => None,
            Ok(bytes) => Some(loss("a file is wrong", format!("{name}: {} bytes", bytes.len()))),
            Err(error) => Some(loss("a complete file is gone", format!("{name}: {error}"))),
        }
    }
}

fn is_part(name: &str) -> bool {
    name.starts_with('.') && Path::new(name).extension().is_some_and(|extension| extension == "part")
}

fn resource(content: usize) -> String {
    if content == SMALL {
        format!("/rate/80000k/{BIG}")
    } else {
        format!("/small-{content}.bin")
    }
}
