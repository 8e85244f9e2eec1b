//! A server that lets nobody in without the key that the operation was created with, or with another body than was given.

use std::io::Read;
use std::sync::Arc;

use backhaul_backends::{Backend, Capabilities, Failure, Interrupt, MemoryBackend, Request, Sink};

use super::model::{NEEDS_KEY, SECRET, body, url};

pub(crate) struct KeyGuard(pub(crate) Arc<MemoryBackend>);

impl Backend for KeyGuard {
    fn schemes(&self) -> Vec<&str> {
        self.0.schemes()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn download(&self, request: &Request, sink: &mut dyn Sink, interrupt: &Interrupt) -> Result<(), Failure> {
        let has = |text: &str| {
            let mut headers = request.headers.iter();
            headers.any(|header| format!("{}: {}", header.name, header.value) == text)
        };
        let has_key = has(&format!("X-Key: {SECRET}"));
        assert_eq!(has(NEEDS_KEY), has_key, "the secret header did not come along");
        assert_eq!(request.body.is_some(), !request.method.is_get(), "a body is lost");
        if let Some(source) = &request.body {
            let mut sent = Vec::new();
            // Why one cannot be read is for the other to say.
            let is_read = source
                .open()
                .and_then(|mut reader| reader.read_to_end(&mut sent))
                .is_ok();
            let is_right = (0..4).any(|index| request.url == url(index) && sent == body(index));
            assert!(is_right || !is_read, "another body goes to {}", request.url);
        }
        self.0.download(request, sink, interrupt)
    }
}
