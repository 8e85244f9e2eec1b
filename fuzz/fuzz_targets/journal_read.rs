//! A segment of arbitrary bytes: whatever stands in it, reading it neither panics nor disagrees with verifying it.

#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use backhaul_journal::{Disk, Lsn, Replay, ReplayError, Storage, Verdict, dump, read, verify};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Count(u64);

impl Replay for Count {
    fn snapshot(&mut self, _record: &[u8]) -> Result<(), ReplayError> {
        Ok(())
    }

    fn record(&mut self, _lsn: Lsn, _record: &[u8]) -> Result<(), ReplayError> {
        self.0 += 1;
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let directory = tempfile::tempdir().expect("a directory can be made");
    std::fs::write(directory.path().join("0000000000000001.seg"), bytes).expect("a file can be written");
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    let mut count = Count::default();
    let outcome = read(&storage, directory.path(), &mut count);
    let report = verify(&storage, directory.path());
    if let (Ok(_), Ok(report)) = (&outcome, &report) {
        assert_ne!(report.verdict(), Verdict::Corrupt, "what can be read is not corrupt");
    }
    let mut dumped = 0;
    let result = dump(&storage, directory.path(), &mut |entry| {
        dumped += u64::from(entry.record.is_some());
        ControlFlow::Continue(())
    });
    if outcome.is_ok() && result.is_ok() {
        assert!(dumped >= count.0, "what is read is also dumped");
    }
});
