//! A reader of logs without snapshots, as short as `journal/FORMAT.md` allows, to hold the real one against.

use std::collections::BTreeMap;

use super::forge::{crc, segment_seed};

/// How the naive reader finds a log to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With nothing after the last frame but the zeros that the file was made with.
    Whole,
    /// With bytes that are no frame, and no proof among them that there was more.
    Torn,
    /// Not at all: something is missing that was there.
    Damage,
    /// With something of a later format.
    Later,
}

/// What a log says, from record 1 on.
pub(crate) struct Log {
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) next: u64,
    pub(crate) end: End,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The first LSN of a segment; why it has none.
fn first_lsn(bytes: &[u8], seq: u64, id: &[u8]) -> Result<u64, End> {
    let is_header = bytes.len() >= 64 && bytes.starts_with(b"\x89BKJ\r\n\x1A\n");
    if !is_header || u64::from(crc(0, &bytes[..60])) != number(bytes, 60, 4) {
        return Err(End::Damage);
    }
    if (
        number(bytes, 8, 2),
        number(bytes, 10, 2),
        number(bytes, 12, 4),
        number(bytes, 56, 4),
    ) != (1, 64, 0, 0)
    {
        return Err(End::Later);
    }
    let is_ours = number(bytes, 24, 8) == seq && &bytes[40..56] == id && number(bytes, 20, 4) <= bytes.len() as u64;
    Some(number(bytes, 32, 8))
        .filter(|lsn| is_ours && lsn >> 63 == 0)
        .ok_or(End::Damage)
}

/// The records of a batch, if they fit exactly.
fn batch(mut body: &[u8], count: u64) -> Option<Vec<&[u8]>> {
    let mut records = Vec::new();
    while body.len() >= 2 {
        let len = usize::try_from(number(body, 0, 2)).ok().filter(|len| *len <= 32_768)?;
        records.push(body.get(2..2 + len)?);
        body = &body[2 + len..];
    }
    (body.is_empty() && count > 0 && records.len() as u64 == count).then_some(records)
}

impl Log {
    /// Reads segments by their numbers, of which there is at least one.
    pub(crate) fn read(segments: &BTreeMap<u64, Vec<u8>>) -> Self {
        let mut log = Self {
            records: Vec::new(),
            next: 0,
            end: End::Damage,
        };
        log.end = log.try_read(segments).unwrap_or_else(|end| end);
        log
    }

    fn try_read(&mut self, segments: &BTreeMap<u64, Vec<u8>>) -> Result<End, End> {
        let (_, newest) = segments.last_key_value().ok_or(End::Damage)?;
        let id = newest.get(40..56).ok_or(End::Damage)?;
        let mut chain: Vec<(u64, u64)> = Vec::new();
        for (seq, bytes) in segments.iter().rev() {
            if chain.last().is_some_and(|(_, newer)| *newer != seq + 1) {
                return Err(End::Damage);
            }
            chain.push((first_lsn(bytes, *seq, id)?, *seq));
            if chain.last().is_some_and(|(first, _)| *first <= 1) {
                break;
            }
        }
        self.next = chain
            .last()
            .map(|(first, _)| *first)
            .filter(|first| *first <= 1)
            .ok_or(End::Damage)?;
        let mut end = End::Damage;
        for (index, (_, seq)) in chain.iter().enumerate().rev() {
            let limit = index.checked_sub(1).map(|newer| chain[newer].0);
            end = self.segment(
                &segments[seq],
                segment_seed(id.try_into().map_err(|_| End::Damage)?, *seq),
                limit,
            )?;
        }
        Ok(end)
    }

    fn segment(&mut self, bytes: &[u8], seed: u32, limit: Option<u64>) -> Result<End, End> {
        let mut at = 64;
        while limit != Some(self.next) {
            let Some(frame_bytes) = self.frame(bytes.get(at..).unwrap_or(&[]), seed, limit)? else {
                break;
            };
            at += frame_bytes;
        }
        let rest = bytes.get(at..).unwrap_or(&[]);
        let headers = || {
            (0..rest.len().saturating_sub(31))
                .step_by(8)
                .filter(|at| is_header(&rest[*at..], seed))
        };
        match limit {
            Some(limit) => {
                if limit == self.next {
                    Ok(End::Whole)
                } else {
                    Err(End::Damage)
                }
            }
            // Record 0 is before everything.
            None if self.next < 1 => Err(End::Damage),
            None if headers().any(|at| is_later(&rest[at..])) => Err(End::Later),
            None if headers()
                .any(|at| number(&rest[at..], 8, 4) <= 65_528 && number(&rest[at..], 24, 8) > self.next) =>
            {
                Err(End::Damage)
            }
            None if rest.iter().all(|byte| *byte == 0) && bytes.len() as u64 <= number(bytes, 20, 4).max(at as u64) => {
                Ok(End::Whole)
            }
            None => Ok(End::Torn),
        }
    }

    /// Takes the frame at the front, if it counts, and says how long it is.
    fn frame(&mut self, bytes: &[u8], seed: u32, limit: Option<u64>) -> Result<Option<usize>, End> {
        if bytes.len() < 32 || !is_header(bytes, seed) {
            return Ok(None);
        }
        if is_later(bytes) {
            return Err(End::Later);
        }
        let (count, first) = (number(bytes, 12, 2), number(bytes, 16, 8));
        let Some(len) = usize::try_from(number(bytes, 8, 4)).ok().filter(|len| *len <= 65_528) else {
            return Ok(None);
        };
        let Some(padded) = bytes.get(32..32 + len.next_multiple_of(8)) else {
            return Ok(None);
        };
        let expected = first == self.next && number(bytes, 24, 8) <= first;
        if !expected || u64::from(crc(seed, padded)) != number(bytes, 4, 4) {
            return Ok(None);
        }
        let body = &padded[..len];
        let span = match bytes[14] {
            1 => batch(body, count).map(|_| count),
            2 => (len == 0 && count == 0).then_some(0),
            3 => (len == 24 && count == 0).then_some(0),
            4 => (len == 8 && count == 0).then(|| number(body, 0, 8)),
            _ => Some(count),
        };
        let Some(end) = span
            .and_then(|span| first.checked_add(span))
            .filter(|end| end >> 63 == 0)
        else {
            return Ok(None);
        };
        if limit.is_some_and(|limit| end > limit) {
            return Err(End::Damage);
        }
        let records = if bytes[14] == 1 {
            batch(body, count).unwrap_or_default()
        } else {
            Vec::new()
        };
        self.records.extend(
            (first..)
                .zip(records)
                .filter(|(lsn, _)| *lsn >= 1)
                .map(|(lsn, record)| (lsn, record.to_vec())),
        );
        self.next = end;
        Ok(Some(32 + padded.len()))
    }
}

fn is_header(bytes: &[u8], seed: u32) -> bool {
    bytes[14] != 0 && u64::from(crc(seed, &bytes[4..32])) == number(bytes, 0, 4)
}

/// Whether a sound header is of a later format.
fn is_later(header: &[u8]) -> bool {
    (5..128).contains(&header[14]) || header[15] != 0
}
