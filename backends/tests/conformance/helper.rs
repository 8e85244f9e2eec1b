//! Helper programs: one that hands on what it is told to a server on raw sockets, and what that says.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use backhaul_backends::conformance::{Act, Bell, Place, Protocol, Rig, Served};
use backhaul_backends::{Backend, Credential, FailureKind, HelperBackend, WebErrorStatus};
use percent_encoding::percent_decode_str;

use crate::conforms;

/// The program runs, and has reached the server.
const START: &str = "start";
/// All of the request came.
const REQUEST: &str = "request";
/// The protocol was agreed on, and nothing said of the resource.
const HELLO: &str = "hello";
/// Half of what is said of the resource.
const HALF_HEAD: &str = "half of the head";
/// All of it, and no byte.
const HEAD: &str = "head";
/// All of the content, and nothing that says so.
const DATA: &str = "data";
/// Everything was said, and the program goes on.
const END: &str = "end";

const STEPS: &[&str] = &[START, REQUEST, HELLO, HALF_HEAD, HEAD, DATA, END];

/// The folder of the program. It is written once, before any process is started: one that is started meanwhile would have it
/// open for writing, so that it could not be executed.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backhaul-backend-conf");
        fs::write(&path, include_str!("relay.sh")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    });
    folder.path()
}

struct HelperRig {
    backend: Arc<HelperBackend>,
}

impl HelperRig {
    fn new() -> Self {
        let (backend, refused) = HelperBackend::find(&[programs().to_owned()]);
        assert_eq!(refused, Vec::<String>::new());
        Self {
            backend: Arc::new(backend),
        }
    }

    fn listen(served: Option<Served>, acts: Vec<Act>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("conf://{}/resource", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new((served, VecDeque::from(acts))));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let talk = Talk::new(stream.unwrap(), &script);
                thread::spawn(move || talk.run());
            }
        });
        url
    }
}

impl Rig for HelperRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::<HelperBackend>::clone(&self.backend)
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
            steps: STEPS,
            rest_steps: STEPS,
            asked: HELLO,
        }
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        Self::listen(Some(served), acts)
    }

    fn missing(&mut self) -> String {
        Self::listen(None, Vec::new())
    }
}

/// What is said in one attempt, and the act that it is for.
struct Talk {
    stream: BufReader<TcpStream>,
    served: Option<Served>,
    act: Act,
    /// What the request shows.
    credential: Option<Credential>,
}

type Script = Mutex<(Option<Served>, VecDeque<Act>)>;

impl Talk {
    fn new(stream: TcpStream, script: &Script) -> Self {
        let (served, acts) = &mut *script.lock().unwrap();
        let act = acts.pop_front().unwrap_or(Act::Serve);
        if let Act::Replace(other) = &act {
            *served = Some(other.clone());
        }
        Self {
            stream: BufReader::new(stream),
            served: served.clone(),
            act,
            credential: None,
        }
    }

    /// The end of the connection is that of the program.
    fn run(mut self) -> Option<()> {
        self.pass(START)?;
        self.read_request()?;
        self.pass(REQUEST)?;
        self.say("backhaul 1")?;
        self.pass(HELLO)?;
        let Some(served) = self.served.clone() else {
            return self.say("fail permanent 404 gone");
        };
        if served.credential.is_some() && served.credential != self.credential {
            return self.say("fail permanent 401 not%20you");
        }
        let head = self.head(&served);
        let (beginning, rest) = head.split_at(head.len() / 2);
        beginning.iter().try_for_each(|line| self.say(line))?;
        self.pass(HALF_HEAD)?;
        rest.iter().try_for_each(|line| self.say(line))?;
        self.pass(HEAD)?;
        let first = self.read_begin()?;
        self.send(&served, first)?;
        self.pass(DATA)?;
        self.say("end")?;
        self.pass(END)
    }

    fn say(&mut self, line: &str) -> Option<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).ok()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let amount = self.stream.read_line(&mut line).ok()?;
        (amount > 0).then(|| line.trim_end().to_owned())
    }

    /// Goes on, or ends the connection if this is where it is to be ended.
    fn pass(&mut self, step: &str) -> Option<()> {
        match &self.act {
            Act::HangUp(Place::Step(name)) if *name == step => None,
            Act::Hang(Place::Step(name), bell) if *name == step => {
                let bell = bell.clone();
                self.hang(&bell)
            }
            _ => Some(()),
        }
    }

    fn hang(&mut self, bell: &Bell) -> Option<()> {
        bell.ring();
        while self.stream.read(&mut [0; 4096]).is_ok_and(|amount| amount > 0) {}
        None
    }

    fn read_request(&mut self) -> Option<()> {
        loop {
            let line = self.line()?;
            let words: Vec<_> = line
                .split(' ')
                .map(|word| percent_decode_str(word).decode_utf8_lossy().into_owned())
                .collect();
            match &words[..] {
                [keyword] if keyword == "go" => return Some(()),
                [keyword, user, password] if keyword == "credential" => {
                    self.credential = Some(Credential {
                        user: user.clone(),
                        password: password.clone(),
                    });
                }
                _ => {}
            }
        }
    }

    fn head(&self, served: &Served) -> Vec<String> {
        let weak = if served.proof { "" } else { "W/" };
        let mut head = vec![format!("etag {weak}\"v{}\"", served.version)];
        if served.tells_length {
            let total = served.content.total_bytes;
            let announced = if let Act::Announce(length) = self.act {
                length
            } else {
                total
            };
            head.push(format!("bytes {announced}"));
        }
        if served.resumable {
            head.push("can-continue".to_owned());
        }
        let kind = served.content_type.as_ref();
        head.extend(kind.map(|kind| format!("type {}", kind.replace(' ', "%20"))));
        head.push("ready".to_owned());
        head
    }

    /// Where the content is to begin.
    fn read_begin(&mut self) -> Option<u64> {
        let line = self.line()?;
        line.strip_prefix("continue ")
            .map_or(Some(0), |offset| offset.parse().ok())
    }

    fn send(&mut self, served: &Served, first: u64) -> Option<()> {
        let stops_at = match self.act {
            Act::HangUp(Place::Byte(offset)) | Act::Hang(Place::Byte(offset), _) => Some(offset),
            _ => None,
        };
        let until = stops_at.unwrap_or(served.content.total_bytes).max(first);
        let stream = self.stream.get_mut();
        let went = served.content.pieces(first..until, |piece| {
            let frame = [format!("data {}\n", piece.len()).as_bytes(), piece].concat();
            stream.write_all(&frame).is_ok()
        });
        match (went, stops_at, self.act.clone()) {
            (true, Some(_), Act::Hang(_, bell)) => self.hang(&bell),
            (true, None, _) => Some(()),
            _ => None,
        }
    }
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
