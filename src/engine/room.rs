//! How much may be in flight at once, so that the limit of open files holds. Pure.

/// Files of one batch of publications, at most (measured with 10,000 files of 1 KiB: with 128 the publisher is what all wait for,
/// with more than this the files that wait take memory and the time does not get less).
pub(super) const BATCH_MAX: usize = 192;

/// How much may be in flight at once, so that the limit of open files holds.
#[expect(clippy::struct_field_names, reason = "each is the most of something")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Attempts; each needs a socket, a part file, and at times one more.
    pub(crate) jobs_max: usize,
    /// Connections of one attempt.
    pub(crate) connections_max: usize,
    /// Complete files that wait for their final name; each is open.
    pub(crate) ready_max: usize,
}

impl Room {
    /// Files that wait for their names, at most: two batches in the hands of the publisher, and two that come.
    const READY_MAX: usize = 4 * BATCH_MAX;
    /// Files that are open besides: standard streams, lock, journal, directories, signals, look-ups.
    const FILES_BESIDES: usize = 24;
    /// A part file, and at times two more.
    const FILES_PER_JOB: usize = 3;

    /// Files that are open at most.
    pub(crate) fn files_max(self) -> usize {
        let per_job = Self::FILES_PER_JOB + self.connections_max;
        Self::FILES_BESIDES + self.jobs_max * per_job + self.ready_max
    }

    /// With at most so many files that wait for their names, where that is a number.
    pub(crate) fn with_ready(self, ready_max: Option<usize>) -> Self {
        Self {
            ready_max: self.ready_max.min(ready_max.unwrap_or(usize::MAX)),
            ..self
        }
    }

    /// Fits what was asked for into a number of open files; `None` where not even one job fits.
    pub(crate) fn fit(jobs_asked: usize, connections_max: usize, open_files_max: usize) -> Option<Self> {
        // Where files are scarce, each job has one connection less.
        let fits = |connections: usize| {
            let per_job = Self::FILES_PER_JOB + connections;
            let files = open_files_max
                .checked_sub(Self::FILES_BESIDES)
                .filter(|files| *files > per_job)?;
            let jobs_max = jobs_asked.min(files / (2 * per_job)).max(1);
            let ready_max = (files - jobs_max * per_job).clamp(1, Self::READY_MAX);
            Some(Self {
                jobs_max,
                connections_max: connections,
                ready_max,
            })
        };
        let mut best = None;
        for connections in (1..=connections_max).rev() {
            let room = fits(connections);
            if room.is_some_and(|room| room.jobs_max == jobs_asked) {
                return room;
            }
            best = room;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_fits_the_limit_of_open_files() {
        assert_eq!(
            Room::fit(16, 4, 1024),
            Some(Room {
                jobs_max: 16,
                connections_max: 4,
                ready_max: 768
            })
        );
        assert_eq!(
            Room::fit(16, 16, 300).map(|room| (room.jobs_max, room.connections_max)),
            Some((16, 5)),
            "connections go before jobs"
        );
        for open_files_max in 29..2_000 {
            let room = Room::fit(256, 16, open_files_max).expect("one job fits");
            assert!(
                room.files_max() <= open_files_max && room.jobs_max > 0 && room.ready_max > 0,
                "{room:?} of {open_files_max}"
            );
        }
        assert_eq!(Room::fit(1, 4, 28), None);
    }
}
