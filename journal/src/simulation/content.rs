//! One file's bytes: as programs see them, and what a power cut may leave of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::choices::Choices;

/// Versions kept of one sector; of more, one from the middle is forgotten, so that a file that is written again and
/// again without a sync takes bounded memory.
const VERSIONS_MAX: usize = 6;

/// How a power cut treats the unsynced work of one disk. An exhaustive search decides each matter for itself anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Each matter is decided for itself.
    Mixed,
    /// Nothing that was not synced is there.
    AllLost,
    /// Everything is there.
    AllKept,
    /// Most matters are kept, so that one that is not stands among many that are.
    MostlyKept,
    /// Most matters are lost.
    MostlyLost,
}

/// What a mood makes of one matter.
pub(super) enum Fate {
    Lost,
    Kept,
    /// One of the possibilities, each as likely.
    Any,
}

impl Mood {
    pub(super) fn choose(choices: &mut Choices) -> Self {
        if choices.is_exhaustive() {
            return Self::Mixed;
        }
        match choices.below(8) {
            0 => Self::AllLost,
            1 => Self::AllKept,
            2 => Self::MostlyLost,
            3 | 4 => Self::MostlyKept,
            _ => Self::Mixed,
        }
    }

    pub(super) fn decide(self, choices: &mut Choices) -> Fate {
        match self {
            Self::AllLost => Fate::Lost,
            Self::AllKept => Fate::Kept,
            Self::MostlyKept if choices.below(8) > 0 => Fate::Kept,
            Self::MostlyLost if choices.below(8) > 0 => Fate::Lost,
            Self::Mixed | Self::MostlyKept | Self::MostlyLost => Fate::Any,
        }
    }
}

/// What each sector held after each of the writes to it.
type Versions = BTreeMap<usize, Vec<Box<[u8]>>>;

/// How much had been done to a file when a sync of it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    writes: usize,
    lengths: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Content {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// Writes since the last sync: where, and what.
    unsynced: Vec<(usize, Box<[u8]>)>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
    /// Sectors that a failed sync counted as clean, with what was written to them: no later sync writes them.
    forgotten: Versions,
    pub(super) reserved_bytes: usize,
    sector_bytes: usize,
}

impl Content {
    pub(super) fn new(sector_bytes: usize) -> Self {
        Self::settled(Vec::new(), sector_bytes)
    }

    /// Bytes that are all durable.
    pub(super) fn settled(bytes: Vec<u8>, sector_bytes: usize) -> Self {
        Self::settled_at(&Arc::new(bytes), 0, sector_bytes)
    }

    fn settled_at(bytes: &Arc<Vec<u8>>, reserved_bytes: usize, sector_bytes: usize) -> Self {
        Self {
            live: Arc::clone(bytes),
            durable: Arc::clone(bytes),
            unsynced: Vec::new(),
            lengths: Vec::new(),
            forgotten: BTreeMap::new(),
            reserved_bytes,
            sector_bytes,
        }
    }

    pub(super) fn live(&self) -> &Arc<Vec<u8>> {
        &self.live
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        let live = Arc::make_mut(&mut self.live);
        if end > live.len() {
            live.resize(end, 0);
            self.lengths.push(end);
        }
        live[offset..end].copy_from_slice(bytes);
        self.note(offset, bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let old = self.live.len();
        if len == old {
            return;
        }
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.lengths.push(len);
        // What was cut off reads as zeros where the file grows again.
        let end = old.max(self.durable.len());
        if len < end {
            self.note(len, &vec![0; end - len]);
        }
    }

    fn note(&mut self, offset: usize, bytes: &[u8]) {
        self.unsynced.push((offset, bytes.into()));
        if !self.forgotten.is_empty() {
            let sectors = self.sectors(offset, bytes.len());
            self.forgotten.retain(|number, _| !sectors.contains(number));
        }
    }

    fn sectors(&self, offset: usize, len: usize) -> Range<usize> {
        offset / self.sector_bytes..(offset + len).div_ceil(self.sector_bytes)
    }

    /// Every version of the sectors that were written since the last sync.
    fn versions(&self) -> Versions {
        let mut versions = Versions::new();
        for (offset, bytes) in &self.unsynced {
            for number in self.sectors(*offset, bytes.len()) {
                let start = number * self.sector_bytes;
                let of_sector = versions.entry(number).or_default();
                let mut sector = of_sector.last().cloned().unwrap_or_else(|| {
                    // A failed sync may have been here: what programs read is what they wrote.
                    let mut sector = vec![0; self.sector_bytes].into_boxed_slice();
                    let forgotten = self.forgotten.get(&number).and_then(|versions| versions.last());
                    match forgotten {
                        Some(forgotten) => sector.copy_from_slice(forgotten),
                        None => copy_sector(&self.durable, start, &mut sector),
                    }
                    sector
                });
                let (from, to) = (
                    start.max(*offset),
                    (start + self.sector_bytes).min(offset + bytes.len()),
                );
                sector[from - start..to - start].copy_from_slice(&bytes[from - offset..to - offset]);
                if of_sector.len() == VERSIONS_MAX {
                    of_sector.remove(1);
                }
                of_sector.push(sector);
            }
        }
        versions
    }

    /// The work so far, for a sync that begins now.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            writes: self.unsynced.len(),
            lengths: self.lengths.len(),
        }
    }

    /// Makes the work up to a mark durable.
    pub(super) fn sync(&mut self, begun: Mark) {
        if begun.writes < self.unsynced.len() && self.forgotten.is_empty() {
            return self.sync_first(begun);
        }
        self.lengths.clear();
        if self.forgotten.is_empty() {
            self.unsynced.clear();
            self.durable = Arc::clone(&self.live);
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(self.live.len(), 0);
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let start = offset / self.sector_bytes * self.sector_bytes;
            let end = (offset + bytes.len())
                .next_multiple_of(self.sector_bytes)
                .min(self.live.len());
            if start < end {
                durable[start..end].copy_from_slice(&self.live[start..end]);
            }
        }
    }

    fn sync_first(&mut self, begun: Mark) {
        let lengths: Vec<usize> = self.lengths.drain(..begun.lengths.min(self.lengths.len())).collect();
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(lengths.last().copied().unwrap_or(durable.len()), 0);
        for (offset, bytes) in self.unsynced.drain(..begun.writes) {
            let end = (offset + bytes.len()).min(durable.len());
            if offset < end {
                durable[offset..end].copy_from_slice(&bytes[..end - offset]);
            }
        }
    }

    /// A sync that fails and counts the pages as clean: programs read the new content until the power goes.
    pub(super) fn sync_and_lose(&mut self) {
        let mut versions = self.versions();
        self.unsynced.clear();
        self.forgotten.append(&mut versions);
    }

    /// A sync that fails and brings the old content back.
    pub(super) fn sync_and_revert(&mut self) {
        *self = Self::settled_at(&self.durable, self.reserved_bytes, self.sector_bytes);
    }

    /// Whether a power cut has something to decide here.
    pub(super) fn is_settled(&self) -> bool {
        self.unsynced.is_empty() && self.lengths.is_empty() && self.forgotten.is_empty()
    }

    /// What a power cut leaves. `stale` is what the medium may hold where the file had nothing before.
    pub(super) fn after_power_cut(&self, mood: Mood, stale: &[u8], choices: &mut Choices) -> Self {
        if self.is_settled() || mood == Mood::AllLost {
            return Self::settled_at(&self.durable, self.reserved_bytes, self.sector_bytes);
        }
        let len = match mood.decide(choices) {
            Fate::Lost => self.durable.len(),
            Fate::Kept => self.live.len(),
            Fate::Any => self.choose_len(choices),
        };
        let mut bytes = (*self.durable).clone();
        bytes.resize(bytes.len().max(len), 0);
        let unsynced = self.versions();
        // The disk may have had the data of a failed sync before it failed.
        for (&number, versions) in self.forgotten.iter().chain(&unsynced) {
            let start = number * self.sector_bytes;
            if start >= len {
                continue;
            }
            match mood.decide(choices) {
                Fate::Kept if unsynced.contains_key(&number) => paste_last(&mut bytes, start, versions),
                Fate::Kept | Fate::Lost => {}
                Fate::Any => self.choose_sector(number, versions, stale, &mut bytes, choices),
            }
        }
        bytes.truncate(len);
        Self::settled_at(&Arc::new(bytes), self.reserved_bytes, self.sector_bytes)
    }

    fn choose_len(&self, choices: &mut Choices) -> usize {
        let mut lengths: Vec<usize> = vec![self.durable.len()];
        lengths.extend(&self.lengths);
        lengths.dedup();
        if lengths.len() == 1 {
            return lengths[0];
        }
        let chosen = choices.below(lengths.len());
        if chosen == 0 {
            return lengths[0];
        }
        let (before, after) = (lengths[chosen - 1], lengths[chosen]);
        // Sector edges strictly between the length before and the one after.
        let edges = (after.saturating_sub(1) / self.sector_bytes).saturating_sub(before / self.sector_bytes);
        match choices.below(1 + edges.min(2)) {
            0 => after,
            _ => (before / self.sector_bytes + 1 + choices.below(edges)) * self.sector_bytes,
        }
    }

    fn choose_sector(
        &self,
        number: usize,
        versions: &[Box<[u8]>],
        stale: &[u8],
        bytes: &mut [u8],
        choices: &mut Choices,
    ) {
        let start = number * self.sector_bytes;
        let is_new = start >= self.durable.len();
        let whole = 1 + versions.len();
        let torn = versions.len();
        let chosen = choices.below(whole + torn + usize::from(is_new));
        if chosen == 0 {
            return;
        }
        if chosen < whole {
            return paste_sector(bytes, start, &versions[chosen - 1]);
        }
        let half = self.sector_bytes / 2;
        if chosen < whole + torn {
            // The first half of a write over what was there before it.
            if let Some(before) = (chosen - whole).checked_sub(1) {
                paste_sector(bytes, start, &versions[before]);
            }
            return paste_sector(bytes, start, &versions[chosen - whole][..half]);
        }
        let mut garbage = vec![0; self.sector_bytes];
        if stale.is_empty() || choices.one_in(2) {
            garbage.fill(0xA5 ^ u8::try_from(choices.below(256)).unwrap_or(0));
        } else {
            copy_sector(stale, start, &mut garbage);
        }
        paste_sector(bytes, start, &garbage);
    }
}

/// The bytes from `start` on, with zeros behind the end of the file.
fn copy_sector(bytes: &[u8], start: usize, sector: &mut [u8]) {
    let start = start.min(bytes.len());
    let end = (start + sector.len()).min(bytes.len());
    sector[..end - start].copy_from_slice(&bytes[start..end]);
}

fn paste_last(bytes: &mut [u8], start: usize, versions: &[Box<[u8]>]) {
    if let Some(sector) = versions.last() {
        paste_sector(bytes, start, sector);
    }
}

/// Puts a sector, or the first half of one, in its place, as far as the file reaches.
fn paste_sector(bytes: &mut [u8], start: usize, sector: &[u8]) {
    let start = start.min(bytes.len());
    let end = (start + sector.len()).min(bytes.len());
    bytes[start..end].copy_from_slice(&sector[..end - start]);
}
