//! Part files: partial data beside its destination, under a name that only this journal's operation can have.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backhaul_backends::{Digest, DigestAlgorithm, Interrupt, TAIL_BYTES_MAX, sort_few_by_key};
use backhaul_journal::{Access, FileKind, LINEAGE_BYTES, Storage, StorageFile, steps};
use ring::digest;

use super::draft::Draft;
use super::fault::Fault;
use crate::hex;
use crate::operation::{Claim, Spec, TransferId, path_in};

/// Longest file name of the common Linux file systems, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Reads of the proof, in bytes.
const READ_BYTES: usize = 128 * 1024;

/// An open part file, or one that is to be made of a draft.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn StorageFile>,
    /// The same, where it began as a draft.
    pub(super) draft: Option<Arc<Draft>>,
}

/// Running checks over the bytes of one generation, from its first byte on.
#[derive(Clone)]
pub(crate) struct Sums {
    crc: crc32fast::Hasher,
    digests: Vec<(DigestAlgorithm, digest::Context)>,
}

impl Sums {
    /// Sums for content that will be compared with these digests: with all that were asked for, and where none of those
    /// is strong with the strongest that the server told. Each costs time for every byte.
    pub(crate) fn new(spec: &Spec, told: &[Digest]) -> Self {
        let mut algorithms: Vec<DigestAlgorithm> = spec.expected_digests().iter().map(Digest::algorithm).collect();
        if !spec.expects_strong_digest() {
            algorithms.extend(told.iter().map(Digest::algorithm).max());
        }
        sort_few_by_key(&mut algorithms, |algorithm| *algorithm);
        algorithms.dedup();
        Self::of(&algorithms)
    }

    fn of(algorithms: &[DigestAlgorithm]) -> Self {
        let contexts = algorithms
            .iter()
            .filter_map(|algorithm| Some((*algorithm, digest::Context::new(ring_algorithm(*algorithm)?))));
        Self {
            crc: crc32fast::Hasher::new(),
            digests: contexts.collect(),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        for (_, context) in &mut self.digests {
            context.update(bytes);
        }
    }

    /// Some digest is summed up, and not only the CRC-32.
    pub(super) fn has_digests(&self) -> bool {
        !self.digests.is_empty()
    }

    pub(crate) fn crc32(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// What the content has instead of the first expected digest that it has not. Digests of algorithms that were not
    /// summed up are not compared.
    pub(crate) fn mismatch<'a>(&self, expected: &'a [Digest]) -> Option<(&'a Digest, Digest)> {
        expected.iter().find_map(|expected| {
            let mut contexts = self.digests.iter();
            let (algorithm, context) = contexts.find(|(algorithm, _)| *algorithm == expected.algorithm())?;
            let actual = Digest::new(*algorithm, context.clone().finish().as_ref())?;
            (actual != *expected).then_some((expected, actual))
        })
    }
}

fn ring_algorithm(algorithm: DigestAlgorithm) -> Option<&'static digest::Algorithm> {
    Some(match algorithm {
        DigestAlgorithm::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        DigestAlgorithm::Sha256 => &digest::SHA256,
        DigestAlgorithm::Sha384 => &digest::SHA384,
        DigestAlgorithm::Sha512 => &digest::SHA512,
        _ => return None,
    })
}

/// Path of the part file of one generation: `.NAME.JOURNAL-ID-GENERATION.part` in the directory of the destination,
/// with NAME cut where the whole would be too long for the file system.
pub(crate) fn part_path(spec: &Spec, journal_id: [u8; 16], id: TransferId, generation: u32) -> PathBuf {
    let name = spec.destination.file_name().unwrap_or_default();
    path_in(spec.directory(), &part_name(name, journal_id, id, generation))
}

fn part_name(name: &OsStr, journal_id: [u8; 16], id: TransferId, generation: u32) -> OsString {
    let suffix = part_suffix(journal_id, id, generation);
    let name = cut(name.as_bytes(), NAME_BYTES_MAX - 1 - suffix.len());
    OsString::from_vec([b".", name, suffix.as_bytes()].concat())
}

/// What every part file of one generation ends with. The first bytes of the journal's id tell the part files of a journal, and
/// of every journal salvaged from it, from those of others.
fn part_suffix(journal_id: [u8; 16], id: TransferId, generation: u32) -> String {
    let generation = generation.to_string();
    let digits = 2 * (LINEAGE_BYTES + id.0.len());
    let mut suffix = String::with_capacity(".--.part".len() + digits + generation.len());
    suffix.push('.');
    hex::push(&mut suffix, &journal_id[..LINEAGE_BYTES]);
    suffix.push('-');
    hex::push(&mut suffix, &id.0);
    suffix.push('-');
    suffix.push_str(&generation);
    suffix.push_str(".part");
    suffix
}

/// The operation and the generation of a part file, where the name is one of this journal's.
pub(crate) fn part_owner(name: &OsStr, journal_id: [u8; 16]) -> Option<(TransferId, u32)> {
    let stem = name.as_bytes().strip_prefix(b".")?.strip_suffix(b".part")?;
    let mut fields = stem.rsplitn(3, |byte| *byte == b'-');
    let generation = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    // Only names exactly as they are made count.
    let own = part_suffix(journal_id, id, generation);
    name.as_bytes().ends_with(own.as_bytes()).then_some((id, generation))
}

/// At most the first `max` bytes of a name, and no half letter of UTF-8.
pub(crate) fn cut(name: &[u8], max: usize) -> &[u8] {
    let mut keep = name.len().min(max);
    // Continuation bytes of UTF-8 are 0b10xxxxxx.
    while keep > 0 && keep < name.len() && name[keep] & 0xC0 == 0x80 {
        keep -= 1;
    }
    &name[..keep]
}

impl Part {
    /// The one that a file is under this path.
    pub(super) fn of(path: PathBuf, file: Box<dyn StorageFile>) -> Self {
        Self {
            path,
            file: Arc::from(file),
            draft: None,
        }
    }

    /// A fresh, empty part file.
    pub(crate) fn create(storage: &Arc<dyn Storage>, path: PathBuf) -> io::Result<Self> {
        let file = create(storage.as_ref(), &path)?;
        Ok(Self::of(path, file))
    }

    /// A fresh part file that is in memory until [`Part::write_out`].
    pub(super) fn draft(path: PathBuf, len_bytes: Option<u64>) -> Self {
        let draft = Arc::new(Draft::with_room(len_bytes));
        Self {
            path,
            file: Arc::clone(&draft) as _,
            draft: Some(draft),
        }
    }

    pub(super) fn is_draft(&self) -> bool {
        self.draft.as_ref().is_some_and(|draft| draft.is_in_memory())
    }

    /// Brings it to the disk, where it is a draft.
    pub(super) fn write_out(&self, storage: &dyn Storage) -> Result<(), Fault> {
        let failed = |tried| move |error: io::Error| Fault::io(tried, &self.path, &error);
        let Some(draft) = self.draft.as_ref().filter(|draft| draft.is_in_memory()) else {
            return Ok(());
        };
        let file = create(storage, &self.path).map_err(failed("create"))?;
        draft.become_file(file).map_err(failed("write"))
    }

    /// Opens the part file that a claim speaks of, proves the claimed bytes, and cuts what is beyond them. `None` where
    /// the bytes are gone or not those that were claimed.
    pub(crate) fn reopen(
        storage: &Arc<dyn Storage>,
        path: PathBuf,
        claim: &Claim,
        from_disk: bool,
        mut sums: Sums,
        interrupt: &Interrupt,
    ) -> io::Result<Option<(Self, Sums)>> {
        let file = match storage.open(&path, Access::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = file.stat()?;
        let end_bytes = claim.beyond().last().map_or(claim.durable_bytes, |stretch| stretch.end);
        if stat.kind != FileKind::File || stat.links != 1 || stat.len_bytes < end_bytes {
            return Ok(None);
        }
        if from_disk {
            file.drop_cache();
        }
        let take = |bytes: &[u8]| {
            sums.update(bytes);
            !interrupt.is_raised()
        };
        let is_whole = read_range(file.as_ref(), 0..claim.durable_bytes, take)?;
        let is_same = sums.crc32() == claim.crc32 || !steps::is_taken("comparison with the claim");
        if !is_whole || !is_same {
            return Ok(None);
        }
        for stretch in claim.beyond() {
            let mut crc = crc32fast::Hasher::new();
            let take = |bytes: &[u8]| {
                crc.update(bytes);
                !interrupt.is_raised()
            };
            let is_whole = read_range(file.as_ref(), stretch.first..stretch.end, take)?;
            let is_same = crc.finalize() == stretch.crc32 || !steps::is_taken("comparison with the claim");
            if !is_whole || !is_same {
                return Ok(None);
            }
        }
        if stat.len_bytes > end_bytes {
            file.set_len(end_bytes)?;
        }
        Ok(Some((Self::of(path, file), sums)))
    }
}

/// What stands under the name already was left by a crash before anything of it was claimed, and goes.
fn create(storage: &dyn Storage, path: &Path) -> io::Result<Box<dyn StorageFile>> {
    match storage.create(path, 0o666) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(path)?;
            storage.create(path, 0o666)
        }
        result => result,
    }
}

/// The last bytes before an offset, at most [`TAIL_BYTES_MAX`] and none before `first`.
pub(super) fn tail(file: &dyn StorageFile, first: u64, offset_bytes: u64) -> io::Result<Vec<u8>> {
    let from = first.max(offset_bytes.saturating_sub(TAIL_BYTES_MAX as u64));
    let mut bytes = Vec::with_capacity(usize::try_from(offset_bytes - from).unwrap_or_default());
    let take = |some: &[u8]| {
        bytes.extend_from_slice(some);
        true
    };
    if read_range(file, from..offset_bytes, take)? {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// All checks over a whole file of a known length, which the disk holds; `None` where it is shorter.
pub(super) fn file_sums(
    file: &dyn StorageFile,
    len_bytes: u64,
    mut sums: Sums,
    interrupt: &Interrupt,
) -> io::Result<Option<Sums>> {
    let take = |bytes: &[u8]| {
        sums.update(bytes);
        !interrupt.is_raised()
    };
    let whole = read_range(file, 0..len_bytes, take)?;
    Ok(whole.then_some(sums))
}

/// CRC-32 of a whole file of a known length, from the disk where that can be had; `None` where it is shorter.
pub(crate) fn file_crc32(storage: &Arc<dyn Storage>, path: &Path, len_bytes: u64) -> io::Result<Option<u32>> {
    let file = storage.open(path, Access::Read)?;
    file.drop_cache();
    let mut crc = crc32fast::Hasher::new();
    let take = |bytes: &[u8]| {
        crc.update(bytes);
        true
    };
    let whole = read_range(file.as_ref(), 0..len_bytes, take)?;
    Ok(whole.then(|| crc.finalize()))
}

/// Whether a whole file of a known length has all of these digests.
pub(crate) fn file_has(
    storage: &Arc<dyn Storage>,
    path: &Path,
    len_bytes: u64,
    expected: &[Digest],
) -> io::Result<bool> {
    let file = storage.open(path, Access::Read)?;
    let algorithms: Vec<DigestAlgorithm> = expected.iter().map(Digest::algorithm).collect();
    let mut sums = Sums::of(&algorithms);
    let take = |bytes: &[u8]| {
        sums.update(bytes);
        true
    };
    let whole = read_range(file.as_ref(), 0..len_bytes, take)?;
    Ok(whole && sums.mismatch(expected).is_none())
}

/// Feeds the bytes of a range to `take`, which may end it early; `false` where the file is shorter.
fn read_range(
    file: &dyn StorageFile,
    range: std::ops::Range<u64>,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    let room = usize::try_from(range.end - range.start).unwrap_or(READ_BYTES);
    let mut buffer = vec![0; room.min(READ_BYTES)];
    let mut offset_bytes = range.start;
    while offset_bytes < range.end {
        let want = usize::try_from(range.end - offset_bytes)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let count = file.read_at(&mut buffer[..want], offset_bytes)?;
        if count == 0 {
            return Ok(false);
        }
        if !take(&buffer[..count]) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        offset_bytes += count as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_are_hidden_tell_whose_they_are_and_fit_the_file_system() {
        let name = |text: &str| part_name(OsStr::new(text), [0xab; 16], TransferId([1; 16]), 7);
        assert_eq!(
            name("big.img"),
            OsStr::new(&format!(".big.img.abababab-{}-7.part", "01".repeat(16)))
        );
        for (other, owner) in [
            (name("big.img"), Some((TransferId([1; 16]), 7))),
            (name("-1.part"), Some((TransferId([1; 16]), 7))),
            (name(&"n".repeat(255)), Some((TransferId([1; 16]), 7))),
            (OsString::from("big.img"), None),
            (OsString::from(".x.part"), None),
            (OsString::from(format!(".x.abababab-{}-07.part", "01".repeat(16))), None),
            (OsString::from(format!(".x.abababab-{}-7.part", "AB".repeat(16))), None),
        ] {
            assert_eq!(part_owner(&other, [0xab; 16]), owner, "{other:?}");
            assert_eq!(part_owner(&other, [0xac; 16]), None, "{other:?}");
        }
        for long in ["n".repeat(255), "ü".repeat(127)] {
            let part = name(&long);
            assert!(part.len() <= NAME_BYTES_MAX && part.to_str().is_some(), "{part:?}");
        }
    }

    #[test]
    fn every_algorithm_is_summed_up_and_what_differs_is_named() {
        let of = |algorithm| Sums::of(&[algorithm]);
        for algorithm in DigestAlgorithm::all() {
            let mut sums = of(*algorithm);
            sums.update(b"abc");
            let other = Digest::new(*algorithm, vec![0; algorithm.len_bytes()]);
            let (expected, actual) = sums.mismatch(other.as_slice()).expect("it is another one");
            assert_eq!(Some(expected), other.as_ref());
            assert_eq!(sums.mismatch(&[actual]), None);
        }
        let mut sums = of(DigestAlgorithm::Sha1);
        sums.update(b"abc");
        let zeros = Digest::new(DigestAlgorithm::Sha1, [0; 20]);
        let actual = sums.mismatch(zeros.as_slice()).map(|(_, actual)| actual.to_string());
        // FIPS 180-2, appendix A.1.
        assert_eq!(
            actual.as_deref(),
            Some("sha-1:a9993e364706816aba3e25717850c26c9cd0d89d")
        );
    }
}
