//! Doors for fuzz targets to what FTP servers say. Only with the feature `fuzzing`.

use std::time::SystemTime;

use super::conversation::Conversation;
use super::decide::{self, Afterwards, Ask, Decision};
use super::replies::{self, Facts};
use super::target::Target;
use crate::Held;

/// A reply, and what is read in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its code.
    pub code: u16,
    /// The text of each of its lines.
    pub lines: Vec<String>,
    /// What it says in answer to SIZE.
    pub size: Option<u64>,
    /// What it says in answer to MDTM.
    pub modified: Option<String>,
    /// What it says in answer to MLST.
    pub facts: (Option<u64>, Option<String>),
    /// What is shown of it.
    pub shown: String,
}

/// The replies in what a server sends, and whether all of it could be read. What is shown leaves out the secret.
#[must_use]
pub fn replies(bytes: &[u8], secret: &str) -> (Vec<Said>, bool) {
    let mut conversation = Conversation::default();
    let mut all = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match conversation.heard(line) {
            Ok(None) => {}
            Ok(Some(reply)) => {
                let Facts { size, modified } = reply.facts();
                all.push(Said {
                    code: reply.code,
                    lines: reply.lines.clone(),
                    size: reply.size(),
                    modified: reply.modified().map(str::to_owned),
                    facts: (size, modified),
                    shown: reply.shown(&[secret]),
                });
            }
            Err(_) => return (all, false),
        }
    }
    (all, true)
}

/// A time as MDTM and MLST tell it.
#[must_use]
pub fn time(text: &str) -> Option<SystemTime> {
    replies::time(text)
}

/// What is made of held bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// They are given up, or there are none.
    Whole,
    /// They are continued, or complete; whether without proof.
    Kept {
        /// Nothing proves it, and a digest will judge.
        on_trust: bool,
        /// Nothing more is asked for.
        is_all: bool,
    },
    /// The attempt fails.
    Failed,
}

/// Whether the rest would be asked for of bytes that were fetched under one size and time, and what is made of them when
/// the server says another or the same now. `held` gets the validators of the former.
#[must_use]
pub fn decide(
    held: &mut Held,
    (old_size, old_modified): (Option<u64>, Option<&str>),
    (size, modified): (Option<u64>, Option<&str>),
    expected_bytes: Option<u64>,
    (then, now): (SystemTime, SystemTime),
) -> (bool, Made) {
    let facts = |size, modified: Option<&str>| Facts {
        size,
        modified: modified.map(str::to_owned),
    };
    held.validators = decide::validators(&facts(old_size, old_modified), then);
    let ask = decide::ask(Some(held));
    let new = decide::validators(&facts(size, modified), now);
    let made = match decide::decide(ask, Some(held), &new, expected_bytes) {
        Decision::Whole(_) | Decision::AskWhole(_) => Made::Whole,
        Decision::Continue { on_trust } => Made::Kept {
            on_trust,
            is_all: false,
        },
        Decision::Complete { on_trust } => Made::Kept { on_trust, is_all: true },
        Decision::Fail(_) => Made::Failed,
    };
    (ask == Ask::Rest, made)
}

/// Whether a file of so many bytes is taken for the same before and after its transfer.
#[must_use]
pub fn is_same_afterwards(
    (size, modified): (Option<u64>, Option<&str>),
    (later_size, later_modified): (Option<u64>, Option<&str>),
    bytes: u64,
) -> bool {
    let facts = |size, modified: Option<&str>| Facts {
        size,
        modified: modified.map(str::to_owned),
    };
    let (first, later) = (facts(size, modified), facts(later_size, later_modified));
    decide::afterwards(&first, &later, bytes, false) == Afterwards::Same
}

/// What a URL becomes: what libcurl gets, the name in commands, and what is shown.
#[must_use]
pub fn target(url: &str) -> Option<(String, Vec<u8>, String)> {
    let (target, _) = Target::parse(url).ok()?;
    let shown = target.without_secrets();
    Some((target.as_libcurl_has_it(), target.file, shown))
}
