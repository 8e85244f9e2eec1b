//! Whatever bytes come over the socket: the service answers what can be answered, says why it ends a connection, and
//! serves all others.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its own part of this module")]
mod served;

use std::net::Shutdown;

use backhaul::{Filter, OperationView, Service};
use serde_json::{Value, json};

use served::{Lab, Raw, create, framed, until};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

fn method(name: &str) -> String {
    format!("io.backhaul.Transfer.{name}")
}

fn list() -> Value {
    json!({ "method": method("List"), "parameters": { "selection": { "all_apps": true } } })
}

/// Asserts that a connection is served on.
fn assert_serves(raw: &mut Raw, what: &str) {
    raw.say(&list());
    let answer = raw.hear().unwrap_or_else(|| panic!("{what} ends the connection"));
    assert!(answer["parameters"]["operations"].is_array(), "{what}: {answer}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn a_call_that_is_wrong_is_refused_by_name_and_the_next_one_is_served() {
    let lab = Lab::new();
    let id = "ab".repeat(16);
    let transfer = |name: &str, parameters: Value| json!({ "method": method(name), "parameters": parameters });
    let upgrade = json!({ "method": method("List"), "upgrade": true });
    let more = json!({ "method": method("Monitor"), "parameters": {} });
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({ "method": "x.y.Z" }), "InterfaceNotFound", "x.y"),
        (json!({ "method": "" }), "InterfaceNotFound", ""),
        (json!({ "method": "List" }), "InterfaceNotFound", ""),
        (json!({ "method": "." }), "InterfaceNotFound", ""),
        (
            json!({ "method": "io.backhaul.Transfer" }),
            "InterfaceNotFound",
            "io.backhaul",
        ),
        (json!({ "method": method("Fly") }), "MethodNotFound", "Fly"),
        (json!({ "method": method("") }), "MethodNotFound", ""),
        (json!({ "method": "org.varlink.service.Fly" }), "MethodNotFound", "Fly"),
        (
            json!({ "method": "org.varlink.service.GetInterfaceDescription", "parameters": { "interface": "x" } }),
            "InterfaceNotFound",
            "x",
        ),
        (
            json!({ "method": "org.varlink.service.GetInterfaceDescription" }),
            "InvalidParameter",
            "interface",
        ),
        (upgrade, "InvalidParameter", "upgrade"),
        (more, "ExpectedMore", ""),
        (transfer("Show", json!({})), "InvalidParameter", "id"),
        (transfer("Show", json!({ "id": 7 })), "InvalidParameter", "id"),
        (transfer("Show", json!({ "id": "short" })), "InvalidParameter", "id"),
        (transfer("Show", json!({ "id": id, "x": 1 })), "InvalidParameter", "x"),
        (transfer("Show", json!([])), "InvalidParameter", "parameters"),
        (transfer("Show", json!("text")), "InvalidParameter", "parameters"),
        (transfer("Show", json!({ "id": id })), "UnknownId", &id),
        (transfer("List", json!({ "max": -1 })), "InvalidParameter", "max"),
        (transfer("List", json!({ "after": 1e300 })), "InvalidParameter", "after"),
        (
            transfer("List", json!({ "selection": { "app": "a", "all_apps": true } })),
            "Invalid",
            "app",
        ),
        (
            transfer("List", json!({ "selection": { "group": "g", "ungrouped": true } })),
            "Invalid",
            "group",
        ),
        (transfer("Cancel", json!({ "ids": id })), "InvalidParameter", "ids"),
        (
            transfer("Cancel", json!({ "ids": [id, null] })),
            "InvalidParameter",
            "ids[1]",
        ),
        (transfer("Wait", json!({ "ids": [id] })), "UnknownId", &id),
        (transfer("Wait", json!({ "ids": vec![&id; 257] })), "Invalid", "ids"),
        (
            transfer("Wait", json!({ "ids": [], "until": "never" })),
            "InvalidParameter",
            "until",
        ),
        (
            transfer("Set", json!({ "id": id, "changes": { "priority": "urgent" } })),
            "InvalidParameter",
            "priority",
        ),
        (
            transfer("Create", json!({ "downloads": [{ "url": "http://h/" }] })),
            "InvalidParameter",
            "destination",
        ),
        (
            transfer(
                "Create",
                json!({ "downloads": [{ "url": "http://h/", "destination": "relative" }] }),
            ),
            "Invalid",
            "destination",
        ),
        (
            transfer(
                "Create",
                json!({ "downloads": [{ "url": "http://h/", "destination": "/d", "app": "a\u{1b}[31m" }] }),
            ),
            "Invalid",
            "app",
        ),
        (
            transfer(
                "Create",
                json!({ "downloads": [{ "url": "http://h/", "destination": "/d", "app": "a".repeat(129) }] }),
            ),
            "Invalid",
            "app",
        ),
        (transfer("Show", json!([id])), "InvalidParameter", "parameters"),
        (transfer("Create", json!({ "downloads": [] })), "", ""),
    ];
    let mut raw = lab.raw();
    for (call, error, word) in cases {
        raw.say(&call);
        let answer = raw.hear().unwrap_or_else(|| panic!("{call} ends the connection"));
        let name = answer["error"].as_str().unwrap_or_default().rsplit('.').next().unwrap();
        assert_eq!(name, error, "{call}: {answer}");
        assert!(
            answer["parameters"].to_string().contains(word),
            "{call}: {answer} does not name {word}"
        );
        assert_serves(&mut raw, &call.to_string());
    }
}

#[test]
fn what_is_no_call_ends_the_connection_with_a_reason_and_no_other_one() {
    let lab = Lab::new();
    let mut other = lab.raw();
    let deep = [b"[".repeat(100_000), b"\0".to_vec()].concat();
    let deep_parameters = format!("{{\"method\":\"x.y\",\"parameters\":{}", "{\"a\":".repeat(50_000));
    let deep_parameters = [deep_parameters.as_bytes(), b"\0"].concat();
    let cases: Vec<&[u8]> = vec![
        b"\0",
        b"\0\0\0",
        b" \0",
        b"null\0",
        b"[]\0",
        b"7\0",
        b"\"text\"\0",
        b"{}\0",
        b"{\"method\":7}\0",
        b"{\"method\":null}\0",
        b"{\"method\":\"a.b\",\"method\":\"a.b\"}\0",
        b"{\"method\":\"a.b\",\"more\":1}\0",
        b"{\"method\":\"a.b\"\0",
        b"{\"method\":\"a.b\"}}\0",
        b"{\"method\":\"a.b\"} {}\0",
        b"{\"method\":\"\xff\"}\0",
        b"\xff\xfe\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0",
        &deep,
        &deep_parameters,
    ];
    for bytes in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let mut raw = lab.raw();
        // The call behind it is not done: where one message ends is not sure any more.
        raw.send(&[bytes, &framed(&list())].concat());
        assert_eq!(raw.hear_error(), "Disconnected", "{shown}");
        assert_eq!(raw.hear(), None, "{shown}");
        assert_serves(&mut other, &shown);
    }
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_with_the_limit() {
    let lab = Lab::new();
    let mut exact = list().to_string().into_bytes();
    exact.resize(MESSAGE_BYTES_MAX, b' ');
    exact.push(0);
    let mut raw = lab.raw();
    raw.send(&exact);
    assert!(raw.hear().unwrap()["error"].is_null(), "the limit itself is allowed");
    for ends in [true, false] {
        let mut raw = lab.raw();
        let mut long = vec![b' '; MESSAGE_BYTES_MAX + 1];
        long.extend(ends.then_some(0));
        raw.send(&long);
        let message = raw.hear().unwrap();
        assert_eq!(message["error"], method("Disconnected"));
        assert!(
            message["parameters"]["message"].as_str().unwrap().contains("1048576"),
            "{message}"
        );
        assert_eq!(raw.hear(), None);
    }
    let mut flood = lab.raw();
    let started = std::time::Instant::now();
    flood.send(&vec![b'x'; 64 << 20]);
    assert_eq!(flood.hear_error(), "Disconnected");
    assert!(started.elapsed() < served::STEP_MAX);
}

#[test]
fn calls_may_come_in_any_pieces_and_many_at_once() {
    let lab = Lab::new();
    let mut raw = lab.raw();
    for byte in framed(&list()) {
        raw.send(&[byte]);
    }
    assert!(raw.hear().unwrap()["parameters"].is_object());
    // Each answer belongs to one call, in order.
    let ids: Vec<String> = (0..2_000).map(|number| format!("{number:032x}")).collect();
    let calls = ids
        .iter()
        .flat_map(|id| framed(&json!({ "method": method("Show"), "parameters": { "id": id } })));
    let calls: Vec<u8> = calls.collect();
    let writer = raw.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut &writer, &calls));
    for id in ids {
        let answer = raw.hear().unwrap();
        assert_eq!(
            (&answer["error"], &answer["parameters"]["id"]),
            (&json!(method("UnknownId")), &json!(id))
        );
    }
    sending.join().unwrap().unwrap();
}

#[test]
fn a_oneway_call_is_done_and_not_answered() {
    let lab = Lab::new();
    let mut raw = lab.raw();
    let download = json!({ "url": lab.origin.url("/1"), "destination": lab.home().join("f"), "hold": true });
    let create = json!({ "method": method("Create"), "parameters": { "downloads": [download] }, "oneway": true });
    raw.say(&create);
    raw.say(&json!({ "method": method("Show"), "oneway": true }));
    raw.say(&json!({ "method": "no.Where", "oneway": true }));
    raw.say(&json!({ "method": method("Monitor"), "oneway": true, "more": true }));
    raw.say(&json!({ "method": method("Wait"), "parameters": { "ids": [] }, "oneway": true }));
    raw.say(&list());
    let answer = raw.hear().unwrap();
    assert_eq!(
        answer["parameters"]["operations"].as_array().unwrap().len(),
        1,
        "{answer}"
    );
}

#[test]
fn a_client_that_ends_its_side_is_still_answered() {
    let lab = Lab::new();
    let mut raw = lab.raw();
    raw.send(&[framed(&list()), framed(&list()), b"{\"half".to_vec()].concat());
    raw.stream().shutdown(Shutdown::Write).unwrap();
    assert!(raw.hear().unwrap()["parameters"].is_object());
    assert!(raw.hear().unwrap()["parameters"].is_object());
    assert_eq!(raw.hear(), None);
}

#[test]
fn a_client_that_is_gone_at_any_byte_has_created_all_or_nothing() {
    let lab = Lab::new();
    let downloads = |cut: usize| -> Value {
        let one = |name: &str| {
            let name = format!("{cut}-{name}");
            json!({ "url": lab.origin.url(&format!("/1/{name}")), "destination": lab.home().join(&name), "hold": true })
        };
        json!({ "method": method("Create"), "parameters": { "downloads": [one("a"), one("b")] } })
    };
    let length = framed(&downloads(1_000)).len();
    for cut in 0..=length {
        let bytes = framed(&downloads(1_000 + cut));
        let raw = lab.raw();
        raw.send(&bytes[..cut]);
    }
    let client = lab.connect();
    let listed =
        |service: &Service| -> Vec<OperationView> { service.list(&Filter::default()).map(Result::unwrap).collect() };
    let all = until("the whole one is done", || {
        let listed = listed(&client);
        (!listed.is_empty()).then_some(listed)
    });
    let whole = format!("{}-", 1_000 + length);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().all(|view| view.url.contains(&whole)), "{all:#?}");
    let serving = lab.serving.as_ref().unwrap();
    until("all are gone", || (serving.connections() <= 1).then_some(()));
    assert_eq!(listed(lab.embedded()), all);
}

#[test]
fn clients_that_go_without_reading_hold_up_nobody() {
    let lab = Lab::new();
    for _ in 0..200 {
        let raw = lab.raw();
        for _ in 0..20 {
            raw.say(&list());
        }
        raw.say(&json!({ "method": method("Monitor"), "more": true }));
    }
    let client = lab.connect();
    create(&client, lab.held("f"));
    let serving = lab.serving.as_ref().unwrap();
    until("all are gone", || (serving.connections() == 1).then_some(()));
}

#[test]
fn random_bytes_end_at_most_their_own_connection() {
    let lab = Lab::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let call = framed(&list());
    for _ in 0..300 {
        let mut bytes = call.repeat(3);
        for _ in 0..=draw() % 6 {
            let place = usize::try_from(draw()).unwrap() % bytes.len();
            bytes[place] = draw().to_le_bytes()[0];
        }
        let mut raw = lab.raw();
        raw.send(&bytes);
        raw.stream().shutdown(Shutdown::Write).unwrap();
        let mut count = 0;
        while raw.hear().is_some() {
            count += 1;
        }
        assert!(count <= bytes.split(|byte| *byte == 0).count());
    }
    create(&lab.connect(), lab.held("f"));
}

#[test]
fn the_service_describes_itself() {
    let lab = Lab::new();
    let mut raw = lab.raw();
    raw.say(&json!({ "method": "org.varlink.service.GetInfo" }));
    let answer = raw.hear().unwrap();
    let interfaces = answer["parameters"]["interfaces"].as_array().unwrap().clone();
    for interface in interfaces {
        let parameters = json!({ "interface": interface });
        raw.say(&json!({ "method": "org.varlink.service.GetInterfaceDescription", "parameters": parameters }));
        let answer = raw.hear().unwrap();
        let text = answer["parameters"]["description"].as_str().unwrap();
        assert!(text.contains(&format!("\ninterface {}\n", interface.as_str().unwrap())));
    }
}
