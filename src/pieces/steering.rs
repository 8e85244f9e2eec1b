//! Which bytes somebody waits for, and who has to go there. Pure.
//!
//! A connection that is far from what is wanted is called away from its piece: it ends its response, and the next piece
//! that is taken begins at the wanted byte. What was left is fetched later, as every other piece.

use backhaul_backends::sort_few_by_key;

use super::{Piece, Pieces};

/// A connection that is no farther than this before a byte is left where it is: another response would hardly be sooner
/// (chosen without measurement; at 1 MB/s a quarter of a second).
pub(super) const NEAR_BYTES: u64 = 256 << 10;

/// Gaps beyond which no new one is opened, so that a claim stays small: what is wanted then is fetched from the end of
/// what is there before it.
const GAPS_MAX: usize = 64;

/// Ranges that are waited for, at most. More have to wait until one of them is there.
const WANTS_MAX: usize = 16;

/// A range that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    first: u64,
    end: u64,
    /// How many wait; what nobody waits for any more is fetched as long as nothing else is wanted.
    waiting: u32,
}

impl Pieces {
    /// Somebody waits for `[first, end)`; `false` where there is no room for one more. Whoever waits says so once, and
    /// says [`Pieces::unwant`] in the end.
    pub(crate) fn want(&mut self, first: u64, end: u64) -> bool {
        // Nobody waits any more, and nothing has come: whoever it was wants something else now.
        let is_kept = |want: &Want| want.waiting > 0 || self.target(want).is_some_and(|next| next > want.first);
        let mut kept: Vec<Want> = self.wants.iter().copied().filter(is_kept).collect();
        let is_same = |want: &Want| (want.first, want.end) == (first, end);
        let has_room = kept.iter().any(is_same) || kept.len() < WANTS_MAX;
        if has_room && !kept.iter().any(is_same) {
            let waiting = 0;
            kept.push(Want { first, end, waiting });
        }
        for want in kept.iter_mut().filter(|want| is_same(want)) {
            want.waiting += 1;
        }
        self.wants = kept;
        has_room
    }

    /// One less waits for `[first, end)`.
    pub(crate) fn unwant(&mut self, first: u64, end: u64) {
        let mut wants = self.wants.iter_mut();
        if let Some(want) = wants.find(|want| (want.first, want.end) == (first, end)) {
            want.waiting = want.waiting.saturating_sub(1);
        }
    }

    /// Somebody waits for something, or did a moment ago.
    pub(crate) fn has_wants(&self) -> bool {
        !self.wants.is_empty()
    }

    /// Whoever has this piece is to leave it.
    pub(crate) fn is_called(&self, index: usize) -> bool {
        self.all[index].is_called
    }

    /// Up to where bytes are there side by side, from an offset on; the offset itself where it is missing.
    pub(crate) fn run_end(&self, offset: u64) -> u64 {
        let mut end = offset;
        while let Some(piece) = self.at(end).map(|index| self.all[index])
            && piece.next > end
        {
            end = piece.next;
        }
        end
    }

    /// Calls a connection away for what is wanted and nobody is about to fetch, and names its piece. `None` where there is
    /// no need, or nobody who can be spared.
    pub(crate) fn call_away(&mut self) -> Option<usize> {
        if self.wants.is_empty() {
            return None;
        }
        let is_kept = |want: &Want| want.waiting > 0 || self.target(want).is_some();
        self.wants = self.wants.iter().copied().filter(is_kept).collect();
        let unserved = self.unserved();
        let is_coming = |piece: &&Piece| piece.is_taken && (piece.is_called || piece.is_complete());
        let wanted = *unserved.get(self.all.iter().filter(is_coming).count())?;
        let can_go = |index: &usize| {
            let piece = &self.all[*index];
            piece.is_taken && !piece.is_called && !piece.is_complete() && !self.is_needed(piece)
        };
        let mut spared = (0..self.all.len()).filter(can_go);
        // Its response would end at the wanted byte anyway.
        let index = match self.at(wanted).filter(can_go) {
            Some(holder) => holder,
            None => spared.by_ref().max_by_key(|index| self.all[*index].open_bytes())?,
        };
        self.all[index].is_called = true;
        Some(index)
    }

    /// The piece that whoever comes has to fetch because somebody waits for it.
    pub(super) fn find_wanted(&mut self) -> Option<usize> {
        for wanted in self.unserved() {
            let Some(index) = self.at(wanted) else { continue };
            let piece = self.all[index];
            let found = if !piece.is_taken && (wanted - piece.next <= self.near_bytes || !self.may_cut()) {
                Some(index)
            } else if wanted >= piece.granted && self.may_cut() {
                self.cut(index, wanted).or((!piece.is_taken).then_some(index))
            } else {
                None
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The first missing bytes of what is wanted that nobody is about to fetch, those that somebody waits for first; of
    /// several that lie near each other one.
    fn unserved(&self) -> Vec<u64> {
        let mut wants = self.wants.clone();
        sort_few_by_key(&mut wants, |want| want.waiting == 0);
        let mut apart: Vec<u64> = Vec::with_capacity(wants.len());
        for next in wants.iter().filter_map(|want| self.target(want)) {
            let is_served = self.all.iter().any(|piece| self.serves(piece, next));
            let is_near = |other: &u64| next >= *other && next - *other <= self.near_bytes;
            if !is_served && !apart.iter().any(is_near) {
                apart.push(next);
            }
        }
        apart
    }

    /// The first byte of a wanted range that is missing; `None` where all is there.
    fn target(&self, want: &Want) -> Option<u64> {
        let next = self.run_end(want.first);
        (next < want.end && self.at(next).is_some()).then_some(next)
    }

    /// Whoever has this piece will come to a byte soon, or nobody can be there sooner.
    fn serves(&self, piece: &Piece, offset: u64) -> bool {
        let has_it = piece.is_taken && !piece.is_called && (piece.next..piece.end).contains(&offset);
        has_it && (offset < piece.granted || offset - piece.next <= self.near_bytes || !self.may_cut())
    }

    /// Somebody waits for what comes into this piece next; or did, and has a part of what was asked for.
    fn is_needed(&self, piece: &Piece) -> bool {
        self.wants.iter().any(|want| {
            self.target(want)
                .is_some_and(|next| self.serves(piece, next) && (want.waiting > 0 || next > want.first))
        })
    }

    fn may_cut(&self) -> bool {
        self.all.iter().filter(|piece| !piece.is_complete()).count() < GAPS_MAX
    }

    /// The piece that an offset lies in.
    fn at(&self, offset: u64) -> Option<usize> {
        let mut pieces = self.all.iter();
        pieces.position(|piece| (piece.first..piece.end).contains(&offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Stretch;
    use crate::pieces::PIECES_MAX;

    const TOTAL: u64 = 10_000;
    const NEAR: u64 = 16;

    fn crc(range: std::ops::Range<u64>) -> u32 {
        let content: Vec<u8> = range.map(|offset| (offset * 7).to_le_bytes()[0]).collect();
        crc32fast::hash(&content)
    }

    /// One file, of which the first connection has begun at 0.
    fn begun(total: u64) -> Pieces {
        let mut pieces = Pieces {
            near_bytes: NEAR,
            ..Pieces::new(0, 0, &[], Some(total))
        };
        pieces.take_first();
        pieces
    }

    fn receive(pieces: &mut Pieces, index: usize, wanted: usize) -> u64 {
        let granted = pieces.grant(index, wanted);
        let piece = pieces.get(index);
        let next = piece.next + granted as u64;
        pieces.advance(index, next, crc(piece.first..next));
        granted as u64
    }

    fn assert_sound(pieces: &Pieces) {
        let mut all = pieces.all.clone();
        all.retain(|piece| piece.first < piece.end);
        all.sort_unstable_by_key(|piece| piece.first);
        assert_eq!((all[0].first, all[all.len() - 1].end), (0, TOTAL));
        assert!(all.windows(2).all(|pair| pair[0].end == pair[1].first), "{all:?}");
        let (prefix, prefix_crc, beyond) = pieces.held();
        assert_eq!(prefix_crc, crc(0..prefix));
        for stretch in &beyond {
            assert_eq!(stretch.crc32, crc(stretch.first..stretch.end));
        }
        let held = prefix + beyond.iter().map(Stretch::len_bytes).sum::<u64>();
        assert_eq!(held, pieces.received_bytes());
        let stretches_max = GAPS_MAX + 4;
        assert!(beyond.len() <= stretches_max, "{}", beyond.len());
    }

    /// The connection on a piece hears the call, leaves, and takes the next.
    fn follow(pieces: &mut Pieces, called: usize) -> usize {
        assert!(pieces.is_called(called));
        assert!(pieces.release(called), "it was called away");
        pieces.take(1).expect("what is wanted is there to be taken")
    }

    #[test]
    fn the_only_connection_goes_to_what_is_wanted_and_then_fills_in_what_it_left() {
        let mut pieces = begun(TOTAL);
        receive(&mut pieces, 0, 100);
        assert!(pieces.want(9_000, 9_050));
        assert_eq!(pieces.call_away(), Some(0));
        assert_eq!(pieces.call_away(), None, "one is enough");
        let new = follow(&mut pieces, 0);
        assert_eq!((pieces.get(new).first, pieces.get(new).end), (9_000, TOTAL));
        receive(&mut pieces, new, 50);
        assert_eq!((pieces.run_end(0), pieces.run_end(9_000)), (100, 9_050));
        pieces.unwant(9_000, 9_050);
        assert_eq!(pieces.call_away(), None);
        assert!(!pieces.has_wants(), "all that was wanted is there");
        receive(&mut pieces, new, 5_000);
        assert!(!pieces.release(new));
        assert_eq!(pieces.take(1), Some(0));
        receive(&mut pieces, 0, 50_000);
        assert!(pieces.is_complete());
        assert_sound(&pieces);
    }

    #[test]
    fn a_connection_that_is_near_is_left_where_it_is() {
        let mut pieces = begun(TOTAL);
        receive(&mut pieces, 0, 100);
        assert!(pieces.want(100 + NEAR, 500));
        assert_eq!(pieces.call_away(), None);
        assert!(pieces.want(101 + NEAR, 500));
        assert_eq!(pieces.call_away(), None, "the other one waits for what comes next");
        pieces.unwant(100 + NEAR, 500);
        assert_eq!(pieces.call_away(), Some(0));
    }

    #[test]
    fn what_is_being_written_is_never_cut_away_by_a_call() {
        let mut pieces = begun(TOTAL);
        assert_eq!(pieces.grant(0, 500), 500);
        assert!(pieces.want(400, 450));
        assert_eq!(pieces.call_away(), None, "it is being written");
        assert!(pieces.want(1_000, 1_050));
        pieces.unwant(400, 450);
        assert_eq!(pieces.call_away(), Some(0));
        // Somebody else comes first: what is granted stays with whoever writes it.
        let other = pieces.take(1).expect("the wanted piece");
        assert_eq!((pieces.get(other).first, pieces.get(0).end), (1_000, 1_000));
        pieces.advance(0, 500, crc(0..500));
        assert_sound(&pieces);
    }

    #[test]
    fn a_connection_that_somebody_waits_for_is_not_called_away_before_he_has_what_he_asked_for() {
        let mut pieces = begun(TOTAL);
        assert!(pieces.want(5_000, 5_100));
        assert_eq!(pieces.call_away(), Some(0));
        let first = follow(&mut pieces, 0);
        assert!(pieces.want(8_000, 8_100));
        assert_eq!(pieces.call_away(), None);
        // The first reader has some of it and goes away for a moment; the rest of it still comes first.
        receive(&mut pieces, first, 40);
        pieces.unwant(5_000, 5_100);
        assert_eq!(pieces.call_away(), None);
        receive(&mut pieces, first, 60);
        assert_eq!(pieces.call_away(), Some(first));
        let second = follow(&mut pieces, first);
        assert_eq!(pieces.get(second).first, 8_000);
    }

    #[test]
    fn a_reader_who_went_elsewhere_before_anything_came_holds_up_nobody() {
        let mut pieces = begun(TOTAL);
        assert!(pieces.want(5_000, 5_100));
        assert_eq!(pieces.call_away(), Some(0));
        pieces.unwant(5_000, 5_100);
        let first = follow(&mut pieces, 0);
        assert_eq!(pieces.get(first).first, 5_000, "as long as nothing else is wanted");
        assert!(pieces.want(8_000, 8_100));
        assert_eq!(pieces.call_away(), Some(first));
        let second = follow(&mut pieces, first);
        assert_eq!(pieces.get(second).first, 8_000);
    }

    #[test]
    fn of_several_connections_one_goes_and_one_that_fails_on_its_way_is_replaced() {
        let mut pieces = begun(TOTAL);
        pieces.spread(3, 1);
        let (second, third) = (pieces.take(1).expect("one"), pieces.take(1).expect("another"));
        let holder = pieces.at(1_000).expect("it lies in a piece");
        assert!(pieces.want(1_000, 1_100));
        assert_eq!(pieces.call_away(), Some(holder));
        assert_eq!(pieces.call_away(), None);
        pieces.release(holder);
        // It never takes another one.
        let replaced = pieces.call_away().expect("somebody else");
        assert!(replaced != holder && [0, second, third].contains(&replaced));
        let new = follow(&mut pieces, replaced);
        assert_eq!(pieces.run_end(1_000), 1_000);
        assert!((pieces.get(new).first..=pieces.get(new).first + NEAR).contains(&1_000));
    }

    #[test]
    fn seeks_without_end_leave_a_bounded_number_of_gaps_and_are_served_from_the_nearest_edge_then() {
        let mut pieces = begun(1 << 40);
        let mut at = 0;
        for step in 1..2_000_u64 {
            let wanted = (step * 7_919_000_003) % (1 << 40);
            if pieces.run_end(wanted) > wanted {
                continue;
            }
            assert!(pieces.want(wanted, wanted + 10));
            if let Some(called) = pieces.call_away() {
                assert_eq!(called, at);
                at = follow(&mut pieces, called);
            }
            receive(&mut pieces, at, 10);
            pieces.unwant(wanted, wanted + 10);
            assert!(pieces.held().2.len() <= GAPS_MAX, "{}", pieces.held().2.len());
            assert!(pieces.all.len() <= PIECES_MAX);
        }
        assert_eq!(pieces.held().2.len() + 1, GAPS_MAX);
        let index = pieces.at(1 << 39).expect("it lies in a piece");
        let edge = pieces.get(index).next;
        pieces.release(at);
        assert!(pieces.want(1 << 39, (1 << 39) + 10));
        let taken = pieces.take(1).expect("the piece before it");
        assert_eq!((taken, pieces.get(taken).next), (index, edge), "no new gap");
    }

    #[test]
    fn ranges_that_are_waited_for_are_bounded_in_number() {
        let mut pieces = begun(TOTAL);
        for number in 0..WANTS_MAX as u64 {
            assert!(pieces.want(number * 100, number * 100 + 10));
        }
        assert!(!pieces.want(9_000, 9_010));
        assert!(pieces.want(0, 10), "one more for the same");
        pieces.unwant(0, 10);
        pieces.unwant(0, 10);
        assert!(pieces.want(9_000, 9_010));
    }

    #[test]
    fn whoever_wants_what_in_which_order_every_byte_is_fetched_once() {
        for seed in 0..600_u64 {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut pieces = begun(TOTAL);
            let mut workers = [Some(0), None, None];
            let count = draw(3) + 1;
            let (mut received, mut waiting) = (0, Vec::new());
            for _ in 0..100_000 {
                if pieces.is_complete() {
                    break;
                }
                if draw(6) == 0 {
                    let first = draw(TOTAL);
                    let range = (first, first + 1 + draw(300));
                    if pieces.want(range.0, range.1) {
                        waiting.push(range);
                    }
                }
                if draw(4) == 0 && !waiting.is_empty() {
                    let (first, end) = waiting.swap_remove(usize::try_from(draw(waiting.len() as u64)).unwrap_or(0));
                    pieces.unwant(first, end);
                }
                while pieces.call_away().is_some() {}
                let worker = usize::try_from(draw(count)).unwrap_or(0);
                match workers[worker] {
                    None => workers[worker] = pieces.take(8),
                    Some(index) if pieces.get(index).is_complete() || pieces.is_called(index) || draw(40) == 0 => {
                        pieces.release(index);
                        workers[worker] = None;
                    }
                    Some(index) => received += receive(&mut pieces, index, usize::try_from(draw(200)).unwrap_or(0)),
                }
                assert_sound(&pieces);
            }
            assert!(pieces.is_complete(), "seed {seed}");
            assert_eq!(received, TOTAL, "seed {seed}");
            assert_eq!(pieces.held(), (TOTAL, crc(0..TOTAL), Vec::new()), "seed {seed}");
        }
    }
}
