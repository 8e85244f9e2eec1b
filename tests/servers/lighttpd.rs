//! lighttpd 1.4.

use crate::server::{Place, Program, Server};

fn lighttpd() -> Server {
    Server::start(&Program {
        words: &["lighttpd", "-D", "-f", "FOLDER/configuration"],
        configuration: &configuration,
        debris: "",
    })
}

/// No file whose type is unknown gets a validator, so nothing more is said for `proofless/`. With its cache of open files
/// lighttpd sends the old content of a file for a second after the change, as a whole, which is no test of a change.
fn configuration(place: &Place) -> String {
    let Place { folder, plain, tls, .. } = place;
    format!(
        "server.document-root = \"{folder}/www\"
         server.bind = \"127.0.0.1\"
         server.port = {plain}
         server.errorlog = \"{folder}/error\"
         server.upload-dirs = (\"{folder}/open\")
         server.stat-cache-engine = \"disable\"
         server.modules = (\"mod_deflate\", \"mod_openssl\")
         mimetype.assign = (\".bin\" => \"application/octet-stream\", \".txt\" => \"text/plain\")
         $HTTP[\"url\"] =~ \"^/tagless/\" {{ static-file.etags = \"disable\" }}
         $HTTP[\"url\"] =~ \"^/coded/\" {{
          deflate.mimetypes = (\"text/plain\")
          deflate.allowed-encodings = (\"gzip\")
         }}
         $SERVER[\"socket\"] == \"127.0.0.1:{tls}\" {{
          ssl.engine = \"enable\"
          ssl.pemfile = \"{folder}/tls/valid.crt\"
          ssl.privkey = \"{folder}/tls/valid.key\"
         }}\n"
    )
}

crate::promises::promises_hold!(lighttpd);
