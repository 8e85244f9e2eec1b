//! A server that lets nobody in without the key that the operation was created with.

use std::sync::Arc;

use backhaul_backends::{Backend, Capabilities, Failure, Interrupt, MemoryBackend, Request, Sink};

use super::model::{NEEDS_KEY, SECRET};

pub(crate) struct KeyGuard(pub(crate) Arc<MemoryBackend>);

impl Backend for KeyGuard {
    fn schemes(&self) -> &'static [&'static str] {
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
        self.0.download(request, sink, interrupt)
    }
}
