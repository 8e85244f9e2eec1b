//! A download to be created, and changes of one, as they look on the wire.

use std::path::PathBuf;

use backhaul_backends::{Credential, Digest, DigestAlgorithm, Method, WebErrorStatus};
use serde::{Deserialize, Serialize};

use crate::address::parse_digest;
use crate::engine::{Body, Changes, NewDownload};
use crate::error::Error;
use crate::operation::{Collision, CompletionGroupId, CostPolicy, Priority};

/// What is left out has its default.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Download {
    url: String,
    /// Absolute: the service has another current directory than its clients.
    destination: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digests: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mirrors: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expected_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recoverable: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collision: Option<Collision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost_policy: Option<CostPolicy>,
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completion_group: Option<CompletionGroupId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// Absolute, like the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_file: Option<PathBuf>,
    /// The id of a body that this engine has taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body_spooled: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    random_access: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy_credential: Option<Login>,
}

/// A user name and a password on the wire.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    user: String,
    password: String,
}

impl From<&Credential> for Login {
    fn from(credential: &Credential) -> Self {
        Self {
            user: credential.user.clone(),
            password: credential.password.clone(),
        }
    }
}

impl From<Login> for Credential {
    fn from(login: Login) -> Self {
        Self {
            user: login.user,
            password: login.password,
        }
    }
}

/// Changes of an operation on the wire.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clear_headers: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    append_headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    append_secret_headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remove_headers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost_policy: Option<CostPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy_credential: Option<Login>,
}

/// Nothing for what has its default: it is left out of a message.
fn given<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn texts<T: ToString>(values: &[T]) -> Option<Vec<String>> {
    given(values.iter().map(ToString::to_string).collect())
}

impl From<&NewDownload> for Download {
    fn from(new: &NewDownload) -> Self {
        let sha256 = new.sha256.and_then(|value| Digest::new(DigestAlgorithm::Sha256, value));
        let digests: Vec<Digest> = sha256.into_iter().chain(new.digests.iter().cloned()).collect();
        Self {
            url: new.url.clone(),
            destination: new.destination.clone(),
            app: given(new.app.clone()),
            headers: given(new.headers.clone()),
            secret_headers: given(new.secret_headers.clone()),
            digests: texts(&digests),
            mirrors: given(new.mirrors.clone()),
            expected_bytes: new.expected_bytes,
            expected_type: new.expected_type.clone(),
            recoverable: texts(&new.recoverable),
            collision: given(new.collision),
            priority: given(new.priority),
            cost_policy: given(new.cost_policy),
            group: new.group.clone(),
            completion_group: new.completion_group,
            hold: given(new.hold),
            method: (!new.method.is_get()).then(|| new.method.to_string()),
            body_file: match &new.body {
                Some(Body::File(path)) => Some(path.clone()),
                _ => None,
            },
            body_spooled: match &new.body {
                Some(Body::Spooled(spooled)) => Some(spooled.id()),
                _ => None,
            },
            random_access: given(new.random_access),
            proxy: new.proxy.clone(),
            proxy_credential: new.proxy_credential.as_ref().map(Login::from),
        }
    }
}

impl Download {
    /// How long it is in a message, in bytes, with the comma behind it.
    pub(crate) fn sent_bytes(&self) -> usize {
        // What has no JSON form is refused when it is sent.
        serde_json::to_vec(self).map_or(0, |bytes| bytes.len() + 1)
    }

    /// The download that is meant.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the field.
    pub(crate) fn meant(self) -> Result<NewDownload, Error> {
        if !self.destination.is_absolute() {
            let shown = self.destination.to_string_lossy().into_owned();
            let problem = "is not absolute; the service does not know the current directory of its clients";
            return Err(Error::invalid("destination", shown, problem));
        }
        if let Some(path) = self.body_file.as_ref().filter(|path| !path.is_absolute()) {
            let shown = path.to_string_lossy().into_owned();
            let problem = "is not absolute; the service does not know the current directory of its clients";
            return Err(Error::invalid("body", shown, problem));
        }
        let method = match self.method {
            None => Method::GET,
            Some(text) => text
                .parse()
                .map_err(|problem: String| Error::invalid("method", text, problem))?,
        };
        let digests = self.digests.unwrap_or_default();
        let recoverable = self.recoverable.unwrap_or_default();
        let status = |text: &String| {
            let status = text.parse::<WebErrorStatus>();
            status.map_err(|problem| Error::invalid("recoverable", text.clone(), problem))
        };
        Ok(NewDownload {
            url: self.url,
            destination: self.destination,
            app: self.app.unwrap_or_else(|| DEFAULT_APP.to_owned()),
            headers: self.headers.unwrap_or_default(),
            secret_headers: self.secret_headers.unwrap_or_default(),
            sha256: None,
            digests: digests
                .iter()
                .map(|text| parse_digest(text))
                .collect::<Result<_, _>>()?,
            mirrors: self.mirrors.unwrap_or_default(),
            expected_bytes: self.expected_bytes,
            expected_type: self.expected_type,
            recoverable: recoverable.iter().map(status).collect::<Result<_, _>>()?,
            collision: self.collision.unwrap_or_default(),
            priority: self.priority.unwrap_or_default(),
            cost_policy: self.cost_policy.unwrap_or_default(),
            group: self.group,
            completion_group: self.completion_group,
            hold: self.hold.unwrap_or_default(),
            method,
            body: self.body_file.map(Body::File),
            random_access: self.random_access.unwrap_or_default(),
            proxy: self.proxy,
            proxy_credential: self.proxy_credential.map(Credential::from),
        })
    }
}

/// The app of who names none: that of the command.
pub(crate) const DEFAULT_APP: &str = "backhaul";

impl From<&Changes> for Change {
    fn from(changes: &Changes) -> Self {
        Self {
            url: changes.url.clone(),
            clear_headers: given(changes.clear_headers),
            headers: given(changes.headers.clone()),
            secret_headers: given(changes.secret_headers.clone()),
            append_headers: given(changes.append_headers.clone()),
            append_secret_headers: given(changes.append_secret_headers.clone()),
            remove_headers: given(changes.remove_headers.clone()),
            priority: changes.priority,
            cost_policy: changes.cost_policy,
            proxy: changes.proxy.clone(),
            proxy_credential: changes.proxy_credential.as_ref().map(Login::from),
        }
    }
}

impl From<Change> for Changes {
    fn from(change: Change) -> Self {
        Self {
            url: change.url,
            clear_headers: change.clear_headers.unwrap_or_default(),
            headers: change.headers.unwrap_or_default(),
            secret_headers: change.secret_headers.unwrap_or_default(),
            append_headers: change.append_headers.unwrap_or_default(),
            append_secret_headers: change.append_secret_headers.unwrap_or_default(),
            remove_headers: change.remove_headers.unwrap_or_default(),
            priority: change.priority,
            cost_policy: change.cost_policy,
            proxy: change.proxy,
            proxy_credential: change.proxy_credential.map(Credential::from),
        }
    }
}
