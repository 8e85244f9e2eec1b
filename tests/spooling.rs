//! Request bodies that come over the socket, a part at a time.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod sample;
#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod support;

use std::fs;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use backhaul::{Config, DownloadOperation, Proxies, Service, TransferStatus};
use sample::{Place, Sample};
use support::names_in;

fn config() -> Config {
    Config {
        // Whatever the environment of the tests says.
        proxies: Some(Proxies::direct()),
        ..Config::default()
    }
}

/// One call over the socket, as a client in another language makes it.
fn ask(socket: &std::path::Path, method: &str, parameters: &serde_json::Value) -> serde_json::Value {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let call = serde_json::json!({ "method": format!("io.backhaul.Transfer.{method}"), "parameters": parameters });
    stream.write_all(format!("{call}\0").as_bytes()).unwrap();
    let mut answer = Vec::new();
    io::BufReader::new(stream).read_until(0, &mut answer).unwrap();
    answer.pop();
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn a_body_that_comes_in_parts_is_refused_where_a_part_is_out_of_place() {
    let (server, place) = (Sample::start(), Place::new());
    let engine = Service::open_with(place.state(), config()).unwrap();
    let serving = engine.serve(place.socket()).unwrap();
    let part = |parameters: serde_json::Value| ask(serving.socket(), "Spool", &parameters);
    let part_of = |id: &serde_json::Value, offset: u64, last: bool| {
        part(serde_json::json!({ "id": id, "offset": offset, "bytes": "Ynl0ZXM=", "last": last }))
    };
    let begun = part(serde_json::json!({ "offset": 0, "bytes": "Ynl0ZXM=", "last": false }));
    let id = &begun["parameters"]["id"];
    assert_eq!(begun["parameters"]["len_bytes"], 5);
    for (refused, field) in [
        (part_of(id, 4, false), "offset"),
        (part_of(&"00".repeat(16).into(), 5, false), "id"),
        (
            part(serde_json::json!({ "offset": 1, "bytes": "", "last": false })),
            "offset",
        ),
        (
            part(serde_json::json!({ "offset": 0, "bytes": "A".repeat(800_000), "last": false })),
            "bytes",
        ),
    ] {
        assert_eq!(refused["error"], "io.backhaul.Transfer.Invalid", "{refused}");
        assert_eq!(refused["parameters"]["field"], field, "{refused}");
    }
    assert_eq!(part_of(id, 5, true)["parameters"]["len_bytes"], 10);
    assert_eq!(part_of(id, 10, true)["parameters"]["field"], "id", "it is whole");
    let download = serde_json::json!({
        "url": server.url("/echo"), "destination": place.file("a"), "method": "POST", "body_spooled": id
    });
    let create = |download: &serde_json::Value| {
        let downloads = serde_json::json!({ "downloads": [download] });
        ask(serving.socket(), "Create", &downloads)
    };
    let created = create(&download);
    let transfer = created["parameters"]["operations"][0]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let done = DownloadOperation::find(&engine, transfer).unwrap().wait().unwrap();
    assert_eq!(done.status, TransferStatus::Completed);
    assert_eq!(fs::read(place.file("a")).unwrap(), b"bytesbytes");
    let mut again = download;
    again["destination"] = place.file("b").to_str().unwrap().into();
    assert_eq!(
        create(&again)["parameters"]["field"],
        "body",
        "a body is for one download"
    );
}

#[test]
fn a_part_of_a_body_may_be_as_long_as_is_documented_also_where_memory_is_limited() {
    let place = Place::new();
    let config = Config {
        memory_limit: Some(12 << 20),
        ..config()
    };
    let engine = Service::open_with(place.state(), config).unwrap();
    let serving = engine.serve(place.socket()).unwrap();
    // In base64 four letters are three bytes, and two letters one.
    let most = "A".repeat((256 << 10) / 3 * 4);
    for (bytes, is_taken) in [(format!("{most}AA=="), true), (format!("{most}AAA="), false)] {
        let part = serde_json::json!({ "offset": 0, "bytes": bytes, "last": false });
        let answer = ask(serving.socket(), "Spool", &part);
        if is_taken {
            assert_eq!(answer["parameters"]["len_bytes"], 256 << 10, "{answer}");
        } else {
            assert_eq!(answer["parameters"]["field"], "bytes", "{answer}");
        }
    }
}

#[test]
fn a_creation_that_is_refused_leaves_no_body_behind_that_others_would_have_to_wait_for() {
    let place = Place::new();
    let engine = Service::open_with(place.state(), config()).unwrap();
    let serving = engine.serve(place.socket()).unwrap();
    let whole = serde_json::json!({ "offset": 0, "bytes": "Ynl0ZXM=", "last": true });
    let spool = || ask(serving.socket(), "Spool", &whole)["parameters"]["id"].clone();
    // More than are taken in at a time.
    for _ in 0..33 {
        let post = |destination: PathBuf| {
            serde_json::json!({
                "url": "http://localhost/", "destination": destination, "method": "POST", "body_spooled": spool()
            })
        };
        let downloads = [post(place.file("none/a")), post(place.file("b"))];
        let refused = ask(
            serving.socket(),
            "Create",
            &serde_json::json!({ "downloads": downloads }),
        );
        assert_eq!(refused["error"], "io.backhaul.Transfer.Invalid", "{refused}");
        assert_eq!(refused["parameters"]["field"], "destination", "{refused}");
        assert!(names_in(&place.state().join("spool")).is_empty());
    }
    assert!(spool().is_string(), "another client is locked out");
}
