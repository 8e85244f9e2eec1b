//! One file's bytes: as programs see them, and what a power cut may leave of them.

use std::collections::{BTreeMap, BTreeSet};
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
}

impl Mood {
    pub(super) fn choose(choices: &mut Choices) -> Self {
        if choices.is_exhaustive() {
            return Self::Mixed;
        }
        match choices.below(8) {
            0 => Self::AllLost,
            1 => Self::AllKept,
            _ => Self::Mixed,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Content {
    live: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// By number, what each sector held after each write since the last sync.
    unsynced: BTreeMap<usize, Vec<Box<[u8]>>>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
    /// Sectors that a failed sync counted as clean: no later sync writes them.
    forgotten: BTreeSet<usize>,
    pub(super) reserved_bytes: usize,
    sector_bytes: usize,
}

impl Content {
    pub(super) fn new(sector_bytes: usize) -> Self {
        Self::settled(Vec::new(), sector_bytes)
    }

    /// Bytes that are all durable.
    pub(super) fn settled(bytes: Vec<u8>, sector_bytes: usize) -> Self {
        let bytes = Arc::new(bytes);
        Self {
            live: Arc::clone(&bytes),
            durable: bytes,
            unsynced: BTreeMap::new(),
            lengths: Vec::new(),
            forgotten: BTreeSet::new(),
            reserved_bytes: 0,
            sector_bytes,
        }
    }

    pub(super) fn live(&self) -> &Arc<Vec<u8>> {
        &self.live
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if bytes.is_empty() {
            return;
        }
        if end > self.live.len() {
            self.set_len(end);
        }
        Arc::make_mut(&mut self.live)[offset..end].copy_from_slice(bytes);
        self.note_sectors(offset, end);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let old = self.live.len();
        if len == old {
            return;
        }
        Arc::make_mut(&mut self.live).resize(len, 0);
        self.lengths.push(len);
        if len < old {
            // What was cut off reads as zeros where the file grows again.
            self.note_sectors(len, old.min(len.next_multiple_of(self.sector_bytes)));
            let first_gone = len.div_ceil(self.sector_bytes);
            self.unsynced.retain(|number, _| *number < first_gone);
            let durable_sectors = self.durable.len().div_ceil(self.sector_bytes);
            for number in first_gone..durable_sectors {
                self.note(number);
            }
        }
    }

    fn note_sectors(&mut self, start: usize, end: usize) {
        for number in start / self.sector_bytes..end.div_ceil(self.sector_bytes) {
            self.note(number);
        }
    }

    /// Remembers what a sector holds now.
    fn note(&mut self, number: usize) {
        let mut sector = vec![0; self.sector_bytes].into_boxed_slice();
        copy_sector(&self.live, number * self.sector_bytes, &mut sector);
        let versions = self.unsynced.entry(number).or_default();
        if versions.len() == VERSIONS_MAX {
            versions.remove(1);
        }
        versions.push(sector);
        self.forgotten.remove(&number);
    }

    pub(super) fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(self.live.len(), 0);
        for (number, versions) in unsynced {
            if let Some(sector) = versions.last() {
                paste_sector(durable, number * self.sector_bytes, sector);
            }
        }
        self.lengths.clear();
    }

    /// A sync that fails and counts the pages as clean: programs read the new content until the power goes.
    pub(super) fn sync_and_lose(&mut self) {
        self.forgotten.extend(std::mem::take(&mut self.unsynced).into_keys());
    }

    /// A sync that fails and brings the old content back.
    pub(super) fn sync_and_revert(&mut self) {
        self.live = Arc::clone(&self.durable);
        self.unsynced.clear();
        self.lengths.clear();
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
        let len = match mood {
            Mood::Mixed => self.choose_len(choices),
            Mood::AllLost | Mood::AllKept => self.live.len(),
        };
        let mut bytes = (*self.durable).clone();
        bytes.resize(bytes.len().max(len), 0);
        for (&number, versions) in &self.unsynced {
            if number * self.sector_bytes >= len {
                continue;
            }
            match mood {
                Mood::Mixed => self.choose_sector(number, versions, stale, &mut bytes, choices),
                Mood::AllLost | Mood::AllKept => {
                    if let Some(sector) = versions.last() {
                        paste_sector(&mut bytes, number * self.sector_bytes, sector);
                    }
                }
            }
        }
        bytes.truncate(len);
        Self::settled_at(&Arc::new(bytes), self.reserved_bytes, self.sector_bytes)
    }

    fn settled_at(bytes: &Arc<Vec<u8>>, reserved_bytes: usize, sector_bytes: usize) -> Self {
        let mut content = Self::new(sector_bytes);
        content.live = Arc::clone(bytes);
        content.durable = Arc::clone(bytes);
        content.reserved_bytes = reserved_bytes;
        content
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

/// Puts a sector, or the first half of one, in its place, as far as the file reaches.
fn paste_sector(bytes: &mut [u8], start: usize, sector: &[u8]) {
    let start = start.min(bytes.len());
    let end = (start + sector.len()).min(bytes.len());
    bytes[start..end].copy_from_slice(&sector[..end - start]);
}
