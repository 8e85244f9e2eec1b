//! Fetches a URL and throws the bytes away, to measure what the HTTP backend costs without an engine above it:
//! `fetch URL [TIMES [THREADS [BUFFER_KIB]]]`. A URL with `{}` gets the number of the fetch in its place.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use backhaul_backends::{
    Backend, Failure, Head, HttpBackend, HttpConfig, Interrupt, Limits, Method, Refused, Request, Sink,
};

/// Counts bytes and keeps none.
struct Null(u64);

impl Sink for Null {
    fn begin(&mut self, _: &Head) -> Result<(), Refused> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.0 += bytes.len() as u64;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("usage: fetch URL [TIMES [THREADS [BUFFER_KIB]]]")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (times, threads, buffer_kib) = (number(1)?, number(1)?, number(256)?);
    let ssl_cert_file = std::env::var_os("SSL_CERT_FILE").map(Into::into);
    let backend = HttpBackend::new(HttpConfig {
        ssl_cert_file,
        ..HttpConfig::default()
    })?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Failure> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= times {
                return Ok(());
            }
            let request = Request {
                proxies: std::sync::Arc::default(),
                url: url.replace("{}", &number.to_string()),
                method: Method::GET,
                body: None,
                headers: Vec::new(),
                credential: None,
                held: None,
                expected_bytes: None,
                expected_type: None,
                limits: Limits::default(),
                buffer_bytes: buffer_kib * 1024,
            };
            backend.download(&request, &mut Null(0), &Interrupt::new())?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    Ok(())
}
