//! What the server is told to answer, and what it was asked.

/// One answer of a script.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The resource is in this state from this answer on.
    pub(crate) version: Option<usize>,
    pub(crate) form: Form,
    pub(crate) marks: Marks,
    pub(crate) framing: Framing,
    pub(crate) end: End,
    /// The connection may be used again.
    pub(crate) keep: bool,
    /// A part, or that there is none, is answered also where the whole was asked for; else that is answered rightly. And a
    /// part goes on beyond the last byte that was asked for.
    pub(crate) unasked: bool,
    /// Only a part, which says its length twice, is framed so; anything else by a right Content-Length.
    pub(crate) only_parts: bool,
}

/// What kind of answer.
#[derive(Clone, Debug, Default)]
pub(crate) enum Form {
    /// As RFC 9110 has it.
    #[default]
    Right,
    /// The whole with this status, whatever was asked: 200 or 203.
    Whole(u16),
    /// 206, also where If-Range names another version.
    Part(Part),
    /// 206 in several parts, which nobody asked for.
    Multipart,
    /// An error with a page of its own, and seconds for Retry-After.
    Status(u16, Option<u32>),
    /// A redirect to this place.
    Redirect(u16, String),
    /// 416.
    Unsatisfied(Total),
    /// Right, but in a coding that nobody asked for.
    Coded,
    /// 200 with the page of a captive portal.
    Page,
    /// The head is cut after so many bytes, the connection closed.
    Hangup(usize),
}

/// A part of the resource; by default the rest from the asked offset on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// Added to the asked offset.
    pub(crate) shift: i64,
    /// No more bytes than this.
    pub(crate) bytes_max: Option<usize>,
    pub(crate) total: Total,
    /// The bytes are those of another version, or of another offset: a lie that only a digest finds.
    pub(crate) forged: Option<Forged>,
}

/// How the bytes of a part are not what its head says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forged {
    Version(usize),
    /// So many bytes too early in the resource.
    Shift(usize),
}

/// What `Content-Range` says of the complete length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Total {
    #[default]
    Right,
    /// Wrong by so much.
    Off(i64),
    /// The asked offset, as if all were held.
    Asked,
    /// `*`, or for 416 no Content-Range at all.
    Unsaid,
}

/// What the response says of its version.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Marks {
    #[default]
    Right,
    /// No `ETag`.
    NoTag,
    /// No Last-Modified.
    NoTime,
    Neither,
    /// The same `ETag`, turned weak.
    Weak,
    /// A strong `ETag` that differs from request to request.
    Fresh,
    /// Those of another version: a lie that only a digest finds.
    Stolen(usize),
}

/// How the end of the body is told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Framing {
    #[default]
    Length,
    /// By a Content-Length that is wrong by so much.
    LengthOff(i64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// How the body ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum End {
    #[default]
    Whole,
    /// The connection is closed after so many bytes.
    Cut(usize),
    /// The connection is closed after so many thousandths of the body.
    CutShare(usize),
    /// After so many bytes comes something that is no chunk.
    BadChunk(usize),
    /// So many bytes too many.
    Extra(usize),
    /// Behind the body stands a whole response that nobody has asked for.
    Second,
    /// From this byte of the body on it is another version's: a lie that only a digest finds.
    Switch(usize, usize),
}

impl Answer {
    pub(crate) fn new(form: Form) -> Self {
        Self {
            form,
            keep: true,
            ..Self::default()
        }
    }

    pub(crate) fn right() -> Self {
        Self::new(Form::Right)
    }

    pub(crate) fn part(part: Part) -> Self {
        Self::new(Form::Part(part))
    }

    pub(crate) fn status(code: u16) -> Self {
        Self::new(Form::Status(code, None))
    }

    pub(crate) fn cut(self, bytes: usize) -> Self {
        let end = End::Cut(bytes);
        Self { end, ..self }
    }

    pub(crate) fn of(self, version: usize) -> Self {
        let version = Some(version);
        Self { version, ..self }
    }

    pub(crate) fn marked(self, marks: Marks) -> Self {
        Self { marks, ..self }
    }

    /// Puts the second port of the server where a redirect leaves a place for it.
    pub(crate) fn name_port(&mut self, port: u16) {
        if let Form::Redirect(_, place) = &mut self.form {
            *place = place.replace("{port}", &port.to_string());
        }
    }

    pub(crate) fn framed(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }
}

/// What was asked, and what was answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// First byte of the asked range.
    pub(crate) offset: Option<usize>,
    /// Last byte of it, where one was named.
    pub(crate) last: Option<usize>,
    pub(crate) if_range: Option<String>,
    /// Status of the answer; 0 where none was given.
    pub(crate) status: u16,
}

impl Asked {
    /// Where the asked range ends in a resource of so many bytes.
    pub(crate) fn end(&self, len: usize) -> usize {
        self.last.map_or(len, |last| len.min(last.saturating_add(1)))
    }

    /// Reads a request head; `None` where it is none.
    pub(crate) fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let path = lines.next()?.strip_prefix("GET ")?.split(' ').next()?.to_owned();
        let mut asked = Self {
            path,
            ..Self::default()
        };
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                    asked.offset = Some(first.parse().ok()?);
                    asked.last = match last {
                        "" => None,
                        last => Some(last.parse().ok()?),
                    };
                }
                "if-range" => asked.if_range = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        Some(asked)
    }
}
