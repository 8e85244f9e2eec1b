//! A small file that is in memory until all of it has come, so that many are made in a row.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use backhaul_journal::{Stat, StorageFile};

/// The bytes of a file that is not on the disk yet, and the file once it is. Whoever has it reads the same from either.
#[derive(Default)]
pub(super) struct Draft {
    bytes: Mutex<Vec<u8>>,
    file: OnceLock<Box<dyn StorageFile>>,
}

impl Draft {
    /// For so many bytes, where that is known.
    pub(super) fn with_room(len_bytes: Option<u64>) -> Self {
        let room = len_bytes.and_then(|len_bytes| usize::try_from(len_bytes).ok());
        Self {
            bytes: Mutex::new(Vec::with_capacity(room.unwrap_or(0))),
            file: OnceLock::new(),
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        self.file.get().is_none()
    }

    /// Goes on in a file that is empty.
    ///
    /// # Errors
    /// The operating system's answer; the file may hold a part of the bytes then, and the draft all of them.
    pub(super) fn become_file(&self, file: Box<dyn StorageFile>) -> io::Result<()> {
        let mut bytes = self.bytes();
        file.write_all_at(&bytes, 0)?;
        // Only a second call at the same time could have been faster, and then what is here is empty.
        if self.file.set(file).is_ok() {
            *bytes = Vec::new();
        }
        Ok(())
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> io::Result<&dyn StorageFile> {
        let file = self.file.get().map(AsRef::as_ref);
        file.ok_or_else(|| io::Error::other("it is not on the disk yet"))
    }
}

impl StorageFile for Draft {
    fn stat(&self) -> io::Result<Stat> {
        self.file()?.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        if let Some(file) = self.file.get() {
            drop(bytes);
            return file.read_at(buffer, offset_bytes);
        }
        let from = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(bytes.len());
        let there = &bytes[from..];
        let count = there.len().min(buffer.len());
        buffer[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&self, some: &[u8], offset_bytes: u64) -> io::Result<usize> {
        let mut bytes = self.bytes();
        if let Some(file) = self.file.get() {
            drop(bytes);
            return file.write_at(some, offset_bytes);
        }
        if offset_bytes != bytes.len() as u64 {
            return Err(io::Error::other("it is written in order before it is on the disk"));
        }
        bytes.extend_from_slice(some);
        Ok(some.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file()?.sync_all()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.get()?.descriptor()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file()?.set_len(len_bytes)
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.file.get().map_or(Ok(()), |file| file.reserve(len_bytes))
    }

    fn start_writeback(&self, offset_bytes: u64, len_bytes: u64) {
        if let Some(file) = self.file.get() {
            file.start_writeback(offset_bytes, len_bytes);
        }
    }

    fn drop_cache(&self) {
        if let Some(file) = self.file.get() {
            file.drop_cache();
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file()?.set_mode(mode)
    }

    fn set_modified(&self, modified: SystemTime) -> io::Result<()> {
        self.file()?.set_modified(modified)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::Duration;

    use backhaul_backends::{Act, MemoryBackend, Resource};
    use backhaul_journal::StorageFile;
    use backhaul_journal::simulation::{Call, Fault, SimDisk};

    use super::*;
    use crate::TransferStatus;
    use crate::config::Config;
    use crate::engine::core::{Role, WRITTEN_TOGETHER, Work};
    use crate::engine::ready::Ready;
    use crate::engine::{Engine, NewDownload, perform};
    use crate::environment::FixedEnvironment;
    use crate::operation::TransferId;

    const DATA: &str = "/data";

    struct Lab {
        disk: SimDisk,
        outside: Arc<FixedEnvironment>,
        server: Arc<MemoryBackend>,
        engine: Engine,
        ids: Vec<TransferId>,
    }

    impl Lab {
        /// So many files of 5,000 bytes are to be fetched.
        fn new(count: usize) -> Self {
            let (disk, outside, server) = (SimDisk::new(), FixedEnvironment::new(1), Arc::new(MemoryBackend::new()));
            disk.put_directory(Path::new(DATA));
            let config = Config {
                jobs_max: 2 * WRITTEN_TOGETHER,
                jobs_per_host_max: None,
                ..Config::default()
            };
            let environment = outside.on(disk.storage());
            let opened = Engine::open(Path::new("/state"), config, environment, vec![Arc::clone(&server) as _]);
            let engine = opened.expect("it opens");
            let list: Vec<NewDownload> = (0..count).map(|number| Self::download(&server, number)).collect();
            let ids = engine.create(&list).expect("it is in order");
            Self {
                disk,
                outside,
                server,
                engine,
                ids,
            }
        }

        fn download(server: &MemoryBackend, number: usize) -> NewDownload {
            let url = format!("mem://host/{number}");
            server.put(&url, Resource::new(Self::content(number), "a"));
            NewDownload {
                url,
                destination: Self::file(number),
                ..NewDownload::default()
            }
        }

        fn content(number: usize) -> Vec<u8> {
            (0..5_000_usize)
                .map(|index| (index * 7 + number).to_le_bytes()[0])
                .collect()
        }

        fn file(number: usize) -> PathBuf {
            Path::new(DATA).join(number.to_string())
        }

        /// Fetches until a worker is to make files.
        fn drafts(&self) -> Vec<Ready> {
            let core = &self.engine.core;
            let mut ready = None;
            loop {
                match core.next(Role::Worker, ready.take()).expect("it goes on") {
                    Work::WriteOut(drafts) => return drafts,
                    work => ready = perform(core, work),
                }
            }
        }

        /// Steps while a quarter of an hour passes.
        fn finish(&self) {
            for _ in 0..30 {
                while self.engine.step() {}
                self.outside.advance(Duration::from_secs(30));
            }
        }

        fn all_are_there(&self) {
            for (number, id) in self.ids.iter().enumerate() {
                let view = self.engine.view(*id).expect("it is kept");
                assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
                assert_eq!(self.disk.content(&Self::file(number)), Self::content(number));
            }
            assert_eq!(
                self.disk.names(Path::new(DATA)).len(),
                self.ids.len(),
                "nothing is left"
            );
        }
    }

    #[test]
    fn whoever_has_a_draft_reads_the_same_of_the_file_that_it_becomes_and_writes_to_that() {
        let disk = SimDisk::new();
        let path = Path::new("/file");
        let draft = Draft::default();
        draft.write_all_at(b"abc", 0).expect("it is in order");
        draft.write_all_at(b"def", 3).expect("it is in order");
        assert!(draft.write_all_at(b"x", 7).is_err(), "there would be a gap");
        assert!(
            draft.sync_all().is_err() && draft.stat().is_err(),
            "nothing of it is on the disk"
        );
        let read = |offset_bytes| {
            let mut buffer = [0; 4];
            let count = draft.read_at(&mut buffer, offset_bytes).expect("it is there");
            buffer[..count].to_vec()
        };
        let before: Vec<_> = [0, 3, 6, 9].map(read).into();
        assert_eq!(before, [&b"abcd"[..], b"def", b"", b""]);
        let file = disk.storage().create(path, 0o600).expect("the name is free");
        draft.become_file(file).expect("there is room");
        assert_eq!([0, 3, 6, 9].map(read).to_vec(), before);
        draft.write_all_at(b"ghi", 6).expect("there is room");
        draft.sync_all().expect("it is a file");
        assert_eq!(disk.content(path), b"abcdefghi");
    }

    #[test]
    fn what_came_of_a_small_file_before_a_failure_is_kept_and_not_fetched_again() {
        let lab = Lab::new(1);
        lab.server.script("mem://host/0", Act::CutAt(3_000));
        while lab.engine.step() {}
        let durable = lab.engine.view(lab.ids[0]).expect("it is kept").ranges;
        assert_eq!(durable, [(0, 3_000)]);
        lab.finish();
        let asked: Vec<u64> = lab
            .server
            .attempts()
            .iter()
            .map(|attempt| attempt.offset_bytes)
            .collect();
        assert_eq!(asked, [0, 3_000]);
        lab.all_are_there();
    }

    #[test]
    fn drafts_become_files_together_and_those_that_find_no_room_wait_for_it_alone() {
        let lab = Lab::new(WRITTEN_TOGETHER + 6);
        let core = &lab.engine.core;
        let drafts = lab.drafts();
        assert_eq!(drafts.len(), WRITTEN_TOGETHER);
        assert_eq!(lab.disk.names(Path::new(DATA)), Vec::<String>::new());
        let unlucky = drafts[5].id;
        let name = drafts[5].part.path.clone();
        let refused = name.clone();
        lab.disk.fail_with(move |call, path| {
            (call == Call::Create && path == refused).then(|| Fault::from(io::Error::from(io::ErrorKind::StorageFull)))
        });
        perform(core, Work::WriteOut(drafts));
        let files = lab.disk.names(Path::new(DATA));
        assert_eq!(files.len(), WRITTEN_TOGETHER - 1, "the others are files now");
        while lab.engine.step() {}
        let view = lab.engine.view(unlucky).expect("it is kept");
        assert_eq!(view.status, TransferStatus::PausedDiskFull);
        lab.disk.fail_no_more();
        lab.finish();
        lab.all_are_there();
        assert_eq!(
            lab.server.attempts().len(),
            WRITTEN_TOGETHER + 7,
            "one was fetched again"
        );
    }

    #[test]
    fn drafts_that_all_find_no_room_share_the_sync_of_that_so_that_a_stop_is_not_held_up_by_them() {
        let lab = Lab::new(WRITTEN_TOGETHER);
        let drafts = lab.drafts();
        let no_room =
            |call, _: &Path| (call == Call::Create).then(|| Fault::from(io::Error::from(io::ErrorKind::StorageFull)));
        lab.disk.fail_with(no_room);
        let before = lab.disk.calls(Call::Sync);
        perform(&lab.engine.core, Work::WriteOut(drafts));
        assert_eq!(lab.disk.calls(Call::Sync) - before, 1);
        for id in &lab.ids {
            let view = lab.engine.view(*id).expect("it is kept");
            assert_eq!(view.status, TransferStatus::PausedDiskFull);
        }
        lab.disk.fail_no_more();
        lab.finish();
        lab.all_are_there();
    }
}
