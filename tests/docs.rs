//! Pages that name what is in the code are true: a name that is gone, or one that is missing, fails here.

#![expect(clippy::unwrap_used, reason = "a page that cannot be read has failed the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backhaul::{Reason, TransferStatus};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Holds a part of a page, from its mark to the next heading, against what the code says; `BACKHAUL_WRITE=1` writes it.
fn holds_table(path: &str, mark: &str, rows: &str) {
    let page = read(path);
    let begin = page.find(mark).unwrap_or_else(|| panic!("{path} has no {mark}")) + mark.len() + 1;
    let end = page[begin..].find("\n## ").map_or(page.len(), |at| begin + at);
    let expected = format!("{}{rows}{}", &page[..begin], &page[end..]);
    if std::env::var_os("BACKHAUL_WRITE").is_some() {
        fs::write(root().join(path), &expected).unwrap();
    } else {
        assert!(
            page == expected,
            "{path}: run this test with BACKHAUL_WRITE=1 and look at the change"
        );
    }
}

#[test]
fn every_status_and_every_reason_stands_in_the_page_of_states() {
    let mut statuses = String::new();
    for status in TransferStatus::all() {
        let ended = if status.is_ended() { "yes" } else { "" };
        writeln!(statuses, "| `{status}` | {} | {ended} |", status.meaning()).unwrap();
    }
    holds_table("docs/STATES.md", "<!-- statuses -->", &statuses);
    let mut reasons = String::new();
    for (reason, meaning) in Reason::all() {
        writeln!(reasons, "| `{reason}` | {meaning} |").unwrap();
    }
    holds_table("docs/STATES.md", "<!-- reasons -->", &reasons);
}

#[test]
fn the_diagram_of_states_knows_every_status_and_no_other() {
    let page = read("docs/STATES.md");
    let mut drawn = BTreeSet::new();
    for line in page.lines().filter(|line| line.contains(" --> ")) {
        let arrow = line.split(" : ").next().unwrap();
        drawn.extend(arrow.split("-->").map(|name| name.trim().to_owned()));
    }
    drawn.remove("[*]");
    let undrawn = ["PausedCostedNetwork", "PausedSystemPolicy"].map(str::to_owned);
    drawn.extend(undrawn);
    let known: BTreeSet<String> = TransferStatus::all().iter().map(ToString::to_string).collect();
    assert_eq!(drawn, known);
}

/// What the command says of itself, and of each command within it, by the words that lead there.
fn helps() -> BTreeMap<Vec<String>, String> {
    let mut helps = BTreeMap::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let output = Command::new(env!("CARGO_BIN_EXE_backhaul"))
            .args(&words)
            .arg("--help")
            .output();
        let help = String::from_utf8(output.unwrap().stdout).unwrap();
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let listed = listed.take_while(|line| !line.is_empty() && !line.starts_with("Options"));
        for line in listed.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
            let name = line.split_whitespace().next().unwrap();
            if name != "help" {
                open.push(words.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
        helps.insert(words, help);
    }
    helps
}

/// Command lines of `backhaul` in a page: lines of its shell blocks, and what stands between backticks.
fn command_lines(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_shell = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_shell = line == "```sh";
        } else if in_shell {
            let parts = line.split('#').next().unwrap().split([';', '&']);
            lines.extend(parts.map(|part| part.trim().to_owned()));
        } else {
            lines.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    lines.retain(|line| line.starts_with("backhaul "));
    lines
}

/// What of a command line does not exist.
fn unknown_in(line: &str, helps: &BTreeMap<Vec<String>, String>) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let below =
        |path: &[String], name: &str| -> Vec<String> { path.iter().cloned().chain([name.to_owned()]).collect() };
    for word in line.split_whitespace().skip(1) {
        if word.starts_with("--") {
            let option = word.split(['=', ',']).next().unwrap();
            let is_known = helps[&path].contains(option) || helps[&Vec::new()].contains(option);
            if !is_known {
                unknown.push(option.to_owned());
            }
        } else if helps[&path].contains("\nCommands:\n") && word.starts_with(|letter: char| letter.is_ascii_lowercase())
        {
            // Several commands may stand for one another: a|b.
            let names: Vec<&str> = word.split('|').collect();
            unknown.extend(
                names
                    .iter()
                    .filter(|name| !helps.contains_key(&below(&path, name)))
                    .map(ToString::to_string),
            );
            let next = below(&path, names[0]);
            path = if helps.contains_key(&next) { next } else { path };
        }
    }
    unknown
}

#[test]
fn every_command_and_option_that_the_pages_name_exists() {
    let helps = helps();
    assert!(helps.len() > 20, "{:?}", helps.keys());
    assert_eq!(unknown_in("backhaul get --odd", &helps), ["--odd"]);
    assert_eq!(unknown_in("backhaul journal odd|dump", &helps), ["odd"]);
    let mut missing = String::new();
    for page in [
        "README.md",
        "docs/STATES.md",
        "docs/INTERFACE.md",
        "docs/CONFIG.md",
        "docs/BACKENDS.md",
        "packaging/README.md",
    ] {
        for line in command_lines(&read(page)) {
            for name in unknown_in(&line, &helps) {
                writeln!(missing, "{page}: {line}: {name}").unwrap();
            }
        }
    }
    assert!(missing.is_empty(), "{missing}");
}

/// The members of the interface that begin with a keyword, each with the comment above it.
fn members(definition: &str, keyword: &str) -> String {
    let mut rows = String::new();
    let mut comment = String::new();
    for line in definition.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment = format!("{comment} {}", text.trim());
            continue;
        }
        if let Some(rest) = line.strip_prefix(keyword) {
            let name = rest
                .split(|letter: char| !letter.is_ascii_alphanumeric())
                .next()
                .unwrap();
            assert!(!comment.is_empty(), "{keyword}{name} says nothing of itself");
            writeln!(rows, "| `{name}` | {} |", comment.trim()).unwrap();
        }
        comment.clear();
    }
    rows
}

#[test]
fn the_page_of_the_interface_says_of_every_member_what_its_definition_says() {
    let definition = read("src/service/io.backhaul.Transfer.varlink");
    for (mark, keyword) in [
        ("<!-- methods -->", "method "),
        ("<!-- types -->", "type "),
        ("<!-- errors -->", "error "),
    ] {
        let rows = members(&definition, keyword);
        assert!(rows.lines().count() > 5, "{keyword}: {rows}");
        holds_table("docs/INTERFACE.md", mark, &rows);
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut dead = String::new();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/STATES.md",
        "docs/INTERFACE.md",
        "docs/CRASHES.md",
        "docs/BACKENDS.md",
        "packaging/README.md",
    ] {
        let text = read(page);
        let folder = Path::new(page).parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let is_local = !target.contains("://") && !file.is_empty();
            if is_local && !root().join(folder).join(file).exists() {
                writeln!(dead, "{page}: {target}").unwrap();
            }
        }
    }
    assert!(dead.is_empty(), "{dead}");
}
