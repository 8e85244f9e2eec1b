//! What a finished checkpoint changes in the journal's own books, and which files it makes superfluous.

use crate::directory::{segment_name, snapshot_name};
use crate::format::FILES_MAX;
use crate::report::SnapshotReport;
use crate::segment::SegmentEntry;
use crate::writer::State;

impl State {
    /// Takes a published snapshot for the one that replay begins with. `bytes_before` had been logged when its LSN was
    /// drawn.
    pub(crate) fn adopt(&mut self, report: SnapshotReport, bytes_before: u64) {
        self.obsolete.append(&mut self.other_snapshots);
        // A damaged snapshot may have had the name that the new one has now.
        self.obsolete.retain(|&(lsn, _)| lsn != report.lsn.0);
        if let Some(previous) = self.previous.take() {
            self.obsolete.push((previous.lsn.0, (0..previous.parts).collect()));
        }
        self.previous = self.snapshot.replace(report);
        self.bytes_since_snapshot -= bytes_before;
        self.segments_since_snapshot = self.segments.len() - first_needed(&self.segments, report.lsn.0);
        self.stats.checkpoints += 1;
    }

    /// Names of files that are needed no more, in the order to remove them.
    ///
    /// The snapshot before the newest stays, with the segments it needs, in case the newest rots. Where the directory
    /// comes near its limit of files, one generation of segments has to do.
    pub(crate) fn take_obsolete(&mut self) -> Vec<String> {
        let crowded = self.segments.len() > FILES_MAX / 2;
        let oldest = if crowded { self.snapshot } else { self.previous };
        let needed = oldest.map_or(0, |snapshot| first_needed(&self.segments, snapshot.lsn.0));
        let snapshots = self.obsolete.drain(..);
        let mut names: Vec<String> = snapshots
            .flat_map(|(lsn, parts)| parts.into_iter().map(move |part| snapshot_name(lsn, part)))
            .collect();
        names.extend(self.segments.drain(..needed).map(|entry| segment_name(entry.seq)));
        names
    }
}

/// Index of the last segment that begins at or below an LSN; 0 where none does.
fn first_needed(segments: &[SegmentEntry], lsn: u64) -> usize {
    segments.iter().rposition(|entry| entry.base_lsn <= lsn).unwrap_or(0)
}
