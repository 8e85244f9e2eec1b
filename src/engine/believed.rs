//! What the answers to several syncs are worth beside each other. Pure.

use std::io;

/// Where one sync of a file system has failed, no other of the same call proves anything. What they share may have failed, as
/// the commit of a journal or the write of a block with several inodes, and the system may have told that to one of them
/// alone: ext4 without a journal and XFS were seen to. The others fail with it then, in the same way, so that what follows
/// from it (to wait for room, or to fetch again) follows for all of them. Each answer stands with the device that it is about
/// (see `Stat::device`).
pub(super) fn believe_none_beside_a_failure(mut answers: Vec<(u64, &mut io::Result<()>)>) {
    let failed = answers.iter().filter_map(|(device, answer)| {
        let error = answer.as_ref().err().filter(|error| !is_of_one_alone(error))?;
        Some((*device, error.kind(), error.to_string()))
    });
    let failed: Vec<(u64, io::ErrorKind, String)> = failed.collect();
    for (device, answer) in answers.iter_mut().filter(|answer| answer.1.is_ok()) {
        if let Some((_, kind, problem)) = failed.iter().find(|(other, _, _)| other == device) {
            **answer = Err(io::Error::new(
                *kind,
                format!(
                    "another sync of its file system failed, beside which its own proves nothing: {problem}; the log of \
                     the kernel says more of that disk"
                ),
            ));
        }
    }
}

/// What says something of the one file or directory, or of how it was asked for, and nothing of its file system.
fn is_of_one_alone(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    let is_of_descriptors = matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EBADF | libc::ELOOP)
    );
    let of_one = [
        E::NotFound,
        E::PermissionDenied,
        E::NotADirectory,
        E::InvalidInput,
        E::Unsupported,
        E::InvalidFilename,
    ];
    is_of_descriptors || of_one.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(number))
    }

    fn kinds(mut answers: Vec<(u64, io::Result<()>)>) -> Vec<Option<io::ErrorKind>> {
        believe_none_beside_a_failure(answers.iter_mut().map(|(device, answer)| (*device, answer)).collect());
        let kinds = answers
            .iter()
            .map(|(_, answer)| answer.as_ref().err().map(io::Error::kind));
        kinds.collect()
    }

    #[test]
    fn beside_a_sync_that_failed_no_other_of_its_file_system_is_believed() {
        let io = io::Error::from_raw_os_error(libc::EIO).kind();
        let answers = vec![
            (1, Ok(())),
            (2, Ok(())),
            (1, error(libc::EIO)),
            (1, Ok(())),
            (2, Ok(())),
        ];
        assert_eq!(kinds(answers), [Some(io), None, Some(io), Some(io), None]);
        let full = vec![(1, error(libc::ENOSPC)), (1, Ok(()))];
        assert_eq!(kinds(full), [Some(io::ErrorKind::StorageFull); 2]);
        let unsaid = vec![(1, Ok(())), (1, Err(io::Error::other("the kernel did not say")))];
        assert_eq!(kinds(unsaid), [Some(io::ErrorKind::Other); 2]);
    }

    #[test]
    fn each_is_believed_beside_those_that_went_well_or_cannot_be_synced_at_all() {
        assert_eq!(kinds(vec![(1, Ok(())), (1, Ok(()))]), [None, None]);
        for number in [libc::EINVAL, libc::ENOENT, libc::EACCES, libc::EMFILE, libc::EOPNOTSUPP] {
            let answers = vec![(1, Ok(())), (1, error(number))];
            assert_eq!(kinds(answers)[0], None, "{number}");
        }
    }
}
