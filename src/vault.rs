//! Sealed secrets: one file an operation, under a key that stands in the same state directory.
//!
//! Secrets that change are sealed in another file, of the next revision, and the journal says which one counts: so there
//! is no moment at which neither the old nor the new ones are there. Files of other revisions are swept.
//!
//! Layout of a sealed file: version (1 byte, 1), nonce (12 bytes), then the CBOR of the secrets under
//! ChaCha20-Poly1305 (RFC 8439) with its 16-byte tag. Associated data: the words `backhaul vault`, the version, the
//! operation's id and, from the first change on, the revision (4 bytes, little-endian), so that a file of another
//! operation or of another revision never opens. Name: `ID.sealed`, from the first change on `ID.REVISION.sealed`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use backhaul_backends::Credential;
use backhaul_journal::{Access, Storage, steps};
use minicbor::{Decode, Encode};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::environment::Environment;
use crate::error::Error;
use crate::operation::{Operation, RequestHeader, TransferId};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
/// Largest sealed file that is read: far above what [`crate::address`] lets in.
const SEALED_BYTES_MAX: u64 = 1 << 20;

/// Which sealed file is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealedName {
    pub(crate) id: TransferId,
    /// 0 from the creation on; every change takes the next one.
    pub(crate) revision: u32,
}

impl SealedName {
    /// That of an operation that is being created.
    pub(crate) fn first(id: TransferId) -> Self {
        Self { id, revision: 0 }
    }

    /// The one that counts for an operation.
    pub(crate) fn of(operation: &Operation) -> Self {
        Self {
            id: operation.id,
            revision: operation.sealed_revision,
        }
    }

    /// `ID` or `ID.REVISION`.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('.') {
            None => text.parse().ok().map(Self::first),
            Some((id, revision)) => Some(Self {
                id: id.parse().ok()?,
                revision: revision.parse().ok()?,
            }),
        }
    }
}

impl fmt::Display for SealedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision {
            0 => write!(formatter, "{}", self.id),
            revision => write!(formatter, "{}.{revision}", self.id),
        }
    }
}

/// What an operation must not show. `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Secrets {
    /// The URL to request, where the stored one has hidden values.
    #[n(0)]
    pub(crate) url: Option<String>,
    #[n(1)]
    user: Option<String>,
    #[n(2)]
    password: Option<String>,
    #[n(3)]
    pub(crate) headers: Vec<RequestHeader>,
    /// The URLs of mirrors whose stored form has hidden values.
    #[cbor(n(4), default, skip_if = "Vec::is_empty")]
    pub(crate) mirrors: Vec<SealedMirror>,
    #[n(5)]
    proxy_user: Option<String>,
    #[n(6)]
    proxy_password: Option<String>,
}

/// The URL of a mirror, by its place among those that were asked for.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct SealedMirror {
    #[n(0)]
    pub(crate) index: u32,
    #[n(1)]
    pub(crate) url: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secrets(***)")
    }
}

impl Secrets {
    pub(crate) fn new(url: Option<String>, credential: Option<Credential>, headers: Vec<RequestHeader>) -> Self {
        let (user, password) = credential
            .map(|credential| (credential.user, credential.password))
            .unzip();
        Self {
            url,
            user,
            password,
            headers,
            mirrors: Vec::new(),
            proxy_user: None,
            proxy_password: None,
        }
    }

    /// The same, with user name and password for the proxy.
    pub(crate) fn with_proxy(self, credential: Option<Credential>) -> Self {
        let (proxy_user, proxy_password) = credential
            .map(|credential| (credential.user, credential.password))
            .unzip();
        Self {
            proxy_user,
            proxy_password,
            ..self
        }
    }

    /// The URL of a mirror, where the stored one has hidden values.
    pub(crate) fn mirror(&self, index: u32) -> Option<&str> {
        let mut mirrors = self.mirrors.iter();
        mirrors
            .find(|mirror| mirror.index == index)
            .map(|mirror| mirror.url.as_str())
    }

    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            url,
            user,
            password,
            headers,
            mirrors,
            proxy_user,
            proxy_password,
        } = self;
        let texts = [url, user, password, proxy_user, proxy_password];
        texts.iter().all(|text| text.is_none()) && headers.is_empty() && mirrors.is_empty()
    }

    pub(crate) fn credential(&self) -> Option<Credential> {
        let (user, password) = (self.user.clone()?, self.password.clone()?);
        Some(Credential { user, password })
    }

    /// User name and password for the proxy.
    pub(crate) fn proxy_credential(&self) -> Option<Credential> {
        let (user, password) = (self.proxy_user.clone()?, self.proxy_password.clone()?);
        Some(Credential { user, password })
    }
}

/// The sealed secrets of one state directory.
pub(crate) struct Vault {
    directory: PathBuf,
    environment: Environment,
}

impl Vault {
    pub(crate) fn new(directory: PathBuf, environment: Environment) -> Self {
        Self { directory, environment }
    }

    /// Seals the secrets of an operation; they are durable on return.
    pub(crate) fn seal(&self, name: SealedName, secrets: &Secrets) -> Result<(), Error> {
        let key = self.key_or_new()?;
        let mut nonce = [0; NONCE_LEN];
        self.environment.random.fill(&mut nonce);
        let mut bytes = match minicbor::to_vec(secrets) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("writing to memory cannot fail: {error}"),
        };
        let path = self.path(name);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(name), &mut bytes)
            .map_err(|_| Error::Vault {
                path: path.clone(),
                problem: "cannot be sealed: the secrets are too long".into(),
            })?;
        let sealed = [&[VERSION][..], &nonce, &bytes].concat();
        self.write_durably(&path, &sealed)
    }

    /// Opens the secrets of an operation.
    pub(crate) fn open(&self, name: SealedName) -> Result<Secrets, Error> {
        let path = self.path(name);
        let broken = |problem: &'static str| Error::Vault {
            path: path.clone(),
            problem: problem.into(),
        };
        let mut sealed = self.read(&path)?;
        let key = self
            .key()?
            .ok_or(broken("the key 'key' beside it is gone; add the operation again"))?;
        let (version, rest) = sealed
            .split_first_mut()
            .ok_or(broken("is empty; add the operation again"))?;
        if *version != VERSION {
            return Err(broken("was written by another version of backhaul; use that version"));
        }
        if rest.len() < NONCE_LEN {
            return Err(broken("is cut short; add the operation again"));
        }
        let (nonce, sealed) = rest.split_at_mut(NONCE_LEN);
        let nonce =
            Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken("is cut short; add the operation again"))?;
        let opened = key
            .open_in_place(nonce, aad(name), sealed)
            .map_err(|_| broken("was damaged, or sealed under another key; add the operation again"))?;
        minicbor::decode(opened)
            .map_err(|_| broken("holds what this version does not know; use the version that wrote it"))
    }

    /// Removes secrets that no record needs any more.
    pub(crate) fn remove(&self, name: SealedName) -> Result<(), Error> {
        let path = self.path(name);
        match self.storage().remove(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", path, error)),
        }
    }

    /// Removes every sealed file that is not kept: what a crash between sealing and accepting left, or between a change
    /// and the removal of what it replaced.
    pub(crate) fn sweep(&self, is_kept: impl Fn(SealedName) -> bool) -> Result<(), Error> {
        let names = match self.storage().list(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("list", &self.directory, error)),
        };
        for name in names.iter().filter_map(|name| name.to_str()) {
            let (sealed, is_temporary) = match name.strip_suffix(".tmp") {
                Some(sealed) => (Some(sealed), true),
                None => (name.strip_suffix(".sealed"), false),
            };
            match sealed.and_then(SealedName::parse) {
                Some(sealed) if is_temporary || !is_kept(sealed) => {
                    let path = self.directory.join(name);
                    self.storage()
                        .remove(&path)
                        .map_err(|error| Error::io("remove", path, error))?;
                }
                // The key and what is not ours stay.
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, name: SealedName) -> PathBuf {
        self.directory.join(format!("{name}.sealed"))
    }

    fn storage(&self) -> &Arc<dyn Storage> {
        &self.environment.storage
    }

    fn key_path(&self) -> PathBuf {
        self.directory.join("key")
    }

    fn key(&self) -> Result<Option<LessSafeKey>, Error> {
        let path = self.key_path();
        match self.read(&path) {
            Ok(bytes) => UnboundKey::new(&CHACHA20_POLY1305, &bytes)
                .map(|key| Some(LessSafeKey::new(key)))
                .map_err(|_| Error::Vault {
                    path,
                    problem: "must be 32 bytes long; restore it from a backup".into(),
                }),
            Err(Error::Io(_, _, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key, made where there is none. It takes its name only when it is whole and durable.
    fn key_or_new(&self) -> Result<LessSafeKey, Error> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        make_directory(self.storage(), &self.directory)?;
        let mut bytes = [0; KEY_BYTES];
        self.environment.random.fill(&mut bytes);
        self.write_durably(&self.key_path(), &bytes)?;
        match UnboundKey::new(&CHACHA20_POLY1305, &bytes) {
            Ok(key) => Ok(LessSafeKey::new(key)),
            Err(error) => unreachable!("the length is right: {error}"),
        }
    }

    fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let storage = self.storage();
        let temporary = path.with_extension("tmp");
        // What an earlier crash left under this name is ours and holds nothing that was promised.
        let _ = storage.remove(&temporary);
        let failed = |tried| {
            let path = temporary.clone();
            move |error| Error::io(tried, path, error)
        };
        let file = storage.create(&temporary, 0o600).map_err(failed("create"))?;
        file.write_all_at(bytes, 0).map_err(failed("write"))?;
        if steps::is_taken("sync of secrets before their name") {
            file.sync_data().map_err(failed("sync"))?;
        }
        storage.rename(&temporary, path).map_err(failed("rename"))?;
        if !steps::is_taken("directory sync after secrets got their name") {
            return Ok(());
        }
        storage
            .sync_directory(&self.directory)
            .map_err(|error| Error::io("sync", &self.directory, error))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let failed = |tried| move |error| Error::io(tried, path, error);
        let file = self.storage().open(path, Access::Read).map_err(failed("open"))?;
        let len_bytes = file.stat().map_err(failed("stat"))?.len_bytes.min(SEALED_BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file
                .read_at(&mut bytes[filled..], filled as u64)
                .map_err(failed("read"))?
            {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// Makes a directory of the state (mode 0700), and its name durable; one that is there already stays as it is.
pub(crate) fn make_directory(storage: &Arc<dyn Storage>, path: &Path) -> Result<(), Error> {
    match storage.create_directory(path, 0o700) {
        Ok(()) => {
            let parent = crate::operation::directory_of(path);
            if !steps::is_taken("directory sync above a new directory") {
                return Ok(());
            }
            storage
                .sync_directory(parent)
                .map_err(|error| Error::io("sync", parent, error))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("create", path, error)),
    }
}

fn aad(name: SealedName) -> Aad<Vec<u8>> {
    let mut data = [b"backhaul vault".as_slice(), &[VERSION], &name.id.0].concat();
    if name.revision > 0 {
        data.extend_from_slice(&name.revision.to_le_bytes());
    }
    Aad::from(data)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use crate::environment::FixedEnvironment;

    #[test]
    fn secrets_are_empty_only_where_there_is_none_of_any_kind() {
        let texts = |number: usize| (0..5).map(move |index| (index == number).then(|| String::from("hush")));
        let of = |number| {
            let mut texts = texts(number);
            let mut next = || texts.next().flatten();
            Secrets {
                url: next(),
                user: next(),
                password: next(),
                proxy_user: next(),
                proxy_password: next(),
                headers: Vec::new(),
                mirrors: Vec::new(),
            }
        };
        assert!(of(5).is_empty());
        assert!((0..5).all(|number| !of(number).is_empty()));
        let header = RequestHeader {
            name: "A".into(),
            value: "hush".into(),
        };
        assert!(!Secrets::new(None, None, vec![header]).is_empty());
        let mut with_mirror = of(5);
        with_mirror.mirrors.push(SealedMirror {
            index: 0,
            url: "hush".into(),
        });
        assert!(!with_mirror.is_empty());
    }

    #[test]
    fn a_file_of_another_operation_or_revision_never_opens_and_what_nobody_needs_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let disk = Arc::new(backhaul_journal::Disk);
        let directory = home.path().join("vault");
        let vault = Vault::new(directory.clone(), FixedEnvironment::new(1).on(disk));
        let name = |id, revision| SealedName {
            id: TransferId([id; 16]),
            revision,
        };
        let secrets = |url: &str| Secrets::new(Some(url.into()), None, Vec::new());
        for (sealed, url) in [(name(1, 0), "a"), (name(1, 1), "b"), (name(2, 0), "c")] {
            vault.seal(sealed, &secrets(url)).unwrap();
            assert_eq!(vault.open(sealed).unwrap(), secrets(url));
        }
        for (from, to) in [
            (name(1, 0), name(1, 2)),
            (name(1, 1), name(1, 3)),
            (name(1, 1), name(2, 1)),
        ] {
            std::fs::copy(vault.path(from), vault.path(to)).unwrap();
            assert!(vault.open(to).is_err(), "{from} passed for {to}");
        }
        vault.sweep(|sealed| sealed == name(1, 1)).unwrap();
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [format!("{}.sealed", name(1, 1)), "key".into()]);
    }
}
