//! What of an error's text is hidden: a helper may repeat what it was told. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::wire::encoded;
use crate::Request;

/// Shortest word of a longer secret that is hidden alone, and shortest secret that is hidden inside of other words: of
/// shorter ones every text is full.
const WORD_BYTES_MIN: usize = 4;

/// The secrets of a request, in each form in which a helper may repeat them, longest first.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn of(request: &Request) -> Self {
        let mut plain: Vec<String> = Vec::new();
        if let Some(credential) = &request.credential {
            let pair = format!("{}:{}", credential.user, credential.password);
            plain.push(STANDARD.encode(&pair));
            plain.extend([pair, credential.user.clone(), credential.password.clone()]);
        }
        for header in request.headers.iter().filter(|header| header.secret) {
            plain.push(header.value.clone());
            plain.extend(words(header.value.split([' ', ';', ',', '='])));
        }
        let query = request.url.split_once('?').map_or("", |(_, query)| query);
        plain.extend(words(query.split(['&', '='])));
        plain.extend(words([query].into_iter()));
        let mut all: Vec<String> = Vec::new();
        for secret in plain {
            all.push(encoded(&secret));
            all.push(percent_decode_str(&secret).decode_utf8_lossy().into_owned());
            all.push(secret);
        }
        all.retain(|secret| !secret.is_empty());
        // A query of 17 KiB has thousands of words.
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        all.dedup();
        Self(all)
    }

    /// A text without any of them.
    pub(super) fn hidden(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if secret.len() < WORD_BYTES_MIN {
                text = without_word(&text, secret);
            } else if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "***");
            }
        }
        text
    }
}

/// A text without a short secret where that stands alone. Inside of words it would be found everywhere, and what is left of
/// them would tell it.
fn without_word(text: &str, secret: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(secret) {
        shown.push_str(before);
        let is_inside = shown.ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
        shown.push_str(if is_inside { secret } else { "***" });
        rest = after;
    }
    shown + rest
}

fn words<'a>(parts: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    parts.filter(|part| part.len() >= WORD_BYTES_MIN).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Credential, Header, Limits, Method};

    #[test]
    fn no_secret_stays_in_a_text_in_whatever_form_it_was_told() {
        let request = Request {
            url: "x://host/f?sig=si%2Fgned&part=1".into(),
            method: Method::GET,
            body: None,
            headers: vec![Header {
                name: "Authorization".into(),
                value: "Bearer to ken-value".into(),
                secret: true,
            }],
            credential: Some(Credential {
                user: "ann".into(),
                password: "p w".into(),
            }),
            proxies: Arc::default(),
            held: None,
            expected_bytes: None,
            expected_type: None,
            limits: Limits::default(),
            buffer_bytes: 4096,
        };
        let secrets = Secrets::of(&request);
        let said = "GET x://host/f?sig=si%2Fgned&part=1 sig si/gned 'p w' p%20w ann:p w YW5uOnAgdw== Bearer to ken-value \
                    ken-value x://host/f";
        let shown = secrets.hidden(said);
        for secret in ["gned", "p w", "p%20w", "ann", "YW5uOnAgdw==", "ken-value"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        assert!(shown.ends_with("x://host/f"), "{shown}");
        assert_eq!(secrets.hidden("nothing of it"), "nothing of it");
        assert_eq!(
            secrets.hidden("'ann', ann: planned"),
            "'***', ***: planned",
            "a short one alone"
        );
    }
}
