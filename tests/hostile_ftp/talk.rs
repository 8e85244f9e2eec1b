//! One control connection: commands in, answers out, and what the script does to both (RFC 959, 2428 and 3659).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::channel::Channel;
use crate::resource::{self, Times};
use crate::script::{At, ChannelLie, Hit, Manner, Session, SizeLie, TimeLie};
use crate::server::Shared;

/// Longest command that is read.
const COMMAND_BYTES_MAX: usize = 4096;
/// Silence after which a connection is given up; far beyond what a client that lives needs.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Where an answer without end does end. Whoever takes all of it has no bound.
const ENDLESS_BYTES_MAX: u64 = 256 << 20;
/// The first bytes of a `ClientHello`.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\xff\n\x00\r\n";

pub(crate) struct Talk<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) stream: &'a TcpStream,
    pub(crate) session: Session,
    number: usize,
    /// How many answers were given, and how many to each command.
    answers: usize,
    asked: BTreeMap<String, usize>,
    login: Login,
    /// No answer came unasked, so that the client knows which one belongs to what.
    pub(crate) in_step: bool,
    /// The last answer was replaced by one that refuses.
    pub(crate) has_refused: bool,
    /// The version whose true length the client was told last, and that whose own time it was told last.
    pub(crate) size_told_of: Option<usize>,
    pub(crate) time_told_of: Option<usize>,
    /// From where the next transfer begins.
    pub(crate) from: usize,
    pub(crate) channel: Channel,
}

/// How far the client has got with its login.
#[derive(PartialEq)]
enum Login {
    None,
    User,
    Done,
}

/// The end of a session that the script wants.
pub(crate) fn over<T>() -> io::Result<T> {
    Err(io::Error::other("the script ends the session"))
}

impl<'a> Talk<'a> {
    pub(crate) fn new(shared: &'a Shared, stream: &'a TcpStream, session: Session, number: usize) -> Self {
        Self {
            shared,
            stream,
            session,
            number,
            answers: 0,
            asked: BTreeMap::new(),
            login: Login::None,
            in_step: true,
            has_refused: false,
            size_told_of: None,
            time_told_of: None,
            from: 0,
            channel: Channel::None,
        }
    }

    pub(crate) fn serve(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(SILENCE_MAX))?;
        self.stream.set_write_timeout(Some(SILENCE_MAX))?;
        let result = self.converse();
        if self.channel.was_used_elsewhere() {
            self.shared.state().record.went_elsewhere = true;
        }
        result
    }

    fn converse(&mut self) -> io::Result<()> {
        self.turn_if_due("greeting");
        self.answer("greeting", "220 ready")?;
        while let Some(line) = self.read_command()? {
            self.shared.state().record.commands += 1;
            self.shared.kill_if_due();
            let (name, argument) = line.split_once(' ').unwrap_or((&line, ""));
            let name = name.to_ascii_uppercase();
            if !self.obey(&name, argument)? {
                break;
            }
        }
        Ok(())
    }

    /// Does one command; `false` where it was the last.
    fn obey(&mut self, name: &str, argument: &str) -> io::Result<bool> {
        self.turn_if_due(name);
        let plain = match name {
            "USER" => {
                self.login = Login::User;
                "331 which password?"
            }
            "PASS" if self.login == Login::User => {
                self.login = Login::Done;
                "230 welcome"
            }
            "QUIT" => {
                self.answer(name, "221 farewell")?;
                return Ok(false);
            }
            "FEAT" => {
                "211-what there is:\r\n MDTM\r\n SIZE\r\n REST STREAM\r\n EPSV\r\n MLST size*;modify*;\r\n211 that is all"
            }
            "SYST" => "215 UNIX Type: L8",
            "NOOP" => "200 fine",
            "OPTS" => "501 no such option",
            _ if self.login != Login::Done => "530 who are you?",
            "PWD" => "257 \"/\" is where you are",
            "CWD" | "CDUP" => "250 there you are",
            "TYPE" | "MODE" | "STRU" => "200 so be it",
            "ALLO" => "202 not needed",
            "ABOR" => "226 nothing goes on",
            "SIZE" | "MDTM" | "MLST" | "RETR" if !argument.ends_with("file") => "550 no such file",
            "SIZE" => return self.size().map(|()| true),
            "MDTM" => return self.time().map(|()| true),
            "MLST" => return self.facts(argument).map(|()| true),
            "EPSV" | "PASV" => return self.passive(name).map(|()| true),
            "EPRT" | "PORT" => return self.active(name, argument).map(|()| true),
            "REST" => return self.rest(argument).map(|()| true),
            "RETR" => return self.retrieve().map(|()| true),
            _ => "502 not here",
        };
        self.answer(name, plain)?;
        Ok(true)
    }

    /// To be called before the answer to what has this name is made.
    pub(crate) fn turn_if_due(&mut self, name: &str) {
        let (number, nth) = (self.answers, self.asked.get(name).copied().unwrap_or(0) + 1);
        let is_due = |at: &At| match *at {
            At::Number(due) => due == number,
            At::Named(due, which) => due == name && which == nth,
        };
        let due = self.session.turns.iter().filter(|at| is_due(at)).count();
        for _ in 0..due {
            if self.shared.turn() {
                self.shared.state().met("replaced before a command");
            }
        }
    }

    // ---- what is told of the file ----

    fn size(&mut self) -> io::Result<()> {
        let (text, is_true) = self.size_text();
        let told_of = is_true.then(|| self.shared.state().current);
        self.size_told_of = None;
        if self.answer("SIZE", &text)? {
            self.size_told_of = told_of;
        }
        Ok(())
    }

    /// The answer to SIZE (RFC 3659, section 4), and whether it is true.
    fn size_text(&mut self) -> (String, bool) {
        let versions = &self.shared.versions;
        let mut state = self.shared.state();
        let len = versions[state.current].len();
        let (fault, told) = match self.session.size {
            SizeLie::True => return (format!("213 {len}"), true),
            SizeLie::Smaller(by) => ("SIZE too small", format!("213 {}", len.saturating_sub(by))),
            SizeLie::Larger(by) => ("SIZE too large", format!("213 {}", len + by)),
            SizeLie::Negative => ("SIZE negative", format!("213 -{len}")),
            SizeLie::Wrapped => ("SIZE wrapped", format!("213 {}", (1u128 << 64) + len as u128)),
            SizeLie::Huge(true) => ("SIZE huge", format!("213 {}", 1u128 << 64)),
            SizeLie::Huge(false) => ("SIZE huge", format!("213 {}", i64::MAX)),
            SizeLie::Text => ("SIZE is text", "213 rather large".to_owned()),
            SizeLie::Empty => ("SIZE is empty", "213 ".to_owned()),
            SizeLie::Refused(code) => ("SIZE refused", format!("{code} no")),
            SizeLie::OfVersion(other) => ("SIZE of another version", format!("213 {}", versions[other].len())),
        };
        state.met(fault);
        (told, false)
    }

    fn time(&mut self) -> io::Result<()> {
        let (text, is_own) = self.time_text();
        let told_of = is_own.then(|| self.shared.state().current);
        self.time_told_of = None;
        if self.answer("MDTM", &text)? {
            self.time_told_of = told_of;
        }
        Ok(())
    }

    /// The answer to MDTM (RFC 3659, section 3), and whether no other version ever has it.
    fn time_text(&mut self) -> (String, bool) {
        let asked_before = self.asked.get("MDTM").copied().unwrap_or(0);
        let mut state = self.shared.state();
        let Some(time) = self.shared.times.of(state.current, state.made) else {
            state.met("MDTM refused");
            return ("502 not here".to_owned(), false);
        };
        if self.shared.times == Times::Now {
            state.met("MDTM of this second");
        }
        let is_own = self.shared.times == Times::Distinct;
        let (fault, told, is_own) = match self.session.time {
            TimeLie::True => return (format!("213 {time}"), is_own),
            TimeLie::Fraction => ("MDTM with a fraction", format!("213 {time}.123"), is_own),
            TimeLie::Refused(code) => ("MDTM refused", format!("{code} no"), false),
            TimeLie::Garbage(text) => ("MDTM garbage", format!("213 {text}"), false),
            TimeLie::Future => ("MDTM in the future", format!("213 29{}", &time[2..]), is_own),
            TimeLie::Changing => {
                state.made_up += 1;
                let time = resource::changing(state.made_up);
                ("MDTM changing", format!("213 {time}"), true)
            }
            TimeLie::Once if asked_before == 0 => return (format!("213 {time}"), is_own),
            TimeLie::Once => ("MDTM told once", "502 no longer".to_owned(), false),
        };
        state.met(fault);
        (told, is_own)
    }

    /// RFC 3659, section 7: the same facts, true or not, in one answer.
    fn facts(&mut self, argument: &str) -> io::Result<()> {
        let (size, size_is_true) = self.size_text();
        let (time, time_is_own) = self.time_text();
        let fact = |name: &str, text: &str| {
            let value = text.strip_prefix("213 ").map(|value| format!("{name}={value};"));
            value.unwrap_or_default()
        };
        let facts = fact("size", &size) + &fact("modify", &time);
        let current = self.shared.state().current;
        (self.size_told_of, self.time_told_of) = (None, None);
        if self.answer(
            "MLST",
            &format!("250-what there is\r\n type=file;{facts} {argument}\r\n250 that is all"),
        )? {
            self.size_told_of = size_is_true.then_some(current);
            self.time_told_of = time_is_own.then_some(current);
        }
        Ok(())
    }

    // ---- the data connection ----

    fn passive(&mut self, name: &str) -> io::Result<()> {
        if self.channel.was_used_elsewhere() {
            self.shared.state().record.went_elsewhere = true;
        }
        let is_extended = name == "EPSV";
        let (fault, channel, text) = match self.session.channel {
            ChannelLie::Refused(code) => ("no data connection to be had", Channel::None, format!("{code} no")),
            ChannelLie::NoEpsv(code) if is_extended => ("EPSV refused", Channel::None, format!("{code} no")),
            ChannelLie::Foreign if is_extended => ("EPSV refused", Channel::None, "502 no".to_owned()),
            ChannelLie::Port(port) => {
                let text = Channel::text(is_extended, None, port);
                ("a port where nobody listens", Channel::None, text)
            }
            ChannelLie::Closed => {
                let port = Channel::listen(false)?.port()?;
                let text = Channel::text(is_extended, None, port);
                ("a port that was closed", Channel::None, text)
            }
            ChannelLie::Malformed(text) => {
                let code = if is_extended { 229 } else { 227 };
                ("no address", Channel::None, format!("{code} {text}"))
            }
            lie => {
                let elsewhere = match lie {
                    ChannelLie::Foreign => Some("PASV of a foreign address"),
                    ChannelLie::ForeignEpsv if is_extended => Some("EPSV of a foreign address"),
                    _ => None,
                };
                let channel = Channel::listen(elsewhere.is_some())?;
                let text = Channel::text(is_extended, channel.foreign_address(), channel.port()?);
                (elsewhere.unwrap_or_default(), channel, text)
            }
        };
        if !fault.is_empty() {
            self.shared.state().met(fault);
        }
        self.channel = channel;
        self.answer(name, &text)?;
        Ok(())
    }

    fn active(&mut self, name: &str, argument: &str) -> io::Result<()> {
        let channel = Channel::towards(name == "EPRT", argument);
        let text = match channel {
            Some(_) => "200 so be it",
            None => "501 no address",
        };
        self.channel = channel.unwrap_or(Channel::None);
        self.answer(name, text)?;
        Ok(())
    }

    // ---- answers ----

    /// Answers the next command, or the greeting, as the script wants it; whether the client got it as it was meant.
    pub(crate) fn answer(&mut self, name: &str, text: &str) -> io::Result<bool> {
        let (number, nth) = (self.answers, self.asked.get(name).copied().unwrap_or(0) + 1);
        self.answers += 1;
        self.asked.insert(name.to_owned(), nth);
        let is_hit = |at: &At| match *at {
            At::Number(hit) => hit == number,
            At::Named(hit, which) => hit == name && which == nth,
        };
        let place = self.session.hits.iter().position(|(at, _)| is_hit(at));
        let hit = place.map(|place| self.session.hits.remove(place).1);
        self.note(name, text, hit.as_ref());
        self.has_refused = false;
        if let Some(hit) = hit {
            return self.strike(hit, text);
        }
        self.say(text)?;
        // In other manners, no client need understand more than the code.
        let is_plain = matches!(self.session.manner, Manner::Plain | Manner::Bytewise);
        Ok(self.in_step && is_plain)
    }

    fn note(&self, name: &str, text: &str, hit: Option<&Hit>) {
        let mut state = self.shared.state();
        state.record.refused += u64::from(text.starts_with(['4', '5']));
        let hit = hit.map(|hit| format!(", but {hit:?}")).unwrap_or_default();
        let line = format!(
            "{}: {name} -> {:?}{hit}",
            self.number,
            text.lines().next().unwrap_or_default()
        );
        state.record.talk.push(line);
    }

    fn strike(&mut self, hit: Hit, text: &str) -> io::Result<bool> {
        let met = |fault| self.shared.state().met(fault);
        let half = &text.as_bytes()[..text.len() / 2];
        match hit {
            Hit::DropBefore => met("drop before an answer"),
            Hit::DropAfter => {
                met("drop after an answer");
                self.say(text)?;
            }
            Hit::DropWithin => {
                met("drop within an answer");
                self.send(half)?;
            }
            Hit::StallBefore => {
                met("stall before an answer");
                self.stall();
            }
            Hit::StallWithin => {
                met("stall within an answer");
                self.send(half)?;
                self.stall();
            }
            Hit::EndlessLine => {
                met("endless line");
                self.send(b"230-")?;
                return self.send_without_end(&[b'x'; 4096]);
            }
            Hit::EndlessLines => {
                met("endless lines");
                let code = text.get(..3).unwrap_or("230");
                return self.send_without_end(
                    format!("{code}-and so on and so on and so on\r\n")
                        .repeat(100)
                        .as_bytes(),
                );
            }
            Hit::Instead(bytes) => {
                met("another answer");
                let is_refused = matches!(bytes.first(), Some(b'4' | b'5'));
                self.shared.state().record.refused += u64::from(is_refused);
                self.has_refused = is_refused;
                self.send(&bytes)?;
                return Ok(false);
            }
            Hit::Tls => {
                met("TLS in clear text");
                self.send(TLS_HELLO)?;
                return Ok(false);
            }
            Hit::Nul => {
                met("byte 0 in an answer");
                self.say(&text.replace(' ', " \0 "))?;
                return Ok(false);
            }
            Hit::NonAscii => {
                met("no ASCII in an answer");
                let bytes = [text.as_bytes(), b" \xff\xfe\xc3\x28 \x80\r\n"].concat();
                self.send(&bytes)?;
                return Ok(false);
            }
            Hit::Extra(other, is_before) => {
                let (fault, both) = if is_before {
                    ("unasked answer before", format!("{other}\r\n{text}"))
                } else {
                    ("unasked answer after", format!("{text}\r\n{other}"))
                };
                met(fault);
                self.in_step = false;
                self.say(&both)?;
                return Ok(false);
            }
        }
        over()
    }

    /// Sends an answer in the manner of the session.
    fn say(&mut self, text: &str) -> io::Result<()> {
        let met = |fault| self.shared.state().met(fault);
        match self.session.manner {
            Manner::Plain => self.send(format!("{text}\r\n").as_bytes()),
            Manner::Bytewise => {
                met("answers in single bytes");
                format!("{text}\r\n").bytes().try_for_each(|byte| self.send(&[byte]))
            }
            Manner::ManyLines => {
                met("answers in many lines");
                let code = text.get(..3).unwrap_or("000");
                let lines = format!("{code}-listen\r\n 226 not yet\r\n226-nor now\r\n\r\n{text}\r\n");
                self.send(lines.as_bytes())
            }
            Manner::BareLineFeed => {
                met("answers with bare line feeds");
                self.send(format!("{}\n", text.replace('\r', "")).as_bytes())
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(bytes)
    }

    fn send_without_end(&self, piece: &[u8]) -> io::Result<bool> {
        let mut sent = 0;
        while sent < ENDLESS_BYTES_MAX && self.send(piece).is_ok() {
            sent += piece.len() as u64;
        }
        let record = &mut self.shared.state().record;
        record.longest_answer = record.longest_answer.max(sent);
        over()
    }

    /// Waits for the client to give up.
    pub(crate) fn stall(&self) {
        let mut stream = self.stream;
        let mut ignored = [0; 512];
        while stream.read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
    }

    /// A command without its end of line; `None` where the client has gone.
    fn read_command(&self) -> io::Result<Option<String>> {
        let mut stream = self.stream;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.len() < COMMAND_BYTES_MAX {
            if stream.read(&mut byte)? == 0 {
                return Ok(None);
            }
            if byte == *b"\n" {
                let text = String::from_utf8_lossy(&line);
                return Ok(Some(text.trim_end_matches('\r').to_owned()));
            }
            line.extend_from_slice(&byte);
        }
        Ok(None)
    }
}
