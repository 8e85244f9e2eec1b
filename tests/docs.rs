//! Pages that name what is in the code are true: a name that is gone, or one that is missing, fails here.

#![expect(clippy::unwrap_used, reason = "a page that cannot be read has failed the test")]

use std::collections::BTreeSet;
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
        assert_eq!(
            page, expected,
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

#[test]
fn every_command_and_option_that_the_pages_name_exists() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_backhaul"))
            .args(arguments)
            .arg("--help")
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let all = help(&[]);
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands: Vec<String> = commands
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let mut options = all;
    for command in commands.iter().filter(|command| *command != "help") {
        options += &help(&[command]);
        for sub in ["list", "create", "verify", "forget"] {
            options += &help(&[command, sub]);
        }
    }
    let mut missing = String::new();
    for page in [
        "README.md",
        "docs/STATES.md",
        "docs/INTERFACE.md",
        "packaging/README.md",
    ] {
        let text = read(page);
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split([' ', '`', '\'', '|', ';', '(', ')']).peekable();
            while let Some(word) = words.next() {
                let is_command = |word: &str| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
                if word == "backhaul"
                    && line.trim_start().starts_with("backhaul ")
                    && let Some(next) = words.peek()
                    && !next.is_empty()
                    && is_command(next)
                    && !next.starts_with("--")
                    && !commands.iter().any(|command| command == next)
                {
                    writeln!(missing, "{page}:{}: 'backhaul {next}' is no command", number + 1).unwrap();
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing}");
    assert!(options.contains("--json"), "the help of the commands was read");
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
