//! nginx 1.22: what every server must do, and what only its configuration can ask for: limits, redirects, signed URLs.

mod limits;
mod redirects;

use std::time::Duration;

use crate::promises::{SHORT_BYTES, SHORT_STOP_BYTES};
use crate::server::{Place, Program, Server};
use crate::support::names_in;
use crate::visit::{Stop, Visit};

pub(crate) fn nginx() -> Server {
    Server::start(&Program {
        words: &["nginx", "-e", "stderr", "-c", "FOLDER/configuration"],
        configuration: &configuration,
        debris: "",
    })
}

fn configuration(place: &Place) -> String {
    let Place { folder, plain, tls, .. } = place;
    let files = "
        location / { }
        location = /token { access_log off; }
        location /tagless/ { etag off; }
        location /proofless/ { etag off; add_header Last-Modified \"\"; }
        location /coded/ { gzip on; gzip_types *; gzip_min_length 0; }
        location /packed/ { gzip_static always; }
        location /rangeless/ { max_ranges 0; }
        location /revalidated/ { add_header Cache-Control no-cache; }";
    let limits = limits::LOCATIONS;
    let redirects = redirects::locations(place);
    let zones = limits::ZONES;
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr;
         events {{ worker_connections 512; }}
         http {{
          log_format ours escape=none '$request_uri\t$status\t$http_range\t$http_authorization\t$http_x_token\t$http_cookie';
          access_log {folder}/access ours;
          client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
          uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          root {folder}/www; default_type application/octet-stream; absolute_redirect off;
          {zones}
          server {{
           listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl;
           ssl_certificate {folder}/tls/valid.crt; ssl_certificate_key {folder}/tls/valid.key;
           {files}
           {limits}
           {redirects}
          }}
         }}\n"
    )
}

crate::promises::promises_hold!(nginx);

#[test]
fn a_server_that_takes_no_ranges_is_asked_for_the_whole_again_and_the_restart_is_counted() {
    crate::promises::without_proof_it_starts_again_and_says_so(&nginx(), Way::Plain, "rangeless/a.bin");
}

#[test]
fn a_resource_that_is_gone_ends_the_transfer_by_name_and_leaves_nothing() {
    let server = nginx();
    server.put_seeded("gone.bin", SHORT_BYTES);
    let visit = Visit::new(&server, Way::Plain, "gone.bin");
    visit.stop_after(SHORT_STOP_BYTES, Stop::Terminate);
    std::fs::remove_file(server.file("gone.bin")).unwrap();
    let ended = visit.run().expect_code(1);
    assert!(ended.stderr.contains("404"), "{}", ended.stderr);
    assert!(names_in(&visit.home.downloads()).is_empty());
}

#[test]
fn content_that_comes_compressed_although_nobody_asked_is_refused_by_name() {
    let server = nginx();
    // nginx sends this as the coding of `a.txt`, without a look at it.
    server.put("packed/a.txt.gz", &[7; 5000], Duration::from_secs(3600));
    let visit = Visit::new(&server, Way::Plain, "packed/a.txt");
    let ended = visit.run().expect_code(1);
    assert!(ended.stderr.contains("in the coding gzip"), "{}", ended.stderr);
    assert!(names_in(&visit.home.downloads()).is_empty());
}
