//! What happens in one connection to the server beyond what RFC 959, 2428 and 3659 ask for.

/// One connection. By default everything in it is right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    /// The resource is in this state from the start of the session on.
    pub(crate) version: Option<usize>,
    /// The resource goes on to its next state right before these commands are answered.
    pub(crate) turns: Vec<At>,
    pub(crate) hits: Vec<(At, Hit)>,
    pub(crate) manner: Manner,
    pub(crate) size: SizeLie,
    pub(crate) time: TimeLie,
    pub(crate) rest: RestLie,
    pub(crate) channel: ChannelLie,
    pub(crate) preliminary: Preliminary,
    pub(crate) body: Body,
    pub(crate) end: End,
}

/// A command of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum At {
    /// The one with this number, whatever it is; the greeting has number 0.
    Number(usize),
    /// The one of this name that comes as the first, second, ….
    Named(&'static str, usize),
}

/// What is done to the answer to one command.
#[derive(Clone, Debug)]
pub(crate) enum Hit {
    /// The connection ends in its place.
    DropBefore,
    DropAfter,
    /// The connection ends in the middle of a line.
    DropWithin,
    StallBefore,
    StallWithin,
    /// This stands in its place.
    Instead(Vec<u8>),
    /// This comes with it, unasked, before it or after it.
    Extra(String, bool),
    /// A line that never ends.
    EndlessLine,
    /// An answer of lines without end.
    EndlessLines,
    /// A byte 0 in its text.
    Nul,
    /// Bytes that are neither ASCII nor UTF-8.
    NonAscii,
    /// The beginning of a TLS handshake in its place.
    Tls,
}

/// How answers come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Manner {
    #[default]
    Plain,
    Bytewise,
    /// In several lines, of which one looks like an answer of its own.
    ManyLines,
    /// Lines end without a carriage return.
    BareLineFeed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum SizeLie {
    #[default]
    True,
    Smaller(usize),
    Larger(usize),
    Negative,
    /// 2^64 more than it is.
    Wrapped,
    /// 2^64, or the largest that may still be taken for a length.
    Huge(bool),
    Text,
    Empty,
    Refused(u16),
    /// That of another version.
    OfVersion(usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum TimeLie {
    #[default]
    True,
    /// True, with a fraction of a second (RFC 3659, section 2.3).
    Fraction,
    Refused(u16),
    Garbage(&'static str),
    Future,
    /// Another one whenever it is asked for.
    Changing,
    /// Told once, and refused from then on.
    Once,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum RestLie {
    #[default]
    True,
    /// Accepted, and the whole is sent.
    FromZero,
    /// Accepted, and sent from so many bytes further on.
    Shifted(i64),
    /// As before, but exactly as many bytes as the right ones would be.
    ShiftedExactly(i64),
    FromZeroExactly,
    Refused(u16),
    /// Refused, and done all the same.
    RefusedAndDone(u16),
}

/// What is said about the data connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum ChannelLie {
    #[default]
    True,
    /// EPSV is refused, so that PASV must do.
    NoEpsv(u16),
    /// EPSV is refused, and PASV names another address.
    Foreign,
    /// EPSV names another address, which it must not (RFC 2428, section 3).
    ForeignEpsv,
    /// The port of the answer, where nobody listens.
    Port(u16),
    /// A port that was closed again.
    Closed,
    /// No address at all.
    Malformed(&'static str),
    /// Neither can be had.
    Refused(u16),
}

/// What comes before the data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Preliminary {
    #[default]
    Plain,
    Already,
    /// With the length in parentheses, wrong by so much.
    WithLength(i64),
    /// The answer that belongs at the end comes as well, before any byte.
    EndFirst,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Body {
    #[default]
    Whole,
    /// So many thousandths of what is due.
    Cut(usize, Breach),
    /// So many bytes less than what is due.
    Less(usize),
    /// So many bytes that belong to nothing follow.
    Extra(usize),
    /// Nobody takes the data connection.
    NotAccepted(Breach),
    /// After so many thousandths the resource goes on to its next state: in place, so that the rest is of that one, or as
    /// another file under its name.
    Replaced(usize, bool),
}

/// How a data connection ends that brings too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Breach {
    Close,
    Reset,
    Stall,
}

/// What comes after the data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum End {
    #[default]
    Done,
    /// This code, whatever was sent.
    Code(u16),
    Drop,
    Stall,
}

/// Every kind of fault, as it is counted when it was done and not merely drawn.
pub(crate) const FAULTS: &[&str] = &[
    "drop before an answer",
    "drop after an answer",
    "drop within an answer",
    "stall before an answer",
    "stall within an answer",
    "another answer",
    "unasked answer before",
    "unasked answer after",
    "endless line",
    "endless lines",
    "byte 0 in an answer",
    "no ASCII in an answer",
    "TLS in clear text",
    "answers in single bytes",
    "answers in many lines",
    "answers with bare line feeds",
    "SIZE too small",
    "SIZE too large",
    "SIZE negative",
    "SIZE wrapped",
    "SIZE huge",
    "SIZE is text",
    "SIZE is empty",
    "SIZE refused",
    "SIZE of another version",
    "MDTM with a fraction",
    "MDTM refused",
    "MDTM garbage",
    "MDTM in the future",
    "MDTM changing",
    "MDTM told once",
    "MDTM of this second",
    "REST accepted and ignored",
    "REST to another place",
    "REST to another place, as many bytes as due",
    "REST refused",
    "REST refused and done",
    "EPSV refused",
    "PASV of a foreign address",
    "EPSV of a foreign address",
    "a port where nobody listens",
    "a port that was closed",
    "no address",
    "no data connection to be had",
    "transfer already open",
    "length in the preliminary answer",
    "wrong length in the preliminary answer",
    "end before the data",
    "data cut",
    "data cut at a false length",
    "data cut by a reset",
    "data stalled",
    "too little data and a good end",
    "too much data",
    "data connection never accepted",
    "data connection reset at once",
    "data connection closed at once",
    "replaced before a command",
    "replaced between sessions",
    "replaced in place while it is sent",
    "replaced by rename while it is sent",
    "bad end of a transfer",
    "no end of a transfer",
    "stall at the end of a transfer",
];
