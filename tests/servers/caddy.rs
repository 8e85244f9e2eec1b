//! Caddy 2.

use crate::server::{Place, Program, Server};

fn caddy() -> Server {
    Server::start(&Program {
        words: &[
            "caddy",
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            "FOLDER/configuration",
        ],
        configuration: &configuration,
        debris: "",
    })
}

fn configuration(place: &Place) -> String {
    let Place { folder, plain, tls, .. } = place;
    let site = format!(
        "{{
          bind 127.0.0.1
          root * {folder}/www
          header /tagless/* -ETag
          header /proofless/* {{
           -ETag
           -Last-Modified
          }}
          encode /coded/* gzip
          file_server\n"
    );
    format!(
        "{{
          admin off
          auto_https off
          skip_install_trust
          storage file_system {folder}/caddy
         }}
         http://:{plain} {site}}}
         https://localhost:{tls} {site}
          tls {folder}/tls/valid.crt {folder}/tls/valid.key
         }}\n"
    )
}

crate::promises::promises_hold!(caddy);
