//! Which proxies an operation goes through: what its creator asks for, checked, and what an attempt makes of it.

use std::sync::Arc;

use backhaul_backends::{Credential, Proxies, Proxy, WebErrorStatus};

use super::fault::Fault;
use crate::address::harmless;
use crate::config::Config;
use crate::error::Error;
use crate::operation::Spec;
use crate::vault::Secrets;

/// Asks for no proxy at all, whatever the engine has.
const DIRECT: &str = "direct";
/// Asks for what the engine has.
const DEFAULT: &str = "default";

/// What is asked for, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// As it is stored and shown: a proxy without user info, or `direct`; what the engine has where `None`.
    pub(super) shown: Option<String>,
    /// What is to be sealed.
    pub(super) credential: Option<Credential>,
}

impl Asked {
    /// A credential in the URL counts more than the one beside it.
    pub(super) fn check(text: Option<&str>, credential: Option<&Credential>) -> Result<Self, Error> {
        if let Some(credential) = credential {
            let checked = Proxies::direct().under(credential);
            checked.map_err(|problem| Error::invalid("proxy-credential", "***", problem))?;
        }
        match text {
            None | Some(DEFAULT) => Ok(Self {
                shown: None,
                credential: credential.cloned(),
            }),
            Some(DIRECT) if credential.is_some() => Err(Error::invalid(
                "proxy-credential",
                "***",
                "is for a proxy, and 'direct' asks for none",
            )),
            Some(DIRECT) => Ok(Self {
                shown: Some(DIRECT.to_owned()),
                credential: None,
            }),
            Some(text) => {
                let (proxy, own) = parse(text)?.without_credential();
                Ok(Self {
                    shown: Some(proxy.to_string()),
                    credential: own.or_else(|| credential.cloned()),
                })
            }
        }
    }
}

/// A proxy that somebody asks for.
fn parse(text: &str) -> Result<Proxy, Error> {
    Proxy::parse(text).map_err(|problem| {
        let shown: String = harmless(text).chars().take(64).collect();
        let help = "write it like http://host:port, or 'direct' for no proxy, or 'default' for that of the engine";
        Error::invalid("proxy", shown, format!("{problem}; {help}"))
    })
}

/// The proxy that an operation asks for, as it may be shown; `None` where it goes wherever the engine does.
pub(super) fn asked<'a>(spec: &'a Spec, secrets: &Secrets) -> Option<&'a str> {
    let named = spec.proxy.as_deref().filter(|proxy| *proxy != DIRECT);
    named.or_else(|| secrets.proxy_credential().map(|_| "***"))
}

/// What an attempt goes through.
pub(super) fn proxies(config: &Config, spec: &Spec, secrets: &Secrets) -> Result<Arc<Proxies>, Fault> {
    let proxies = match spec.proxy.as_deref() {
        None => Ok(config.proxies.clone().unwrap_or_default()),
        Some(DIRECT) => Ok(Proxies::direct()),
        Some(text) => Proxy::parse(text).map(Proxies::all),
    };
    let proxies = match secrets.proxy_credential() {
        None => proxies,
        Some(credential) => proxies.and_then(|proxies| proxies.under(&credential)),
    };
    // They were checked before they were stored, so another version did that.
    let refuse = |problem| {
        Fault::unacceptable(
            WebErrorStatus::UNEXPECTED_CLIENT_ERROR,
            format!("the stored proxy cannot be used: it {problem}"),
        )
    };
    proxies.map(Arc::new).map_err(refuse)
}

/// The proxies of an environment, where the settings name none. `variable` reads the environment.
///
/// # Errors
/// [`Error::Invalid`] where a variable cannot be used.
pub fn with_environment_proxies(
    config: Config,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Config, Error> {
    if config.proxies.is_some() {
        return Ok(config);
    }
    let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
    let proxies = Proxies::from_environment(text).map_err(|told| {
        let (name, problem) = told.split_once(": ").unwrap_or(("", &told));
        Error::invalid("environment", name, problem)
    })?;
    Ok(Config {
        proxies: Some(proxies),
        ..config
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn named(user: &str) -> Credential {
        Credential {
            user: user.into(),
            password: "hush".into(),
        }
    }

    #[test]
    fn what_is_asked_for_is_parted_into_what_is_shown_and_what_is_sealed() {
        let beside = named("beside");
        for (text, credential, shown, sealed) in [
            (None, None, None, None),
            (None, Some(&beside), None, Some(named("beside"))),
            (Some("default"), None, None, None),
            (Some("default"), Some(&beside), None, Some(named("beside"))),
            (Some("direct"), None, Some("direct"), None),
            (Some("Proxy:3128"), None, Some("http://proxy:3128"), None),
            (
                Some("socks5h://proxy"),
                Some(&beside),
                Some("socks5h://proxy:1080"),
                Some(named("beside")),
            ),
            (
                Some("http://own:hush@proxy:1"),
                Some(&beside),
                Some("http://proxy:1"),
                Some(named("own")),
            ),
        ] {
            let asked = Asked::check(text, credential).unwrap();
            assert_eq!((asked.shown.as_deref(), asked.credential), (shown, sealed), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for_names_its_field_and_shows_no_password() {
        let wrong = Credential {
            user: "us:er".into(),
            password: "hush".into(),
        };
        for (text, credential, field) in [
            (Some("https://user:hush@proxy"), None, "proxy"),
            (Some("http://user:hush@"), None, "proxy"),
            (Some(""), None, "proxy"),
            (Some("direct"), Some(&named("user")), "proxy-credential"),
            (None, Some(&wrong), "proxy-credential"),
        ] {
            let error = Asked::check(text, credential).unwrap_err();
            assert!(
                matches!(&error, Error::Invalid { field: own, .. } if own == field),
                "{error}"
            );
            assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        }
    }

    #[test]
    fn the_environment_counts_only_where_the_settings_say_nothing() {
        let variable = |name: &str| (name == "all_proxy").then(|| "http://user:hush@there:1".into());
        let found = with_environment_proxies(Config::default(), variable).unwrap();
        let proxies = found.proxies.unwrap();
        assert_eq!(proxies.of("http", "host", 80).unwrap().to_string(), "http://there:1");
        let set = Config {
            proxies: Some(Proxies::direct()),
            ..Config::default()
        };
        assert_eq!(
            with_environment_proxies(set, variable).unwrap().proxies,
            Some(Proxies::direct())
        );
        let broken = |name: &str| (name == "https_proxy").then(|| "ftp://user:hush@there".into());
        let error = with_environment_proxies(Config::default(), broken)
            .unwrap_err()
            .to_string();
        assert!(error.contains("https_proxy") && !error.contains("hush"), "{error}");
    }
}
