//! One real FTP server for one test: in the foreground, on a loopback port and in a folder of its own, out of packages that
//! `tests/run --prepare` has unpacked and nobody has installed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::support::keeper::{Keeper, open_for_others, set_mode};
use crate::support::{Seeded, certificates, free_ports, left_out, until};

/// Attempts to find a port that nobody takes between our look and the server's bind.
const STARTS_MAX: usize = 10;

/// Whoever has an account: what must be encoded in a URL is in the password.
pub(crate) const USER: &str = "ann";
pub(crate) const PASSWORD: &str = "open sesame/:@%";
pub(crate) const PASSWORD_IN_URL: &str = "open%20sesame%2F%3A%40%25";

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Vsftpd,
    PureFtpd,
    Proftpd,
    Pyftpdlib,
}

/// How a server differs from the usual one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options<'a> {
    /// More lines of its configuration; of Pure-FTPd, which has none, more words of its command.
    pub(crate) lines: &'a [&'a str],
    /// The leaf that it shows, one of `certificates::LEAVES` or `early`; no TLS where none.
    pub(crate) leaf: Option<&'a str>,
    /// TLS from the first byte on.
    pub(crate) implicit: bool,
    /// On `::1` instead of 127.0.0.1.
    pub(crate) v6: bool,
    /// Of vsftpd: even `anonymous` needs [`PASSWORD`]. The others know [`USER`].
    pub(crate) locked: bool,
}

/// A running server, which has greeted once.
pub(crate) struct Server {
    // Before the folder, which goes when the server is gone.
    keeper: Option<Keeper>,
    folder: TempDir,
    kind: Kind,
    port: u16,
    v6: bool,
}

/// Where the servers are unpacked.
fn unpacked() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ftp-servers");
    assert!(
        folder.join("complete").exists(),
        "{} is missing; tests/run --prepare makes it",
        folder.display()
    );
    folder
}

impl Server {
    /// Starts the usual one; `None` only where this takes root, which we are not, and `BACKHAUL_TEST_NO_ROOT=1` says that it
    /// may be left out.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        Self::start_with(kind, &Options::default())
    }

    /// Starts one that differs.
    ///
    /// # Panics
    /// If it does not start.
    pub(crate) fn start_with(kind: Kind, options: &Options) -> Option<Self> {
        let is_root = rustix::process::geteuid().is_root();
        if kind != Kind::Pyftpdlib && !is_root {
            let opted_out = std::env::var("BACKHAUL_TEST_NO_ROOT").is_ok_and(|value| value == "1");
            assert!(
                opted_out,
                "{kind:?} changes its root and its user, which takes root. Run this test as root, or leave it out on purpose \
                 with BACKHAUL_TEST_NO_ROOT=1."
            );
            left_out("BACKHAUL_TEST_NO_ROOT=1 is set and we are not root");
            return None;
        }
        let folder = TempDir::with_prefix("backhaul-ftp-").unwrap();
        for name in ["www", "empty"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            set_mode(&folder.path().join(name), 0o755);
        }
        if is_root {
            open_for_others(folder.path());
        }
        let mut server = Self {
            keeper: None,
            folder,
            kind,
            port: 0,
            v6: options.v6,
        };
        server.make_certificates(options.leaf);
        server.make_accounts();
        for _ in 0..STARTS_MAX {
            server.port = own_port();
            server.launch(options);
            if server.becomes_ready(options.implicit) {
                return Some(server);
            }
            server.keeper = None;
        }
        let out = fs::read_to_string(server.path("out")).unwrap();
        panic!("{kind:?} does not start: {out}");
    }

    fn make_certificates(&self, leaf: Option<&str>) {
        let folder = self.path("tls");
        match leaf {
            None => {}
            Some("valid") => certificates::make_valid(&folder),
            Some("early") => {
                certificates::make_valid(&folder);
                certificates::make_early(&folder);
            }
            Some(_) => certificates::make(&folder),
        }
    }

    fn make_accounts(&self) {
        let www = self.path("www").display().to_string();
        let [user, anonymous] = [PASSWORD, "any"].map(hashed);
        match self.kind {
            Kind::Vsftpd => fs::write(self.path("passwords"), format!("{PASSWORD}\n")).unwrap(),
            Kind::Pyftpdlib => {}
            Kind::Proftpd => {
                let text = format!(
                    "{USER}:{user}:65534:65534::{www}:/bin/false\nftp:{anonymous}:65534:65534::{www}:/bin/false\n"
                );
                fs::write(self.path("passwd"), text).unwrap();
                set_mode(&self.path("passwd"), 0o600);
            }
            Kind::PureFtpd => {
                let text = format!("{USER}:{user}:65534:65534::{www}/./::::::::::::\n");
                fs::write(self.path("passwd"), text).unwrap();
                let made = Command::new(unpacked().join("usr/bin/pure-pw"))
                    .args(["mkdb", "users.pdb", "-f", "passwd"])
                    .env("LD_LIBRARY_PATH", unpacked().join("libraries"))
                    .current_dir(self.folder.path())
                    .status();
                assert!(made.unwrap().success());
            }
        }
    }

    fn launch(&mut self, options: &Options) {
        let configuration = match self.kind {
            Kind::Vsftpd => self.vsftpd(options),
            Kind::Proftpd => self.proftpd(options),
            Kind::Pyftpdlib => self.pyftpdlib(options),
            Kind::PureFtpd => String::new(),
        };
        fs::write(self.path("configuration"), configuration).unwrap();
        let words = self.words(options);
        let [libraries, python] = ["libraries", "usr/lib/python3/dist-packages"].map(|name| unpacked().join(name));
        let environment: [(&str, &OsStr); 3] = [
            ("LD_LIBRARY_PATH", libraries.as_os_str()),
            ("PYTHONPATH", python.as_os_str()),
            ("PYTHONDONTWRITEBYTECODE", OsStr::new("1")),
        ];
        self.keeper = Some(Keeper::start(self.folder.path(), words, "", &environment));
    }

    fn words(&self, options: &Options) -> Vec<String> {
        let program = |name: &str| unpacked().join("usr/sbin").join(name).display().to_string();
        let configuration = self.path("configuration").display().to_string();
        let words: &[&str] = match self.kind {
            Kind::Vsftpd => &[&program("vsftpd"), &configuration],
            Kind::Proftpd => &[&program("proftpd"), "-n", "-q", "-c", &configuration],
            Kind::Pyftpdlib => &["python3", &configuration],
            Kind::PureFtpd => {
                let users = format!("puredb:{}", self.path("users.pdb").display());
                let listening = format!("{},{}", self.host(), self.port);
                let pid = self.path("pid").display().to_string();
                let mut words = vec![program("pure-ftpd")];
                words.extend(["-S", &listening, "-l", &users, "-E", "-H", "-u", "1", "-g", &pid].map(str::to_owned));
                if let Some(leaf) = options.leaf {
                    let pair = self.path(&format!("tls/{leaf}"));
                    let pair = format!("{0}.crt,{0}.key", pair.display());
                    words.extend(["-Y", "2", "-2", &pair].map(str::to_owned));
                }
                words.extend(options.lines.iter().map(|word| (*word).to_owned()));
                return words;
            }
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn vsftpd(&self, options: &Options) -> String {
        let folder = self.folder.path().display();
        let (family, no_family) = if self.v6 { ("_ipv6", "") } else { ("", "_ipv6") };
        let address = if self.v6 { "address6=::1" } else { "address=127.0.0.1" };
        let mut text = format!(
            "listen{family}=YES\nlisten{no_family}=NO\nlisten_{address}\nlisten_port={port}\nbackground=NO\n\
             local_enable=NO\nanonymous_enable=YES\nftp_username=daemon\nnopriv_user=nobody\nanon_root={folder}/www\n\
             secure_chroot_dir={folder}/empty\nemail_password_file={folder}/passwords\nseccomp_sandbox=NO\n\
             xferlog_enable=NO\nftpd_banner={name}\n",
            port = self.port,
            name = self.name(),
        );
        if options.locked {
            text.push_str("secure_email_list_enable=YES\n");
        }
        if let Some(leaf) = options.leaf {
            let _ = write!(
                text,
                "ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_logins_ssl=YES\nforce_anon_data_ssl=YES\n\
                 rsa_cert_file={folder}/tls/{leaf}.crt\nrsa_private_key_file={folder}/tls/{leaf}.key\n"
            );
        }
        if options.implicit {
            text.push_str("implicit_ssl=YES\n");
        }
        text + &options.lines.join("\n") + "\n"
    }

    fn proftpd(&self, options: &Options) -> String {
        let folder = self.folder.path().display();
        let mut text = format!(
            "ModulePath {modules}\nLoadModule mod_tls.c\nServerName test\nServerIdent on {name}\nServerType standalone\nPort {port}\n\
             DefaultAddress {host}\nUseIPv6 {v6}\nUseReverseDNS off\nUser nobody\nGroup nogroup\n\
             AuthOrder mod_auth_file.c\nAuthUserFile {folder}/passwd\nRequireValidShell off\nDefaultRoot ~\n\
             DelayEngine off\nPidFile {folder}/pid\nScoreboardFile none\nSystemLog {folder}/log\nWtmpLog off\n\
             MaxInstances 100\n<Anonymous {folder}/www>\nUser ftp\nUserAlias anonymous ftp\nRequireValidShell off\n\
             </Anonymous>\n",
            name = self.name(),
            modules = unpacked().join("usr/lib/proftpd").display(),
            port = self.port,
            host = self.host(),
            v6 = if self.v6 { "on" } else { "off" },
        );
        if let Some(leaf) = options.leaf {
            let _ = write!(
                text,
                "TLSEngine on\nTLSRequired on\nTLSECCertificateFile {folder}/tls/{leaf}.crt\n\
                 TLSECCertificateKeyFile {folder}/tls/{leaf}.key\n"
            );
        }
        if options.implicit {
            text.push_str("TLSOptions UseImplicitSSL\n");
        }
        text + &options.lines.join("\n") + "\n"
    }

    fn pyftpdlib(&self, options: &Options) -> String {
        assert!(options.leaf.is_none(), "its TLS needs pyOpenSSL, which is not there");
        format!(
            "from pyftpdlib.authorizers import DummyAuthorizer\nfrom pyftpdlib.handlers import FTPHandler, \
             ThrottledDTPHandler\nfrom pyftpdlib.servers import FTPServer\nusers = DummyAuthorizer()\n\
             users.add_user('{USER}', '{PASSWORD}', 'www')\nusers.add_anonymous('www')\nFTPHandler.authorizer = users\n\
             FTPHandler.auth_failed_timeout = 0\nFTPHandler.banner = '{name}'\n{lines}\nFTPServer(('{host}', {port}), FTPHandler).serve_forever()\n",
            name = self.name(),
            lines = options.lines.join("\n"),
            host = self.host(),
            port = self.port,
        )
    }

    fn becomes_ready(&mut self, implicit: bool) -> bool {
        let (address, name) = (self.address(), self.name());
        let keeper = self.keeper.as_mut().unwrap();
        until("the server to greet or to give up", || {
            if keeper.has_ended() {
                return Some(false);
            }
            let line = if implicit {
                greeting_under_tls(address)
            } else {
                greeting(address)
            };
            // Tells our server from any other program that answers on the port.
            line.is_some_and(|line| line.starts_with("220") && line.contains(&name))
                .then_some(true)
        })
    }

    /// What the first line of its greeting holds.
    fn name(&self) -> String {
        if self.kind == Kind::PureFtpd {
            return "Welcome to Pure-FTPd".to_owned();
        }
        self.folder.path().file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host().parse().unwrap(), self.port)
    }

    fn host(&self) -> &'static str {
        if self.v6 { "::1" } else { "127.0.0.1" }
    }

    /// A file or folder in the server's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority behind the certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("tls/ca.crt")
    }

    /// The file behind `/name`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path("www").join(name)
    }

    /// Puts a file under `/name`, last changed `age` ago.
    pub(crate) fn put(&self, name: &str, bytes: &[u8], age: Duration) {
        self.put_changed_at(name, bytes, SystemTime::now() - age);
    }

    /// The same with a time; whoever opens the file gets the old or the new one.
    pub(crate) fn put_changed_at(&self, name: &str, bytes: &[u8], changed: SystemTime) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In a folder that is not served.
        let new = self.path("new");
        fs::write(&new, bytes).unwrap();
        set_mode(&new, 0o644);
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

    /// `user:password@` for a URL, where the server lets nobody in without.
    pub(crate) fn login(&self) -> String {
        match self.kind {
            Kind::PureFtpd => format!("{USER}:{PASSWORD_IN_URL}@"),
            _ => String::new(),
        }
    }

    /// Whoever has an account.
    pub(crate) fn user(&self) -> &'static str {
        if self.kind == Kind::Vsftpd { "anonymous" } else { USER }
    }

    /// The URL of `/path` there, for whoever logs in as `login`, which is empty or ends with `@`.
    pub(crate) fn url(&self, scheme: &str, login: &str, path: &str) -> String {
        // Certificates are for this name.
        let host = match (self.v6, scheme) {
            (true, _) => "[::1]",
            (false, "ftp") => "127.0.0.1",
            (false, _) => "localhost",
        };
        format!("{scheme}://{login}{host}:{}/{path}", self.port)
    }
}

/// The first line that a server says.
fn greeting(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line)
}

/// The same from one that speaks TLS from the first byte on.
fn greeting_under_tls(address: SocketAddr) -> Option<String> {
    let mut openssl = Command::new("timeout")
        .args(["5", "openssl", "s_client", "-quiet", "-connect", &address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Then the server ends the connection, and openssl with it. One that is gone already needs no goodbye.
    let _ = openssl.stdin.take().unwrap().write_all(b"QUIT\r\n");
    let output = openssl.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

/// As `crypt` writes it.
fn hashed(password: &str) -> String {
    let output = Command::new("openssl").args(["passwd", "-6", password]).output();
    let output = output.expect("openssl can be started; tests/run --prepare installs it");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A free port that no other server of this process was told.
fn own_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        let [port] = free_ports();
        if given.insert(port) {
            return port;
        }
    }
}
