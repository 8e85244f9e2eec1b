//! URLs that the engine must not take: nothing is stored, and no server hears of them.

use backhaul::{Engine, Environment, Error, NewDownload};

use crate::client;
use crate::resource::{Times, Version};
use crate::server::{Scene, Server};

#[test]
fn a_url_that_ends_a_command_early_or_leads_to_no_file_is_refused_before_anything_is_stored_or_sent() {
    let server = Server::start(Scene {
        versions: vec![Version::new(1, 0, 1_000)],
        times: Times::Distinct,
        script: Vec::new(),
        is_free: false,
    });
    let host = server.url().trim_start_matches("ftp://").replace("/folder/file", "");
    let home = tempfile::tempdir().unwrap();
    let config = client::config(1);
    let backends = client::backends(&config);
    let engine = Engine::open(&home.path().join("state"), config, Environment::system(), backends).unwrap();
    for rest in [
        "/folder/file%0D%0ADELE%20file",
        "/folder%0A/file",
        "/folder/file%00",
        "/folder/file;type=a",
        "/folder;type=d",
        "/folder/",
        "",
    ] {
        refuse(&engine, &format!("ftp://{host}{rest}"), home.path());
    }
    for user in ["us%0D%0Aer", "user:hush9%0A", "user:hush9%00"] {
        refuse(&engine, &format!("ftp://{user}@{host}/folder/file"), home.path());
    }
    assert!(engine.views().is_empty());
    assert_eq!(server.record().sessions, 0);
}

fn refuse(engine: &Engine, url: &str, home: &std::path::Path) {
    let download = NewDownload {
        url: url.to_owned(),
        destination: home.join("file"),
        app: "hostile".into(),
        ..NewDownload::default()
    };
    let (index, error) = engine.create(&[download]).unwrap_err();
    assert_eq!(index, 0);
    assert!(
        matches!(&error, Error::Invalid { field, .. } if *field == "url"),
        "{url}: {error}"
    );
    assert!(!error.to_string().contains("hush9"), "{error}");
}
