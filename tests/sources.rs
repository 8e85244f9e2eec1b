//! Digests and mirrors, over a real directory and a scripted backend, stepped on one thread.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backhaul::{
    Config, Digest, DigestAlgorithm, Engine, FixedEnvironment, NewDownload, OperationView, TransferId, TransferStatus,
    WebErrorStatus,
};
use backhaul_backends::{Act, Failure, FailureKind, MemoryBackend, Resource, Validators};
use backhaul_journal::Disk;

const URL: &str = "mem://host/file";
const MIRROR: &str = "mem://mirror/file";
const OTHER: &str = "mem://other/file";
const MIB: usize = 1 << 20;
const CUT: u64 = 2_500_000;

struct Lab {
    _home: tempfile::TempDir,
    state: PathBuf,
    data: PathBuf,
    server: Arc<MemoryBackend>,
    outside: Arc<FixedEnvironment>,
    config: Config,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (state, data) = (home.path().join("state"), home.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        let mut config = Config::default();
        config.retry.failures_max = 5;
        Self {
            _home: home,
            state,
            data,
            server: Arc::new(MemoryBackend::new()),
            outside: FixedEnvironment::new(1),
            config,
        }
    }

    fn open(&self) -> Engine {
        let environment = self.outside.on(Arc::new(Disk));
        let backends = vec![Arc::clone(&self.server) as _];
        Engine::open(&self.state, self.config.clone(), environment, backends).unwrap()
    }

    fn download(&self, digests: Vec<Digest>, mirrors: &[&str]) -> NewDownload {
        NewDownload {
            url: URL.into(),
            destination: self.data.join("file"),
            app: "test".into(),
            digests,
            mirrors: mirrors.iter().map(ToString::to_string).collect(),
            ..NewDownload::default()
        }
    }

    fn add(&self, engine: &Engine, digests: Vec<Digest>, mirrors: &[&str]) -> TransferId {
        engine.create(&[self.download(digests, mirrors)]).unwrap()[0]
    }

    /// Every attempt: which host, and from which byte on.
    fn asked(&self) -> Vec<(String, u64)> {
        let host = |url: &str| url.split('/').nth(2).unwrap().to_owned();
        let attempts = self.server.attempts();
        let asked = attempts
            .iter()
            .map(|attempt| (host(&attempt.url), attempt.offset_bytes));
        asked.collect()
    }

    /// Steps until nothing moves or waits any more.
    fn finish(&self, engine: &Engine) {
        for _ in 0..200 {
            step(engine);
            self.outside.advance(Duration::from_secs(30));
        }
    }

    fn expect_file(&self, view: &OperationView, bytes: &[u8]) {
        assert_eq!(view.status, TransferStatus::Completed, "{view:?}");
        assert!(
            std::fs::read(self.data.join("file")).unwrap() == bytes,
            "another file was published"
        );
        assert_eq!(std::fs::read_dir(&self.data).unwrap().count(), 1);
    }

    fn expect_error(&self, view: &OperationView, status: WebErrorStatus) -> String {
        assert_eq!(view.status, TransferStatus::Error, "{view:?}");
        assert_eq!(std::fs::read_dir(&self.data).unwrap().count(), 0);
        let error = view.error.as_ref().unwrap();
        assert_eq!(error.status, status, "{view:?}");
        error.message.clone()
    }
}

/// Steps while no time passes.
fn step(engine: &Engine) {
    while engine.step() {}
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|index| index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0] ^ seed)
        .collect()
}

fn digest(algorithm: DigestAlgorithm, bytes: &[u8]) -> Digest {
    let by = match algorithm {
        DigestAlgorithm::Sha1 => &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        DigestAlgorithm::Sha384 => &ring::digest::SHA384,
        DigestAlgorithm::Sha512 => &ring::digest::SHA512,
        _ => &ring::digest::SHA256,
    };
    Digest::new(algorithm, ring::digest::digest(by, bytes).as_ref()).unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<Digest> {
    vec![digest(DigestAlgorithm::Sha256, bytes)]
}

/// A resource that tells a digest, and mirrors of itself.
fn telling(bytes: &[u8], tag: &str, told: Vec<Digest>, mirrors: &[&str]) -> Resource {
    let resource = Resource::new(bytes, tag);
    Resource {
        validators: Validators {
            digests: told,
            ..resource.validators
        },
        mirrors: mirrors.iter().map(ToString::to_string).collect(),
        ..resource
    }
}

fn hosts(asked: &[(String, u64)]) -> Vec<(&str, u64)> {
    asked.iter().map(|(host, offset)| (host.as_str(), *offset)).collect()
}

#[test]
fn content_of_another_digest_is_never_published_and_the_error_names_both() {
    let bytes = content(5_000, 0);
    for algorithm in DigestAlgorithm::all() {
        for (expected, fits) in [(&bytes, true), (&content(5_000, 1), false)] {
            let lab = Lab::new();
            lab.server.put(URL, Resource::new(bytes.clone(), "a"));
            let engine = lab.open();
            // One that fits beside it makes nothing better.
            let mut digests = vec![digest(*algorithm, expected)];
            if *algorithm != DigestAlgorithm::Sha256 {
                digests.extend(sha256(&bytes));
            }
            let id = lab.add(&engine, digests, &[]);
            step(&engine);
            let view = engine.view(id).unwrap();
            if fits {
                lab.expect_file(&view, &bytes);
                continue;
            }
            let message = lab.expect_error(&view, WebErrorStatus::DIGEST_MISMATCH);
            let hex = |bytes: &[u8]| {
                digest(*algorithm, bytes)
                    .to_string()
                    .split_once(':')
                    .unwrap()
                    .1
                    .to_owned()
            };
            for word in [algorithm.name().to_uppercase(), hex(expected), hex(&bytes)] {
                assert!(message.contains(&word), "{message} does not say {word}");
            }
        }
    }
}

#[test]
fn digests_are_summed_up_from_the_file_again_where_a_later_engine_goes_on() {
    for (seed, is_right) in [(0, true), (1, false)] {
        let lab = Lab::new();
        let bytes = content(5 * MIB, 0);
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        lab.server.script(URL, Act::CutAt(CUT));
        let engine = lab.open();
        let expected = content(5 * MIB, seed);
        let digests = [DigestAlgorithm::Sha1, DigestAlgorithm::Sha384, DigestAlgorithm::Sha512]
            .map(|algorithm| digest(algorithm, &expected));
        let id = lab.add(&engine, digests.to_vec(), &[]);
        step(&engine);
        drop(engine);
        let engine = lab.open();
        lab.finish(&engine);
        assert_eq!(hosts(&lab.asked()), [("host", 0), ("host", CUT)]);
        let view = engine.view(id).unwrap();
        if is_right {
            lab.expect_file(&view, &bytes);
        } else {
            lab.expect_error(&view, WebErrorStatus::DIGEST_MISMATCH);
        }
    }
}

#[test]
fn content_that_is_not_what_the_server_says_is_fetched_again_from_zero_and_not_for_ever() {
    for (len, told) in [(5_000, DigestAlgorithm::Sha256), (5 * MIB, DigestAlgorithm::Sha512)] {
        let lab = Lab::new();
        let bytes = content(len, 0);
        let wrong = telling(&bytes, "a", vec![digest(told, b"other")], &[]);
        lab.server.put(URL, wrong);
        let engine = lab.open();
        let id = lab.add(&engine, Vec::new(), &[]);
        step(&engine);
        let view = engine.view(id).unwrap();
        assert_eq!(
            (view.status, view.restarts, view.bytes_wasted),
            (TransferStatus::Waiting, 1, len as u64)
        );
        assert_eq!(view.error.unwrap().status, WebErrorStatus::DIGEST_MISMATCH);
        lab.finish(&engine);
        lab.expect_error(&engine.view(id).unwrap(), WebErrorStatus::DIGEST_MISMATCH);
        assert_eq!(hosts(&lab.asked()), [("host", 0); 5]);
    }
}

#[test]
fn what_the_server_told_before_a_restart_of_the_engine_still_counts() {
    let lab = Lab::new();
    let bytes = content(5 * MIB, 0);
    lab.server.put(URL, telling(&bytes, "a", sha256(b"other"), &[]));
    lab.server.script(URL, Act::CutAt(CUT));
    let engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[]);
    step(&engine);
    drop(engine);
    // A part need not repeat it.
    lab.server.script(URL, Act::Replace(Resource::new(bytes.clone(), "a")));
    let engine = lab.open();
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    assert_eq!((view.restarts, view.bytes_wasted), (1, 5 * MIB as u64), "{view:?}");
    lab.expect_file(&view, &bytes);
}

#[test]
fn a_mirror_takes_over_at_once_where_the_url_refuses() {
    let lab = Lab::new();
    let bytes = content(5_000, 0);
    lab.server.put(OTHER, Resource::new(bytes.clone(), "a"));
    let engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[MIRROR, OTHER]);
    step(&engine);
    let view = engine.view(id).unwrap();
    lab.expect_file(&view, &bytes);
    assert_eq!(hosts(&lab.asked()), [("host", 0), ("mirror", 0), ("other", 0)]);
    assert_eq!(
        (view.sources, view.actual_url.as_deref()),
        (vec![URL.into(), MIRROR.into(), OTHER.into()], Some(OTHER))
    );
}

#[test]
fn an_operation_ends_only_where_every_source_refuses_for_good_in_one_round() {
    let lab = Lab::new();
    let bytes = content(5_000, 0);
    let busy = |until| {
        for _ in 0..until {
            lab.server.script(MIRROR, Act::CutAt(0));
        }
    };
    busy(2);
    let engine = lab.open();
    lab.server.put(MIRROR, Resource::new(bytes.clone(), "a"));
    let id = lab.add(&engine, Vec::new(), &[MIRROR]);
    step(&engine);
    let view = engine.view(id).unwrap();
    assert_eq!(
        (view.status, view.source.as_str()),
        (TransferStatus::Waiting, URL),
        "{view:?}"
    );
    lab.finish(&engine);
    lab.expect_file(&engine.view(id).unwrap(), &bytes);
    assert_eq!(lab.asked().len(), 6);

    let lab = Lab::new();
    let engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[MIRROR, OTHER]);
    step(&engine);
    lab.expect_error(&engine.view(id).unwrap(), WebErrorStatus::NOT_FOUND);
    assert_eq!(hosts(&lab.asked()), [("host", 0), ("mirror", 0), ("other", 0)]);
}

#[test]
fn a_mirror_continues_held_bytes_under_the_digest_of_the_user_or_of_the_first_source() {
    for (told, asked) in [(true, false), (false, true)] {
        let lab = Lab::new();
        let bytes = content(5 * MIB, 0);
        let digests = |is_there: bool| if is_there { sha256(&bytes) } else { Vec::new() };
        lab.server.put(URL, telling(&bytes, "a", digests(told), &[]));
        lab.server.put(MIRROR, telling(&bytes, "b", digests(told), &[]));
        lab.server.script(URL, Act::CutAt(CUT));
        let engine = lab.open();
        let id = lab.add(&engine, digests(asked), &[MIRROR]);
        step(&engine);
        let view = engine.view(id).unwrap();
        assert_eq!((view.restarts, view.bytes_wasted), (0, 0));
        lab.expect_file(&view, &bytes);
        assert_eq!(hosts(&lab.asked()), [("host", 0), ("mirror", CUT)]);
    }
}

#[test]
fn without_a_digest_held_bytes_stay_with_their_source_until_it_failed_three_times_in_a_row() {
    let lab = Lab::new();
    let bytes = content(5 * MIB, 0);
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    lab.server.put(MIRROR, Resource::new(bytes.clone(), "b"));
    for _ in 0..4 {
        lab.server.script(URL, Act::CutAt(CUT));
    }
    let engine = lab.open();
    // A weak digest proves nothing.
    let id = lab.add(&engine, vec![digest(DigestAlgorithm::Sha1, &bytes)], &[MIRROR]);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    lab.expect_file(&view, &bytes);
    assert_eq!((view.restarts, view.bytes_wasted), (1, CUT));
    assert_eq!(
        hosts(&lab.asked()),
        [("host", 0), ("host", CUT), ("host", CUT), ("mirror", CUT)]
    );
}

#[test]
fn a_mirror_with_other_bytes_is_caught_and_the_right_ones_are_fetched_if_there_are_any() {
    for is_lasting in [false, true] {
        let lab = Lab::new();
        let (bytes, other) = (content(5 * MIB, 0), content(5 * MIB, 1));
        lab.server.put(URL, Resource::new(bytes.clone(), "a"));
        lab.server.put(MIRROR, Resource::new(other, "b"));
        lab.server.script(URL, Act::CutAt(CUT));
        let engine = lab.open();
        let id = lab.add(&engine, sha256(&bytes), &[MIRROR]);
        step(&engine);
        let view = engine.view(id).unwrap();
        assert_eq!(view.status, TransferStatus::Waiting, "another source is left: {view:?}");
        // The end of what is held told at once that the mirror has something else; its digest told that it is wrong.
        assert_eq!((view.restarts, view.bytes_wasted), (2, CUT + 5 * MIB as u64));
        if is_lasting {
            lab.server.remove(URL);
        }
        lab.finish(&engine);
        let view = engine.view(id).unwrap();
        if is_lasting {
            lab.expect_error(&view, WebErrorStatus::DIGEST_MISMATCH);
        } else {
            lab.expect_file(&view, &bytes);
        }
    }
}

#[test]
fn wrong_bytes_of_a_source_that_is_gone_do_not_condemn_the_one_that_went_on_with_them() {
    let lab = Lab::new();
    let (bytes, other) = (content(5 * MIB, 0), content(5 * MIB, 1));
    lab.server.put(URL, Resource::new(other, "a"));
    lab.server.put(MIRROR, Resource::new(bytes.clone(), "b"));
    lab.server.script(URL, Act::CutAt(CUT));
    lab.server.script(MIRROR, Act::CutAt(CUT));
    let engine = lab.open();
    let id = lab.add(&engine, sha256(&bytes), &[MIRROR]);
    step(&engine);
    lab.server.remove(URL);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    lab.expect_file(&view, &bytes);
    assert_eq!((view.restarts, view.bytes_wasted), (1, CUT));
    let mirror_asked: Vec<u64> = lab
        .asked()
        .iter()
        .filter(|(host, _)| host == "mirror")
        .map(|(_, at)| *at)
        .collect();
    assert_eq!(mirror_asked, [CUT, CUT]);
}

#[test]
fn a_mirror_that_says_that_it_has_other_bytes_gets_none_in() {
    let lab = Lab::new();
    let (bytes, other) = (content(5 * MIB, 0), content(5 * MIB, 1));
    lab.server.put(URL, telling(&bytes, "a", sha256(&bytes), &[]));
    lab.server.put(MIRROR, telling(&other, "b", sha256(&other), &[]));
    lab.server.script(URL, Act::CutAt(CUT));
    let engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[MIRROR]);
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    lab.expect_file(&view, &bytes);
    assert_eq!((view.restarts, view.bytes_wasted), (0, 0));
    assert_eq!(hosts(&lab.asked()), [("host", 0), ("mirror", CUT), ("host", CUT)]);
}

#[test]
fn secrets_go_to_the_origin_of_the_url_and_never_to_another() {
    const AT_HOME: &str = "mem://host/copy?sig=hush1";
    let lab = Lab::new();
    let engine = lab.open();
    lab.server
        .put("mem://mirror/file?token=hush2", Resource::new(*b"a", "a"));
    let mut download = lab.download(Vec::new(), &[AT_HOME, "mem://mirror/file?token=hush2"]);
    download.url = "mem://ann:hush3@host/file?sig=hush4".into();
    download.headers = vec!["X-Plain: a".into(), "Cookie: hush5".into(), "Host: inner".into()];
    download.secret_headers = vec!["X-Key: hush6".into()];
    let id = engine.create(&[download]).unwrap()[0];
    step(&engine);
    let attempts = lab.server.attempts();
    let sent = |number: usize| {
        let names = attempts[number].headers.iter().map(|header| header.name.as_str());
        (attempts[number].url.as_str(), names.collect::<Vec<_>>())
    };
    let all = vec!["X-Plain", "Host", "Cookie", "X-Key"];
    assert_eq!(sent(0), ("mem://host/file?sig=hush4", all.clone()));
    assert_eq!(sent(1), (AT_HOME, all));
    assert_eq!(sent(2), ("mem://mirror/file?token=hush2", vec!["X-Plain"]));
    let credentials: Vec<bool> = attempts.iter().map(|attempt| attempt.credential.is_some()).collect();
    assert_eq!(credentials, [true, true, false]);
    let shown = format!("{:?}", engine.view(id).unwrap());
    assert!(
        !shown.contains("hush") && shown.contains("mem://mirror/file?token=***"),
        "{shown}"
    );
}

#[test]
fn mirrors_that_the_server_names_are_used_only_under_a_strong_digest() {
    let bytes = content(5 * MIB, 0);
    for (told, asked, uses) in [
        (sha256(&bytes), Vec::new(), true),
        (Vec::new(), sha256(&bytes), true),
        (Vec::new(), Vec::new(), false),
        (Vec::new(), vec![digest(DigestAlgorithm::Sha1, &bytes)], false),
    ] {
        let lab = Lab::new();
        let named = ["mem://mirror/file?token=hush", OTHER];
        lab.server.put(URL, telling(&bytes, "a", told, &named));
        lab.server.put(OTHER, telling(&bytes, "b", Vec::new(), &[MIRROR]));
        lab.server.script(URL, Act::CutAt(CUT));
        let engine = lab.open();
        let id = lab.add(&engine, asked, &[]);
        step(&engine);
        let view = engine.view(id).unwrap();
        // What would have to be hidden cannot be stored, and a mirror names no further ones.
        let sources: &[&str] = if uses { &[URL, OTHER] } else { &[URL] };
        assert_eq!(view.sources, sources);
        if uses {
            lab.expect_file(&view, &bytes);
            assert_eq!(hosts(&lab.asked()), [("host", 0), ("other", CUT)]);
        } else {
            assert_eq!((view.status, lab.asked().len()), (TransferStatus::Waiting, 1));
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_a_round_forgets_neither_the_turn_nor_whose_bytes_are_held() {
    let lab = Lab::new();
    let bytes = content(5 * MIB, 0);
    let urls = [URL, MIRROR, OTHER];
    for (number, url) in urls.into_iter().enumerate() {
        lab.server.put(url, Resource::new(bytes.clone(), &number.to_string()));
        lab.server.script(url, Act::CutAt(CUT + number as u64));
    }
    let mut engine = lab.open();
    let id = lab.add(&engine, sha256(&bytes), &[MIRROR, OTHER]);
    for _ in 0..100 {
        let _ = engine.step();
        drop(engine);
        engine = lab.open();
    }
    lab.finish(&engine);
    let view = engine.view(id).unwrap();
    lab.expect_file(&view, &bytes);
    assert_eq!(
        hosts(&lab.asked()),
        [("host", 0), ("mirror", CUT), ("other", CUT + 1), ("host", CUT + 2)]
    );
}

#[test]
fn too_many_digests_or_mirrors_are_refused_with_the_limit() {
    let lab = Lab::new();
    let engine = lab.open();
    let many: Vec<String> = (0..17).map(|number| format!("mem://m{number}/")).collect();
    let mut download = lab.download(Vec::new(), &[]);
    download.mirrors = many;
    let (_, error) = engine.create(&[download]).unwrap_err();
    assert!(
        error.to_string().contains("mirrors of one operation: the limit of 16"),
        "{error}"
    );
    let twice = vec![
        digest(DigestAlgorithm::Sha512, b"a"),
        digest(DigestAlgorithm::Sha512, b"b"),
    ];
    let (_, error) = engine.create(&[lab.download(twice, &[])]).unwrap_err();
    assert!(error.to_string().contains("digest 'sha-512:"), "{error}");
}

#[test]
fn a_source_that_asked_for_time_gets_it_whatever_the_others_do() {
    let lab = Lab::new();
    let bytes = content(5_000, 0);
    let busy = Failure {
        kind: FailureKind::Transient {
            retry_after: Some(Duration::from_secs(600)),
        },
        status: WebErrorStatus::SERVICE_UNAVAILABLE,
        code: Some(503),
        message: "busy".into(),
    };
    lab.server.put(URL, Resource::new(bytes.clone(), "a"));
    lab.server.put(MIRROR, Resource::new(bytes.clone(), "a"));
    lab.server.script(URL, Act::Fail(busy));
    for _ in 0..3 {
        lab.server.script(MIRROR, Act::CutAt(0));
    }
    let mut engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[MIRROR]);
    for _ in 0..3 {
        step(&engine);
        // It is remembered.
        drop(engine);
        engine = lab.open();
        lab.outside.advance(Duration::from_secs(20));
    }
    step(&engine);
    assert_eq!(
        hosts(&lab.asked()),
        [("host", 0), ("mirror", 0), ("mirror", 0), ("mirror", 0), ("mirror", 0)]
    );
    lab.expect_file(&engine.view(id).unwrap(), &bytes);
}

#[test]
fn where_every_source_asks_for_time_the_one_that_is_ready_first_is_asked_first_and_none_before_its_own() {
    let bytes = content(5_000, 0);
    let busy = |seconds| {
        Act::Fail(Failure {
            kind: FailureKind::Transient {
                retry_after: Some(Duration::from_secs(seconds)),
            },
            status: WebErrorStatus::SERVICE_UNAVAILABLE,
            code: Some(503),
            message: "busy".into(),
        })
    };
    for (seconds, next) in [
        ([600, 100, 300], "mirror"),
        ([100, 600, 300], "host"),
        ([600, 300, 100], "other"),
    ] {
        let lab = Lab::new();
        for (url, seconds) in [URL, MIRROR, OTHER].into_iter().zip(seconds) {
            lab.server.put(url, Resource::new(bytes.clone(), "a"));
            lab.server.script(url, busy(seconds));
        }
        let mut engine = lab.open();
        let id = lab.add(&engine, Vec::new(), &[MIRROR, OTHER]);
        for _ in 0..10 {
            step(&engine);
            // It is remembered.
            drop(engine);
            engine = lab.open();
            lab.outside.advance(Duration::from_secs(10));
        }
        assert_eq!(lab.asked().len(), 3, "nobody is asked too early");
        for _ in 0..2 {
            lab.outside.advance(Duration::from_secs(10));
            step(&engine);
        }
        assert_eq!(hosts(&lab.asked())[3..], [(next, 0)]);
        lab.expect_file(&engine.view(id).unwrap(), &bytes);
    }
}

#[test]
fn mirrors_that_differ_only_in_what_is_hidden_are_two_places() {
    let lab = Lab::new();
    let engine = lab.open();
    let place = |token: &str| format!("mem://mirror/file?token={token}");
    let (one, two) = (place("a"), place("b"));
    let mut download = lab.download(Vec::new(), &[&two, &place("c")]);
    download.url = one.clone();
    engine.create(&[download]).unwrap();
    step(&engine);
    let asked: Vec<String> = lab.server.attempts().into_iter().map(|one| one.url).collect();
    assert_eq!(asked, [one, two, place("c")]);
}

/// Servers have a say in how long a record gets, and a record that is too long stops the engine.
#[test]
fn nothing_that_a_server_says_is_too_long_for_the_journal() {
    let lab = Lab::new();
    let bytes = content(3 * MIB, 0);
    let mut resource = telling(&bytes, &"e".repeat(30_000), sha256(&bytes), &[]);
    resource.content_type = Some("t".repeat(30_000));
    resource.mirrors = (0..8)
        .map(|number| format!("mem://m{number}/{}", "m".repeat(2_000)))
        .collect();
    lab.server.put(URL, resource);
    lab.server.script(
        URL,
        Act::Fail(Failure {
            kind: FailureKind::Transient { retry_after: None },
            status: WebErrorStatus::UNKNOWN,
            code: None,
            message: "\u{fc}".repeat(20_000),
        }),
    );
    lab.server.script(URL, Act::CutAt(CUT));
    let engine = lab.open();
    let id = lab.add(&engine, Vec::new(), &[]);
    lab.finish(&engine);
    lab.expect_file(&engine.view(id).unwrap(), &bytes);
    engine.close().unwrap();
}

#[test]
fn what_would_not_fit_a_record_is_refused_by_name_and_changes_nothing() {
    let lab = Lab::new();
    let engine = lab.open();
    let long = |host: &str| format!("mem://{host}/{}", "x".repeat(15_000));
    let mut download = lab.download(Vec::new(), &[&long("mirror")]);
    download.url = long("host");
    let (_, error) = engine.create(&[download]).unwrap_err();
    assert!(error.to_string().contains("mirrors, headers"), "{error}");
    let id = lab.add(&engine, Vec::new(), &[]);
    let changes = backhaul::Changes {
        headers: (0..3)
            .map(|number| format!("X-{number}: {}", "a".repeat(8_000)))
            .collect(),
        ..backhaul::Changes::default()
    };
    let error = engine.set(id, &changes).unwrap_err();
    assert!(error.to_string().contains("mirrors, headers"), "{error}");
}

#[test]
fn the_debug_form_of_a_download_shows_no_secret() {
    let download = NewDownload {
        url: "https://ann:hush@host/a?sig=hush".into(),
        headers: vec!["Authorization: hush".into()],
        secret_headers: vec!["X-Key: hush".into()],
        mirrors: vec!["https://mirror/a?token=hush".into()],
        ..NewDownload::default()
    };
    let shown = format!("{download:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("https://***@host/a"), "{shown}");
}
