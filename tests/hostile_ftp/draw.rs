//! Draws a history and a script.
//!
//! The rule of honest proof: what FTP says of a file is its length and the second of its last change, and a client that
//! has been given a wrong file under both cannot know. Exactly this is never generated, unless the client expects a digest,
//! in which case the server lies freely:
//!
//! - Two versions never share both what SIZE and what MDTM say of them. Where the versions share a time (`Times::Same`), their
//!   lengths differ and SIZE is told truly or not at all; where they share a length, their times differ, and MDTM is told
//!   truly, wrongly in a way that no other version is told in, or not at all. A file of this very second (`Times::Now`) has
//!   the time that it has, which says nothing before the second is over.
//! - Nothing goes back to an older version while a session lasts: between two equal answers it was never another.
//! - Bytes are missing from a transfer, or added to it, under a good end only where the true length of just this version was
//!   told in this session. So it is, too, with the rest of a file after a REST that was refused.
//! - A version changes in place while it is sent only where the client was told the time of the old one, or its length and the
//!   new one has another.
//! - A version that changed in place is not gone, by 550 to every question, right afterwards: a file that is handed out once is.
//! - An answer that comes unasked never repeats what was true before.

use backhaul_journal::simulation::Choices;

use crate::lives::killer::{Kill, Moment};
use crate::lives::life::Stop;
use crate::resource::{Times, Version};
use crate::script::{At, Body, Breach, ChannelLie, End, Hit, Manner, Preliminary, RestLie, Session, SizeLie, TimeLie};

const SCRIPT_MAX: usize = 8;
const ENDINGS_MAX: usize = 3;
const LENGTH_MAX: usize = 300 << 10;
/// Answers of a session, about.
const ANSWERS: usize = 18;

/// What the client knows of what it will get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expects {
    Nothing,
    /// The length of this version.
    Length(usize),
    /// The digest of this version.
    Digest(usize),
}

/// How a life of the client ends.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) kill: Kill,
    /// In this process; a process of its own is killed.
    pub(crate) stop: Option<Stop>,
}

/// A run, before anything has happened.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) versions: Vec<Version>,
    pub(crate) times: Times,
    pub(crate) script: Vec<Session>,
    /// Counted from the start of the life that each ends.
    pub(crate) endings: Vec<Ending>,
    pub(crate) expects: Expects,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut choices = Choices::seeded(seed);
        let choices = &mut choices;
        let times = match choices.below(8) {
            0..5 => Times::Distinct,
            5 => Times::Same,
            6 if choices.one_in(2) => Times::None,
            _ => Times::Now,
        };
        let versions = versions(choices, seed, times);
        let count = versions.len();
        let expects = match choices.below(8) {
            0 => Expects::Length(choices.below(count)),
            1 => Expects::Digest(choices.below(count)),
            _ => Expects::Nothing,
        };
        let is_free = matches!(expects, Expects::Digest(_));
        let goes_back = choices.one_in(4);
        let mut drawing = Drawing {
            choices,
            times,
            is_free,
            goes_back,
            count,
        };
        let mut script = Vec::new();
        for _ in 0..=drawing.choices.below(SCRIPT_MAX) {
            match drawing.choices.below(16) {
                0..7 => script.extend(drawing.lure()),
                7 => script.extend(drawing.lure_of_length()),
                8..10 => script.push(drawing.change_in_place()),
                _ => script.push(drawing.session()),
            }
        }
        if let Expects::Length(version) | Expects::Digest(version) = expects
            && goes_back
        {
            script.push(Session {
                version: Some(version),
                ..Session::default()
            });
        }
        let endings = (0..drawing.choices.below(ENDINGS_MAX + 1))
            .map(|_| ending(drawing.choices, &versions))
            .collect();
        Self {
            versions,
            times,
            script,
            endings,
            expects,
        }
    }
}

fn length(choices: &mut Choices) -> usize {
    match choices.below(16) {
        0 => choices.below(2),
        1..4 => choices.below(300),
        4..7 => choices.below(20 << 10),
        _ => choices.below(LENGTH_MAX),
    }
}

fn versions(choices: &mut Choices, seed: u64, times: Times) -> Vec<Version> {
    let count = 1 + choices.below(4);
    let is_one_length = choices.one_in(2);
    let mut versions = vec![Version::new(seed, 0, length(choices))];
    while versions.len() < count {
        let number = versions.len();
        let last = &versions[number - 1];
        let len = last.len();
        // Of what has one time and one length, only the bytes tell: where the end is the same, not even those compared.
        let kind = if times == Times::Now {
            choices.below(4)
        } else {
            choices.below(8)
        };
        let next = match kind {
            0..3 if len > 0 => {
                let end = if choices.one_in(2) { len } else { len.div_ceil(3) };
                let begin = choices.below(end);
                last.edited(seed, number, begin..begin + 1 + choices.below(end - begin))
            }
            3 => last.grown(seed, number, 1 + choices.below(20 << 10)),
            _ if is_one_length => Version::new(seed, number, len),
            _ => Version::new(seed, number, length(choices)),
        };
        // Where the times say nothing, the lengths must.
        let is_told_apart = times != Times::Same || versions.iter().all(|other| other.len() != next.len());
        if is_told_apart {
            versions.push(next);
        } else {
            let longest = versions.iter().map(Version::len).max().unwrap_or(0);
            versions.push(Version::new(seed, number, longest + 1 + choices.below(1_000)));
        }
    }
    versions
}

fn ending(choices: &mut Choices, versions: &[Version]) -> Ending {
    let length = versions[choices.below(versions.len())].len();
    let at = match choices.below(8) {
        0..3 => Moment::Request(1 + choices.below(2 * ANSWERS)),
        // Everything was sent, and is about to be published.
        3 => Moment::Byte(length.max(1) as u64),
        _ => Moment::Byte(1 + choices.below(length + length / 2 + 1) as u64),
    };
    let stop = match choices.below(8) {
        0..2 => None,
        2..4 => Some(Stop::Closed),
        4..6 => Some(Stop::Dropped),
        _ => Some(Stop::Paused),
    };
    let after_a_claim = choices.one_in(2);
    Ending {
        kill: Kill { at, after_a_claim },
        stop,
    }
}

struct Drawing<'a> {
    choices: &'a mut Choices,
    times: Times,
    is_free: bool,
    /// The file goes back to older versions, but only between sessions.
    goes_back: bool,
    count: usize,
}

impl Drawing<'_> {
    /// A session that goes wrong somehow.
    fn session(&mut self) -> Session {
        let hits = (0..self.choices.below(3)).map(|_| self.hit()).collect();
        let version = self.version_at_start();
        let turns = if self.goes_back || !self.choices.one_in(4) {
            Vec::new()
        } else {
            (0..=self.choices.below(2)).map(|_| self.place()).collect()
        };
        Session {
            version,
            turns,
            hits,
            manner: self.manner(),
            size: self.size(),
            time: self.time(),
            rest: self.rest(),
            channel: self.channel(),
            preliminary: self.preliminary(),
            body: self.body(),
            end: self.end(),
        }
    }

    /// A session whose data is cut, and one that invites to go on with what may be another version.
    fn lure(&mut self) -> [Session; 2] {
        let share = self.choices.below(1_000);
        let first = Session {
            version: self.version_at_start(),
            body: Body::Cut(share, [Breach::Close, Breach::Reset][self.choices.below(2)]),
            end: [End::Code(426), End::Drop, End::Done][self.choices.below(3)],
            ..Session::default()
        };
        let mut second = Session {
            version: self.version_at_start(),
            ..Session::default()
        };
        if !self.goes_back && self.choices.one_in(2) {
            let early = At::Named(["greeting", "TYPE", "MDTM"][self.choices.below(3)], 1);
            second.turns = vec![if self.choices.one_in(2) { early } else { self.place() }];
        }
        match self.choices.below(6) {
            0 => second.time = self.time(),
            1 => second.size = self.size(),
            2 | 3 => second.rest = self.rest(),
            4 => second.body = self.body(),
            _ => {}
        }
        [first, second]
    }

    /// A length that is too small, and exactly as many bytes without a good end; then the rest, should anybody ask for it.
    fn lure_of_length(&mut self) -> [Session; 2] {
        let by = 1 + self.choices.below(50);
        let size = if self.times == Times::Same && !self.is_free {
            SizeLie::True
        } else {
            SizeLie::Smaller(by)
        };
        let first = Session {
            size,
            body: Body::Less(by),
            end: [End::Code(426), End::Drop][self.choices.below(2)],
            ..Session::default()
        };
        let second = Session {
            size,
            ..Session::default()
        };
        [first, second]
    }

    /// The file changes while it is sent, and what is said of it afterwards may not come.
    fn change_in_place(&mut self) -> Session {
        let place = At::Named(["MDTM", "SIZE"][self.choices.below(2)], 2);
        let hits = match self.choices.below(6) {
            0 => vec![(place, Hit::Instead(self.other_answer()))],
            1 => vec![(place, Hit::DropBefore)],
            2 => vec![(At::Named("end of RETR", 1), Hit::DropAfter)],
            _ => Vec::new(),
        };
        Session {
            version: self.version_at_start(),
            hits,
            time: [TimeLie::True, TimeLie::Once, TimeLie::True][self.choices.below(3)],
            body: if self.goes_back {
                Body::Whole
            } else {
                Body::Replaced(self.choices.below(1_000), true)
            },
            ..Session::default()
        }
    }

    fn version_at_start(&mut self) -> Option<usize> {
        (self.goes_back && self.choices.one_in(2)).then(|| self.choices.below(self.count))
    }

    /// Some command of a session.
    fn place(&mut self) -> At {
        const NAMES: &[&str] = &["greeting", "USER", "PASS", "PWD", "CWD", "TYPE", "EPSV", "QUIT"];
        const OFTEN: &[&str] = &["SIZE", "MDTM", "REST", "RETR", "end of RETR"];
        match self.choices.below(4) {
            0 => At::Number(self.choices.below(ANSWERS)),
            1 => At::Named(NAMES[self.choices.below(NAMES.len())], 1),
            _ => At::Named(OFTEN[self.choices.below(OFTEN.len())], 1 + self.choices.below(2)),
        }
    }

    fn hit(&mut self) -> (At, Hit) {
        let hit = match self.choices.below(48) {
            0..5 => Hit::DropBefore,
            5..10 => Hit::DropAfter,
            10..14 => Hit::DropWithin,
            14 => Hit::StallBefore,
            15 => Hit::StallWithin,
            16..28 => Hit::Instead(self.other_answer()),
            28..34 => Hit::Extra(self.unasked_answer(), self.choices.one_in(2)),
            34 => Hit::EndlessLine,
            35 => Hit::EndlessLines,
            36..40 => Hit::Nul,
            40..44 => Hit::NonAscii,
            _ => Hit::Tls,
        };
        (self.place(), hit)
    }

    fn other_answer(&mut self) -> Vec<u8> {
        const PASSING: &[&str] = &[
            "421 going down",
            "425 no",
            "426 no",
            "450 busy",
            "451 oops",
            "452 full",
            "120 later",
        ];
        const LASTING: &[&str] = &[
            "530 log in again",
            "550 gone",
            "500 what?",
            "502 no",
            "504 no",
            "553 no",
            "532 pay",
        ];
        const NONSENSE: &[&[u8]] = &[
            b"\r\n",
            b"hello\r\n",
            b"999 done\r\n",
            b"000 done\r\n",
            b"22 done\r\n",
            b"2260 done\r\n",
            b"-1 done\r\n",
            b"331 again\r\n",
            b"350 go on\r\n",
            b"200 fine\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"\0\0\0\0\r\n",
            b"220-never\r\n220-ended\r\n",
        ];
        match self.choices.below(8) {
            0..4 => format!("{}\r\n", PASSING[self.choices.below(PASSING.len())]).into_bytes(),
            4 => format!("{}\r\n", LASTING[self.choices.below(LASTING.len())]).into_bytes(),
            _ => NONSENSE[self.choices.below(NONSENSE.len())].to_vec(),
        }
    }

    /// Never what a client could take for a true length, or for a time that was told before.
    fn unasked_answer(&mut self) -> String {
        const OTHERS: &[&str] = &[
            "200 fine",
            "220 ready",
            "230 welcome",
            "331 which password?",
            "350 go on",
            "150 here it comes",
            "226 that was it",
            "421 going down",
            "500 what?",
            "213 soon",
            "227 there (127,0,0,1,0,1)",
            "250 there you are",
        ];
        if self.choices.one_in(4) {
            format!("213 19990101{:06}", self.choices.below(1_000_000))
        } else {
            OTHERS[self.choices.below(OTHERS.len())].to_owned()
        }
    }

    fn manner(&mut self) -> Manner {
        match self.choices.below(16) {
            0 => Manner::Bytewise,
            1 => Manner::ManyLines,
            2 => Manner::BareLineFeed,
            _ => Manner::Plain,
        }
    }

    fn size(&mut self) -> SizeLie {
        let code = [500, 502, 550, 450][self.choices.below(4)];
        let by = 1 + self.choices.below(50);
        if self.times == Times::Same && !self.is_free {
            return match self.choices.below(16) {
                0 => SizeLie::Refused(code),
                1 => SizeLie::Text,
                _ => SizeLie::True,
            };
        }
        match self.choices.below(28) {
            0 => SizeLie::Smaller(by),
            1 => SizeLie::Larger(by),
            2 => SizeLie::Negative,
            3 => SizeLie::Wrapped,
            4 => SizeLie::Huge(self.choices.one_in(2)),
            5 => SizeLie::Text,
            6 => SizeLie::Empty,
            7 | 8 => SizeLie::Refused(code),
            9 => SizeLie::OfVersion(self.choices.below(self.count)),
            _ => SizeLie::True,
        }
    }

    fn time(&mut self) -> TimeLie {
        const GARBAGE: &[&str] = &[
            "",
            "yesterday",
            "20010203",
            "20011301000000",
            "2001-02-03 04:05:06",
            "19120010203040506",
            "99999999999999",
            "99991231235960",
            "20010203040506x",
            "-0010203040506",
        ];
        match self.choices.below(24) {
            0 => TimeLie::Fraction,
            1 | 2 => TimeLie::Refused([500, 502, 550][self.choices.below(3)]),
            3 | 4 => TimeLie::Garbage(GARBAGE[self.choices.below(GARBAGE.len())]),
            5 => TimeLie::Future,
            6 => TimeLie::Changing,
            7 => TimeLie::Once,
            _ => TimeLie::True,
        }
    }

    fn rest(&mut self) -> RestLie {
        let code = [500, 501, 502, 504][self.choices.below(4)];
        let by = match self.choices.below(4) {
            0 => -1,
            1 => 1,
            2 => 16,
            _ => i64::try_from(self.choices.below(1 << 16)).unwrap() - (1 << 15),
        };
        match self.choices.below(12) {
            0 => RestLie::FromZero,
            1 => RestLie::Shifted(by),
            2 => RestLie::ShiftedExactly(by),
            3 => RestLie::FromZeroExactly,
            4 => RestLie::Refused(code),
            5 => RestLie::RefusedAndDone(code),
            _ => RestLie::True,
        }
    }

    fn channel(&mut self) -> ChannelLie {
        const MALFORMED: &[&str] = &[
            "there",
            "there (127,0,0,1,4)",
            "there (127,0,0,1,256,1)",
            "there (|||99999|)",
            "there (|||)",
            "there (300,0,0,1,4,1)",
            "=",
        ];
        match self.choices.below(32) {
            0..3 => ChannelLie::NoEpsv([500, 502, 522][self.choices.below(3)]),
            3 | 4 => ChannelLie::Foreign,
            5 => ChannelLie::ForeignEpsv,
            6 => ChannelLie::Port(0),
            7 => ChannelLie::Port(1),
            8 => ChannelLie::Closed,
            9 => ChannelLie::Malformed(MALFORMED[self.choices.below(MALFORMED.len())]),
            10 => ChannelLie::Refused([425, 500, 421][self.choices.below(3)]),
            _ => ChannelLie::True,
        }
    }

    fn preliminary(&mut self) -> Preliminary {
        match self.choices.below(12) {
            0 => Preliminary::Already,
            1 => Preliminary::WithLength(0),
            2 => Preliminary::WithLength(-1 - i64::try_from(self.choices.below(50)).unwrap()),
            3 => Preliminary::WithLength(1 + i64::try_from(self.choices.below(50)).unwrap()),
            4 => Preliminary::EndFirst,
            _ => Preliminary::Plain,
        }
    }

    fn body(&mut self) -> Body {
        let share = self.choices.below(1_000);
        match self.choices.below(32) {
            0..5 => Body::Cut(share, Breach::Close),
            5..8 => Body::Cut(share, Breach::Reset),
            8 => Body::Cut(share, Breach::Stall),
            9..12 => Body::Extra(1 + self.choices.below(64)),
            12 => Body::NotAccepted(Breach::Close),
            13 => Body::NotAccepted(Breach::Reset),
            14 => Body::NotAccepted(Breach::Stall),
            15..23 if !self.goes_back => Body::Replaced(share, !self.choices.one_in(3)),
            _ => Body::Whole,
        }
    }

    fn end(&mut self) -> End {
        match self.choices.below(24) {
            0..2 => End::Code([426, 451, 421, 450][self.choices.below(4)]),
            2 => End::Code([550, 552, 500][self.choices.below(3)]),
            3 => End::Code(250),
            4..6 => End::Drop,
            6 => End::Stall,
            _ => End::Done,
        }
    }
}
