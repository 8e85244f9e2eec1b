//! A server for the suite that every backend must pass: a helper that serves what a file describes.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use backhaul_backends::{Act, FailureKind, Request, Resource, Restart, Start, Validators, WebErrorStatus};

use crate::lab::{content, fetch, held, request};

/// Files that describe resources, and their URLs.
pub(crate) struct Served {
    folder: tempfile::TempDir,
    files: usize,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            files: 0,
        }
    }

    fn new_path(&mut self) -> PathBuf {
        self.files += 1;
        self.folder.path().join(self.files.to_string())
    }

    /// Serves a resource, one act for each attempt and the whole after those; gives its URL.
    pub(crate) fn serve(&mut self, resource: &Resource, acts: &[Act]) -> String {
        let acts: Vec<String> = acts.iter().map(|act| self.act(act)).collect();
        let fields = self.fields(resource);
        let path = self.new_path();
        fs::write(&path, format!("{{{fields}, \"acts\": [{}]}}", acts.join(", "))).unwrap();
        format!("served://{}", path.display())
    }

    /// A URL that there is nothing under.
    pub(crate) fn missing(&mut self) -> String {
        format!("served://{}", self.new_path().display())
    }

    fn act(&mut self, act: &Act) -> String {
        match act {
            Act::Serve => r#"{"serve": {}}"#.into(),
            Act::CutAt(offset) => format!("{{\"cut_at\": {offset}}}"),
            Act::HangAt(offset) => format!("{{\"hang_at\": {offset}}}"),
            Act::Hang => r#"{"hang": {}}"#.into(),
            Act::Replace(resource) => format!("{{\"replace\": {{{}}}}}", self.fields(resource)),
            Act::Fail(failure) => {
                let kind = match failure.kind {
                    FailureKind::Transient { .. } => "transient",
                    FailureKind::Unreachable => "unreachable",
                    _ => "permanent",
                };
                let (status, text) = (failure.status.0, quoted(&failure.message));
                format!("{{\"fail\": [\"{kind}\", \"{status}\", {text}]}}")
            }
        }
    }

    fn fields(&mut self, resource: &Resource) -> String {
        let content = self.new_path();
        fs::write(&content, &resource.content).unwrap();
        let mut fields = format!(
            "\"content\": {}, \"resumable\": {}",
            quoted(content.to_str().unwrap()),
            resource.resumable
        );
        let validators = &resource.validators;
        for (name, value) in [
            ("etag", &validators.etag),
            ("last_modified", &validators.last_modified),
            ("date", &validators.date),
            ("content_type", &resource.content_type),
        ] {
            if let Some(value) = value {
                write!(fields, ", \"{name}\": {}", quoted(value)).unwrap();
            }
        }
        if let Some(total_bytes) = validators.total_bytes {
            write!(fields, ", \"total_bytes\": {total_bytes}").unwrap();
        }
        fields
    }
}

/// A text in JSON.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|letter| match letter {
        '"' | '\\' => format!("\\{letter}"),
        letter if letter.is_control() => format!("\\u{:04x}", u32::from(letter)),
        letter => letter.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[test]
fn a_resource_is_served_as_its_file_describes_it_act_by_act() {
    let mut served = Served::new();
    let (old, new) = (content(500_000, 0), content(400_000, 1));
    let replaced = Resource::new(new.clone(), "v2");
    let acts = [Act::CutAt(300_007), Act::Serve, Act::CutAt(10), Act::Replace(replaced)];
    let url = served.serve(&Resource::new(old.clone(), "v1"), &acts);
    let (result, first) = fetch(&request(&url));
    assert!(matches!(result.unwrap_err().kind, FailureKind::Transient { .. }));
    assert!(first.bytes == old[..300_007]);
    let again = Request {
        held: Some(held(&first, 300_007)),
        ..request(&url)
    };
    let (result, second) = fetch(&again);
    result.unwrap();
    assert_eq!(second.heads[0].start, Start::Continue { offset_bytes: 300_007 });
    assert!(second.bytes == old[300_007..]);
    fetch(&request(&url)).0.unwrap_err();
    for _ in 0..2 {
        let (result, changed) = fetch(&again);
        result.unwrap();
        assert_eq!(changed.heads[0].start, Start::Restart(Restart::Changed));
        assert!(changed.bytes == new);
    }
}

#[test]
fn what_a_file_does_not_say_is_not_announced_and_what_is_not_there_is_missing() {
    let mut served = Served::new();
    let plain = Resource {
        validators: Validators::default(),
        resumable: false,
        content_type: Some("text/plain; charset=utf-8".into()),
        ..Resource::new(b"content".to_vec(), "")
    };
    let (result, kept) = fetch(&request(&served.serve(&plain, &[])));
    result.unwrap();
    let head = &kept.heads[0];
    assert_eq!(
        (&head.validators, head.resumable),
        (&Validators::default(), Some(false))
    );
    assert_eq!(head.content_type, plain.content_type);
    let failure = fetch(&request(&served.missing())).0.unwrap_err();
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Permanent, WebErrorStatus::NOT_FOUND)
    );
    let failed = Act::Fail(backhaul_backends::Failure {
        status: WebErrorStatus::GONE,
        ..failure
    });
    let failure = fetch(&request(&served.serve(&plain, &[failed]))).0.unwrap_err();
    assert_eq!((failure.kind, failure.code), (FailureKind::Permanent, Some(410)));
}
