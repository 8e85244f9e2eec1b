//! Which bytes of a file are there, which are being fetched, and by whom. Pure.
//!
//! A file is cut into pieces that lie side by side. Of each a run of bytes from its beginning is there; the rest of it is
//! fetched by whoever took it. A piece that nobody took, or the larger half of one that somebody works on, goes to whoever
//! has nothing left to do, so that the last connection does not drag. What somebody waits for goes before that
//! ([`steering`]).

mod steering;

use backhaul_backends::sort_few_by_key;

use crc32fast::Hasher;

use self::steering::{NEAR_BYTES, Want};

use crate::operation::Stretch;

/// Most pieces of one file, so that a claim stays small.
const PIECES_MAX: usize = 256;

/// One piece: `[first, next)` is there, `[next, end)` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) end: u64,
    /// CRC-32 of what is there.
    pub(crate) crc32: u32,
    /// Up to here somebody is writing right now; at least `next`.
    granted: u64,
    is_taken: bool,
    /// Whoever took it is to leave it for what somebody waits for.
    is_called: bool,
}

impl Piece {
    fn new(first: u64, next: u64, end: u64, crc32: u32) -> Self {
        Self {
            first,
            next,
            end,
            crc32,
            granted: next,
            is_taken: false,
            is_called: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.next >= self.end
    }

    /// It holds nothing, nobody has it, and nothing can come into it: its number may be given to another one.
    fn is_vacant(&self) -> bool {
        self.first == self.end && !self.is_taken
    }

    /// Bytes that nobody writes yet.
    fn open_bytes(&self) -> u64 {
        self.end.saturating_sub(self.granted)
    }
}

/// All pieces of one file, without gaps or overlaps between them. The first is the one at offset 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    all: Vec<Piece>,
    received_bytes: u64,
    /// What somebody waits for.
    wants: Vec<Want>,
    /// See [`NEAR_BYTES`].
    near_bytes: u64,
}

impl Pieces {
    /// What is held of a file: `[0, prefix_bytes)`, and stretches beyond it, in order. `total_bytes` is its length; where
    /// that is not known there is one piece without an end.
    pub(crate) fn new(prefix_bytes: u64, prefix_crc32: u32, beyond: &[Stretch], total_bytes: Option<u64>) -> Self {
        let end_of = |index: usize| match beyond.get(index) {
            Some(next) => next.first,
            None => total_bytes.unwrap_or(u64::MAX),
        };
        let mut pieces = vec![Piece::new(0, prefix_bytes, end_of(0), prefix_crc32)];
        for (index, stretch) in beyond.iter().enumerate() {
            pieces.push(Piece::new(stretch.first, stretch.end, end_of(index + 1), stretch.crc32));
        }
        let received_bytes = pieces.iter().map(|piece| piece.next - piece.first).sum();
        Self {
            all: pieces,
            received_bytes,
            wants: Vec::new(),
            near_bytes: NEAR_BYTES,
        }
    }

    pub(crate) fn get(&self, index: usize) -> Piece {
        self.all[index]
    }

    /// Bytes that are there.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.all.iter().all(Piece::is_complete)
    }

    /// Takes the first piece, for the connection that begins it all.
    pub(crate) fn take_first(&mut self) {
        self.all[0].is_taken = true;
    }

    /// Cuts what is missing until `count` connections have work, each at least `bytes_min`.
    pub(crate) fn spread(&mut self, count: usize, bytes_min: u64) {
        while self.all.iter().filter(|piece| !piece.is_complete()).count() < count {
            if self.cut_largest(bytes_min).is_none() {
                return;
            }
        }
    }

    /// Gives a piece to whoever asks: what somebody waits for; else the largest that nobody took, the last of them where
    /// several are; else the second half of the largest that somebody works on, where both halves have at least
    /// `bytes_min`.
    pub(crate) fn take(&mut self, bytes_min: u64) -> Option<usize> {
        if let Some(index) = self.find_wanted() {
            self.all[index].is_taken = true;
            return Some(index);
        }
        let free = (0..self.all.len()).filter(|index| {
            let piece = &self.all[*index];
            !piece.is_taken && !piece.is_complete()
        });
        let index = match free.max_by_key(|index| self.all[*index].open_bytes()) {
            Some(index) => index,
            None => self.cut_largest(bytes_min)?,
        };
        self.all[index].is_taken = true;
        Some(index)
    }

    /// Gives a piece back; `true` where it was to be left for another one.
    pub(crate) fn release(&mut self, index: usize) -> bool {
        let piece = &mut self.all[index];
        piece.is_taken = false;
        piece.granted = piece.next;
        std::mem::take(&mut piece.is_called)
    }

    /// How many of `wanted` bytes may be written at the end of what is there of a piece. They are nobody else's from now on.
    pub(crate) fn grant(&mut self, index: usize, wanted: usize) -> usize {
        let piece = &mut self.all[index];
        let room = usize::try_from(piece.end - piece.next).unwrap_or(usize::MAX);
        let granted = wanted.min(room);
        piece.granted = piece.next + granted as u64;
        granted
    }

    /// As [`Pieces::grant`], for a response that goes on behind the piece: what nobody has begun or taken there becomes
    /// part of it first.
    pub(crate) fn grant_onward(&mut self, index: usize, wanted: usize) -> usize {
        while self.all[index].end - self.all[index].next < wanted as u64 && self.extend(index) {}
        self.grant(index, wanted)
    }

    /// Joins the piece behind one to it, where nothing of it is there and nobody took it. Numbers of pieces stay what
    /// they are.
    pub(crate) fn extend(&mut self, index: usize) -> bool {
        let at = self.all[index].end;
        let is_open =
            |piece: &&mut Piece| (piece.first, piece.next) == (at, at) && !piece.is_complete() && !piece.is_taken;
        let Some(behind) = self.all.iter_mut().find(is_open) else {
            return false;
        };
        let end = std::mem::replace(&mut behind.end, at);
        self.all[index].end = end;
        true
    }

    /// Up to `next` a piece is there now, with this CRC-32.
    pub(crate) fn advance(&mut self, index: usize, next: u64, crc32: u32) {
        let piece = &mut self.all[index];
        self.received_bytes += next - piece.next;
        piece.next = next;
        piece.granted = next;
        piece.crc32 = crc32;
    }

    /// What is there: the bytes from 0 on with their CRC-32, and the stretches beyond.
    pub(crate) fn held(&self) -> (u64, u32, Vec<Stretch>) {
        let mut there: Vec<&Piece> = self.all.iter().filter(|piece| piece.next > piece.first).collect();
        sort_few_by_key(&mut there, |piece| piece.first);
        let mut stretches: Vec<Stretch> = Vec::with_capacity(there.len());
        for piece in there {
            let next = stretch(piece);
            match stretches.last_mut().filter(|last| last.end == next.first) {
                Some(last) => *last = join(last, &next),
                None => stretches.push(next),
            }
        }
        match stretches.first().copied().filter(|first| first.first == 0) {
            Some(prefix) => (prefix.end, prefix.crc32, stretches.split_off(1)),
            None => (0, 0, stretches),
        }
    }

    /// Cuts the piece of which most is missing in two, and gives the second half. Numbers of pieces stay what they are.
    fn cut_largest(&mut self, bytes_min: u64) -> Option<usize> {
        let largest = (0..self.all.len()).max_by_key(|index| self.all[*index].open_bytes())?;
        let piece = self.all[largest];
        let half = piece.open_bytes() / 2;
        if piece.end == u64::MAX || half < bytes_min.max(1) {
            return None;
        }
        self.cut(largest, piece.granted + half)
    }

    /// Cuts a piece in two where nobody writes yet, and gives the second part; `None` where there are too many already.
    fn cut(&mut self, index: usize, at: u64) -> Option<usize> {
        let new = self.vacancy()?;
        let end = std::mem::replace(&mut self.all[index].end, at);
        self.all[new] = Piece::new(at, at, end, 0);
        Some(new)
    }

    /// The number of a piece that may be another one from now on. The first piece stays the first.
    fn vacancy(&mut self) -> Option<usize> {
        let vacant = |pieces: &[Piece]| pieces.iter().skip(1).position(Piece::is_vacant);
        if let Some(position) = vacant(&self.all) {
            return Some(position + 1);
        }
        if self.all.len() < PIECES_MAX {
            self.all.push(Piece::new(0, 0, 0, 0));
            return Some(self.all.len() - 1);
        }
        self.join_complete();
        vacant(&self.all).map(|position| position + 1)
    }

    /// Joins complete pieces that lie side by side and that nobody has.
    fn join_complete(&mut self) {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.retain(|index| self.all[*index].first < self.all[*index].end);
        sort_few_by_key(&mut order, |index| self.all[*index].first);
        let mut left: Option<usize> = None;
        for index in order {
            let piece = self.all[index];
            if !piece.is_complete() || piece.is_taken {
                left = None;
                continue;
            }
            let Some(left) = left else {
                left = Some(index);
                continue;
            };
            let joined = join(&stretch(&self.all[left]), &stretch(&piece));
            self.all[left] = Piece::new(joined.first, joined.end, joined.end, joined.crc32);
            self.all[index] = Piece::new(piece.end, piece.end, piece.end, 0);
        }
    }
}

/// What is there of a piece.
fn stretch(piece: &Piece) -> Stretch {
    Stretch {
        first: piece.first,
        end: piece.next,
        crc32: piece.crc32,
    }
}

fn join(left: &Stretch, right: &Stretch) -> Stretch {
    let mut crc = Hasher::new_with_initial_len(left.crc32, left.len_bytes());
    crc.combine(&Hasher::new_with_initial_len(right.crc32, right.len_bytes()));
    Stretch {
        first: left.first,
        end: right.end,
        crc32: crc.finalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 1000;

    fn content(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|offset| (offset * 7).to_le_bytes()[0]).collect()
    }

    fn crc(range: std::ops::Range<u64>) -> u32 {
        crc32fast::hash(&content(range))
    }

    /// Lets whoever has a piece receive some of it.
    fn receive(pieces: &mut Pieces, index: usize, wanted: usize) -> usize {
        let granted = pieces.grant(index, wanted);
        let piece = pieces.get(index);
        let next = piece.next + granted as u64;
        pieces.advance(index, next, crc(piece.first..next));
        granted
    }

    fn assert_sound(pieces: &Pieces) {
        let mut all = pieces.all.clone();
        all.retain(|piece| piece.first < piece.end);
        all.sort_unstable_by_key(|piece| piece.first);
        assert_eq!((all[0].first, all[all.len() - 1].end), (0, TOTAL));
        assert!(all.windows(2).all(|pair| pair[0].end == pair[1].first), "{all:?}");
        assert!(
            all.iter()
                .all(|piece| piece.first <= piece.next && piece.next <= piece.end),
            "{all:?}"
        );
        let (prefix, prefix_crc, beyond) = pieces.held();
        assert_eq!(prefix_crc, crc(0..prefix));
        let mut before = prefix;
        for stretch in &beyond {
            assert!(stretch.first > before && stretch.end > stretch.first);
            assert_eq!(stretch.crc32, crc(stretch.first..stretch.end));
            before = stretch.end;
        }
        let held = prefix + beyond.iter().map(Stretch::len_bytes).sum::<u64>();
        assert_eq!(held, pieces.received_bytes());
        // What is claimed comes back as the same pieces.
        let again = Pieces::new(prefix, prefix_crc, &beyond, Some(TOTAL));
        assert_eq!((again.held(), again.received_bytes()), (pieces.held(), held));
    }

    #[test]
    fn whoever_receives_how_much_in_which_order_every_byte_is_fetched_once() {
        for seed in 0..2000_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut draw = |below: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                usize::try_from(random % below as u64).unwrap_or(0)
            };
            let mut pieces = Pieces::new(0, 0, &[], Some(TOTAL));
            pieces.take_first();
            let mut workers = [Some(0), None, None, None];
            let mut received = 0;
            for _ in 0..100_000 {
                if pieces.is_complete() {
                    break;
                }
                let worker = draw(workers.len());
                match workers[worker] {
                    None => workers[worker] = pieces.take(8),
                    Some(index) if pieces.get(index).is_complete() || draw(20) == 0 => {
                        pieces.release(index);
                        workers[worker] = None;
                    }
                    Some(index) => received += receive(&mut pieces, index, draw(60)) as u64,
                }
                assert_sound(&pieces);
            }
            assert!(pieces.is_complete(), "seed {seed}");
            assert_eq!(received, TOTAL, "seed {seed}");
            assert_eq!(pieces.held(), (TOTAL, crc(0..TOTAL), Vec::new()), "seed {seed}");
        }
    }

    #[test]
    fn what_is_being_written_is_never_given_to_another() {
        let mut pieces = Pieces::new(0, 0, &[], Some(TOTAL));
        pieces.take_first();
        assert_eq!(pieces.grant(0, 900), 900);
        let other = pieces.take(10);
        assert_eq!(other.map(|index| pieces.get(index).first), Some(950));
        pieces.advance(0, 900, crc(0..900));
        assert_eq!(pieces.grant(0, 900), 50);
    }

    #[test]
    fn a_response_that_goes_on_takes_what_is_free_behind_it_and_nothing_else() {
        let mut pieces = Pieces::new(0, 0, &[], Some(TOTAL));
        pieces.take_first();
        pieces.spread(4, 10);
        assert_eq!(pieces.grant_onward(0, 900), 900);
        assert_sound(&pieces);
        pieces.advance(0, 900, crc(0..900));
        let last = pieces.take(10).unwrap_or_default();
        let others = pieces.get(last).first;
        // It ends where somebody else has begun, whatever is wanted.
        assert_eq!(900 + pieces.grant_onward(0, 5_000) as u64, others);
        assert!(others < TOTAL);
        assert_sound(&pieces);
        pieces.advance(0, others, crc(0..others));
        assert!(!pieces.extend(0));
        receive(&mut pieces, last, 20);
        pieces.release(last);
        assert!(!pieces.extend(0), "some of it is there");
        assert_sound(&pieces);
    }

    #[test]
    fn no_piece_is_smaller_than_asked_and_a_file_of_unknown_length_is_one() {
        let mut pieces = Pieces::new(0, 0, &[], Some(TOTAL));
        pieces.spread(8, 200);
        assert!(pieces.all.iter().all(|piece| piece.end - piece.first >= 200));
        assert_eq!(pieces.all.len(), 4);
        let mut endless = Pieces::new(10, 1, &[], None);
        endless.take_first();
        endless.spread(8, 1);
        assert_eq!((endless.all.len(), endless.take(1)), (1, None));
    }

    #[test]
    fn pieces_are_bounded_in_number() {
        let mut pieces = Pieces::new(0, 0, &[], Some(1 << 40));
        pieces.spread(10_000, 1);
        assert_eq!(pieces.all.len(), PIECES_MAX);
    }
}
