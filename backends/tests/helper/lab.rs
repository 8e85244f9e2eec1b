//! Helpers in a folder of their own, and what an attempt with them gives.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backhaul_backends::{
    Backend, Failure, Head, Held, HelperBackend, Interrupt, Limits, Method, Refused, Request, Sink,
};

/// Longest wait for what must come.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// All helpers of these tests. They are written once, before any process is started: one that is started meanwhile would
/// have the program open for writing, so that it could not be executed.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (scheme, program) in [
            ("lab", include_str!("scripted.py")),
            ("served", include_str!("served.py")),
            ("shell", include_str!("shell.sh")),
            ("bare", include_str!("bare.sh")),
            ("broken", "#!/no/such/interpreter\n"),
            ("none", "this is no program\n"),
        ] {
            let path = folder.path().join(format!("backhaul-backend-{scheme}"));
            fs::write(&path, program).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    });
    folder.path()
}

pub(crate) fn backend() -> Arc<HelperBackend> {
    let (backend, refused) = HelperBackend::find(&[programs().to_owned()]);
    assert_eq!(refused, Vec::<String>::new());
    Arc::new(backend)
}

/// What `content` of the script makes.
pub(crate) fn content(length: usize, seed: usize) -> Vec<u8> {
    let block = (0..8192).map(|place: usize| u8::try_from((seed + place * 7 + place / 251) % 256).unwrap());
    block.collect::<Vec<u8>>().into_iter().cycle().take(length).collect()
}

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) heads: Vec<Head>,
    pub(crate) bytes: Vec<u8>,
    /// The largest run.
    pub(crate) run_bytes: usize,
    /// Refuses once it has so many bytes.
    pub(crate) refuses_at: Option<usize>,
}

impl Sink for Kept {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        assert!(self.heads.is_empty(), "the head comes once");
        self.heads.push(head.clone());
        if self.refuses_at == Some(0) {
            Err(Refused)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        assert_eq!(self.heads.len(), 1, "the head comes before the bytes");
        self.run_bytes = self.run_bytes.max(bytes.len());
        self.bytes.extend_from_slice(bytes);
        let is_full = self.refuses_at.is_some_and(|at| self.bytes.len() >= at);
        if is_full { Err(Refused) } else { Ok(()) }
    }
}

pub(crate) fn request(url: &str) -> Request {
    Request {
        url: url.to_owned(),
        method: Method::GET,
        body: None,
        headers: Vec::new(),
        credential: None,
        proxies: Arc::default(),
        held: None,
        expected_bytes: None,
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: 64 << 10,
    }
}

pub(crate) fn fetch(request: &Request) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = backend().download(request, &mut kept, &Interrupt::new());
    (result, kept)
}

/// What a first attempt up to an offset has left.
pub(crate) fn held(kept: &Kept, offset: usize) -> Held {
    Held {
        offset_bytes: offset as u64,
        tail: kept.bytes[offset.saturating_sub(4096)..offset].to_vec(),
        validators: kept.heads[0].validators.clone(),
        ..Held::default()
    }
}

/// Waits for helpers that tell where they are.
pub(crate) struct Ear {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

/// A helper that has told.
pub(crate) struct Told {
    pub(crate) pid: u32,
    line: BufReader<UnixStream>,
}

impl Ear {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("ear")).unwrap();
        Self { folder, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("ear")
    }

    pub(crate) fn hear(&self) -> Told {
        let mut line = BufReader::new(self.listener.accept().unwrap().0);
        let mut text = String::new();
        line.read_line(&mut text).unwrap();
        let pid = text.trim().parse().unwrap();
        Told { pid, line }
    }
}

impl Told {
    /// Returns once the process is gone.
    pub(crate) fn await_gone(mut self) {
        self.line.get_ref().set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(self.line.read(&mut [0]).unwrap(), 0);
    }
}

/// Whether a process of this one is there, a zombie among them.
pub(crate) fn is_our_child(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let after_name = stat.rsplit_once(") ").unwrap().1;
        after_name.split(' ').nth(1).unwrap() == std::process::id().to_string()
    })
}
