//! The journal beside SQLite and beside the bare disk, as ratios within one run.
//!
//! Every round measures each in turn, and a ratio is taken within its round, so that a disk or a machine that changes its
//! pace meets all of them alike. Shown are the median of the rounds, the least and the greatest.

mod commits;
mod replaying;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, process};

use backhaul_journal::{Disk, FileSystem, Storage};

const USAGE: &str = "\
cargo bench -p backhaul-journal -- [--dir DIR] [--rounds N] [--seconds S] [--check]

  --dir DIR      where to write; a directory on a real disk (default: beside the built program)
  --rounds N     rounds of each comparison (default 9)
  --seconds S    seconds of each measurement (default 1)
  --check        exit 1 if a figure that must be reached is missed";

/// What was asked for.
struct Settings {
    directory: PathBuf,
    rounds: usize,
    time: Duration,
    check: bool,
}

/// Figures of all rounds, by name, in the order in which they are shown.
#[derive(Default)]
struct Figures(Vec<Figure>);

struct Figure {
    name: String,
    unit: &'static str,
    target: Option<Target>,
    rounds: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(complaint) => {
            eprintln!("{complaint}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let scratch = Scratch::new(&settings.directory);
    let file_system = Disk.file_system(&scratch.0).expect("the directory has a file system");
    if matches!(file_system, FileSystem::Tmpfs | FileSystem::Network) {
        eprintln!("{} is not on a disk; name one with --dir", settings.directory.display());
        return ExitCode::from(2);
    }
    println!(
        "{file_system:?}, SQLite {}, {} rounds",
        rusqlite::version(),
        settings.rounds
    );
    let mut figures = Figures::default();
    let logs = replaying::Logs::build(&scratch.0);
    for round in 0..settings.rounds {
        commits::round(&scratch.0, round, settings.time, &mut figures);
        replaying::round(&logs, &mut figures);
        eprintln!("round {} of {} done", round + 1, settings.rounds);
    }
    let missed = figures.print();
    if settings.check && missed > 0 {
        eprintln!("{missed} figures miss their target");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn settings() -> Result<Option<Settings>, String> {
    let mut settings = Settings {
        directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        rounds: 9,
        time: Duration::from_secs(1),
        check: false,
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} takes a value"));
        match argument.as_str() {
            "--dir" => settings.directory = value()?.into(),
            "--rounds" => {
                let rounds = value()?.parse().ok().filter(|rounds| (1..=10_000).contains(rounds));
                settings.rounds = rounds.ok_or("--rounds takes a number from 1 to 10,000")?;
            }
            "--seconds" => {
                let seconds = value()?.parse().ok().filter(|seconds| (0.05..=600.0).contains(seconds));
                settings.time = Duration::from_secs_f64(seconds.ok_or("--seconds takes a number from 0.05 to 600")?);
            }
            "--check" => settings.check = true,
            "-h" | "--help" => return Ok(None),
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    if !settings.directory.is_dir() {
        return Err(format!("{} is not a directory", settings.directory.display()));
    }
    Ok(Some(settings))
}

/// A directory that is gone when the run ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: &Path) -> Scratch {
        let path = directory.join(format!("backhaul-bench-{}", process::id()));
        fs::create_dir(&path).expect("the directory can be written");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn storage() -> Arc<dyn Storage> {
    Arc::new(Disk)
}

impl Figures {
    fn add(&mut self, name: &str, unit: &'static str, target: Option<Target>, value: f64) {
        match self.0.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.rounds.push(value),
            None => self.0.push(Figure {
                name: name.to_owned(),
                unit,
                target,
                rounds: vec![value],
            }),
        }
    }

    /// Shows all figures and counts those whose median misses the target.
    fn print(&mut self) -> usize {
        println!("\n{:<52} {:>8}  {:<25} target", "", "median", "least to greatest");
        let mut missed = 0;
        for figure in &mut self.0 {
            figure.rounds.sort_by(f64::total_cmp);
            let (least, greatest) = (figure.rounds[0], figure.rounds[figure.rounds.len() - 1]);
            let median = figure.rounds[figure.rounds.len() / 2];
            let target = match figure.target {
                None => String::new(),
                Some(target) => {
                    let (met, text) = match target {
                        Target::AtLeast(least) => (median >= least, format!("at least {least}")),
                        Target::AtMost(most) => (median <= most, format!("at most {most}")),
                    };
                    missed += usize::from(!met);
                    format!("{text}: {}", if met { "met" } else { "MISSED" })
                }
            };
            let range = format!("{} to {}", short(least), short(greatest));
            println!(
                "{:<52} {:>8}  {range:<25} {target}",
                format!("{}, {}", figure.name, figure.unit),
                short(median)
            );
        }
        missed
    }
}

/// Three digits or more.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}
