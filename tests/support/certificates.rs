//! Certificates made by openssl for one test run: an authority of our own, and leaves that are right or wrong in one way.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names of the leaves; `{name}.crt` and `{name}.key` lie in the folder after [`make`], and `ca.crt` beside them.
pub(crate) const LEAVES: [&str; 4] = ["valid", "expired", "wronghost", "stranger"];

/// Names of this machine.
const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// Makes the authority `ca`, a second one that nobody trusts, and the [`LEAVES`].
pub(crate) fn make(folder: &Path) {
    make_valid(folder);
    authority(folder, "otherca");
    leaf(folder, "wronghost", "DNS:elsewhere.invalid", "ca", 2);
    leaf(folder, "stranger", HERE, "otherca", 2);
    dated(folder, "expired", HERE, "20200101000000Z", "20210101000000Z");
}

/// Makes the leaf `early` beside them, which is not valid yet.
pub(crate) fn make_early(folder: &Path) {
    dated(folder, "early", HERE, "20480101000000Z", "20490101000000Z");
}

/// Makes the authority `ca` and the leaf `valid` alone.
pub(crate) fn make_valid(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    authority(folder, "ca");
    leaf(folder, "valid", HERE, "ca", 2);
}

fn authority(folder: &Path, name: &str) {
    key(folder, name);
    let subject = format!("/CN=backhaul test {name}");
    openssl(
        folder,
        &format!("req -x509 -new -sha256 -days 2 -key {name}.key -out {name}.crt"),
        &["-subj", &subject, "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    );
}

fn key(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!("ecparam -genkey -name prime256v1 -noout -out {name}.key"),
        &[],
    );
}

fn request(folder: &Path, name: &str) {
    key(folder, name);
    openssl(
        folder,
        &format!("req -new -key {name}.key -out {name}.csr"),
        &["-subj", &format!("/CN={name}")],
    );
}

fn leaf(folder: &Path, name: &str, names: &str, authority: &str, days: u32) {
    request(folder, name);
    fs::write(
        folder.join("extensions"),
        format!("subjectAltName={names}\nextendedKeyUsage=serverAuth\n"),
    )
    .unwrap();
    let signing = format!(
        "x509 -req -sha256 -in {name}.csr -out {name}.crt -days {days} -extfile extensions \
         -CA {authority}.crt -CAkey {authority}.key -CAcreateserial"
    );
    openssl(folder, &signing, &[]);
}

/// Only `openssl ca` of Debian 12 can give a certificate dates that do not begin now.
fn dated(folder: &Path, name: &str, names: &str, start: &str, end: &str) {
    request(folder, name);
    let configuration = format!(
        "[ca]\ndefault_ca=one\n[one]\ndatabase=database\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\n\
         policy=any\nx509_extensions=leaf\n[any]\ncommonName=supplied\n[leaf]\nsubjectAltName={names}\n\
         extendedKeyUsage=serverAuth\n"
    );
    fs::write(folder.join("ca.cnf"), configuration).unwrap();
    fs::write(folder.join("database"), "").unwrap();
    let signing = format!(
        "ca -batch -notext -config ca.cnf -cert ca.crt -keyfile ca.key -in {name}.csr -out {name}.crt \
         -startdate {start} -enddate {end}"
    );
    openssl(folder, &signing, &[]);
}

/// Runs openssl with words split at blanks, and more arguments that may contain blanks.
fn openssl(folder: &Path, words: &str, more: &[&str]) {
    let output = Command::new("openssl")
        .args(words.split_whitespace())
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("openssl can be started; tests/run --prepare installs it");
    assert!(
        output.status.success(),
        "openssl {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
