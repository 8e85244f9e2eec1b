//! The FTP backend against a server on raw sockets.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_backends::conformance::{Act, Astray, Bell, Place, Protocol, Rig, Served};
use backhaul_backends::{Backend, FailureKind, FtpBackend, FtpConfig, WebErrorStatus};

use crate::conforms;
use crate::network::Nowhere;

/// The steps of a connection: a verb is the moment at which it came, and no answer to it went.
const GREETING: &str = "greeting";
/// All of the content was sent, its connection is closed, and nothing says that it was all.
const END: &str = "226";

struct FtpRig {
    backend: Arc<FtpBackend>,
    nowhere: Nowhere,
}

impl FtpRig {
    fn new() -> Self {
        Self {
            backend: Arc::new(FtpBackend::new(FtpConfig::default()).unwrap()),
            nowhere: Nowhere::default(),
        }
    }

    fn listen(served: Option<Served>, acts: Vec<Act>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ftp://{}/resource", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new((served, VecDeque::from(acts))));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let session = Session::new(stream.unwrap(), &script);
                thread::spawn(move || session.run());
            }
        });
        url
    }
}

impl Rig for FtpRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::<FtpBackend>::clone(&self.backend)
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            tells_length: true,
            has_unknown_length: true,
            excess: Some((
                FailureKind::Transient { retry_after: None },
                WebErrorStatus::LENGTH_MISMATCH,
            )),
            tells_type: false,
            proves_across_sources: false,
            has_credentials: true,
            reaches_hosts: true,
            steps: &[
                GREETING, "USER", "PASS", "PWD", "EPSV", "TYPE", "MDTM", "SIZE", "RETR", END,
            ],
            rest_steps: &[
                GREETING, "USER", "PASS", "PWD", "EPSV", "TYPE", "MDTM", "SIZE", "REST", "RETR", END,
            ],
            asked: "RETR",
        }
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        Self::listen(Some(served), acts)
    }

    fn missing(&mut self) -> String {
        Self::listen(None, Vec::new())
    }

    fn astray(&mut self, how: Astray) -> Option<String> {
        Some(match how {
            Astray::Refused => format!("ftp://{}/resource", self.nowhere.refused()),
            Astray::Unanswered(bell) => format!("ftp://{}/resource", self.nowhere.unanswered(bell)),
            Astray::UnknownHost => "ftp://nobody.invalid/resource".to_owned(),
        })
    }
}

/// One control connection, and the act that it is for.
struct Session {
    control: BufReader<TcpStream>,
    served: Option<Served>,
    act: Act,
    user: String,
    offset: u64,
    data: Option<TcpListener>,
}

type Script = Mutex<(Option<Served>, VecDeque<Act>)>;

impl Session {
    fn new(stream: TcpStream, script: &Script) -> Self {
        let (served, acts) = &mut *script.lock().unwrap();
        let act = acts.pop_front().unwrap_or(Act::Serve);
        if let Act::Replace(other) = &act {
            *served = Some(other.clone());
        }
        Self {
            control: BufReader::new(stream),
            served: served.clone(),
            act,
            user: String::new(),
            offset: 0,
            data: None,
        }
    }

    /// Serves until either side ends the connection.
    fn run(mut self) {
        let mut goes_on = self.pass(GREETING).and_then(|()| self.say("220 ready"));
        while goes_on.is_some() {
            let mut line = String::new();
            let ended = self.control.read_line(&mut line).is_ok_and(|amount| amount > 0);
            let line = line.trim_end();
            let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
            goes_on = ended
                .then_some(())
                .and_then(|()| self.pass(verb))
                .and_then(|()| self.obey(verb, argument));
        }
    }

    fn say(&mut self, reply: &str) -> Option<()> {
        self.control.get_mut().write_all(format!("{reply}\r\n").as_bytes()).ok()
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
        while self.control.read(&mut [0; 4096]).is_ok_and(|amount| amount > 0) {}
        None
    }

    fn obey(&mut self, verb: &str, argument: &str) -> Option<()> {
        let Some(served) = self.served.clone() else {
            return self.obey_without(verb);
        };
        match verb {
            "USER" => {
                argument.clone_into(&mut self.user);
                self.say("331 and the password")
            }
            "PASS" => {
                let right = served.credential.as_ref();
                let may = right.is_none_or(|right| right.user == self.user && right.password == argument);
                self.say(if may { "230 in" } else { "530 not you" })
            }
            "MDTM" if served.proof => self.say(&format!("213 202402291200{:02}", served.version % 60)),
            // What was changed in the future proves nothing.
            "MDTM" => self.say("213 20990101000000"),
            "SIZE" if !served.tells_length => self.say("550 it is being made"),
            "SIZE" => {
                let total = served.content.total_bytes;
                let size = if let Act::Announce(length) = self.act {
                    length
                } else {
                    total
                };
                self.say(&format!("213 {size}"))
            }
            "REST" if !served.resumable => self.say("502 not here"),
            "REST" => {
                self.offset = argument.parse().ok()?;
                self.say("350 from there")
            }
            "EPSV" => {
                let listener = TcpListener::bind("127.0.0.1:0").ok()?;
                let port = listener.local_addr().ok()?.port();
                self.data = Some(listener);
                self.say(&format!("229 come (|||{port}|)"))
            }
            "RETR" => self.send(&served),
            _ => self.say_of_any_file(verb),
        }
    }

    fn obey_without(&mut self, verb: &str) -> Option<()> {
        match verb {
            "USER" | "PASS" => self.say("230 in"),
            "EPSV" => self.say("502 no"),
            "MDTM" | "SIZE" | "RETR" | "PASV" => self.say("550 there is no such file"),
            _ => self.say_of_any_file(verb),
        }
    }

    fn say_of_any_file(&mut self, verb: &str) -> Option<()> {
        match verb {
            "PWD" => self.say("257 \"/\" is where you are"),
            "CWD" => self.say("250 there"),
            "TYPE" => self.say("200 fine"),
            _ => self.say("502 no"),
        }
    }

    fn send(&mut self, served: &Served) -> Option<()> {
        let (mut data, _) = self.data.take()?.accept().ok()?;
        self.say("150 here it comes")?;
        let total = served.content.total_bytes;
        let stops_at = match self.act {
            Act::HangUp(Place::Byte(offset)) | Act::Hang(Place::Byte(offset), _) => Some(offset),
            _ => None,
        };
        let until = stops_at.unwrap_or(total).max(self.offset);
        let went = served
            .content
            .pieces(self.offset..until, |piece| data.write_all(piece).is_ok());
        self.offset = 0;
        if let (Act::Hang(..), Some(_), true) = (&self.act, stops_at, went) {
            let Act::Hang(_, bell) = self.act.clone() else {
                return None;
            };
            return self.hang(&bell);
        }
        drop(data);
        if !went || stops_at.is_some() {
            return None;
        }
        self.pass(END)?;
        self.say("226 that was it")
    }
}

conforms!(
    ftp,
    FtpRig::new(),
    [
        a_download_is_whole,
        an_empty_resource_is_whole,
        a_body_that_is_shorter_than_announced_is_no_success,
        a_body_that_is_longer_than_announced_brings_nothing_beyond_it,
        a_resource_of_unknown_length_is_whole_and_its_cut_is_noticed,
        an_expected_length_holds_where_none_is_announced,
        another_length_than_expected_is_refused,
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
        a_refused_connection_may_be_tried_again,
        a_host_that_does_not_exist_may_be_tried_again,
        a_hang_up_at_any_step_may_be_tried_again,
        a_hang_up_in_the_content_may_be_tried_again,
        a_hang_up_in_the_rest_may_be_tried_again,
        a_refusal_of_the_sink_ends_the_attempt,
        an_interrupt_before_the_attempt_ends_it,
        an_interrupt_ends_a_connection_in_the_making,
        an_interrupt_ends_the_wait_at_any_step,
        an_interrupt_ends_the_wait_for_content,
        an_interrupt_at_the_head_ends_the_attempt,
        an_interrupt_ends_content_that_flows,
        an_interrupt_ends_the_wait_for_the_rate,
        silence_in_the_content_is_a_timeout,
        silence_before_the_head_is_a_timeout,
        silence_at_any_step_is_a_timeout,
        a_connection_that_is_not_made_in_time_is_a_timeout,
        a_slow_consumer_is_no_silence,
        a_rate_limit_holds,
    ]
);
