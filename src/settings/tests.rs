//! What a configuration file may say, what every mistake in it is answered with, and the pages that document it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(Path::new("/etc/backhaul.toml"), text.as_bytes())
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn home(set: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<PathBuf> {
    move |name| {
        let found = set.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| PathBuf::from(value))
    }
}

// ---- values ----

#[test]
fn an_empty_file_sets_nothing() {
    assert_eq!(parse(""), Ok(Settings::default()));
    assert_eq!(parse("# jobs = 0\n\n"), Ok(Settings::default()));
}

#[test]
fn every_key_sets_its_own_field_and_no_other() {
    let other = [
        ("jobs", "256"),
        ("jobs-per-host", "1"),
        ("limit-rate", "1"),
        ("memory-limit", "'12M'"),
        ("flash-friendly", "true"),
        ("connections", "16"),
        ("retries", "0"),
        ("connect-timeout", "0.5"),
        ("response-timeout", "1"),
        ("stall-timeout", "31_536_000"),
        ("ftp-active", "true"),
        ("ca-bundle", "'/c a.pem'"),
        ("proxy", "'direct'"),
        ("no-proxy", "['*']"),
        ("roots", "[\"/a\", '/b']"),
        ("helper-path", "[\"/h\"]"),
        ("allow-network-fs", "true"),
        ("salvage", "false"),
        ("state-dir", "'/s'"),
        ("socket", "'/r'"),
        ("acknowledged-max", "0"),
        ("acknowledged-days", "3650"),
        ("unacknowledged-max", "1"),
        ("operations-max", "0xff"),
        ("operations-per-app-max", "3"),
        ("message-bytes-max", "4096"),
        ("connections-max", "1"),
        ("connections-per-peer-max", "65536"),
        ("monitors-max", "9"),
        ("exit-idle", "0.001"),
        ("log", "'trace'"),
    ];
    let names: Vec<&str> = Settings::keys().iter().map(|key| key.name).collect();
    assert_eq!(other.map(|(name, _)| name).to_vec(), names);
    for (name, value) in other {
        let set = parse(&format!("{name} = {value}")).expect(name);
        for key in Settings::keys() {
            let is_same = key.field.is_same(&set, &Settings::default());
            assert_eq!(is_same, key.name != name, "{name} and the field of {}", key.name);
        }
    }
    let all: String = other
        .iter()
        .fold(String::new(), |text, (name, value)| text + name + "=" + value + "\n");
    let all = parse(&all).expect("all keys in one file");
    assert_eq!(
        all,
        Settings {
            jobs: 256,
            jobs_per_host: Some(1),
            limit_rate: NonZeroU64::new(1),
            memory_limit: Some(12 << 20),
            flash_friendly: true,
            connections: Some(16),
            retries: 0,
            connect_timeout: Duration::from_millis(500),
            response_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(31_536_000),
            ftp_active: true,
            ca_bundle: Some("/c a.pem".into()),
            proxy: Some(ProxySetting::Direct),
            no_proxy: vec!["*".into()],
            roots: vec!["/a".into(), "/b".into()],
            helper_path: vec!["/h".into()],
            allow_network_fs: true,
            salvage: false,
            state_dir: Some("/s".into()),
            socket: Some("/r".into()),
            acknowledged_max: 0,
            acknowledged_days: 3650,
            unacknowledged_max: 1,
            operations_max: 255,
            operations_per_app_max: Some(3),
            message_bytes_max: 4096,
            connections_max: 1,
            connections_per_peer_max: 65_536,
            monitors_max: 9,
            exit_idle: Some(Duration::from_millis(1)),
            log: LogLevel::Trace,
        }
    );
}

#[test]
fn the_documented_defaults_are_those_that_hold_and_examples_are_right() {
    for key in Settings::keys() {
        let set = parse(&format!("{} = {}", key.name, key.example)).expect(key.name);
        let is_default = set == Settings::default();
        assert_eq!(is_default, key.default.is_some(), "{} = {}", key.name, key.example);
    }
}

#[test]
fn sizes_may_have_a_unit_and_never_wrap() {
    let bytes = |text: &str| parse(&format!("message-bytes-max = {text}")).map(|settings| settings.message_bytes_max);
    assert_eq!(bytes("'4k'"), Ok(4096));
    assert_eq!(bytes("\"16M\""), Ok(16 << 20));
    assert_eq!(bytes("16777216"), Ok(16 << 20));
    let rate = |text: &str| parse(&format!("limit-rate = {text}")).map(|settings| settings.limit_rate);
    assert_eq!(rate("'20M'"), Ok(NonZeroU64::new(20 << 20)));
    assert_eq!(rate("'1g'"), Ok(NonZeroU64::new(1 << 30)));
    assert_eq!(rate("'500'"), Ok(NonZeroU64::new(500)));
    for wrong in ["'18446744073709551615G'", "'18446744073709551616'", "0", "'0k'", "-1"] {
        let problem = rate(wrong).expect_err(wrong).problem;
        assert!(
            problem.contains("is out of range: bytes per second from 1 on"),
            "{problem}"
        );
    }
    for wrong in ["''", "'k'", "'-1'", "'1.5M'", "'12x'", "'+3'", "' 3'", "'€'"] {
        let problem = rate(wrong).expect_err(wrong).problem;
        assert!(problem.contains("is no size: bytes per second"), "{problem}");
    }
}

#[test]
fn every_bound_is_kept_to() {
    let cases = [
        ("jobs", "1", "256", "0", "257"),
        ("jobs-per-host", "1", "256", "0", "257"),
        ("connections", "1", "16", "0", "17"),
        ("retries", "0", "1000000", "-1", "1000001"),
        ("connect-timeout", "0.000001", "31536000.0", "0", "31536000.1"),
        ("response-timeout", "1e-3", "1", "-0.0", "1e300"),
        ("stall-timeout", "1", "2", "1e-300", "inf"),
        ("acknowledged-max", "0", "10000000", "-1", "10000001"),
        ("acknowledged-days", "0", "3650", "-9223372036854775808", "3651"),
        ("unacknowledged-max", "1", "10000000", "0", "10000001"),
        ("operations-max", "1", "10000000", "0", "99999999999999999999999999"),
        ("operations-per-app-max", "1", "10000000", "0", "0xffffffffffffffff"),
        ("message-bytes-max", "4096", "16777216", "4095", "16777217"),
        ("connections-max", "1", "65536", "0", "65537"),
        ("connections-per-peer-max", "1", "65536", "0", "65537"),
        ("monitors-max", "1", "65536", "0", "65537"),
        ("exit-idle", "1", "31536000", "0", "nan"),
    ];
    for (name, least, most, below, above) in cases {
        for right in [least, most] {
            assert!(parse(&format!("{name} = {right}")).is_ok(), "{name} = {right}");
        }
        for wrong in [below, above] {
            let refusal = refusal(&format!("{name} = {wrong}"));
            let said = format!("/etc/backhaul.toml line 1: {name}: {wrong} is out of range: ");
            assert!(refusal.starts_with(&said), "{refusal}");
        }
    }
}

#[test]
fn paths_are_absolute_and_fit_where_they_go() {
    let longest = format!("/{}", "s".repeat(106));
    assert!(parse(&format!("socket = '{longest}'")).is_ok());
    let long = refusal(&format!("socket = '{longest}x'"));
    assert!(
        long.ends_with("is no such path: an absolute path in quotes, of at most 107 bytes"),
        "{long}"
    );
    for wrong in ["''", "'run/socket'", "'~/socket'", "\"/a\\u0000b\""] {
        assert!(
            refusal(&format!("socket = {wrong}")).contains("is no such path: an absolute path"),
            "{wrong}"
        );
        assert!(
            refusal(&format!("roots = ['/a', {wrong}]")).contains("is no such path"),
            "{wrong}"
        );
    }
    let many = "'/a',".repeat(257);
    assert!(refusal(&format!("roots = [{many}]")).ends_with("roots: has 257 entries: at most 256"));
}

#[test]
fn the_engine_gets_what_the_file_says() {
    let text = "jobs = 9\njobs-per-host = 2\nretries = 0\nconnections = 3\nacknowledged-days = 1\nroots = ['/r']\n\
                limit-rate = '1k'\nstall-timeout = 5\nsalvage = false\noperations-max = 7";
    let config = parse(text).expect("right").config();
    assert_eq!(config.jobs_max, 9);
    assert_eq!(config.jobs_per_host_max, NonZeroUsize::new(2));
    assert_eq!(config.retry.failures_max, 1);
    assert_eq!((config.connections.max, config.connections.at_once), (3, true));
    assert_eq!(config.retention.acknowledged_for, Duration::from_secs(86_400));
    assert_eq!(config.roots, [PathBuf::from("/r")]);
    assert_eq!(config.rate_max, NonZeroU64::new(1024));
    assert_eq!(config.limits.stall, Duration::from_secs(5));
    assert_eq!(config.operations_max, 7);
    assert!(!config.salvage);
    assert_eq!(config.window, Window::default());
    let spared = parse("flash-friendly = true").expect("right").config();
    assert_eq!(spared.window, Window::flash_friendly());
    // What no file sets is what a program gets that has none; only the daemon salvages unasked and looks for helpers.
    let unset = Config {
        salvage: false,
        helper_path: Vec::new(),
        ..Settings::default().config()
    };
    assert_eq!(format!("{unset:?}"), format!("{:?}", Config::default()));
}

#[test]
fn one_app_may_have_as_many_operations_as_there_may_be_and_no_more() {
    let max = |text: &str| parse(text).expect(text).operations_per_app_max();
    assert_eq!(max("operations-max = 50"), 50);
    assert_eq!(max("operations-max = 50\noperations-per-app-max = 9"), 9);
    assert_eq!(max("operations-max = 50\noperations-per-app-max = 51"), 50);
}

// ---- mistakes ----

#[test]
fn every_mistake_is_told_on_one_line_with_its_place_and_what_would_be_right() {
    let cases = [
        ("\n\n\n\n\n\njobs = 0", "line 7: jobs: 0 is out of range: 1 to 256"),
        ("jobs = '4'", "line 1: jobs: text is of the wrong type: 1 to 256"),
        (
            "jobs = 4.0",
            "line 1: jobs: a number with a fraction is of the wrong type: 1 to 256",
        ),
        ("jobs = [4]", "line 1: jobs: a list is of the wrong type: 1 to 256"),
        (
            "[jobs]\nmax = 4",
            "line 1: jobs: a table is of the wrong type: 1 to 256",
        ),
        ("jobs.max = 4", "line 1: jobs: a table is of the wrong type: 1 to 256"),
        (
            "jobs = 2026-01-01",
            "line 1: jobs: a date or time is of the wrong type: 1 to 256",
        ),
        (
            "salvage = 1",
            "line 1: salvage: a whole number is of the wrong type: true or false",
        ),
        (
            "flash-friendly = 'very'",
            "line 1: flash-friendly: text is of the wrong type: true or false",
        ),
        (
            "log = 'loud'",
            "line 1: log: 'loud' is no level: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ),
        (
            "roots = '/srv'",
            "line 1: roots: text is of the wrong type: a list of absolute paths in quotes, like [\"/srv\", \"/data\"]",
        ),
        ("jbos = 4", "line 1: jbos: is no key; 'jobs' is one"),
        (
            "jobs_per_host = 4",
            "line 1: jobs_per_host: is no key; 'jobs-per-host' is one",
        ),
        (
            "jobs = 4\nlog = 'info'\njobs = 5",
            "line 3: jobs: is there twice: leave one out",
        ),
        // The first of two mistakes, whatever their names are.
        (
            "salvage = 3\njobs = 0",
            "line 1: salvage: a whole number is of the wrong type: true or false",
        ),
        ("log = 'a\\n\u{1b}[31mb'", "line 1: log: TOML"),
        ("jobs = ", "line 1: jobs: is no TOML"),
        ("jobs 4", "line 1: is no TOML"),
        ("jobs = 4\n[a\n", "line 2: is no TOML"),
    ];
    for (text, said) in cases {
        let refusal = refusal(text);
        assert!(!refusal.contains(char::is_control), "{refusal:?}");
        if said.ends_with("TOML") {
            let place = said.trim_end_matches(": TOML").trim_end_matches(": is no TOML");
            assert!(
                refusal.starts_with(&format!("/etc/backhaul.toml {place}")),
                "{text:?}: {refusal}"
            );
            assert!(refusal.contains("is no TOML: "), "{text:?}: {refusal}");
        } else {
            assert_eq!(refusal, format!("/etc/backhaul.toml {said}"), "{text:?}");
        }
    }
    let unknown = refusal("[daemon]\njobs = 4");
    assert!(
        unknown.starts_with("/etc/backhaul.toml line 1: daemon: is no key; there are: jobs, "),
        "{unknown}"
    );
}

#[test]
fn what_is_shown_of_a_mistake_is_short_and_cannot_change_the_terminal() {
    let long = refusal(&format!("\"{}\\n\\u001b[31m\" = 1", "x".repeat(10_000)));
    assert!(long.len() < 1_000, "{long}");
    let odd = refusal("\"a\\n\\u001b[31m\\u202e\" = 1");
    assert!(
        odd.starts_with("/etc/backhaul.toml line 1: a\\n\\u{1b}[31m\\u{202e}: is no key"),
        "{odd}"
    );
    let value = refusal("log = \"\\u001b[31m\\nx\"");
    assert!(!value.contains(char::is_control), "{value:?}");
    let path = Settings::parse(Path::new("/etc/a\nb"), b"jobs = 0")
        .expect_err("0")
        .to_string();
    assert!(path.starts_with("/etc/a\\nb line 1: jobs: "), "{path}");
}

#[test]
fn what_is_no_utf_8_is_refused_with_its_line() {
    let refusal = Settings::parse(Path::new("/f"), b"jobs = 4\n# caf\xe9\n").expect_err("Latin-1");
    assert_eq!(
        refusal.to_string(),
        "/f line 2: is no UTF-8: save the file in that encoding"
    );
}

#[test]
fn a_file_is_read_up_to_its_limit_and_not_beyond() {
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("backhaul.toml");
    let file = SettingsFile {
        path: path.clone(),
        is_required: true,
    };
    fs::write(&path, "#".repeat(64 << 10)).expect("written");
    assert_eq!(Settings::load(Some(&file), |_| ()), Ok(Settings::default()));
    fs::write(&path, "#".repeat((64 << 10) + 1)).expect("written");
    let refusal = Settings::load(Some(&file), |_| ()).expect_err("too large").to_string();
    assert_eq!(
        refusal,
        format!("{}: is too large: at most 65536 bytes are read", path.display())
    );
    let endless = SettingsFile {
        path: "/dev/zero".into(),
        is_required: true,
    };
    let refusal = Settings::load(Some(&endless), |_| ()).expect_err("no file").to_string();
    assert_eq!(refusal, "/dev/zero: cannot be read: is no regular file");
}

#[test]
fn what_cannot_be_read_is_refused_at_once() {
    let directory = TempDir::new().expect("a folder");
    let load = |path: PathBuf, is_required| {
        let file = SettingsFile { path, is_required };
        Settings::load(Some(&file), |_| ()).map_err(|error| error.to_string())
    };
    let path = directory.path().join("missing.toml");
    assert_eq!(load(path.clone(), false), Ok(Settings::default()));
    let missing = format!(
        "{}: cannot be read: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(load(path, true), Err(missing));
    let refused = load(directory.path().to_path_buf(), false).expect_err("a folder");
    assert!(refused.ends_with(": cannot be read: is no regular file"), "{refused}");
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    assert!(load(pipe, true).is_err());
    let closed = directory.path().join("closed.toml");
    fs::write(&closed, "jobs = 1").expect("written");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("closed");
    // Root reads it all the same.
    match load(closed, false) {
        Ok(read) => assert_eq!((read.jobs, rustix::process::geteuid().is_root()), (1, true)),
        Err(refusal) => assert!(refusal.contains("cannot be read: Permission denied"), "{refusal}"),
    }
}

#[test]
fn no_soup_of_bytes_or_words_panics_or_is_told_on_two_lines() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let mut words = vec![
        "=",
        "\n",
        "\r",
        " ",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        "'",
        "\"",
        "'''",
        "\"\"\"",
        "\\",
        "\\u",
        "#",
        "-",
        "+",
        "_",
        "0",
        "1e9",
        "0x",
        "inf",
        "nan",
        "true",
        "2026-01-01",
        "12:00",
        "'4k'",
        "'/a'",
        "é",
        "\u{202e}",
        "\0",
        "[[",
        "]]",
        "9223372036854775808",
    ];
    words.extend(Settings::keys().iter().map(|key| key.name));
    let mut right = 0;
    for round in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..draw(24) {
            if round % 4 == 0 {
                text.push(u8::try_from(draw(256)).expect("a byte"));
            } else if draw(3) == 0 {
                let key = &Settings::keys()[draw(Settings::keys().len())];
                text.extend_from_slice(format!("{} = {}\n", key.name, key.example).as_bytes());
            } else {
                text.extend_from_slice(words[draw(words.len())].as_bytes());
            }
        }
        match Settings::parse(Path::new("/f"), &text) {
            Ok(_) => right += 1,
            Err(error) => {
                let told = error.to_string();
                assert!(
                    !told.contains(char::is_control) && told.len() < 2_000,
                    "{text:?}: {told:?}"
                );
            }
        }
    }
    assert!(
        right > 100,
        "only {right} were right, so that little of the way was walked"
    );
    // Deeper than any stack.
    for deep in [
        "[".repeat(60_000),
        "a.".repeat(30_000),
        "a={".repeat(20_000),
        format!("a = {}", "[".repeat(60_000)),
    ] {
        assert!(parse(&deep).is_err());
    }
}

// ---- where it is, and what wins ----

#[test]
fn the_file_is_looked_for_in_the_documented_order() {
    let find = |given: Option<&str>, is_root, set| {
        let found = SettingsFile::find(given.map(PathBuf::from), is_root, home(set));
        found.map(|file| (file.path.display().to_string(), file.is_required))
    };
    let place = |text: &str, is_required| Some((text.to_owned(), is_required));
    let all: &[_] = &[
        ("CONFIGURATION_DIRECTORY", "/c"),
        ("XDG_CONFIG_HOME", "/x"),
        ("HOME", "/h"),
    ];
    assert_eq!(find(Some("mine"), true, all), place("mine", true));
    assert_eq!(find(None, true, all), place("/c/backhaul.toml", false));
    assert_eq!(find(None, false, all), place("/c/backhaul.toml", false));
    assert_eq!(
        find(None, false, &[("CONFIGURATION_DIRECTORY", "/c:/d")]),
        place("/c/backhaul.toml", false)
    );
    assert_eq!(find(None, true, &all[1..]), place("/etc/backhaul/backhaul.toml", false));
    assert_eq!(find(None, false, &all[1..]), place("/x/backhaul/backhaul.toml", false));
    assert_eq!(
        find(None, false, &all[2..]),
        place("/h/.config/backhaul/backhaul.toml", false)
    );
    let relative: &[_] = &[
        ("CONFIGURATION_DIRECTORY", ":c"),
        ("XDG_CONFIG_HOME", "x"),
        ("HOME", "/h"),
    ];
    assert_eq!(
        find(None, false, relative),
        place("/h/.config/backhaul/backhaul.toml", false)
    );
    assert_eq!(find(None, false, &[]), None);
}

#[test]
fn what_the_command_line_gives_wins_over_the_file() {
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("backhaul.toml");
    fs::write(&path, "jobs = 2\nretries = 3").expect("written");
    let file = SettingsFile {
        path,
        is_required: true,
    };
    let settings = Settings::load(Some(&file), |settings| settings.jobs = 7).expect("right");
    assert_eq!((settings.jobs, settings.retries), (7, 3));
    let none = Settings::load(None, |settings| settings.jobs = 7).expect("right");
    assert_eq!((none.jobs, none.retries), (7, 19));
}

#[test]
fn a_reload_changes_what_may_change_and_names_what_needs_a_restart() {
    let now = parse("jobs = 2\nlog = 'info'\nexit-idle = 5").expect("right");
    let new = parse("jobs = 3\nlog = 'debug'\nstate-dir = '/s'").expect("right");
    let (merged, needs_restart) = now.reloaded(&new);
    assert_eq!(merged, parse("jobs = 2\nlog = 'debug'").expect("right"));
    assert_eq!(needs_restart, ["jobs", "state-dir"]);
    assert_eq!(now.reloaded(&now), (now.clone(), Vec::new()));
}

// ---- documentation ----

/// `docs/CONFIG.md`.
fn page() -> String {
    let mut text = String::from(
        "# Configuration file\n\n\
         `backhaul daemon` reads one TOML file: the one that `--config FILE` names, or else `backhaul.toml` in\n\
         `$CONFIGURATION_DIRECTORY`, which systemd sets, or else `/etc/backhaul/backhaul.toml` for root, and\n\
         `$XDG_CONFIG_HOME/backhaul/backhaul.toml` or `~/.config/backhaul/backhaul.toml` for anybody else. A file that\n\
         `--config` names must be there. What the command line says wins over the file.\n\n\
         Anything that is wrong in the file, and be it a key that is not known, is refused with file, line and key, and\n\
         nothing of it counts; a running daemon that is told to reload goes on with what it had. The file is UTF-8, and at\n\
         most 64 KiB. `packaging/backhaul.toml` has every key with its default, to begin from.\n\n\
         SIGHUP makes the daemon read the file again. A key with \"restart\" in the last column keeps its value until the\n\
         daemon is started anew; the daemon names those that differ.\n\n\
         | key | default | what it sets | values | changes at |\n|---|---|---|---|---|\n",
    );
    for key in Settings::keys() {
        let default = key
            .default
            .map_or("not set".to_owned(), |default| format!("`{default}`"));
        let changes = if key.reload { "reload" } else { "restart" };
        let _ = writeln!(
            text,
            "| `{}` | {default} | {} | {} | {changes} |",
            key.name,
            key.meaning,
            key.allowed()
        );
    }
    text
}

/// `packaging/backhaul.toml`.
fn sample() -> String {
    let mut text = String::from(
        "# Configuration of backhaul: /etc/backhaul/backhaul.toml, or ~/.config/backhaul/backhaul.toml for one user.\n\
         # Every key is here with its default, or with an example where it has none; docs/CONFIG.md has the table.\n",
    );
    for key in Settings::keys() {
        let changes = if key.reload { "a reload" } else { "a restart" };
        let example = if key.default.is_some() { "" } else { "an example; " };
        let values = format!("{example}{}; changes at {changes}", key.allowed());
        let _ = writeln!(
            text,
            "\n{}# ({values})\n#{} = {}",
            comment(key.meaning),
            key.name,
            key.example
        );
    }
    text
}

/// Text as comments of at most 118 columns.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.replace('`', "").split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 118 {
            lines = lines + &line + "\n";
            line = "#".into();
        }
        line = line + " " + word;
    }
    lines + &line + "\n"
}

/// `BACKHAUL_WRITE=1` writes it anew; what changed is then for a reader to judge.
fn assert_published(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("BACKHAUL_WRITE").is_some() {
        fs::write(&path, text).expect("it can be written");
    }
    let stored = fs::read_to_string(&path).expect("it is there");
    assert_eq!(stored, text, "BACKHAUL_WRITE=1 writes {file} anew");
}

#[test]
fn the_published_pages_have_every_key() {
    assert_published("docs/CONFIG.md", &page());
    assert_published("packaging/backhaul.toml", &sample());
}

#[test]
fn the_published_sample_is_right_as_it_is_and_with_every_key_in_force() {
    assert_eq!(parse(&sample()), Ok(Settings::default()));
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let in_force: String = sample()
        .lines()
        .filter(is_setting)
        .fold(String::new(), |text, line| text + &line[1..] + "\n");
    assert_eq!(in_force.lines().count(), Settings::keys().len());
    assert!(parse(&in_force).is_ok(), "{in_force}");
}

#[test]
fn a_proxy_of_the_file_takes_the_place_of_those_of_the_environment() {
    let proxies = |text: &str| parse(text).expect(text).config().proxies;
    assert_eq!(proxies(""), None);
    assert_eq!(proxies("proxy = 'direct'"), Some(Proxies::direct()));
    let through = "proxy = 'socks5h://user:hush@proxy'\nno-proxy = ['inner', '10.0.0.0/8']";
    let set = proxies(through).expect("it is set");
    let way = |host| set.of("https", host, 443).map(ToString::to_string);
    assert_eq!(way("outer").as_deref(), Some("socks5h://proxy:1080"));
    assert_eq!((way("www.inner"), way("10.1.1.1")), (None, None));
    assert!(!format!("{:?}", parse(through)).contains("hush"));
}

#[test]
fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
    for text in [
        "proxy = 'https://user:hush@proxy'",
        "proxy = 'user:hush@'",
        "proxy = ''",
        "proxy = 1",
        "no-proxy = 'host'",
        "no-proxy = [1]",
        "no-proxy = ['10.0.0.0/33']",
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains("proxy") && !error.contains("hush"), "{error}");
    }
}
