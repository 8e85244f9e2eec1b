//! What a backend of one's own needs: the trait, what it is given, and what helps.
//!
//! A backend speaks one protocol. It is registered with [`crate::ServiceBuilder::backend`], and from then on downloads of
//! its schemes have all that others have: they survive crashes and changed files, are paused and resumed, and are published
//! whole. The example `custom_backend` is a complete one; a program of its own, in any language, can be one too: see
//! `docs/BACKENDS.md`.
//!
//! # Writing one
//!
//! [`Backend::download`] makes one attempt: it finds out what the resource is now, asks [`start`] whether held bytes can be
//! continued and [`refusal`] whether it is what was asked for, tells the [`Sink`] with a [`Head`], and hands it the bytes.
//! It knows nothing of journal, part file or retries, never retries by itself, keeps nothing between attempts, and ends at
//! once when its [`Interrupt`] is raised. What differs between protocols it says in [`Capabilities`]; whoever creates an
//! operation that needs more of a scheme than that is refused, by the name of the field.

pub use backhaul_backends::{
    Backend, Binding, BodySource, Capabilities, Credential, Digest, DigestAlgorithm, Failure, FailureKind, Head,
    Header, HeaderFields, Held, Interrupt, Limits, METHOD_BYTES_MAX, Method, Proxies, Proxy, RESERVED_HEADERS, Refused,
    Registry, Request, Restart, Sameness, Severable, Sink, Start, TAIL_BYTES_MAX, UrlForm, Validators, WebErrorStatus,
    compare_held, http_date, is_page, is_provable, is_scheme, place, refusal, start,
};
