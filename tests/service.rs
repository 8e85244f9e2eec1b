//! An engine that other processes speak to over its socket.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::PathBuf;

use backhaul::{Config, Filter, NewDownload, Service, Serving};

/// A service with an engine, and the socket that it can be spoken to on.
struct Lab {
    serving: Option<Serving>,
    embedded: Service,
    home: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let embedded = Service::open_with(home.path().join("state"), Config::default()).unwrap();
        let serving = embedded.serve(home.path().join("socket")).unwrap();
        Self {
            serving: Some(serving),
            embedded,
            home,
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    fn connect(&self) -> Service {
        Service::connect(self.socket()).unwrap()
    }

    /// A download that stays where it is.
    fn held(&self, name: &str) -> NewDownload {
        NewDownload {
            url: format!("http://localhost:1/{name}"),
            destination: self.home.path().join(name),
            hold: true,
            ..NewDownload::default()
        }
    }
}

#[test]
fn what_a_client_creates_the_engine_has() {
    let lab = Lab::new();
    let client = lab.connect();
    let ids = client.create(&[lab.held("one"), lab.held("two")]).unwrap();
    assert_eq!(lab.embedded.view(ids[0]).unwrap(), client.view(ids[0]).unwrap());
    let listed = client.list(&Filter::default()).map(Result::unwrap);
    assert_eq!(listed.map(|view| view.id).collect::<Vec<_>>(), ids);
    client.cancel(&ids).unwrap();
}

#[test]
fn a_service_is_found_by_its_state_directory() {
    let mut lab = Lab::new();
    let found = Service::find(lab.home.path().join("state")).unwrap();
    assert!(found.is_some_and(|found| found.is_remote()));
    lab.serving = None;
    assert!(!lab.socket().exists(), "the name of a socket goes with it");
    assert!(Service::find(lab.home.path().join("state")).unwrap().is_none());
}
