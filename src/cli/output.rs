//! Everything that is printed: the only place that does. A closed pipe ends the output, never the work.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use backhaul_journal::{Report, Salvaged, Tail, Verdict};
#[cfg(feature = "manual")]
use clap::CommandFactory as _;
use serde::Serialize;

use super::Failure;
#[cfg(feature = "manual")]
use super::args::Args;
use super::exit::Exit;
use crate::wire::moment;
use crate::{GroupView, OperationView, Reason, TransferId, TransferStatus};

/// Standard error is a terminal that bars can be drawn on.
pub(super) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

/// Standard output could not take what was printed; a reader that went away is no such failure.
static FAILED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// The first failure of standard output, if there was one.
pub(super) fn failure() -> Option<std::io::Error> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Standard output is a terminal that a screen can be drawn on.
pub(super) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal() && !is_dumb()
}

/// The terminal, if there is one, can only go on to the next line.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

fn print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
        Err(error) => {
            FAILED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
            false
        }
    }
}

/// Text with nothing in it that could end its line or steer a terminal: names of files may hold anything.
pub(super) fn harmless(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    text.chars().map(shown).collect()
}

/// One line on standard output; `false` where nobody reads any more.
pub(super) fn line(text: &str) -> bool {
    print(&(harmless(text) + "\n"))
}

pub(super) fn say(text: &str) {
    // In one call: standard error has no buffer.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// One line that names what is wrong.
pub(super) fn error(message: &str) {
    say(&format!("backhaul: {}", harmless(&message.replace(['\n', '\r'], " "))));
}

pub(super) fn note(message: &str) {
    say(&format!("backhaul: note: {}", harmless(message)));
}

/// What the argument parser says: help on standard output, an error as the failure that it is.
pub(super) fn usage(error: &clap::Error) -> Result<Exit, Failure> {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(&error.to_string());
            Ok(Exit::Success)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            say(&error.to_string());
            Ok(Exit::BadInput)
        }
        _ => {
            let text = error.to_string();
            let lines = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:"));
            let line = lines
                .filter(|line| !line.is_empty() && !line.starts_with("For more"))
                .collect::<Vec<_>>()
                .join(" ");
            Err(Failure::new(Exit::BadInput, line.trim_start_matches("error: ")))
        }
    }
}

const LOG_VARIABLE: &str = "BACKHAUL_LOG";

/// What the environment says is to be logged, if it does.
fn level_of_environment() -> Result<Option<log::LevelFilter>, Failure> {
    let Some(given) = std::env::var_os(LOG_VARIABLE).filter(|given| !given.is_empty()) else {
        return Ok(None);
    };
    let given = given.to_string_lossy();
    given.parse().map(Some).map_err(|_| {
        let problem = "is no level; write error, warn, info, debug, trace or off";
        crate::Error::invalid(LOG_VARIABLE, given.as_ref(), problem).into()
    })
}

/// Logs to standard error, with the time of day in UTC.
pub(super) fn start_log(verbose: u8) -> Result<(), Failure> {
    let given = level_of_environment();
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        2 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    let level = given.as_ref().ok().copied().flatten().unwrap_or(level);
    let mut builder = env_logger::Builder::new();
    // The level is set beside it, so that it can change.
    builder.filter_level(log::LevelFilter::Trace);
    builder.format(|out, record| {
        // Protocol libraries log whole requests, secrets included.
        if !record.target().starts_with("backhaul") {
            return Ok(());
        }
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        writeln!(out, "{now} {} {}", record.level(), harmless(&record.args().to_string()))
    });
    // Somebody who embeds the command has a logger already; theirs counts.
    if builder.try_init().is_ok() {
        log::set_max_level(level);
    }
    given.map(|_| ())
}

/// Says more or less from now on, unless the environment has said how much.
pub(super) fn set_log_level(level: crate::LogLevel) {
    if matches!(level_of_environment(), Ok(None))
        && let Ok(level) = level.name().parse()
    {
        log::set_max_level(level);
    }
}

pub(super) fn ids(ids: &[TransferId]) {
    print(&ids.iter().fold(String::new(), |text, id| text + &id.to_string() + "\n"));
}

#[cfg(feature = "manual")]
pub(super) fn completions(shell: clap_complete::Shell) -> Exit {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "backhaul", &mut bytes);
    print(&String::from_utf8_lossy(&bytes));
    Exit::Success
}

#[cfg(feature = "manual")]
pub(super) fn manual() -> Exit {
    let mut bytes = Vec::new();
    let command = Args::command();
    let man = clap_mangen::Man::new(command.clone());
    // Writing to memory cannot fail. A list of commands would point to pages of their own.
    let _ = man.render_title(&mut bytes);
    let _ = man.render_name_section(&mut bytes);
    let _ = man.render_synopsis_section(&mut bytes);
    let _ = man.render_description_section(&mut bytes);
    let _ = man.render_options_section(&mut bytes);
    for subcommand in command.get_subcommands() {
        manual_of(subcommand, "", &mut bytes);
    }
    // Tables, whose lines must stay as they are.
    for table in super::exit::HELP.split("\n\n") {
        let (heading, rows) = table.split_once(":\n").unwrap_or(("EXTRA", table));
        let rows = rows.replace('\\', "\\\\").replace('-', "\\-").replace('\'', "\\(aq");
        let _ = writeln!(bytes, ".SH \"{}\"\n.nf\n{rows}\n.fi", heading.to_uppercase());
    }
    let _ = man.render_version_section(&mut bytes);
    print(&String::from_utf8_lossy(&bytes));
    Exit::Success
}

/// The section of a command, and those of the commands below it.
#[cfg(feature = "manual")]
fn manual_of(command: &clap::Command, above: &str, bytes: &mut Vec<u8>) {
    let name = format!("{above}{}", command.get_name());
    let _ = writeln!(bytes, ".SH \"{}\"", name.to_uppercase());
    let man = clap_mangen::Man::new(command.clone());
    let _ = man.render_description_section(bytes);
    let _ = man.render_options_section(bytes);
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        manual_of(below, &format!("{name} "), bytes);
    }
}

/// `false` where nobody got it.
pub(super) fn json_list(views: &[OperationView]) -> bool {
    json(&views)
}

pub(super) fn json_object(view: &OperationView) {
    json(view);
}

/// One line of JSON; `false` where nobody got it.
pub(super) fn json_line(value: &impl Serialize) -> bool {
    match serde_json::to_string(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => unreachable!("strings and numbers always have a JSON form: {error}"),
    }
}

pub(super) fn json(value: &impl Serialize) -> bool {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => unreachable!("strings and numbers always have a JSON form: {error}"),
    }
}

/// What is said of an operation that a salvage has put in doubt.
const UNVERIFIED: &str = "after the journal was salvaged: what is on the disk is checked again before it is trusted";

/// A transfer group, on one line.
pub(super) fn group(group: &GroupView) {
    let behavior = format!("{:?}", group.behavior).to_lowercase();
    line(&format!(
        "{behavior:<10}  {:>6} live  {}",
        group.live_members, group.name
    ));
}

/// One line an operation, with a head.
pub(super) fn table(views: &[OperationView]) {
    if views.is_empty() {
        return;
    }
    let mut text = format!(
        "{:<32}  {:<19}  {:>21}  {:<21}  DESTINATION\n",
        "ID", "STATUS", "BYTES", "REASON"
    );
    for view in views {
        let status = view.status.to_string();
        let reason = view.reason.map(|reason| reason.to_string()).unwrap_or_default();
        let line = format!(
            "{}  {status:<19}  {:>21}  {reason:<21}  {}{}",
            view.id,
            amount(view),
            shown(view),
            if view.unverified { "  (unverified)" } else { "" }
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    print(&text);
}

/// The destination as it may be shown.
fn shown(view: &OperationView) -> String {
    harmless(&view.destination.to_string_lossy())
}

fn amount(view: &OperationView) -> String {
    match view.bytes_total {
        Some(total) => format!("{} / {}", binary(view.bytes_done), binary(total)),
        None => binary(view.bytes_done),
    }
}

/// Bytes in the largest unit that leaves at least one whole.
pub(super) fn binary(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

pub(super) fn details(view: &OperationView) {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<14} {}", harmless(&value));
    };
    row("id", view.id.to_string());
    row("status", view.status.to_string());
    if let Some(reason) = view.reason {
        row("reason", format!("{reason}: {}", meaning(reason)));
    }
    if let Some(next) = view.next_attempt_at_ms {
        row(
            if is_only_looked_at(view) {
                "next look"
            } else {
                "next attempt"
            },
            moment(next),
        );
    }
    row("url", view.url.clone());
    if !view.method.is_get() {
        row("method", view.method.to_string());
    }
    for mirror in view.sources.iter().skip(1) {
        row("mirror", mirror.clone());
    }
    if let Some(actual) = &view.actual_url {
        row("answered by", actual.clone());
    }
    for digest in &view.digests {
        row("digest", digest.clone());
    }
    row("destination", shown(view));
    row("bytes", amount(view));
    row("app", view.app.clone());
    if let Some(group) = &view.group {
        row("group", group.clone());
    }
    row("priority", format!("{:?}", view.priority).to_lowercase());
    row("cost policy", view.cost_policy.to_string());
    if let Some(proxy) = &view.proxy {
        row("proxy", proxy.clone());
    }
    if let Some(expected) = &view.expected_type {
        row("type", expected.clone());
    }
    if !view.recoverable.is_empty() {
        let names: Vec<String> = view.recoverable.iter().map(ToString::to_string).collect();
        row("recoverable", names.join(", "));
    }
    row("attempts", view.attempts.to_string());
    row(
        "restarts",
        format!("{} ({} wasted)", view.restarts, binary(view.bytes_wasted)),
    );
    if let Some(error) = &view.error {
        row("error", format!("{}: {}", error.status, error.message));
    }
    if view.unverified {
        row("unverified", UNVERIFIED.into());
    }
    row("created", moment(view.created_at_ms));
    if let Some(ended) = view.ended_at_ms {
        row("ended", moment(ended));
    }
    print(&text);
}

fn meaning(reason: Reason) -> &'static str {
    Reason::all()
        .iter()
        .find(|(listed, _)| *listed == reason)
        .map_or("", |(_, meaning)| meaning)
}

/// What is done next is a look at what it waits for, which is no attempt yet.
fn is_only_looked_at(view: &OperationView) -> bool {
    matches!(
        view.status,
        TransferStatus::PausedNoNetwork | TransferStatus::PausedDiskFull
    )
}

/// One line that says why an operation does not move.
pub(super) fn explanation(view: &OperationView) {
    let mut text = format!("{}  {}", view.id, view.status);
    if let Some(reason) = view.reason {
        let _ = write!(text, ": {reason}: {}", meaning(reason));
    }
    if let Some(next) = view.next_attempt_at_ms {
        let what = if is_only_looked_at(view) {
            "looked at again"
        } else {
            "next attempt"
        };
        let _ = write!(text, "; {what} at {}", moment(next));
    }
    if view.sources.len() > 1 && !view.status.is_ended() {
        let _ = write!(text, "; source: {}", view.source);
    }
    if let Some(error) = &view.error {
        let _ = write!(text, "; last error: {}", error.message);
    }
    if view.unverified {
        let _ = write!(text, "; {UNVERIFIED}");
    }
    line(&text);
}

/// What a check of the journal found: one line a segment, then one for each damage, then the verdict.
pub(super) fn report(directory: &Path, report: &Report) {
    let mut text = String::new();
    for segment in &report.segments {
        let _ = writeln!(
            text,
            "{:016x}.seg: {} bytes, {} frames, records {} to {}, proven below {}",
            segment.seq, segment.len_bytes, segment.frames, segment.first.0, segment.next.0, segment.proven.0
        );
        for bad in &segment.bad {
            let _ = writeln!(
                text,
                "{:016x}.seg: damaged from byte {} to {}",
                segment.seq, bad.start, bad.end
            );
        }
    }
    for (lsn, reason) in &report.damaged_snapshots {
        let _ = writeln!(text, "snapshot {}: {reason}", lsn.0);
    }
    for name in &report.unknown {
        let _ = writeln!(
            text,
            "{}: not of a journal; left alone",
            name.to_string_lossy().escape_debug()
        );
    }
    if let Some(corruption) = &report.corruption {
        let place = corruption.path.display();
        let _ = writeln!(text, "{place}: byte {}: {}", corruption.offset_bytes, corruption.reason);
    }
    let verdict = match (report.verdict(), report.tail) {
        (Verdict::Clean, _) => "clean".into(),
        (
            Verdict::Torn,
            Tail::Torn {
                segment, offset_bytes, ..
            },
        ) => {
            format!(
                "torn tail in {segment:016x}.seg at byte {offset_bytes}, as a crash leaves it; the next start of an engine sees to it"
            )
        }
        (Verdict::Torn, Tail::Clean) => "torn tail".into(),
        (Verdict::Corrupt, _) => {
            "corrupt; 'run --salvage' goes on with what is intact, 'journal repair --to DIR' copies it".to_string()
        }
    };
    let _ = writeln!(text, "{}: {verdict}", directory.display());
    print(&text);
}

pub(super) fn salvaged(to: &Path, salvaged: &Salvaged) {
    let snapshot = if salvaged.snapshot_damaged {
        ", the snapshot damaged"
    } else {
        ""
    };
    print(&format!(
        "{}: {} records of the snapshot and {} of the log copied, {} missing, in it or before it{snapshot}; to use it, put it in the place of the journal\n",
        to.display(),
        salvaged.snapshot_records,
        salvaged.records,
        salvaged.missing
    ));
}

/// What an operation does, on one line.
pub(super) fn state_line(view: &OperationView) -> String {
    let status = view.status.to_string();
    let reason = view.reason.map(|reason| reason.to_string()).unwrap_or_default();
    let line = format!(
        "{}  {status:<19}  {:>21}  {reason:<21}  {}",
        view.id,
        amount(view),
        shown(view)
    );
    line.trim_end().to_owned()
}

/// Draws a whole screen anew: `lines` stay above it. `false` where nobody reads any more.
pub(super) fn screen(lines: &[String], views: &[&OperationView], more: usize) -> bool {
    // Home, then each line cleared to its end, then what is below (ECMA-48, section 8.3).
    let mut text = String::from("\x1b[H");
    for line in lines {
        let _ = writeln!(text, "{}\x1b[K", harmless(line));
    }
    for view in views {
        let _ = writeln!(text, "{}\x1b[K", state_line(view));
    }
    if more > 0 {
        let _ = writeln!(text, "and {more} more\x1b[K");
    }
    text.push_str("\x1b[J");
    print(&text)
}

/// How an operation ended, on one line.
pub(super) fn end_line(view: &OperationView) -> String {
    let line = match (view.status, &view.error) {
        (TransferStatus::Completed, _) => format!("completed {} ({})", shown(view), binary(view.bytes_done)),
        (TransferStatus::Error, Some(error)) => {
            format!(
                "failed {} ({}): {}: {}",
                shown(view),
                view.url,
                error.status,
                error.message
            )
        }
        (status, _) => format!("{} {}", status.to_string().to_lowercase(), shown(view)),
    };
    harmless(&line)
}

pub(super) fn end(view: &OperationView) {
    say(&end_line(view));
}

/// What is kept of a download that was interrupted, and how to go on: `hint`, unless it has to be mended first.
pub(super) fn kept(view: &OperationView, hint: &str) {
    let hint = match (view.status, &view.error) {
        (TransferStatus::PausedRecoverableWebErrorStatus, Some(error)) => {
            let id = view.id;
            let problem = &error.message;
            format!(
                "{problem}; mend it with: backhaul set {id} --url URL (or --secret-header), then backhaul resume {id}"
            )
        }
        _ => format!("go on with: {hint}"),
    };
    let line = format!("{} is kept with {} ({}); {hint}", view.id, amount(view), view.status);
    say(&harmless(&line));
}
