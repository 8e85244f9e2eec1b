//! The HTTP backend against a server on raw sockets, alone and under a limit on its rate.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::thread;

use backhaul_backends::conformance::{Act, Astray, Bell, Place, Protocol, Rig, Served};
use backhaul_backends::{Backend, Credential, HttpBackend, HttpConfig, Method, RateLimit, Throttle};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::conforms;
use crate::network::Nowhere;

const ACCEPT: &str = "accept";
const REQUEST: &str = "request";
const HALF_HEAD: &str = "half of the head";
const HEAD: &str = "head";

type Received = Arc<Mutex<BTreeMap<String, Vec<(Method, Vec<u8>)>>>>;

struct HttpRig {
    backend: Arc<dyn Backend>,
    received: Received,
    nowhere: Nowhere,
}

impl HttpRig {
    fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            received: Received::default(),
            nowhere: Nowhere::default(),
        }
    }

    fn plain() -> Self {
        Self::new(Arc::new(HttpBackend::new(HttpConfig::default()).unwrap()))
    }

    /// Fast enough to be over soon, slow enough to wait.
    fn throttled() -> Self {
        let http = HttpBackend::new(HttpConfig::default()).unwrap();
        let limit = RateLimit::new(NonZeroU64::new(20_000_000).unwrap());
        Self::new(Arc::new(Throttle::new(Arc::new(http), Arc::new(limit))))
    }

    fn listen(&self, served: Option<Served>, acts: Vec<Act>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/resource", listener.local_addr().unwrap());
        let site = Arc::new(Site {
            url: url.clone(),
            script: Mutex::new((served, acts.into())),
            received: Arc::clone(&self.received),
        });
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (site, stream) = (Arc::clone(&site), stream.unwrap());
                thread::spawn(move || site.attend(stream));
            }
        });
        url
    }
}

impl Rig for HttpRig {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    fn protocol(&self) -> Protocol {
        Protocol {
            tells_length: true,
            has_unknown_length: true,
            excess: None,
            tells_type: true,
            proves_across_sources: true,
            has_credentials: true,
            reaches_hosts: true,
            steps: &[ACCEPT, REQUEST, HALF_HEAD, HEAD],
            rest_steps: &[ACCEPT, REQUEST, HALF_HEAD, HEAD],
            asked: REQUEST,
        }
    }

    fn serve(&mut self, served: Served, acts: Vec<Act>) -> String {
        self.listen(Some(served), acts)
    }

    fn missing(&mut self) -> String {
        self.listen(None, Vec::new())
    }

    fn astray(&mut self, how: Astray) -> Option<String> {
        Some(match how {
            Astray::Refused => format!("http://{}/", self.nowhere.refused()),
            Astray::Unanswered(bell) => format!("http://{}/", self.nowhere.unanswered(bell)),
            Astray::UnknownHost => "http://nobody.invalid/".to_owned(),
        })
    }

    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)> {
        self.received.lock().unwrap().get(url).cloned().unwrap_or_default()
    }
}

/// What one listener serves, and what it is told to do.
struct Site {
    url: String,
    script: Mutex<(Option<Served>, VecDeque<Act>)>,
    received: Received,
}

/// Where a response is to end before its end, and how.
#[derive(Default)]
struct Stop {
    place: Option<Place>,
    /// It hangs there and rings; otherwise it hangs up.
    bell: Option<Bell>,
}

impl Stop {
    fn of(act: &Act) -> Self {
        let (place, bell) = match act {
            Act::HangUp(place) => (*place, None),
            Act::Hang(place, bell) => (*place, Some(bell.clone())),
            _ => return Self::default(),
        };
        Self {
            place: Some(place),
            bell,
        }
    }

    /// Goes on, or ends the connection if this is the place.
    fn pass(&self, step: &'static str, stream: &mut TcpStream) -> Option<()> {
        if self.place == Some(Place::Step(step)) {
            self.here(stream)
        } else {
            Some(())
        }
    }

    fn here(&self, stream: &mut TcpStream) -> Option<()> {
        if let Some(bell) = &self.bell {
            bell.ring();
            while stream.read(&mut [0; 4096]).is_ok_and(|amount| amount > 0) {}
        }
        None
    }
}

/// A request as it came, with field names in lower case.
struct Asked {
    method: Method,
    fields: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let method = line.split(' ').next()?.parse().ok()?;
        let mut fields = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            fields.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Self { method, fields, body })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// First byte, and first byte after the range where it has an end.
    fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse::<u64>().ok().map(|last| last + 1)))
    }

    fn shows(&self, credential: &Credential) -> bool {
        let encoded = STANDARD.encode(format!("{}:{}", credential.user, credential.password));
        self.field("authorization") == Some(&format!("Basic {encoded}"))
    }
}

impl Site {
    /// Serves one connection until either side ends it.
    fn attend(&self, mut stream: TcpStream) {
        if let Some(act) = self.act_at_accept() {
            Stop::of(&act).here(&mut stream);
            return;
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while self.answer(&mut reader, &mut stream).is_some() {}
    }

    fn act_at_accept(&self) -> Option<Act> {
        let acts = &mut self.script.lock().unwrap().1;
        let stop = Stop::of(acts.front()?);
        (stop.place == Some(Place::Step(ACCEPT))).then(|| acts.pop_front())?
    }

    /// Takes the next act, and gives the resource as it is after it.
    fn next(&self) -> (Option<Served>, Act) {
        let (served, acts) = &mut *self.script.lock().unwrap();
        let act = acts.pop_front().unwrap_or(Act::Serve);
        if let Act::Replace(other) = &act {
            *served = Some(other.clone());
        }
        (served.clone(), act)
    }

    /// Answers one request as an origin server does (RFC 9110, sections 13.1.5 and 14); `None` ends the connection.
    fn answer(&self, reader: &mut impl BufRead, stream: &mut TcpStream) -> Option<()> {
        let asked = Asked::read(reader)?;
        let request = (asked.method.clone(), asked.body.clone());
        let mut received = self.received.lock().unwrap();
        received.entry(self.url.clone()).or_default().push(request);
        drop(received);
        let (served, act) = self.next();
        let stop = Stop::of(&act);
        stop.pass(REQUEST, stream)?;
        let Some(served) = served else {
            return refuse(stream, "404 Not Found");
        };
        if served.credential.as_ref().is_some_and(|right| !asked.shows(right)) {
            return refuse(stream, "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"");
        }
        let answer = Answer::new(&asked, &served, &act);
        let head = answer.head(&served);
        let (beginning, end) = head.split_at(head.len() / 2);
        stream.write_all(beginning.as_bytes()).ok()?;
        stop.pass(HALF_HEAD, stream)?;
        stream.write_all(end.as_bytes()).ok()?;
        stop.pass(HEAD, stream)?;
        answer.send(&served, &stop, stream)
    }
}

fn refuse(stream: &mut TcpStream, status: &str) -> Option<()> {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\ngone");
    stream.write_all(answer.as_bytes()).ok()
}

/// Which bytes are sent, and as what.
struct Answer {
    tag: String,
    is_part: bool,
    first: u64,
    end: u64,
    /// Length that the head announces for all of the resource.
    announced: u64,
    is_chunked: bool,
}

impl Answer {
    fn new(asked: &Asked, served: &Served, act: &Act) -> Self {
        let weak = if served.proof { "" } else { "W/" };
        let tag = format!("{weak}\"v{}\"", served.version);
        // A weak tag never fulfils the condition.
        let condition = asked.field("if-range").is_none_or(|given| served.proof && given == tag);
        let total = served.content.total_bytes;
        let range = asked.range().filter(|_| served.resumable && condition);
        let (first, end) = range.unwrap_or((0, None));
        Self {
            tag,
            is_part: range.is_some(),
            first,
            end: end.unwrap_or(total).min(total),
            announced: if let Act::Announce(length) = act {
                *length
            } else {
                total
            },
            is_chunked: !served.tells_length,
        }
    }

    fn is_satisfied(&self) -> bool {
        !self.is_part || self.first < self.end
    }

    fn head(&self, served: &Served) -> String {
        let (first, end, announced) = (self.first, self.end, self.announced);
        let status = match (self.is_part, self.is_satisfied()) {
            (_, false) => format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{announced}"),
            (true, _) => {
                let last = end - 1;
                format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{announced}")
            }
            (false, _) => "200 OK".to_owned(),
        };
        let ranges = if served.resumable {
            "Accept-Ranges: bytes\r\n"
        } else {
            ""
        };
        let kind = served.content_type.as_ref();
        let kind = kind.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
        let length = if self.is_part {
            end.saturating_sub(first)
        } else {
            announced
        };
        let framing = if self.is_chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {length}")
        };
        let tag = &self.tag;
        format!("HTTP/1.1 {status}\r\nETag: {tag}\r\n{ranges}{kind}{framing}\r\n\r\n")
    }

    fn send(&self, served: &Served, stop: &Stop, stream: &mut TcpStream) -> Option<()> {
        let stops_at = match stop.place {
            Some(Place::Byte(offset)) => Some(offset.clamp(self.first, self.end.max(self.first))),
            _ => None,
        };
        let until = stops_at.unwrap_or(self.end).max(self.first);
        let went = served.content.pieces(self.first..until, |piece| {
            if !self.is_chunked {
                return stream.write_all(piece).is_ok();
            }
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            stream.write_all(&chunk).is_ok()
        });
        if !went {
            return None;
        }
        if stops_at.is_some() {
            return stop.here(stream);
        }
        if self.is_chunked {
            stream.write_all(b"0\r\n\r\n").ok()?;
        }
        // Who announced more has to end the connection: it would be waited for.
        let is_short = !self.is_part && self.announced > served.content.total_bytes;
        (!is_short).then_some(())
    }
}

conforms!(
    plain,
    HttpRig::plain(),
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
        a_gap_is_fetched_alone,
        a_gap_at_the_beginning_is_fetched_alone,
        a_gap_beyond_4_gib_is_fetched_alone,
        a_gap_of_a_changed_resource_starts_again,
        a_gap_that_is_cut_is_no_success,
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
        a_request_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued,
        a_request_body_that_is_not_as_long_as_announced_fails_for_good,
    ]
);
conforms!(
    throttled,
    HttpRig::throttled(),
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
        a_gap_is_fetched_alone,
        a_gap_at_the_beginning_is_fetched_alone,
        a_gap_beyond_4_gib_is_fetched_alone,
        a_gap_of_a_changed_resource_starts_again,
        a_gap_that_is_cut_is_no_success,
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
        a_request_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued,
        a_request_body_that_is_not_as_long_as_announced_fails_for_good,
    ]
);
