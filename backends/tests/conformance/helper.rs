//! The backend of helper programs. The helper under it only hands on what a server in this process says.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use backhaul_backends::conformance::{Act, Place, Protocol, Rig, Served};
use backhaul_backends::{Backend, FailureKind, HelperBackend, WebErrorStatus};

use crate::conforms;

/// The program; it is written once, before any process is started that could hold it open for writing.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backhaul-backend-relay");
        fs::write(&path, include_str!("relay.py")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    });
    folder.path()
}

struct HelperRig {
    sockets: tempfile::TempDir,
    served: usize,
}

impl HelperRig {
    fn new() -> Self {
        Self {
            sockets: tempfile::tempdir().unwrap(),
            served: 0,
        }
    }

    fn next_path(&mut self) -> std::path::PathBuf {
        self.served += 1;
        self.sockets.path().join(self.served.to_string())
    }
}

type Script = Mutex<(Served, VecDeque<Act>)>;

impl Rig for HelperRig {
    fn backend(&self) -> Arc<dyn Backend> {
        let (backend, refused) = HelperBackend::find(&[programs().to_owned()]);
        assert_eq!(refused, Vec::<String>::new());
        Arc::new(backend)
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            tells_length: true,
            has_unknown_length: true,
            excess: Some((
                FailureKind::Permanent,
                WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE,
            )),
            tells_type: true,
            proves_across_sources: true,
            has_credentials: true,
            reaches_hosts: false,
            steps: &["request", "hello", "ready"],
            rest_steps: &["request", "hello", "ready"],
            asked: "hello",
        }
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        let path = self.next_path();
        let listener = UnixListener::bind(&path).unwrap();
        let script = Arc::new(Mutex::new((served, VecDeque::from(acts))));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let script = Arc::clone(&script);
                // Whoever has gone hears no more.
                thread::spawn(move || answer(stream.unwrap(), &script));
            }
        });
        format!("relay://{}", path.display())
    }

    fn missing(&mut self) -> String {
        format!("relay://{}", self.next_path().display())
    }
}

/// What a helper hears and says; `None` where it ends before its work is done.
fn answer(stream: UnixStream, script: &Script) -> Option<()> {
    let mut input = BufReader::new(stream.try_clone().ok()?);
    let mut output = stream;
    let mut credential = None;
    loop {
        let line = heard(&mut input)?;
        if line == "go" {
            break;
        }
        credential = line.strip_prefix("credential ").map(str::to_owned).or(credential);
    }
    let (served, act) = take(script);
    at("request", &act, &mut input)?;
    say(&mut output, "backhaul 1")?;
    at("hello", &act, &mut input)?;
    let wanted = served.credential.as_ref();
    let wanted = wanted.map(|wanted| format!("{} {}", encoded(&wanted.user), encoded(&wanted.password)));
    if wanted.is_some() && credential != wanted {
        return say(&mut output, "fail permanent 401 no");
    }
    let total_bytes = match act {
        Act::Announce(length) => length,
        _ => served.content.total_bytes,
    };
    for line in head(&served, total_bytes) {
        say(&mut output, &line)?;
    }
    at("ready", &act, &mut input)?;
    let told = heard(&mut input)?;
    let begin = told
        .strip_prefix("continue ")
        .map_or(0, |offset| offset.parse().unwrap());
    send(&served, &act, begin, &mut output, &mut input)?;
    say(&mut output, "end")
}

/// A value as it stands in a line.
fn encoded(value: &str) -> String {
    let bytes = value.bytes().map(|byte| match byte {
        b'%' => "%25".to_owned(),
        byte if byte.is_ascii_graphic() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// The next act, and the resource as it is then.
fn take(script: &Script) -> (Served, Act) {
    let mut script = script.lock().unwrap();
    let act = script.1.pop_front().unwrap_or(Act::Serve);
    if let Act::Replace(served) = &act {
        script.0 = served.clone();
    }
    (script.0.clone(), act)
}

fn head(served: &Served, total_bytes: u64) -> Vec<String> {
    let weak = if served.proof { "" } else { "W/" };
    let mut lines = vec![format!("etag {weak}\"v{}\"", served.version)];
    if served.tells_length {
        lines.push(format!("bytes {total_bytes}"));
    }
    if let Some(content_type) = &served.content_type {
        lines.push(format!("type {}", encoded(content_type)));
    }
    if served.resumable {
        lines.push("can-continue".into());
    }
    lines.push("ready".into());
    lines
}

fn send(
    served: &Served,
    act: &Act,
    begin: u64,
    output: &mut UnixStream,
    input: &mut BufReader<UnixStream>,
) -> Option<()> {
    let total_bytes = served.content.total_bytes;
    let end = match act {
        Act::HangUp(Place::Byte(offset)) | Act::Hang(Place::Byte(offset), _) => (*offset).min(total_bytes),
        _ => total_bytes,
    };
    let whole = served.content.pieces(begin..end.max(begin), |bytes| {
        let frame = format!("data {}\n", bytes.len());
        output.write_all(frame.as_bytes()).is_ok() && output.write_all(bytes).is_ok()
    });
    if !whole {
        return None;
    }
    match act {
        Act::HangUp(Place::Byte(_)) => None,
        Act::Hang(Place::Byte(_), bell) => {
            bell.ring();
            until_gone(input)
        }
        _ => Some(()),
    }
}

/// Does what the script has for this step.
fn at(step: &str, act: &Act, input: &mut BufReader<UnixStream>) -> Option<()> {
    match act {
        Act::HangUp(Place::Step(place)) if *place == step => None,
        Act::Hang(Place::Step(place), bell) if *place == step => {
            bell.ring();
            until_gone(input)
        }
        _ => Some(()),
    }
}

fn until_gone(input: &mut BufReader<UnixStream>) -> Option<()> {
    let mut bytes = [0; 256];
    while input.read(&mut bytes).is_ok_and(|count| count > 0) {}
    None
}

fn heard(input: &mut BufReader<UnixStream>) -> Option<String> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|count| *count > 0)?;
    Some(line.trim_end_matches('\n').to_owned())
}

fn say(output: &mut UnixStream, line: &str) -> Option<()> {
    output.write_all(format!("{line}\n").as_bytes()).ok()
}

conforms!(
    helper,
    HelperRig::new(),
    [
        a_download_is_whole,
        an_empty_resource_is_whole,
        a_body_that_is_shorter_than_announced_is_no_success,
        a_body_that_is_longer_than_announced_brings_nothing_beyond_it,
        a_resource_of_unknown_length_is_whole_and_its_cut_is_noticed,
        an_expected_length_holds_where_none_is_announced,
        another_length_than_expected_is_refused,
        another_type_than_expected_is_refused,
        a_page_in_place_of_the_rest_gives_up_nothing,
        what_came_before_a_cut_is_kept_and_continued,
        everything_held_is_enough,
        nothing_held_is_a_beginning,
        a_changed_resource_starts_again,
        a_resource_without_proof_starts_again,
        a_server_that_cannot_continue_starts_again,
        a_tail_that_differs_starts_again,
        bytes_beyond_4_gib_are_continued,
        bytes_of_another_source_are_continued_only_under_what_holds_for_all,
        a_digest_that_is_expected_continues_bytes_on_trust,
        a_tail_that_differs_starts_again_even_on_trust,
        a_missing_resource_fails_for_good,
        the_right_credential_opens_and_any_other_fails_for_good,
        a_hang_up_at_any_step_may_be_tried_again,
        a_hang_up_in_the_content_may_be_tried_again,
        a_hang_up_in_the_rest_may_be_tried_again,
        a_refusal_of_the_sink_ends_the_attempt,
        an_interrupt_before_the_attempt_ends_it,
        an_interrupt_ends_the_wait_at_any_step,
        an_interrupt_ends_the_wait_for_content,
        an_interrupt_at_the_head_ends_the_attempt,
        an_interrupt_ends_content_that_flows,
        an_interrupt_ends_the_wait_for_the_rate,
        silence_in_the_content_is_a_timeout,
        silence_before_the_head_is_a_timeout,
        silence_at_any_step_is_a_timeout,
        a_slow_consumer_is_no_silence,
        a_rate_limit_holds,
    ]
);
