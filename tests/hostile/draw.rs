//! Draws a history and a script. The rule of honest proof: no two versions share a strong validator, and nothing is said
//! that would make a wrong file look right to everybody. Where the client knows a digest, the server lies freely.

use backhaul_journal::simulation::Choices;

use crate::answer::{Answer, End, Forged, Form, Framing, Marks, Part, Total};
use crate::lives::killer::{Kill, Moment};
use crate::resource::Version;

const SCRIPT_MAX: usize = 16;
const KILLS_MAX: usize = 2;
const CONNECTIONS_MAX: usize = 4;
const PIECES_MAX: usize = 40;
const LENGTH_MAX: usize = 3 << 20;

/// What the client knows of what it will get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Expects {
    Nothing,
    /// The length of this version.
    Length(usize),
    /// The digest of this version.
    Digest(usize),
}

/// A run, before anything has happened.
pub(crate) struct Plan {
    pub(crate) versions: Vec<Version>,
    pub(crate) page: Vec<u8>,
    pub(crate) script: Vec<Answer>,
    /// Counted from the start of the life that it ends.
    pub(crate) kills: Vec<Kill>,
    pub(crate) expects: Expects,
    /// Most connections of each life: one for each kill, and the last.
    pub(crate) connections: Vec<usize>,
}

/// Which lies nobody could believe in this run.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each lie is told or not, whatever the others are"
)]
struct Lies {
    /// Bytes or validators of another version, under a head that fits.
    content: bool,
    /// A whole response that is cut or grown and looks complete.
    length: bool,
    /// Content-Range with a total that is wrong.
    total: bool,
    /// Content-Length that is too large.
    grown: bool,
    /// 200 without a Content-Length.
    unsaid_length: bool,
    /// The resource goes back to an older version.
    rollback: bool,
}

/// How the versions tell their times.
#[derive(Clone, Copy, PartialEq)]
enum Times {
    None,
    Distinct,
    /// All in one second; only the last is served after it, and from then on no other.
    OneSecond,
    WithoutClock,
    /// One second for all, as strong as it can be: only the lengths tell them apart.
    OnlyByLength,
}

/// How the versions are tagged.
#[derive(Clone, Copy)]
enum Tags {
    /// Each with a strong tag of its own.
    Strong,
    /// Each with a weak tag of its own.
    Weak,
    /// All with one weak tag; it may agree with the text of a strong one.
    OneWeak,
    None,
    /// Each version in one of these ways.
    Mixed,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut choices = Choices::seeded(seed);
        let choices = &mut choices;
        let same_length = choices.one_in(2);
        let count = 1 + choices.below(4);
        let lengths = lengths(choices, count, same_length);
        let times = times(choices, &lengths);
        let tags = match choices.below(8) {
            0..3 => Tags::Strong,
            3 => Tags::Weak,
            4 => Tags::OneWeak,
            5 => Tags::None,
            _ => Tags::Mixed,
        };
        let versions: Vec<Version> = (0..count)
            .map(|number| version(choices, seed, (number, count), lengths[number], (times, tags)))
            .collect();
        let expects = match choices.below(8) {
            0 if !same_length => Expects::Length(choices.below(count)),
            0 | 1 if same_length => Expects::Length(choices.below(count)),
            2..4 => Expects::Digest(choices.below(count)),
            _ => Expects::Nothing,
        };
        let lies = lies(choices, expects, times, same_length);
        let length_max = lengths.iter().copied().max().unwrap_or(0);
        let mut drawing = Drawing {
            choices,
            lies,
            count,
            length_max,
            current: 0,
        };
        let mut script: Vec<Answer> = Vec::new();
        for _ in 0..=drawing.choices.below(SCRIPT_MAX) {
            if drawing.choices.one_in(2) {
                script.extend(drawing.lure());
            } else {
                script.push(drawing.answer());
            }
        }
        if let Expects::Length(version) | Expects::Digest(version) = expects
            && drawing.lies.rollback
            && !drawing.choices.one_in(4)
        {
            script.push(Answer::right().of(version));
        }
        let kills: Vec<Kill> = (0..drawing.choices.below(KILLS_MAX + 1))
            .map(|_| kill(drawing.choices, &lengths))
            .collect();
        // Drawn last, so that seeds of before keep what they had.
        let is_spread = drawing.choices.one_in(2);
        let connections = (0..=KILLS_MAX)
            .map(|_| {
                if is_spread {
                    1 + drawing.choices.below(CONNECTIONS_MAX)
                } else {
                    1
                }
            })
            .collect();
        if is_spread && drawing.choices.one_in(2) {
            let others = std::mem::replace(&mut script, drawing.lure_of_pieces());
            if drawing.lies.rollback {
                script.extend(others);
            }
        }
        Self {
            connections,
            page: page(&lengths),
            versions,
            script,
            kills,
            expects,
        }
    }
}

fn lengths(choices: &mut Choices, count: usize, same: bool) -> Vec<usize> {
    let mut draw = || match choices.below(16) {
        0 => 0,
        1 => 1,
        2..4 => choices.below(300),
        4..7 => choices.below(20 << 10),
        7..14 => choices.below(300 << 10),
        _ => choices.below(LENGTH_MAX),
    };
    let first = draw();
    (0..count).map(|_| if same { first } else { draw() }).collect()
}

fn times(choices: &mut Choices, lengths: &[usize]) -> Times {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    match choices.below(8) {
        0..2 => Times::None,
        2..5 => Times::Distinct,
        5 => Times::OneSecond,
        6 => Times::WithoutClock,
        _ if sorted.len() == lengths.len() => Times::OnlyByLength,
        _ => Times::Distinct,
    }
}

fn version(
    choices: &mut Choices,
    seed: u64,
    (number, count): (usize, usize),
    length: usize,
    (times, tags): (Times, Tags),
) -> Version {
    let version = Version::new(seed, number, length);
    let second = 60 + u32::try_from(number).unwrap();
    let version = match times {
        Times::None => version,
        Times::Distinct => version.made_at(second),
        Times::OneSecond if number + 1 < count => version.made_just_now(60),
        Times::OneSecond | Times::OnlyByLength => version.made_at(60),
        Times::WithoutClock => version.made_at_without_clock(60),
    };
    let style = match tags {
        Tags::Mixed => [Tags::Strong, Tags::Weak, Tags::OneWeak, Tags::None][choices.below(4)],
        tags => tags,
    };
    match style {
        Tags::Strong => version.tagged(&format!("\"{number}\"")),
        Tags::Weak => version.tagged(&format!("W/\"{number}\"")),
        Tags::OneWeak => version.tagged("W/\"0\""),
        Tags::None | Tags::Mixed => version,
    }
}

fn lies(choices: &mut Choices, expects: Expects, times: Times, same_length: bool) -> Lies {
    let content = matches!(expects, Expects::Digest(_));
    let by_length = matches!(expects, Expects::Length(_)) && same_length;
    let unsaid_length = choices.one_in(2);
    Lies {
        content,
        length: content || by_length,
        total: content || (times != Times::OnlyByLength && (by_length || !unsaid_length)),
        grown: content || times != Times::OnlyByLength,
        unsaid_length,
        rollback: content || times != Times::OneSecond,
    }
}

/// Of a length that no version has.
fn page(lengths: &[usize]) -> Vec<u8> {
    let mut page = b"<html><title>Welcome</title>Accept the terms to go online.</html>\n".repeat(40);
    while lengths.contains(&page.len()) {
        page.push(b'\n');
    }
    page
}

fn kill(choices: &mut Choices, lengths: &[usize]) -> Kill {
    let length = lengths[choices.below(lengths.len())];
    let at = match choices.below(8) {
        0..2 => Moment::Request(1 + choices.below(5)),
        // Everything was sent, and is about to be published.
        2 => Moment::Byte(length.max(1) as u64),
        _ => Moment::Byte(1 + choices.below(length + length / 2 + 1) as u64),
    };
    Kill {
        at,
        after_a_claim: choices.one_in(2),
    }
}

struct Drawing<'a> {
    choices: &'a mut Choices,
    lies: Lies,
    count: usize,
    length_max: usize,
    current: usize,
}

impl Drawing<'_> {
    fn answer(&mut self) -> Answer {
        let version = self.choices.one_in(4).then(|| self.next_version());
        let form = self.form();
        // Where a lie about the length would be believed, it is told of parts alone.
        let only_parts = !self.lies.length && matches!(form, Form::Part(_));
        let lies_of_length = self.lies.length || only_parts;
        let mut framing = self.framing(lies_of_length);
        let end = self.end();
        match (end, framing) {
            (End::BadChunk(_), _) => framing = Framing::Chunked,
            (End::CutShare(_), Framing::Close) | (End::Extra(_), _) if !lies_of_length => framing = Framing::Length,
            _ => {}
        }
        if matches!(framing, Framing::Chunked | Framing::Close) && !self.lies.unsaid_length && !only_parts {
            framing = Framing::Length;
        }
        Answer {
            version,
            form,
            marks: self.marks(),
            framing,
            end,
            keep: !self.choices.one_in(4),
            unasked: self.choices.one_in(32),
            only_parts,
        }
    }

    /// A response that is cut, and one that invites to go on with another version.
    fn lure(&mut self) -> [Answer; 2] {
        let end = End::CutShare(self.choices.below(1_000));
        let first = Answer {
            version: Some(self.next_version()),
            end,
            ..Answer::right()
        };
        let form = match self.choices.below(8) {
            0 => Form::Unsatisfied(self.total()),
            1..3 => Form::Part(self.part()),
            _ => Form::Part(Part::default()),
        };
        let marks = match self.choices.below(8) {
            0..2 => Marks::Neither,
            2 => Marks::NoTag,
            3 => Marks::NoTime,
            4 => Marks::Weak,
            5 => Marks::Fresh,
            _ => Marks::Right,
        };
        let second = Answer {
            version: Some(self.next_version()),
            form,
            marks,
            ..Answer::right()
        };
        [first, second]
    }

    /// A response of one version, and pieces of another that say little of themselves.
    fn lure_of_pieces(&mut self) -> Vec<Answer> {
        self.current = 0;
        let first = Answer::right().of(self.next_version());
        let other = self.next_version();
        let marks = match self.choices.below(4) {
            0 => Marks::Neither,
            1 => Marks::NoTag,
            2 => Marks::NoTime,
            _ => Marks::Weak,
        };
        let part = Answer::part(Part::default()).of(other).marked(marks);
        let pieces = std::iter::repeat_n(part, 1 + self.choices.below(PIECES_MAX));
        std::iter::once(first).chain(pieces).collect()
    }

    fn next_version(&mut self) -> usize {
        let from = if self.lies.rollback { 0 } else { self.current };
        self.current = from + self.choices.below(self.count - from);
        self.current
    }

    fn form(&mut self) -> Form {
        match self.choices.below(128) {
            0..64 => Form::Right,
            64..70 => Form::Whole(200 + 3 * u16::from(self.choices.one_in(4))),
            70..98 => Form::Part(self.part()),
            98..101 => Form::Multipart,
            101..109 => self.transient(),
            109 => self.permanent(),
            110..114 => self.redirect(),
            114..120 => Form::Unsatisfied(self.total()),
            120 => Form::Coded,
            121..123 => Form::Page,
            _ => Form::Hangup(self.choices.below(160)),
        }
    }

    fn part(&mut self) -> Part {
        let shift = match self.choices.below(6) {
            0 => -1,
            1 => 1 - i64::try_from(self.choices.below(2 << 16)).unwrap(),
            2 => 16,
            _ => 0,
        };
        let forged = match self.choices.below(6) {
            0 if self.lies.content => Some(Forged::Version(self.choices.below(self.count))),
            1 if self.lies.content => Some(Forged::Shift(1 + self.choices.below(64))),
            _ => None,
        };
        let is_short = self.choices.one_in(3);
        Part {
            shift,
            bytes_max: is_short.then(|| 1 + self.choices.below(self.length_max + 1)),
            total: self.total(),
            forged,
        }
    }

    fn total(&mut self) -> Total {
        match self.choices.below(8) {
            0 => Total::Unsaid,
            1 if self.lies.total => Total::Off(1 + i64::try_from(self.choices.below(50)).unwrap()),
            2 if self.lies.total => Total::Off(-1 - i64::try_from(self.choices.below(50)).unwrap()),
            3 if self.lies.total => Total::Asked,
            _ => Total::Right,
        }
    }

    fn transient(&mut self) -> Form {
        let codes = [408, 425, 429, 500, 502, 503, 504];
        Form::Status(self.one_of(&codes), self.retry_after())
    }

    fn permanent(&mut self) -> Form {
        let codes = [204, 304, 401, 403, 404, 407, 410, 412, 507, 511];
        Form::Status(self.one_of(&codes), self.retry_after())
    }

    fn retry_after(&mut self) -> Option<u32> {
        match self.choices.below(4) {
            0 => Some(0),
            1 => Some(1),
            _ => None,
        }
    }

    fn redirect(&mut self) -> Form {
        let other_path = format!("/moved/{}", self.choices.below(1 << 16));
        let places = [
            "/loop",
            "/file",
            "http://127.0.0.1:{port}/mirror",
            &other_path,
            &other_path,
        ];
        let place = places[self.choices.below(places.len())].to_owned();
        Form::Redirect(self.one_of(&[301, 302, 303, 307, 308]), place)
    }

    fn marks(&mut self) -> Marks {
        match self.choices.below(20) {
            0 => Marks::NoTag,
            1 => Marks::NoTime,
            2 => Marks::Neither,
            3 => Marks::Weak,
            4 => Marks::Fresh,
            5..8 if self.lies.content => Marks::Stolen(self.choices.below(self.count)),
            _ => Marks::Right,
        }
    }

    fn framing(&mut self, lies_of_length: bool) -> Framing {
        match self.choices.below(16) {
            0..2 => Framing::Chunked,
            2 => Framing::Close,
            3 if self.lies.grown => Framing::LengthOff(1 + i64::try_from(self.choices.below(50)).unwrap()),
            4 if lies_of_length => Framing::LengthOff(-1 - i64::try_from(self.choices.below(50)).unwrap()),
            _ => Framing::Length,
        }
    }

    fn end(&mut self) -> End {
        let bytes = self.choices.below(self.length_max + 1);
        match self.choices.below(16) {
            0..11 => End::CutShare(self.choices.below(1_000)),
            11 => End::BadChunk(bytes),
            12 => End::Extra(1 + self.choices.below(64)),
            13 if self.lies.content => End::Switch(bytes, self.choices.below(self.count)),
            _ => End::Whole,
        }
    }

    fn one_of(&mut self, codes: &[u16]) -> u16 {
        codes[self.choices.below(codes.len())]
    }
}
