//! Apache httpd 2.4.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::promises::{SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::{Place, Program, Server};
use crate::support::{Seeded, names_in};
use crate::visit::{Stop, Visit, assert_restarted};

const MODULES: [&str; 9] = [
    "mpm_event",
    "authz_core",
    "deflate",
    "env",
    "filter",
    "headers",
    "mime",
    "setenvif",
    "ssl",
];

fn apache() -> Server {
    Server::start(&Program {
        words: &["apache2", "-D", "FOREGROUND", "-f", "FOLDER/configuration"],
        configuration: &configuration,
        debris: "",
    })
}

fn configuration(place: &Place) -> String {
    let Place {
        folder,
        plain,
        tls,
        account,
    } = place;
    let mut text = String::new();
    for module in MODULES {
        writeln!(
            text,
            "LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so"
        )
        .unwrap();
    }
    if let Some((user, group)) = account {
        writeln!(text, "User {user}\nGroup {group}").unwrap();
    }
    write!(
        text,
        "ServerName localhost
         PidFile {folder}/pid
         ErrorLog {folder}/error
         Mutex file:{folder}/open default
         StartServers 1
         ServerLimit 1
         MaxRequestWorkers 25
         Listen 127.0.0.1:{plain}
         Listen 127.0.0.1:{tls} https
         DocumentRoot {folder}/www
         TypesConfig /dev/null
         AddType text/plain .txt
         <Directory {folder}/www>
          Require all granted
         </Directory>
         <Directory {folder}/www/tagless>
          FileETag None
         </Directory>
         <Directory {folder}/www/proofless>
          FileETag None
          Header unset Last-Modified
         </Directory>
         <Directory {folder}/www/coded>
          SetOutputFilter DEFLATE
         </Directory>
         <Directory {folder}/www/forced>
          SetOutputFilter DEFLATE
          SetEnv force-gzip 1
         </Directory>
         <VirtualHost 127.0.0.1:{tls}>
          SSLEngine on
          SSLCertificateFile {folder}/tls/valid.crt
          SSLCertificateKeyFile {folder}/tls/valid.key
         </VirtualHost>\n"
    )
    .unwrap();
    text
}

crate::promises::promises_hold!(apache);

#[test]
fn a_file_that_may_change_again_without_a_sign_of_it_is_never_mixed() {
    let server = apache();
    let old = Seeded::new(1).bytes(SHORT_BYTES);
    let new = Seeded::new(2).bytes(SHORT_BYTES);
    // Apache marks a tag weak until a second after the file's time: what changes before that leaves the tag as it is.
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    server.put_changed_at("fresh.bin", &old, ahead);
    let head = server.ask_head("/fresh.bin", "");
    assert!(head.contains("etag: w/\""), "{head}");
    let visit = Visit::new(&server, Way::Plain, "fresh.bin");
    let claimed = visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    server.put_changed_at("fresh.bin", &new, ahead);
    let shown = visit.complete(&new);
    assert_restarted(&shown, claimed);
}

#[test]
fn content_that_comes_compressed_although_nobody_asked_is_refused_by_name() {
    let server = apache();
    server.put(
        "forced/a.txt",
        "hello ".repeat(1000).as_bytes(),
        Duration::from_secs(3600),
    );
    let visit = Visit::new(&server, Way::Plain, "forced/a.txt");
    let ended = visit.run().expect_code(1);
    assert!(ended.stderr.contains("in the coding gzip"), "{}", ended.stderr);
    assert!(names_in(&visit.home.downloads()).is_empty());
}
