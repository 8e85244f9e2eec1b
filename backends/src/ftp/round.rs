//! One transfer of libcurl: log in, ask what the file is, decide, fetch, ask again.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use super::conversation::Conversation;
use super::decide::{self, Afterwards, Ask, Decision};
use super::intake::{self, Intake, Stop};
use super::problem::Ended;
use super::replies::{self, Facts};
use super::sockets::Sockets;
use super::target::Target;
use crate::problem::Problem;
use crate::sys::{Line, Session, Settings, Tls};
use crate::{
    Credential, Head, Held, Interrupt, Limits, Request, Restart, Sink, Start, Validators, WebErrorStatus, proof,
};

/// Size of what is read from the data connection at once, in bytes. libcurl has all of it from the beginning (256 MiB from
/// vsftpd over loopback took 0.27 s of CPU with 64 KiB here and in the intake, 0.23 s with 256 KiB, and 0.25 s with 512 KiB,
/// medians of 7).
const READ_BYTES_MIN: usize = 64 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

/// Longest time limit, so that whoever counts it in whatever unit can.
const LIMIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a round is given.
pub(super) struct Task<'a> {
    pub(super) request: &'a Request,
    pub(super) target: &'a Target,
    pub(super) credential: &'a Credential,
    /// What of it must not be shown.
    pub(super) secrets: &'a [&'a str],
    pub(super) interrupt: &'a Interrupt,
    pub(super) active: bool,
    /// CAs in PEM form, where the connections are to be protected.
    pub(super) roots: Option<&'a [u8]>,
}

/// What is asked in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) ask: Ask,
    /// Also ask for the facts by MLST: SIZE or MDTM is unknown to the server.
    pub(super) with_facts: bool,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Again(Question),
    Failed(Problem),
}

/// What is waited for, and so how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until the login is done.
    Connect,
    /// A reply, or the first byte.
    Response,
    /// The next byte, and what follows the last.
    Body,
}

/// One round under way.
struct Round<'a, 's> {
    task: &'a Task<'a>,
    question: Question,
    sockets: Sockets<'a>,
    conversation: Conversation,
    /// What MDTM, SIZE and MLST said before the transfer, and after it.
    first: Facts,
    later: Facts,
    /// Whether 550, and nothing else, was said of the file after the transfer; `None` before anything was.
    is_gone: Option<bool>,
    lacks_a_command: bool,
    /// Goes to the intake once it is decided what comes.
    sink: Option<&'s mut dyn Sink>,
    intake: Option<Intake<'a, 's>>,
    phase: Phase,
    connect_until: Instant,
    /// Since when nothing came.
    since: Instant,
    /// Set where this side ends the round.
    end: Option<End>,
}

/// Runs one round. `Ok(Some)` is what must be asked instead.
pub(super) fn run<'s>(
    task: &'s Task<'s>,
    question: Question,
    sink: &'s mut dyn Sink,
) -> Result<Option<Question>, Problem> {
    let (limits, target) = (task.request.limits, task.target);
    let connect = limits.connect.min(LIMIT_MAX);
    let connect_until = Instant::now() + connect;
    let proxy = task.request.proxies.of("ftp", &target.host, target.port);
    if task.active && proxy.is_some() {
        let text = "active mode does not work through a proxy: the server could not connect back; use passive mode";
        return Err(Problem::permanent(WebErrorStatus::UNEXPECTED_CLIENT_ERROR, text));
    }
    let sockets = Sockets::open(target, proxy, task.interrupt, connect_until, connect)?;
    let mut round = Round {
        task,
        question,
        sockets,
        conversation: Conversation::default(),
        first: Facts::default(),
        later: Facts::default(),
        is_gone: None,
        lacks_a_command: false,
        sink: Some(sink),
        intake: None,
        phase: Phase::Connect,
        connect_until,
        since: Instant::now(),
        end: None,
    };
    let mut session = round.session().map_err(|error| {
        Problem::of_libcurl(&Ended {
            code: error.code(),
            text: error.extra_description().unwrap_or_default(),
            ..Ended::default()
        })
    })?;
    let outcome = session.perform(&mut round);
    let end = round.conclude(&session, outcome);
    let says_goodbye = end == End::Complete && task.roots.is_none();
    round.sockets.close(says_goodbye);
    match end {
        End::Complete => Ok(None),
        End::Again(question) => Ok(Some(question)),
        End::Failed(problem) => Err(problem),
    }
}

impl Round<'_, '_> {
    fn session(&self) -> Result<Session, curl::Error> {
        let Task { request, target, .. } = self.task;
        let command = |verb: &str, is_optional: bool| {
            let mark: &[u8] = if is_optional { b"*" } else { b"" };
            [mark, verb.as_bytes(), b" ", &target.file].concat()
        };
        let mut asks = vec![command("MDTM", true), command("SIZE", true)];
        if self.question.with_facts {
            asks.push(command("MLST", true));
        }
        let restart = match self.question.ask {
            // The answer tells whether the transfer could be continued.
            Ask::Whole { .. } => "*REST 0".to_owned(),
            Ask::Rest => format!("REST {}", self.first_byte()),
        };
        let before = [asks.clone(), vec![restart.into_bytes()]].concat();
        let Limits {
            connect,
            response,
            stall,
        } = request.limits;
        Session::new(&Settings {
            url: &target.as_libcurl_has_it(),
            user: &self.task.credential.user,
            password: &self.task.credential.password,
            resolve: self.sockets.resolution(target).as_deref(),
            buffer_bytes: request.buffer_bytes.clamp(READ_BYTES_MIN, READ_BYTES_MAX),
            backstop: connect.max(response).max(stall).saturating_mul(2).min(LIMIT_MAX),
            before: &before,
            after: &asks,
            active: self.task.active,
            tls: self.task.roots.map(|roots| Tls {
                explicit: target.is_explicit(),
                roots,
            }),
        })
    }

    fn held(&self) -> Option<&Held> {
        self.task.request.held.as_ref()
    }

    /// Where the rest begins, with the end of what is held.
    fn first_byte(&self) -> u64 {
        self.held()
            .map_or(0, |held| held.offset_bytes.saturating_sub(overlap(held).len() as u64))
    }

    /// Takes note of a reply; `Err` ends the round.
    fn note(&mut self) -> Result<(), End> {
        let Some(reply) = self.conversation.last() else {
            return Ok(());
        };
        let (code, is_unknown) = (reply.code, reply.is_unknown_command());
        let denies_restart = reply.denies_restart();
        let command = self.conversation.command();
        let facts = match command {
            "MDTM" => Facts {
                modified: reply.modified().map(str::to_owned),
                size: None,
            },
            "SIZE" => Facts {
                size: reply.size(),
                modified: None,
            },
            "MLST" => reply.facts(),
            "REST" => return self.note_restart(code),
            "RETR" => {
                if denies_restart && self.question.ask == Ask::Rest && self.phase != Phase::Body {
                    return Err(self.ask_whole(Restart::RangeIgnored));
                }
                if let Some(intake) = self.intake.as_mut().filter(|_| matches!(code, 100..200)) {
                    intake.answered(code);
                    self.phase = Phase::Body;
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.conversation.has_transferred() {
            self.is_gone = Some(code == 550 && self.is_gone != Some(false));
            self.later = std::mem::take(&mut self.later).or(facts);
            return Ok(());
        }
        let is_last = command == if self.question.with_facts { "MLST" } else { "SIZE" };
        self.lacks_a_command |= is_unknown && command != "MLST";
        self.first = std::mem::take(&mut self.first).or(facts);
        // A server that shuts down says so to any command.
        if is_last && code != 421 { self.judge() } else { Ok(()) }
    }

    /// RFC 3659, section 5: 350, and nothing else, says that RETR will begin there.
    fn note_restart(&mut self, code: u16) -> Result<(), End> {
        match (self.question.ask, code) {
            (Ask::Whole { .. }, 350) => {
                if let Some(intake) = &mut self.intake {
                    intake.is_resumable();
                }
                Ok(())
            }
            // What may go away is no refusal; libcurl ends the transfer with it.
            (Ask::Whole { .. }, _) | (Ask::Rest, 350 | 400..500) => Ok(()),
            (Ask::Rest, _) => Err(self.ask_whole(Restart::RangeIgnored)),
        }
    }

    fn ask_whole(&self, reason: Restart) -> End {
        End::Again(Question {
            ask: Ask::Whole { given_up: Some(reason) },
            ..self.question
        })
    }

    /// All that can be known of the file is known: decides what comes.
    fn judge(&mut self) -> Result<(), End> {
        if self.lacks_a_command && !self.question.with_facts {
            return Err(End::Again(Question {
                with_facts: true,
                ..self.question
            }));
        }
        let request = self.task.request;
        let mut validators = decide::validators(&self.first, SystemTime::now());
        let decision = decide::decide(self.question.ask, self.held(), &validators, request.expected_bytes);
        let offset_bytes = self.held().map_or(0, |held| held.offset_bytes);
        let (start, on_trust, has_all) = match decision {
            Decision::Whole(reason) => (reason.map_or(Start::Beginning, Start::Restart), false, false),
            Decision::Continue { on_trust } => (Start::Continue { offset_bytes }, on_trust, false),
            Decision::Complete { on_trust } => (Start::Continue { offset_bytes }, on_trust, true),
            Decision::AskWhole(reason) => return Err(self.ask_whole(reason)),
            Decision::Fail(problem) => return Err(End::Failed(problem)),
        };
        if let (Start::Continue { .. }, Some(held)) = (&start, self.held()) {
            // A length that is not said again is that of before.
            validators.total_bytes = validators.total_bytes.or(held.validators.total_bytes);
        }
        let Some(sink) = self.sink.take() else {
            return Ok(());
        };
        let head = self.head(start, validators, on_trust);
        if has_all {
            let outcome = intake::begin_and_end(sink, &head);
            return Err(outcome.map_or_else(End::Failed, |()| End::Complete));
        }
        let (begin, overlap) = match (&head.start, &request.held) {
            (Start::Continue { .. }, Some(old)) => (old.offset_bytes, overlap(old)),
            _ => (0, &[][..]),
        };
        let total = head.validators.total_bytes.or(request.expected_bytes);
        let due = total.map(|total| total.saturating_sub(begin));
        self.intake = Some(Intake::new(sink, head, overlap, due, request.buffer_bytes));
        Ok(())
    }

    fn head(&self, start: Start, validators: Validators, on_trust: bool) -> Head {
        let said = [
            ("MDTM", self.first.modified.clone()),
            ("SIZE", self.first.size.map(|size| size.to_string())),
        ];
        let headers = said.into_iter().filter_map(|(name, text)| Some((name, text?)));
        Head {
            resumable: Some(matches!(start, Start::Continue { .. })),
            start,
            provable: proof::is_provable(&validators),
            actual_url: self.task.target.without_secrets(),
            status_code: self.conversation.last().map_or(0, |reply| reply.code),
            on_trust,
            content_type: None,
            modified: self.first.modified.as_deref().and_then(replies::time),
            mirrors: Vec::new(),
            headers: headers.collect(),
            validators,
        }
    }

    fn heed(&mut self, stop: Stop) -> End {
        let due = self.intake.as_ref().and_then(Intake::due).unwrap_or_default();
        match stop {
            Stop::Refused => End::Failed(Problem::refused()),
            Stop::Differs => self.ask_whole(Restart::Changed),
            Stop::TooLong if self.first.size.is_some() => End::Failed(Problem::changed_meanwhile(&format!(
                "the server sends more than the {due} bytes that are due"
            ))),
            Stop::TooLong => End::Failed(Problem::permanent(
                WebErrorStatus::LENGTH_MISMATCH,
                format!("the server sends more than the {due} bytes that are due"),
            )),
        }
    }

    /// Ends the round where this side has a reason to. The first reason counts.
    fn goes_on(&mut self, outcome: Result<(), End>) -> bool {
        if let Err(end) = outcome
            && self.end.is_none()
        {
            self.end = Some(end);
        }
        self.end.is_none()
    }

    fn look_at_the_clock(&self) -> Result<(), End> {
        let now = Instant::now();
        let Limits { response, stall, .. } = self.task.request.limits;
        let silent_for = |limit: Duration| now.duration_since(self.since) > limit;
        let text = match self.phase {
            Phase::Connect if now > self.connect_until => "no login within the time limit for connections",
            Phase::Response if silent_for(response) => "no response within the time limit",
            Phase::Body if silent_for(stall) => "the server fell silent in the middle of the transfer",
            _ => return Ok(()),
        };
        Err(End::Failed(Problem::transient(WebErrorStatus::TIMEOUT, text)))
    }

    /// What is to be made of the end. Whatever came reaches the sink.
    fn conclude(&mut self, session: &Session, outcome: Result<(), curl::Error>) -> End {
        let flushed = self.intake.as_mut().map_or(Ok(()), Intake::flush);
        if let Err(stop) = flushed {
            return self.heed(stop);
        }
        if let Some(end) = self.end.take() {
            return end;
        }
        let Err(error) = outcome else {
            return self.complete().err().unwrap_or(End::Complete);
        };
        if self.task.interrupt.is_raised() {
            return End::Failed(Problem::interrupted());
        }
        // What is sent after RETR is sent only where libcurl is content with the transfer: it broke off in the questions
        // that follow, and what is missing is their answers.
        if self.conversation.has_transferred() && self.conversation.command() != "RETR" {
            match self.complete() {
                Ok(()) => return End::Complete,
                // Why nothing was confirmed is told below.
                Err(end) if end == End::Failed(Problem::unconfirmed()) => {}
                Err(end) => return end,
            }
        }
        let is_without_connection = matches!(
            error.code(),
            curl_sys::CURLE_COULDNT_CONNECT | curl_sys::CURLE_ABORTED_BY_CALLBACK
        );
        if let Some(fault) = self.sockets.take_fault().filter(|_| is_without_connection) {
            return End::Failed(fault);
        }
        End::Failed(Problem::of_libcurl(&Ended {
            code: error.code(),
            text: error.extra_description().unwrap_or_default(),
            verify_result: session.verify_result(),
            command: self.conversation.command(),
            refusal: self.conversation.last(),
            secrets: self.task.secrets,
        }))
    }

    /// The data connection ended in good order, and 226 or 250 came. Only the file can have changed.
    fn complete(&mut self) -> Result<(), End> {
        let Some(intake) = &mut self.intake else {
            return Err(End::Failed(Problem::bad_reply("a transfer before SIZE was answered")));
        };
        let (received, due) = (intake.received(), intake.due());
        if let Some(due) = due.filter(|&due| received < due) {
            let text = format!("the server ended the transfer after {received} bytes, {due} are due");
            return Err(End::Failed(if self.first.size.is_some() {
                Problem::changed_meanwhile(&text)
            } else {
                Problem::permanent(WebErrorStatus::LENGTH_MISMATCH, text)
            }));
        }
        if let Err(stop) = intake.finish() {
            return Err(self.heed(stop));
        }
        let is_one_answer = intake.position() == intake.received();
        let is_gone = is_one_answer && self.is_gone == Some(true);
        match decide::afterwards(&self.first, &self.later, intake.position(), is_gone) {
            Afterwards::Same => Ok(()),
            Afterwards::Changed => {
                let text = "MDTM or SIZE is another than before";
                Err(End::Failed(Problem::changed_meanwhile(text)))
            }
            // All of it came in earlier attempts, and what was asked at the beginning of this one came after it.
            Afterwards::Unconfirmed if intake.has_continued() && intake.received() == 0 => Ok(()),
            Afterwards::Unconfirmed => Err(End::Failed(Problem::unconfirmed())),
        }
    }
}

/// What comes once more: the end of what is held.
fn overlap(held: &Held) -> &[u8] {
    let most = usize::try_from(held.offset_bytes).unwrap_or(usize::MAX);
    &held.tail[held.tail.len().saturating_sub(most)..]
}

impl Line for Round<'_, '_> {
    fn connect(&mut self, port: u16) -> Option<OwnedFd> {
        self.sockets.connect(port)
    }

    fn accepted(&mut self, socket: BorrowedFd<'_>) -> bool {
        let outcome = self.sockets.accepted(socket).map_err(End::Failed);
        self.goes_on(outcome)
    }

    fn sent(&mut self, command: &[u8]) {
        self.conversation.sent(command);
        self.since = Instant::now();
        let is_login = matches!(
            self.conversation.command(),
            "AUTH" | "USER" | "PASS" | "ACCT" | "PBSZ" | "PROT"
        );
        if self.phase == Phase::Connect && !is_login {
            self.phase = Phase::Response;
        }
    }

    fn heard(&mut self, line: &[u8]) -> bool {
        let outcome = match self.conversation.heard(line) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                self.since = Instant::now();
                self.note()
            }
            Err(problem) => Err(End::Failed(problem)),
        };
        self.goes_on(outcome)
    }

    fn received(&mut self, bytes: &[u8]) -> bool {
        let outcome = match &mut self.intake {
            Some(intake) => intake.take(bytes),
            // libcurl takes no data before the reply to RETR.
            None => return false,
        };
        // What the sink took its time for is no silence of the server.
        self.since = Instant::now();
        let outcome = outcome.map_err(|stop| self.heed(stop));
        self.goes_on(outcome)
    }

    fn tick(&mut self) -> bool {
        if self.task.interrupt.is_raised() {
            return false;
        }
        let start = Instant::now();
        let flushed = self.intake.as_mut().map_or(Ok(()), Intake::tick);
        // As above.
        self.since += start.elapsed();
        let outcome = flushed
            .map_err(|stop| self.heed(stop))
            .and_then(|()| self.look_at_the_clock());
        self.goes_on(outcome)
    }
}
