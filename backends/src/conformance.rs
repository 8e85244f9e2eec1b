//! What every backend must do, whatever it speaks: one suite, run against each.

use std::io::{self, Read};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::{
    Act, Backend, BodySource, Failure, FailureKind, Head, Held, Interrupt, Limits, Method, Refused, Request, Resource,
    Restart, Sink, Start, WebErrorStatus,
};

/// A backend under test, with the server it talks to.
pub trait Rig {
    /// The backend.
    fn backend(&self) -> Arc<dyn Backend>;

    /// Serves a resource, one act for each attempt and the whole after those; gives its URL.
    fn serve(&mut self, resource: Resource, acts: Vec<Act>) -> String;

    /// A URL that the server knows nothing of.
    fn missing(&mut self) -> String;

    /// Method and body of every request for this URL that came whole, oldest first.
    fn received(&self, url: &str) -> Vec<(Method, Vec<u8>)>;
}

/// Runs every case, each on a resource of its own.
///
/// # Panics
/// Where the backend does not do what it must; the message names the case.
pub fn run(rig: &mut dyn Rig) {
    a_download_is_whole(rig);
    what_came_before_a_cut_is_kept_and_continued(rig);
    a_changed_resource_starts_again(rig);
    a_resource_without_proof_starts_again(rig);
    a_server_that_cannot_continue_starts_again(rig);
    another_length_than_expected_is_refused(rig);
    another_type_than_expected_is_refused(rig);
    a_page_in_place_of_the_rest_gives_up_nothing(rig);
    a_missing_resource_fails_for_good(rig);
    an_interrupt_ends_a_silent_transfer(rig);
    a_refusal_of_the_sink_ends_the_attempt(rig);
    a_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued(rig);
    a_body_that_is_not_as_long_as_announced_fails_for_good(rig);
}

/// Larger than every buffer in use, and different in every place.
fn content() -> Vec<u8> {
    (0_u32..200_000)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// A point inside of it, on no boundary of anything.
const CUT: u64 = 300_007;

const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Kept {
    heads: Vec<Head>,
    bytes: Vec<u8>,
    refuses: bool,
    heard: Option<mpsc::Sender<()>>,
}

impl Sink for Kept {
    fn begin(&mut self, head: &Head) -> Result<(), Refused> {
        assert!(self.bytes.is_empty(), "the head comes before the bytes");
        self.heads.push(head.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        assert_eq!(self.heads.len(), 1, "the head comes once, before the bytes");
        assert!(bytes.len() <= BUFFER_BYTES, "no piece is larger than the buffer");
        self.bytes.extend_from_slice(bytes);
        if let Some(heard) = self.heard.as_ref().filter(|_| self.bytes.len() as u64 >= CUT) {
            // Whoever raised already need not hear it again.
            let _ = heard.send(());
        }
        if self.refuses { Err(Refused) } else { Ok(()) }
    }
}

fn request(url: &str, held: Option<Held>) -> Request {
    Request {
        url: url.to_owned(),
        method: Method::GET,
        body: None,
        headers: Vec::new(),
        credential: None,
        proxies: Arc::default(),
        held,
        expected_bytes: None,
        expected_type: None,
        limits: Limits::default(),
        buffer_bytes: BUFFER_BYTES,
    }
}

fn attempt(rig: &dyn Rig, request: &Request) -> (Result<(), Failure>, Kept) {
    let mut kept = Kept::default();
    let result = rig.backend().download(request, &mut kept, &Interrupt::new());
    (result, kept)
}

/// What a first attempt leaves behind when it is cut.
fn cut(rig: &dyn Rig, url: &str) -> (Kept, Held) {
    let (result, kept) = attempt(rig, &request(url, None));
    let failure = result.expect_err("a cut attempt fails");
    assert!(
        matches!(failure.kind, FailureKind::Transient { .. }),
        "a cut may be tried again: {failure}"
    );
    assert_eq!(
        kept.bytes.len() as u64,
        CUT,
        "everything that came before the cut is kept"
    );
    let held = Held {
        offset_bytes: CUT,
        end_bytes: None,
        tail: kept.bytes.clone(),
        validators: kept.heads[0].validators.clone(),
        content_type: kept.heads[0].content_type.clone(),
        ..Held::default()
    };
    (kept, held)
}

/// Cuts a first attempt and gives the second one.
fn cut_then_go_on(rig: &mut dyn Rig, resource: Resource, then: Act) -> (Kept, Kept) {
    let url = rig.serve(resource, vec![Act::CutAt(CUT), then]);
    let (first, held) = cut(rig, &url);
    let (result, second) = attempt(rig, &request(&url, Some(held)));
    result.expect("the second attempt ends well");
    (first, second)
}

fn a_download_is_whole(rig: &mut dyn Rig) {
    for content in [content(), b"x".to_vec(), Vec::new()] {
        let url = rig.serve(Resource::new(content.clone(), "v1"), Vec::new());
        let (result, kept) = attempt(rig, &request(&url, None));
        result.expect("a download without faults ends well");
        assert!(kept.bytes == content, "a download gives the content");
        assert_eq!(kept.heads[0].start, Start::Beginning);
        assert_eq!(kept.heads[0].validators.total_bytes, Some(content.len() as u64));
    }
}

fn what_came_before_a_cut_is_kept_and_continued(rig: &mut dyn Rig) {
    let (first, second) = cut_then_go_on(rig, Resource::new(content(), "v1"), Act::Serve);
    assert_eq!(second.heads[0].start, Start::Continue { offset_bytes: CUT });
    assert!(
        [first.bytes, second.bytes].concat() == content(),
        "both parts make the content"
    );
}

fn a_changed_resource_starts_again(rig: &mut dyn Rig) {
    let changed: Vec<u8> = content().into_iter().rev().collect();
    let act = Act::Replace(Resource::new(changed.clone(), "v2"));
    let (_, second) = cut_then_go_on(rig, Resource::new(content(), "v1"), act);
    assert_eq!(second.heads[0].start, Start::Restart(Restart::Changed));
    assert!(second.bytes == changed, "the changed resource comes whole");
}

fn a_resource_without_proof_starts_again(rig: &mut dyn Rig) {
    let mut resource = Resource::new(content(), "v1");
    resource.validators.etag = Some("W/\"v1\"".to_owned());
    let (_, second) = cut_then_go_on(rig, resource, Act::Serve);
    assert_eq!(second.heads[0].start, Start::Restart(Restart::NoProof));
    assert!(second.bytes == content(), "it comes whole");
}

fn a_server_that_cannot_continue_starts_again(rig: &mut dyn Rig) {
    let resource = Resource {
        resumable: false,
        ..Resource::new(content(), "v1")
    };
    let (first, second) = cut_then_go_on(rig, resource, Act::Serve);
    assert!(!first.heads[0].resumable);
    assert_eq!(second.heads[0].start, Start::Restart(Restart::RangeIgnored));
    assert!(second.bytes == content(), "it comes whole");
}

fn another_length_than_expected_is_refused(rig: &mut dyn Rig) {
    let url = rig.serve(Resource::new(content(), "v1"), Vec::new());
    let expected = Request {
        expected_bytes: Some(1),
        ..request(&url, None)
    };
    let (result, kept) = attempt(rig, &expected);
    let failure = result.expect_err("another length is refused");
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::LENGTH_MISMATCH)
    );
    assert!(kept.heads.is_empty(), "before the first byte");
}

fn page() -> Resource {
    Resource {
        content_type: Some("text/html; charset=utf-8".to_owned()),
        ..Resource::new(*b"<html>login</html>", "page")
    }
}

fn another_type_than_expected_is_refused(rig: &mut dyn Rig) {
    let image = Resource {
        content_type: Some("image/png".to_owned()),
        ..Resource::new(content(), "v1")
    };
    for (resource, passes) in [(image, false), (page(), true)] {
        let url = rig.serve(resource, Vec::new());
        let expected = Request {
            expected_type: Some("application/*".to_owned()),
            ..request(&url, None)
        };
        let (result, kept) = attempt(rig, &expected);
        let failure = result.expect_err("another type is refused");
        assert_eq!(failure.status, WebErrorStatus::UNEXPECTED_CONTENT_TYPE);
        assert_eq!(
            matches!(failure.kind, FailureKind::Transient { .. }),
            passes,
            "{failure}"
        );
        assert!(kept.heads.is_empty(), "before the first byte");
    }
}

fn a_page_in_place_of_the_rest_gives_up_nothing(rig: &mut dyn Rig) {
    let url = rig.serve(
        Resource::new(content(), "v1"),
        vec![Act::CutAt(CUT), Act::Replace(page())],
    );
    let (_, held) = cut(rig, &url);
    let (result, kept) = attempt(rig, &request(&url, Some(held)));
    let failure = result.expect_err("a page is not the rest");
    assert!(
        matches!(failure.kind, FailureKind::Transient { .. }),
        "it may go away: {failure}"
    );
    assert!(kept.heads.is_empty(), "nothing was begun, so what is held stays");
}

fn a_missing_resource_fails_for_good(rig: &mut dyn Rig) {
    let url = rig.missing();
    let (result, kept) = attempt(rig, &request(&url, None));
    let failure = result.expect_err("there is nothing to give");
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::NOT_FOUND)
    );
    assert!(kept.heads.is_empty(), "an error is no content");
}

fn an_interrupt_ends_a_silent_transfer(rig: &mut dyn Rig) {
    let url = rig.serve(Resource::new(content(), "v1"), vec![Act::HangAt(CUT)]);
    let interrupt = Interrupt::new();
    let (heard, all_came) = mpsc::channel();
    let mut kept = Kept {
        heard: Some(heard),
        ..Kept::default()
    };
    let result = thread::scope(|scope| {
        let raised = interrupt.clone();
        scope.spawn(move || {
            // An attempt that ended by itself says nothing, and its result tells.
            let _ = all_came.recv();
            raised.raise();
        });
        let result = rig.backend().download(&request(&url, None), &mut kept, &interrupt);
        kept.heard = None;
        result
    });
    let failure = result.expect_err("an interrupted attempt fails");
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Interrupted, WebErrorStatus::OPERATION_CANCELED)
    );
    assert_eq!(kept.bytes.len() as u64, CUT, "what came before is kept");
}

fn a_refusal_of_the_sink_ends_the_attempt(rig: &mut dyn Rig) {
    let url = rig.serve(Resource::new(content(), "v1"), Vec::new());
    let mut kept = Kept {
        refuses: true,
        ..Kept::default()
    };
    let result = rig
        .backend()
        .download(&request(&url, None), &mut kept, &Interrupt::new());
    assert_eq!(
        result.expect_err("a refusal is no success").kind,
        FailureKind::SinkRefused
    );
    assert!(
        !kept.bytes.is_empty() && kept.bytes.len() <= BUFFER_BYTES,
        "nothing is written after a refusal"
    );
}

fn a_body_is_sent_whole_in_every_attempt_and_nothing_held_is_continued(rig: &mut dyn Rig) {
    let url = rig.serve(Resource::new(content(), "v1"), vec![Act::CutAt(CUT)]);
    let body: Vec<u8> = content().into_iter().rev().collect();
    let post = |held| Request {
        method: Method::POST,
        body: Some(Arc::new(body.clone())),
        ..request(&url, held)
    };
    let (result, first) = attempt(rig, &post(None));
    result.expect_err("a cut attempt fails");
    assert!(!first.heads[0].resumable && !first.heads[0].provable);
    let held = Held {
        offset_bytes: CUT,
        validators: first.heads[0].validators.clone(),
        ..Held::default()
    };
    let (result, second) = attempt(rig, &post(Some(held)));
    result.expect("the second attempt ends well");
    assert_eq!(second.heads[0].start, Start::Restart(Restart::Method));
    assert!(second.bytes == content(), "it comes whole");
    let received = rig.received(&url);
    assert_eq!(received.len(), 2);
    let is_whole = |(method, got): &(Method, Vec<u8>)| *method == Method::POST && *got == body;
    assert!(received.iter().all(is_whole), "both attempts send all of it");
}

/// A body that announces one byte more than there is, or one less.
struct Lying(u64);

impl BodySource for Lying {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(io::repeat(b'x').take(100_000)))
    }
}

fn a_body_that_is_not_as_long_as_announced_fails_for_good(rig: &mut dyn Rig) {
    for announced in [99_999, 100_001] {
        let url = rig.serve(Resource::new(content(), "v1"), Vec::new());
        let (result, kept) = attempt(
            rig,
            &Request {
                method: Method::PUT,
                body: Some(Arc::new(Lying(announced))),
                ..request(&url, None)
            },
        );
        let failure = result.expect_err("it is not what was announced");
        assert_eq!(
            (failure.kind, failure.status),
            (FailureKind::Permanent, WebErrorStatus::FILE_ACCESS)
        );
        assert!(kept.heads.is_empty(), "before any answer");
        assert!(rig.received(&url).is_empty(), "no server takes it for whole");
    }
}
