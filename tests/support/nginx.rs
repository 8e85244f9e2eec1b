//! One real nginx for one test: plain, and with TLS where asked for, on ports and in a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use tempfile::TempDir;

use super::{Seeded, certificates, connect, fetch_raw, free_ports, until};

/// Attempts to find ports that nobody takes between our look and nginx's bind.
const STARTS_MAX: usize = 10;

/// A running nginx. Paths that it knows, each followed by the name of a file put into it:
///
/// - `/NAME` the file; `/rate/500k/NAME` the same, at most so many bytes a second for each connection
/// - `/noetag/`, `/norange/`, `/novalidator/`, `/nolength/` without what the name says
/// - `/redirect/301/NAME` and 302, 307, 308; `/loop`; `/onward/NAME` to the plain server by another host name;
///   on the TLS server `/downgrade/NAME` to the plain one
/// - `/gone` 410, `/busy` 503 with Retry-After: 1, `/broken` 500; `/limited/NAME` one request a second, 503 above
pub(crate) struct Nginx {
    folder: TempDir,
    // Holds the pipe whose closing ends nginx, also when this process is killed.
    keeper: Option<Child>,
    ports: Ports,
}

#[derive(Clone, Copy, Default)]
struct Ports {
    plain: u16,
    // One for each leaf of `certificates::LEAVES`; zero without TLS.
    tls: [u16; certificates::LEAVES.len()],
}

/// One line of the access log.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Bytes of the body that nginx handed to the network.
    pub(crate) body_bytes: u64,
    pub(crate) range: String,
    pub(crate) if_range: String,
    pub(crate) device: String,
    pub(crate) authorization: String,
}

impl Nginx {
    /// Starts a plain server.
    pub(crate) fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts a plain server, and one with TLS for each kind of certificate.
    pub(crate) fn start_tls() -> Self {
        Self::start_with(true)
    }

    fn start_with(tls: bool) -> Self {
        let folder = TempDir::with_prefix("backhaul-nginx-").unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        // Tells our nginx from any other program that answers on the port.
        let token = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        fs::write(folder.path().join("www/token"), &token).unwrap();
        if tls {
            certificates::make(&folder.path().join("tls"));
        }
        let mut nginx = Self {
            folder,
            keeper: None,
            ports: Ports::default(),
        };
        for _ in 0..STARTS_MAX {
            let [plain, leaves @ ..] = free_ports::<{ 1 + certificates::LEAVES.len() }>();
            nginx.ports.plain = plain;
            if tls {
                nginx.ports.tls = leaves;
            }
            fs::write(
                nginx.path("nginx.conf"),
                configuration(nginx.folder.path(), nginx.ports),
            )
            .unwrap();
            fs::write(nginx.path("error.log"), "").unwrap();
            nginx.launch();
            if nginx.becomes_ready(&token) {
                return nginx;
            }
            nginx.stop();
        }
        panic!(
            "nginx does not start: {}",
            fs::read_to_string(nginx.path("error.log")).unwrap()
        );
    }

    /// The shell waits for the end of its input, which comes when this process lets go of the pipe or dies.
    fn launch(&mut self) {
        let script = r#"PATH="$PATH:/usr/sbin"; nginx -e "$2" -c "$1" & read -r line; kill "$!"; wait"#;
        let keeper = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(self.path("nginx.conf"))
            .arg(self.path("error.log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        self.keeper = Some(keeper);
    }

    fn becomes_ready(&self, token: &str) -> bool {
        until("nginx to answer or to give up", || {
            if fetch_raw(self.ports.plain, "/token", "").is_ok_and(|answer| answer.ends_with(token.as_bytes())) {
                return Some(true);
            }
            fs::read_to_string(self.path("error.log"))
                .unwrap()
                .contains("[emerg]")
                .then_some(false)
        })
    }

    /// Ends nginx now; every open connection breaks.
    pub(crate) fn stop(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }

    /// Starts nginx again on the same ports after [`Nginx::stop`].
    pub(crate) fn start_again(&mut self) {
        let token = fs::read_to_string(self.path("www/token")).unwrap();
        self.launch();
        assert!(
            self.becomes_ready(&token),
            "{}",
            fs::read_to_string(self.path("error.log")).unwrap()
        );
    }

    /// Puts a file of seeded bytes under `/name` and returns the bytes.
    pub(crate) fn put_seeded(&self, name: &str, length: usize) -> Vec<u8> {
        let seed = name
            .bytes()
            .fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let bytes = Seeded::new(seed).bytes(length);
        self.put(name, &bytes);
        bytes
    }

    /// Puts a file under `/name`. It is an hour old, so that its Last-Modified is a strong validator.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path("www").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let an_hour_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(an_hour_ago)
            .unwrap();
    }

    /// Puts another file in the place of one, as a deployment does: a new file under the same name, changed half an hour ago.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) {
        let path = self.path("www").join(name);
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        let half_an_hour_ago = SystemTime::now() - std::time::Duration::from_secs(1800);
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(half_an_hour_ago).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Gives a file another name; its validators stay.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path("www").join(from), self.path("www").join(to)).unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.plain)
    }

    /// URL on the server that shows this leaf of `certificates::LEAVES`.
    pub(crate) fn tls_url(&self, leaf: &str, path: &str) -> String {
        let index = certificates::LEAVES.iter().position(|name| *name == leaf).unwrap();
        assert_ne!(self.ports.tls[index], 0, "start_tls was not called");
        format!("https://localhost:{}{path}", self.ports.tls[index])
    }

    /// The authority behind all leaves but `stranger`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("tls/ca.crt")
    }

    /// What was served so far, in order, once no request is under way any more: a request is logged when it ends.
    pub(crate) fn served(&self) -> Vec<Served> {
        until("all requests to end", || {
            let status = self.ask("/status");
            // Our own look is the one connection that is left; idle ones have been logged.
            let busy = status.lines().find(|line| line.starts_with("Reading:"))?;
            busy.contains("Writing: 1 ").then_some(())
        });
        let log = fs::read_to_string(self.path("access.log")).unwrap();
        log.lines().map(Served::parse).collect()
    }

    /// Bytes of bodies handed to the network for this file, by whichever path.
    pub(crate) fn bytes_served(&self, name: &str) -> u64 {
        let suffix = format!("/{name}");
        self.served()
            .iter()
            .filter(|served| served.path.ends_with(&suffix))
            .map(|served| served.body_bytes)
            .sum()
    }

    /// The answer of the plain server to one request: status line, headers and body.
    pub(crate) fn ask(&self, path: &str) -> String {
        String::from_utf8(self.ask_bytes(path, "")).unwrap()
    }

    /// The same with more header lines and any bytes in the body.
    pub(crate) fn ask_bytes(&self, path: &str, headers: &str) -> Vec<u8> {
        fetch_raw(self.ports.plain, path, headers).unwrap()
    }

    /// Asks, reads at least so many bytes of the answer, and closes the connection in the middle.
    pub(crate) fn hang_up_after(&self, path: &str, bytes: usize) {
        let mut stream = connect(self.ports.plain, path, "").unwrap();
        stream.read_exact(&mut vec![0; bytes]).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Served {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [path, status, body_bytes, range, if_range, device, authorization] = fields[..] else {
            panic!("not a line of ours: {line}");
        };
        Self {
            path: path.to_owned(),
            status: status.parse().unwrap(),
            body_bytes: body_bytes.parse().unwrap(),
            range: range.to_owned(),
            if_range: if_range.to_owned(),
            device: device.to_owned(),
            authorization: authorization.to_owned(),
        }
    }
}

fn configuration(folder: &Path, ports: Ports) -> String {
    let folder = folder.display();
    let mut text = format!("daemon off; master_process off; pid {folder}/pid;\nevents {{ worker_connections 512; }}\n");
    text += "http {\n";
    text += "log_format ours escape=none \"$request_uri\\t$status\\t$body_bytes_sent\\t$http_range\\t$http_if_range\\t\
             $http_x_device\\t$http_authorization\";\n";
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {folder}/{kind};").unwrap();
    }
    writeln!(
        text,
        "root {folder}/www; access_log {folder}/access.log ours; sendfile on;"
    )
    .unwrap();
    text += "default_type application/octet-stream; keepalive_requests 100000; log_not_found off;\n";
    text += "limit_req_zone $binary_remote_addr zone=one:1m rate=1r/s;\n";
    // A small send buffer: what nginx counts as sent is then what the client got, but for this much.
    let listen = format!("listen 127.0.0.1:{} sndbuf=64k", ports.plain);
    writeln!(
        text,
        "server {{ {listen};\n{}}}",
        locations(folder.to_string().as_str(), ports)
    )
    .unwrap();
    if ports.tls[0] != 0 {
        for (leaf, port) in certificates::LEAVES.iter().zip(ports.tls) {
            let pair = format!("ssl_certificate {folder}/tls/{leaf}.crt; ssl_certificate_key {folder}/tls/{leaf}.key;");
            let inner = locations(folder.to_string().as_str(), ports);
            writeln!(text, "server {{ listen 127.0.0.1:{port} ssl; {pair}\n{inner}}}").unwrap();
        }
    }
    text + "}\n"
}

fn locations(folder: &str, ports: Ports) -> String {
    let plain = ports.plain;
    format!(
        "location / {{ }}
         location = /token {{ access_log off; }}
         location = /status {{ stub_status; access_log off; }}
         location ~ ^/rate/(?<speed>[0-9]+k)/(?<file>.+)$ {{ alias {folder}/www/$file; limit_rate $speed; }}
         location /noetag/ {{ alias {folder}/www/; etag off; }}
         location /norange/ {{ alias {folder}/www/; max_ranges 0; }}
         location /novalidator/ {{ alias {folder}/www/; etag off; add_header Last-Modified \"\"; }}
         location /nolength/ {{ alias {folder}/www/; ssi on; ssi_types *; }}
         location /limited/ {{ alias {folder}/www/; limit_req zone=one; add_header Retry-After 1 always; }}
         location ~ ^/redirect/301/(?<file>.+)$ {{ return 301 /$file; }}
         location ~ ^/redirect/302/(?<file>.+)$ {{ return 302 /$file; }}
         location ~ ^/redirect/307/(?<file>.+)$ {{ return 307 /$file; }}
         location ~ ^/redirect/308/(?<file>.+)$ {{ return 308 /$file; }}
         location ~ ^/onward/(?<file>.+)$ {{ return 302 http://localhost:{plain}/$file; }}
         location ~ ^/downgrade/(?<file>.+)$ {{ return 302 http://127.0.0.1:{plain}/$file; }}
         location = /loop {{ return 302 /loop; }}
         location = /gone {{ return 410; }}
         location = /broken {{ return 500; }}
         location = /busy {{ add_header Retry-After 1 always; return 503; }}\n"
    )
}
