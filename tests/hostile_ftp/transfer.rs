//! REST and RETR: which bytes go out, and what is said before and after them.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustix::net::sockopt::set_socket_linger;

use crate::channel::Channel;
use crate::script::{Body, Breach, End, Hit, Preliminary, RestLie};
use crate::talk::{Talk, over};

/// Sent at once; between two of them the client may be killed.
const SEND_BYTES: usize = 16 * 1024;

/// What is to go out, and where the file changes on the way.
struct Due {
    bytes: Vec<u8>,
    /// After so many of the bytes the file is replaced by its next version.
    turn_after: Option<usize>,
    /// What is sent is not what the client must take for whole, although it may look so to it.
    is_short_or_long: bool,
}

impl Talk<'_> {
    /// RFC 3659, section 5.
    pub(crate) fn rest(&mut self, argument: &str) -> io::Result<()> {
        let Ok(offset) = argument.trim().parse::<usize>() else {
            self.answer("REST", "501 no number")?;
            return Ok(());
        };
        let (fault, code, from) = match self.session.rest {
            RestLie::Refused(code) => ("REST refused", code, 0),
            RestLie::RefusedAndDone(code) => ("REST refused and done", code, offset),
            _ => ("", 350, offset),
        };
        if !fault.is_empty() && offset > 0 {
            self.shared.state().met(fault);
        }
        self.from = from;
        self.answer("REST", &format!("{code} from {offset}"))?;
        Ok(())
    }

    pub(crate) fn retrieve(&mut self) -> io::Result<()> {
        let channel = std::mem::replace(&mut self.channel, Channel::None);
        if matches!(channel, Channel::None) {
            self.answer("RETR", "425 no data connection")?;
            return Ok(());
        }
        let mut due = self.due();
        self.from = 0;
        if !self.say_preliminary(&due)? {
            return Ok(());
        }
        let result = self.send_body(&channel, &mut due);
        if channel.was_used_elsewhere() {
            self.shared.state().record.went_elsewhere = true;
        }
        result?;
        self.say_end(&due)
    }

    /// A length, or bytes, that nobody could see to be wrong: the client knows the digest, or the true length of what
    /// there is now.
    fn may_lie_of_length(&self) -> bool {
        let current = self.shared.state().current;
        self.shared.is_free || (self.in_step && self.size_told_of == Some(current))
    }

    /// A change in place that the client can find out about: it was told the time of what there is now, which no other
    /// version has, or its length, which the next version does not have.
    fn may_change_in_place(&self) -> bool {
        let current = self.shared.state().current;
        let versions = &self.shared.versions;
        let differ = versions
            .get(current + 1)
            .is_some_and(|next| next.len() != versions[current].len());
        let is_told = self.time_told_of == Some(current) || (self.size_told_of == Some(current) && differ);
        let is_gone = |hit: &Hit| matches!(hit, Hit::Instead(bytes) if bytes.starts_with(b"550"));
        let says_gone = self.session.hits.iter().filter(|(_, hit)| is_gone(hit)).count();
        self.shared.is_free || (self.in_step && is_told && says_gone < 2)
    }

    /// What the script makes of the bytes that are due.
    fn due(&mut self) -> Due {
        let current = self.shared.state().current;
        let version = Arc::clone(&self.shared.versions[current].bytes);
        let asked = self.from;
        let (start, is_exact) = self.start(asked, version.len());
        self.shared.state().record.rests += u64::from(start > 0);
        let mut bytes = version[start.min(version.len())..].to_vec();
        let mut is_short_or_long = false;
        if is_exact {
            bytes.resize(version.len().saturating_sub(asked), b'?');
            is_short_or_long = true;
        }
        let mut turn_after = None;
        match self.session.body {
            Body::Cut(share, _) if !bytes.is_empty() => {
                bytes.truncate(bytes.len() * share / 1000);
                is_short_or_long = true;
            }
            Body::Less(by) => {
                bytes.truncate(bytes.len().saturating_sub(by));
                is_short_or_long = true;
            }
            Body::Extra(more) => {
                bytes.extend(std::iter::repeat_n(b'!', more));
                is_short_or_long = true;
            }
            Body::NotAccepted(_) => is_short_or_long = !bytes.is_empty(),
            Body::Replaced(share, is_in_place) => {
                let after = bytes.len() * share / 1000;
                turn_after = Some(after);
                if is_in_place && self.may_change_in_place() && current + 1 < self.shared.versions.len() {
                    let next = &self.shared.versions[current + 1].bytes;
                    bytes.truncate(after);
                    bytes.extend_from_slice(next.get(start + after..).unwrap_or_default());
                    self.shared.state().met("replaced in place while it is sent");
                } else {
                    self.shared.state().met("replaced by rename while it is sent");
                }
            }
            Body::Cut(..) | Body::Whole => {}
        }
        self.shared.state().record.served.insert(current);
        Due {
            bytes,
            turn_after,
            is_short_or_long,
        }
    }

    /// From where the bytes are taken, and whether there are as many of them as the right ones would be.
    fn start(&self, asked: usize, len: usize) -> (usize, bool) {
        let may_lie = self.may_lie_of_length();
        let mut state = self.shared.state();
        let shifted = |by: i64| {
            usize::try_from(i64::try_from(asked).unwrap() + by)
                .unwrap_or(0)
                .min(len)
        };
        match self.session.rest {
            RestLie::RefusedAndDone(_) if !may_lie => return (0, false),
            RestLie::Refused(_) | RestLie::RefusedAndDone(_) => {}
            _ if asked == 0 => {}
            RestLie::FromZero => {
                state.met("REST accepted and ignored");
                return (0, false);
            }
            RestLie::Shifted(by) => {
                state.met("REST to another place");
                return (shifted(by), false);
            }
            RestLie::FromZeroExactly => {
                state.met("REST to another place, as many bytes as due");
                return (0, true);
            }
            RestLie::ShiftedExactly(by) => {
                state.met("REST to another place, as many bytes as due");
                return (shifted(by), true);
            }
            RestLie::True => {}
        }
        (asked, false)
    }

    /// Whether the transfer goes on.
    fn say_preliminary(&mut self, due: &Due) -> io::Result<bool> {
        let len = i64::try_from(due.bytes.len()).unwrap();
        let (fault, text) = match self.session.preliminary {
            Preliminary::Plain => ("", "150 here it comes".to_owned()),
            Preliminary::Already => ("transfer already open", "125 here it comes".to_owned()),
            Preliminary::WithLength(0) => (
                "length in the preliminary answer",
                format!("150 Opening BINARY mode data connection for file ({len} bytes)."),
            ),
            Preliminary::WithLength(off) => (
                "wrong length in the preliminary answer",
                format!(
                    "150 Opening BINARY mode data connection for file ({} bytes).",
                    len + off
                ),
            ),
            Preliminary::EndFirst => (
                "end before the data",
                format!("150 here it comes\r\n{}", self.end_text(due)),
            ),
        };
        if !fault.is_empty() {
            self.shared.state().met(fault);
        }
        self.answer("RETR", &text)?;
        Ok(!self.has_refused)
    }

    fn send_body(&mut self, channel: &Channel, due: &mut Due) -> io::Result<()> {
        let met = |fault| self.shared.state().met(fault);
        if let Body::NotAccepted(breach) = self.session.body {
            match breach {
                Breach::Close => {
                    met("data connection closed at once");
                    drop(channel.open(self.stream)?);
                }
                Breach::Reset => {
                    met("data connection reset at once");
                    reset(channel.open(self.stream)?);
                }
                Breach::Stall => {
                    met("data connection never accepted");
                    self.stall();
                    return over();
                }
            }
            return Ok(());
        }
        let data = channel.open(self.stream)?;
        let (before, after) = due.bytes.split_at(due.turn_after.unwrap_or(due.bytes.len()));
        self.send_data(&data, before)?;
        if due.turn_after.is_some() && self.shared.turn() {
            let current = self.shared.state().current;
            self.shared.state().record.served.insert(current);
        }
        self.send_data(&data, after)?;
        match self.session.body {
            Body::Cut(_, Breach::Close) => met("data cut"),
            Body::Cut(_, Breach::Reset) => {
                met("data cut by a reset");
                reset(data);
            }
            Body::Cut(_, Breach::Stall) => {
                met("data stalled");
                self.stall();
                return over();
            }
            Body::Less(_) => met("data cut at a false length"),
            Body::Extra(_) => met("too much data"),
            _ => {}
        }
        Ok(())
    }

    fn send_data(&self, mut data: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(SEND_BYTES) {
            data.write_all(piece)?;
            self.shared.state().record.body_bytes += piece.len() as u64;
            self.shared.kill_if_due();
        }
        Ok(())
    }

    /// What is said of the whole transfer. A good end of a bad one is said only where it can be seen through.
    fn end_text(&self, due: &Due) -> String {
        match self.session.end {
            End::Code(code) if code < 400 && due.is_short_or_long && !self.may_lie_of_length() => {
                "426 that was not all".to_owned()
            }
            End::Code(code) => format!("{code} that was it"),
            _ if due.is_short_or_long && !self.may_lie_of_length() => "426 that was not all".to_owned(),
            _ => "226 that was it".to_owned(),
        }
    }

    fn say_end(&mut self, due: &Due) -> io::Result<()> {
        let met = |fault| self.shared.state().met(fault);
        match self.session.end {
            _ if self.session.preliminary == Preliminary::EndFirst => return Ok(()),
            End::Drop => {
                met("no end of a transfer");
                return over();
            }
            End::Stall => {
                met("stall at the end of a transfer");
                self.stall();
                return over();
            }
            End::Code(code) if code >= 400 => met("bad end of a transfer"),
            End::Done | End::Code(_) => {}
        }
        self.turn_if_due("end of RETR");
        let text = self.end_text(due);
        if due.is_short_or_long && text.starts_with('2') {
            met("too little data and a good end");
        }
        self.answer("end of RETR", &text)?;
        Ok(())
    }
}

/// Ends a connection as a host does that knows nothing of it.
fn reset(data: TcpStream) {
    let _ = set_socket_linger(&data, Some(std::time::Duration::ZERO));
    drop(data);
}
