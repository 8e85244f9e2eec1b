//! One real server for one test: in the foreground, on loopback ports and in a folder of its own, killed and reaped when
//! the test lets go of it, and also when this process dies.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::support::keeper::{Keeper, open_for_others, set_mode};
use crate::support::{Seeded, certificates, fetch_raw, free_ports, until};

/// Attempts to find ports that nobody takes between our look and the server's bind.
const STARTS_MAX: usize = 10;

/// What a configuration must know.
pub(crate) struct Place {
    /// The server's own folder. `www` in it holds the files, `tls` the certificates.
    pub(crate) folder: String,
    pub(crate) plain: u16,
    pub(crate) tls: u16,
    /// User and group that servers which refuse to work as root may take; none where we are not root.
    pub(crate) account: Option<(&'static str, &'static str)>,
}

/// How to run a server.
pub(crate) struct Program<'a> {
    /// The command; `FOLDER` in an argument stands for the server's folder, in which `configuration` lies, and `PORT` for
    /// its plain port.
    pub(crate) words: &'a [&'a str],
    pub(crate) configuration: &'a dyn Fn(&Place) -> String,
    /// How the paths of files begin that it makes outside its folder, with `PORT` as above; empty where it makes none.
    pub(crate) debris: &'a str,
}

/// A running server, which has answered once.
pub(crate) struct Server {
    // Before the folder, which goes when the server is gone.
    keeper: Option<Keeper>,
    folder: TempDir,
    place: Place,
    name: String,
    www: PathBuf,
    token: String,
}

impl Server {
    /// Starts a server that reads files below `www`.
    pub(crate) fn start(program: &Program) -> Self {
        let mut server = Self::new(program);
        certificates::make_valid(&server.path("tls"));
        for name in fs::read_dir(server.path("tls")).unwrap() {
            set_mode(&name.unwrap().path(), 0o644);
        }
        let token = server.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        // Tells our server from any other program that answers on the port.
        fs::write(server.file("token"), &token).unwrap();
        server.token = token;
        server.run(program);
        server
    }

    /// Starts a proxy, which hands on what `origin` has.
    pub(crate) fn start_before(origin: &Self, program: &Program) -> Self {
        let mut server = Self::new(program);
        server.token.clone_from(&origin.token);
        server.www.clone_from(&origin.www);
        server.run(program);
        server
    }

    fn new(program: &Program) -> Self {
        let folder = TempDir::with_prefix("backhaul-server-").unwrap();
        let www = folder.path().join("www");
        fs::create_dir(&www).unwrap();
        fs::create_dir(folder.path().join("open")).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            // Apache and squid refuse to work as root.
            open_for_others(folder.path());
            set_mode(&folder.path().join("open"), 0o777);
        }
        let place = Place {
            folder: folder.path().to_str().unwrap().to_owned(),
            plain: 0,
            tls: 0,
            account: is_root.then_some(("nobody", "nogroup")),
        };
        Self {
            folder,
            keeper: None,
            place,
            name: program.words[0].to_owned(),
            www,
            token: String::new(),
        }
    }

    fn run(&mut self, program: &Program) {
        for _ in 0..STARTS_MAX {
            [self.place.plain, self.place.tls] = free_ports();
            fs::write(self.path("configuration"), (program.configuration)(&self.place)).unwrap();
            self.launch(program);
            if self.becomes_ready() {
                return;
            }
            self.keeper = None;
        }
        let out = fs::read_to_string(self.path("out")).unwrap();
        panic!("{:?} does not start: {out}", program.words);
    }

    fn launch(&mut self, program: &Program) {
        let port = self.place.plain.to_string();
        let words = program
            .words
            .iter()
            .map(|word| word.replace("FOLDER", &self.place.folder).replace("PORT", &port));
        let debris = program.debris.replace("PORT", &port);
        let keeper = Keeper::start(self.folder.path(), words, &debris, &[]);
        self.keeper = Some(keeper);
    }

    fn becomes_ready(&mut self) -> bool {
        let (plain, token) = (self.place.plain, self.token.clone());
        let keeper = self.keeper.as_mut().unwrap();
        until("the server to answer or to give up", || {
            if fetch_raw(plain, "/token", "").is_ok_and(|answer| answer.ends_with(token.as_bytes())) {
                return Some(true);
            }
            keeper.has_ended().then_some(false)
        })
    }

    /// The name of its command.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn plain_port(&self) -> u16 {
        self.place.plain
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.place.tls
    }

    /// The authority behind the certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("tls/ca.crt")
    }

    /// A file or folder in the server's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file behind `/name`; that of a proxy is its origin's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.www.join(name)
    }

    /// Puts a file under `/name`, last changed `age` ago.
    pub(crate) fn put(&self, name: &str, bytes: &[u8], age: Duration) {
        self.put_changed_at(name, bytes, SystemTime::now() - age);
    }

    /// The same with a time; whoever opens the file gets the old or the new one.
    pub(crate) fn put_changed_at(&self, name: &str, bytes: &[u8], changed: SystemTime) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(changed).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Puts a file of seeded bytes that is an hour old, and returns them.
    pub(crate) fn put_seeded(&self, name: &str, length: usize) -> Vec<u8> {
        let bytes = Seeded::new(length as u64).bytes(length);
        self.put(name, &bytes, Duration::from_secs(3600));
        bytes
    }

    /// The answer to one plain request: status line, headers and body.
    pub(crate) fn ask(&self, path: &str, headers: &str) -> Vec<u8> {
        fetch_raw(self.place.plain, path, headers).unwrap()
    }

    /// Status line and headers of the answer to one plain request, in lower case.
    pub(crate) fn ask_head(&self, path: &str, headers: &str) -> String {
        let answer = self.ask(path, headers);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an answer with a head");
        String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase()
    }

    /// Lines of the log `access`, once there are at least so many: a server answers before it writes.
    pub(crate) fn log_of(&self, lines: usize) -> Vec<Vec<String>> {
        until("all requests to be logged", || {
            let text = fs::read_to_string(self.path("access")).unwrap_or_default();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let all: Vec<Vec<String>> = whole
                .map(|line| line.trim_end().split('\t').map(str::to_owned).collect())
                .collect();
            (all.len() >= lines).then_some(all)
        })
    }
}
