//! The rules of the house that no compiler checks: which part may name which, how long a function may be, who may print.

#![expect(
    clippy::unwrap_used,
    reason = "a file of this repository that cannot be read fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

mod rust;

use rust::{blanked, functions, has_word, is_word, paths_named, without_test_modules};

const FUNCTION_LINES_MAX: usize = 70;
/// Tests may be longer: a table of cases is data, and rustfmt gives each value a line of its own.
const TEST_LINES_MAX: usize = 200;
const FILE_LINES_MAX: usize = 600;
/// A file that is tests as a whole.
const TEST_FILE_LINES_MAX: usize = 1000;

/// Modules of `src/` from the edge to the core: one may name those of its own row and of the rows below it.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["daemon"],
    &["download", "upload", "group"],
    &["service"],
    &["engine"],
    &[
        "worker",
        "table",
        "groups",
        "queue",
        "scheduler",
        "retry",
        "mirrors",
        "rows",
        "history",
        "listing",
        "budget",
    ],
    &["operation"],
    &["sorted", "shelf"],
];

/// They decide and do nothing else: time, bytes and randomness come in as arguments.
const PURE: &[&str] = &[
    "src/operation.rs",
    "src/operation/",
    "src/scheduler.rs",
    "src/queue.rs",
    "src/retry.rs",
    "src/mirrors.rs",
    "src/table.rs",
    "src/table/",
    "src/groups.rs",
    "src/rows.rs",
    "src/shelf.rs",
    "src/budget.rs",
    "src/listing.rs",
    "src/sorted.rs",
    "src/history.rs",
];
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::time::Instant",
    "SystemTime::now",
    "Instant::now",
    "log::",
    "std::io::stdout",
    "std::io::stderr",
];

/// One source file: as it is, and with comments, texts and test modules blanked, line for line.
struct Source {
    path: String,
    code: String,
    // The code without `#[cfg(test)]` modules; empty for files that are tests as a whole.
    product: String,
}

// ---- the rules ----

#[test]
fn journal_and_backends_know_neither_each_other_nor_the_product() {
    let mut wrong = String::new();
    for (folder, strangers) in [
        ("journal/", ["backhaul", "backhaul_backends"]),
        ("backends/", ["backhaul", "backhaul_journal"]),
    ] {
        for source in sources().iter().filter(|source| source.path.starts_with(folder)) {
            for path in paths_named(&source.code) {
                let first = path.split("::").next().unwrap();
                if strangers.contains(&first) {
                    writeln!(wrong, "{} names {path}", source.path).unwrap();
                }
            }
        }
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        for line in manifest.lines() {
            let name = line.split(['=', '.', ' ']).next().unwrap().replace('-', "_");
            if strangers.contains(&name.as_str()) {
                writeln!(wrong, "{folder}Cargo.toml: {line}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn arrows_between_the_modules_of_src_point_one_way() {
    let arrows = arrows_in_src();
    let layer = |module: &str| LAYERS.iter().position(|row| row.contains(&module));
    let mut wrong = String::new();
    for ((from, to), place) in &arrows {
        if let (Some(above), Some(below)) = (layer(from), layer(to))
            && above > below
        {
            writeln!(wrong, "{place}: {from} names {to}, which lies above it").unwrap();
        }
    }
    if let Some(circle) = circle_in(&arrows) {
        writeln!(
            wrong,
            "modules that name each other in a circle: {}",
            circle.join(" -> ")
        )
        .unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn deciding_code_touches_no_file_socket_thread_clock_or_log() {
    let mut wrong = String::new();
    for source in sources()
        .iter()
        .filter(|source| PURE.iter().any(|pure| source.path.starts_with(pure)))
    {
        for path in paths_named(&source.product) {
            let bare = format!("{path}::");
            if IMPURE
                .iter()
                .any(|impure| bare.contains(&format!("{}::", impure.trim_end_matches("::"))))
            {
                writeln!(wrong, "{} names {path}", source.path).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn only_the_commands_output_prints() {
    let printers = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let wrong = product_lines(|path, line| path != "src/cli/output.rs" && printers.iter().any(|p| has_word(line, p)));
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let wrong = product_lines(|_, line| line.contains(".unwrap()") || line.contains(".unwrap_err()"));
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn unsafe_code_is_in_one_module_of_a_package() {
    let wrong = product_lines(|path, line| {
        !path.ends_with("src/sys.rs")
            && !path.contains("src/sys/")
            && has_word(&line.replace("unsafe_code", ""), "unsafe")
    });
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_thread_has_a_stack_of_its_own_size() {
    // The conformance suite is for tests. The backends know nothing of this package; theirs is the one thread.
    let exempt = ["src/threads.rs", "backends/src/net.rs"];
    let wrong = product_lines(|path, line| {
        let is_exempt = exempt.contains(&path) || path.starts_with("backends/src/conformance/");
        !is_exempt
            && ["thread::spawn", "thread::Builder", "Builder::new().name"]
                .iter()
                .any(|way| line.contains(way))
    });
    assert!(wrong.is_empty(), "{wrong}");
    let net = read(&root().join("backends/src/net.rs"));
    assert!(net.contains("thread::Builder") && net.contains(".stack_size("));
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let wrong = product_lines(|_, line| {
        let allows = line.contains("#[allow(") || line.contains("#![allow(");
        allows || (line.contains("[expect(") && line.contains(")]") && !line.contains("reason"))
    });
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn functions_and_files_stay_short_enough_to_read() {
    let mut wrong = String::new();
    for source in sources() {
        let product_lines = source.product.lines().count();
        for (name, line, lines) in functions(&source.code) {
            let lines_max = if line <= product_lines {
                FUNCTION_LINES_MAX
            } else {
                TEST_LINES_MAX
            };
            if lines > lines_max {
                writeln!(
                    wrong,
                    "{}:{line}: fn {name} has {lines} lines, at most {lines_max}",
                    source.path
                )
                .unwrap();
            }
        }
        let (counted, lines_max) = match source.product.as_str() {
            "" => (&source.code, TEST_FILE_LINES_MAX),
            _ => (&source.product, FILE_LINES_MAX),
        };
        let lines = counted.trim_end().lines().count();
        if lines > lines_max {
            writeln!(
                wrong,
                "{}: {lines} lines, at most {lines_max} besides test modules",
                source.path
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_architecture_names_only_what_exists() {
    let code: String = sources().iter().map(|source| source.code.as_str()).collect();
    let words: BTreeSet<&str> = code.split(|letter: char| !is_word(letter)).collect();
    let files = files_below(&root());
    let mut wrong = String::new();
    for page in ["ARCHITECTURE.md", "docs/CRASHES.md"] {
        for name in names_in_backticks(&read(&root().join(page))) {
            let known = if name.contains('/') || [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) {
                let wanted = name.trim_end_matches('/');
                files
                    .iter()
                    .any(|file| file == wanted || file.ends_with(&format!("/{wanted}")))
            } else {
                name.trim_end_matches("()")
                    .split("::")
                    .all(|word| words.contains(word.replace('-', "_").as_str()))
            };
            if !known {
                writeln!(wrong, "{page} names `{name}`, which is not there").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

// ---- reading the tree ----

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files and folders below `folder`, relative to it, without what is built or hidden.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name == "target" || name == ".git" {
                continue;
            }
            found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let files = files_below(&root()).into_iter();
    files
        .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let code = blanked(&read(&root().join(&path)));
            let in_product = ["src/", "journal/src/", "backends/src/"]
                .iter()
                .any(|folder| path.starts_with(folder));
            let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
            let product = if in_product && !is_test {
                without_test_modules(&code)
            } else {
                String::new()
            };
            Source { path, code, product }
        })
        .collect()
}

/// Lines of the product that break a rule, with their places.
fn product_lines(breaks: impl Fn(&str, &str) -> bool) -> String {
    let mut wrong = String::new();
    for source in sources() {
        for (number, line) in source.product.lines().enumerate() {
            if breaks(&source.path, line) {
                writeln!(wrong, "{}:{}: {}", source.path, number + 1, line.trim()).unwrap();
            }
        }
    }
    wrong
}

fn names_in_backticks(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    let names = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
    names
        .filter(|name| {
            !name.starts_with('-') && name.chars().all(|letter| is_word(letter) || "-:./()".contains(letter))
        })
        .collect()
}

// ---- arrows between the modules of src/ ----

/// Who names whom, with one place for each pair. Names that `lib.rs` hands on count for the module they come from.
fn arrows_in_src() -> BTreeMap<(String, String), String> {
    let sources = sources();
    let in_src = || sources.iter().filter(|source| source.path.starts_with("src/"));
    let modules: BTreeSet<String> = in_src().map(|source| module_of(&source.path)).collect();
    let mut home_of = BTreeMap::new();
    for source in in_src().filter(|source| source.path == "src/lib.rs") {
        for path in paths_named(&source.product) {
            let mut words = path.trim_start_matches("crate::").split("::");
            if let (Some(module), Some(name)) = (words.next(), words.last()) {
                home_of.insert(name.to_owned(), module.to_owned());
            }
        }
    }
    let mut arrows = BTreeMap::new();
    for source in in_src().filter(|source| source.path != "src/lib.rs") {
        let from = module_of(&source.path);
        for path in paths_named(&source.product) {
            let Some(name) = path.strip_prefix("crate::").or(path.strip_prefix("backhaul::")) else {
                continue;
            };
            let first = name.split("::").next().unwrap().to_owned();
            let to = if modules.contains(&first) {
                Some(first)
            } else {
                home_of.get(&first).cloned()
            };
            if let Some(to) = to.filter(|to| *to != from) {
                arrows
                    .entry((from.clone(), to))
                    .or_insert_with(|| format!("{} ({path})", source.path));
            }
        }
    }
    arrows
}

fn module_of(path: &str) -> String {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap().trim_end_matches(".rs").to_owned()
}

/// A circle among the arrows, if there is one: modules without a way out are taken away until none is left.
fn circle_in(arrows: &BTreeMap<(String, String), String>) -> Option<Vec<String>> {
    let mut left: BTreeSet<&(String, String)> = arrows.keys().collect();
    loop {
        let with_exit: BTreeSet<&String> = left.iter().map(|(from, _)| from).collect();
        let before = left.len();
        left.retain(|(_, to)| with_exit.contains(to));
        if left.len() == before {
            break;
        }
    }
    let mut circle = vec![left.first()?.0.clone()];
    loop {
        let last = circle.last()?.clone();
        let next = left.iter().find(|(from, _)| *from == last)?.1.clone();
        if let Some(first) = circle.iter().position(|module| *module == next) {
            circle.drain(..first);
            circle.push(next);
            return Some(circle);
        }
        circle.push(next);
    }
}

#[test]
fn a_circle_of_modules_is_found_and_a_line_is_not() {
    let arrows = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(from, to)| (((*from).to_owned(), (*to).to_owned()), String::new()))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(circle_in(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert!(circle_in(&arrows(&[("a", "b"), ("b", "c"), ("c", "b")])).is_some());
}
