//! Changing what is asked for of an operation that nobody works on: its URL, its headers, its rank.
//!
//! Steps: check everything; seal changed secrets under the next revision, durably; record the change, durably; remove the
//! secrets of the revision before. A crash before the record leaves the old ones in force, one after it the new ones; the
//! sealed file that does not count is swept at the next start.

use std::fmt;
use std::io;
use std::sync::PoisonError;

use backhaul_backends::{Capabilities, Credential, Registry};

use super::Engine;
use super::backends::check_abilities;
use super::create::{check_header_count, check_headers, check_spec_bytes};
use super::proxied::Asked;
use crate::address::{Address, appended, check_header_name, harmless, has_hidden_values, has_same_origin};
use crate::error::Error;
use crate::operation::{
    Amendment, CostPolicy, Event, Operation, Outcome, Phase, Priority, RequestHeader, Shared, Spec, TransferId,
};
use crate::vault::{SealedName, Secrets};

/// What is to change of an operation; what is not named stays. `Debug` shows no value that may be secret.
#[derive(Clone, Default)]
pub struct Changes {
    /// The same resource from elsewhere. User info in it becomes the sealed credential. Within one origin (scheme, host
    /// and port), credential and secret headers stay where no others are given; to another origin neither follows, nor does the header Host.
    pub url: Option<String>,
    /// All headers so far go, secret ones included, before others are added.
    pub clear_headers: bool,
    /// Request headers, each as `Name: value`; they replace those of the same name.
    pub headers: Vec<String>,
    /// Request headers whose values are sealed; they replace those of the same name.
    pub secret_headers: Vec<String>,
    /// Request headers, each as `Name: value`, whose values come behind what the header of that name has then, with `, `
    /// between; where it is a secret, so is the whole. One that is not there is added.
    pub append_headers: Vec<String>,
    /// The same for values that are sealed, together with what stood before them.
    pub append_secret_headers: Vec<String>,
    /// Names of headers that go, secret ones included, before others are added. One that is not there is no error.
    pub remove_headers: Vec<String>,
    /// Its rank among those that wait.
    pub priority: Option<Priority>,
    /// What it may cost.
    pub cost_policy: Option<CostPolicy>,
    /// Another proxy, `direct` for none, or `default` for those of the engine; see
    /// [`NewDownload::proxy`](super::NewDownload::proxy). User name and password so far stay only where it is the same proxy,
    /// and no others are given.
    pub proxy: Option<String>,
    /// User name and password for the proxy, in place of those so far.
    pub proxy_credential: Option<Credential>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Changes")
            .field("url", &self.url.as_ref().map(|_| "***"))
            .field("clear_headers", &self.clear_headers)
            .field("headers", &self.headers.len())
            .field("secret_headers", &self.secret_headers.len())
            .field("append_headers", &self.append_headers.len())
            .field("append_secret_headers", &self.append_secret_headers.len())
            .field("remove_headers", &self.remove_headers)
            .field("priority", &self.priority)
            .field("cost_policy", &self.cost_policy)
            .field("proxy", &self.proxy.as_deref().map(harmless))
            .field("proxy_credential", &self.proxy_credential)
            .finish()
    }
}

/// Changes whose texts passed all checks.
struct Checked {
    address: Option<Address>,
    headers: Vec<RequestHeader>,
    secret_headers: Vec<RequestHeader>,
    append_headers: Vec<RequestHeader>,
    append_secret_headers: Vec<RequestHeader>,
    remove_headers: Vec<String>,
    proxy: Asked,
}

/// Checks changes as far as it can be done without an engine.
///
/// # Errors
/// [`Error::Invalid`] naming the field, or [`Error::LimitReached`].
pub fn check_changes(changes: &Changes, backends: &Registry) -> Result<(), Error> {
    check(changes, &backends.served()).map(|_| ())
}

fn check(changes: &Changes, served: &[(&str, Capabilities)]) -> Result<Checked, Error> {
    let address = changes.url.as_deref().map(|url| Address::parse(url, served));
    let (headers, secret_headers) = check_headers(&changes.headers, &changes.secret_headers)?;
    let (append_headers, append_secret_headers) =
        check_headers(&changes.append_headers, &changes.append_secret_headers)?;
    check_header_count(changes.remove_headers.len())?;
    for name in &changes.remove_headers {
        check_header_name("remove_headers", name)?;
    }
    Ok(Checked {
        proxy: Asked::check(changes.proxy.as_deref(), changes.proxy_credential.as_ref())?,
        address: address.transpose()?,
        headers,
        secret_headers,
        append_headers,
        append_secret_headers,
        remove_headers: changes.remove_headers.clone(),
    })
}

impl Engine {
    /// Changes an operation that nobody works on; all its bytes stay, and the next attempt goes on with them only under
    /// the same proof as always. The change is durable on return. It lets nothing go on: after it, an operation that is
    /// paused, or that stopped with an error that its owner can mend, still needs [`Engine::resume`].
    ///
    /// # Errors
    /// [`Error::UnknownId`]; [`Error::NotNow`] where it is running or being published, or has ended; [`Error::Conflict`]
    /// where another live operation has the URL; [`Error::Vault`] where its secrets cannot be opened, unless both a URL
    /// and `clear_headers` are given and nothing is hidden of its mirrors; [`Error::Invalid`] naming the field where the
    /// backend of the URL cannot do what is asked for then; otherwise as [`check_changes`].
    pub fn set(&self, id: TransferId, changes: &Changes) -> Result<(), Error> {
        let core = &self.core;
        let served = core.backends.served();
        let checked = check(changes, &served)?;
        // Changes and creations come one after the other, so that no two take the same URL.
        let _alone = core.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.find(id)?;
        check_rest(&before)?;
        let old = self.secrets_to_change(&before, changes)?;
        let (secrets, spec) = changed(&before.spec, &old.clone().unwrap_or_default(), changes, &checked)?;
        check_header_count(spec.headers.len() + secrets.headers.len())?;
        check_abilities(&spec, &secrets, &served)?;
        check_spec_bytes(&spec)?;
        if checked.address.is_some() {
            self.check_url_free(id, &spec, &secrets)?;
        }
        let is_resealed = old.as_ref() != Some(&secrets);
        if spec == *before.spec && !is_resealed {
            return Ok(());
        }
        self.amend(&before, spec, is_resealed.then_some(&secrets))
    }

    /// The secrets so far. Where all of them are to be replaced, it is no matter that they cannot be opened any more.
    fn secrets_to_change(&self, operation: &Operation, changes: &Changes) -> Result<Option<Secrets>, Error> {
        if !operation.spec.has_secrets {
            return Ok(Some(Secrets::default()));
        }
        // What is hidden of a mirror cannot be given anew.
        let hides_mirror = operation.spec.mirrors.iter().any(|mirror| has_hidden_values(mirror));
        let replaces_all = changes.url.is_some() && changes.clear_headers && !hides_mirror;
        match self.core.vault.open(SealedName::of(operation)) {
            Err(Error::Vault { .. }) if replaces_all => Ok(None),
            Err(Error::Io(_, _, error)) if replaces_all && error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    fn amend(&self, before: &Operation, spec: Spec, secrets: Option<&Secrets>) -> Result<(), Error> {
        let core = &self.core;
        let old = SealedName::of(before);
        let revision = old.revision.checked_add(u32::from(secrets.is_some()));
        let new = SealedName {
            id: old.id,
            revision: revision.ok_or(Error::limit(
                "changes of the secrets of one operation",
                u64::from(u32::MAX),
            ))?,
        };
        if let Some(secrets) = secrets.filter(|_| spec.has_secrets) {
            core.vault.seal(new, secrets)?;
        }
        let made = Event::Amended(Amendment::Made {
            spec: Shared::new(spec),
            sealed_revision: new.revision,
        });
        match core.record_durably_if(old.id, made, check_rest) {
            Ok(()) => {}
            // A worker was faster, and nothing was recorded. After any other error the record may come out of the journal
            // whatever is answered, and then it needs its secrets; else they are swept.
            Err(error) => {
                if matches!(error, Error::NotNow { .. }) && new != old {
                    let _ = core.vault.remove(new);
                }
                return Err(error);
            }
        }
        core.wake_all();
        if new != old && before.spec.has_secrets {
            core.vault.remove(old)
        } else {
            Ok(())
        }
    }
}

fn check_rest(operation: &Operation) -> Result<(), Error> {
    if operation.is_at_rest() {
        return Ok(());
    }
    let problem = match &operation.phase {
        Phase::Publishing(_) => "is being published, and cannot be changed any more",
        Phase::Ended(Outcome::Completed) => "is completed, and cannot be changed any more",
        Phase::Ended(_) | Phase::Ending(_) => "has ended, and cannot be changed any more",
        _ => "is running, and cannot be changed now; pause it first, and let its attempt end",
    };
    Err(Error::NotNow {
        id: operation.id,
        problem: problem.into(),
    })
}

/// Whether what is asked for stays within the origin that the secrets so far were given for.
fn stays_in_origin(before: &Spec, checked: &Checked) -> bool {
    let address = checked.address.as_ref();
    address.is_none_or(|address| has_same_origin(&address.shown, &before.url))
}

/// What is sealed, and what is shown, after a change.
fn changed(before: &Spec, old: &Secrets, changes: &Changes, checked: &Checked) -> Result<(Secrets, Spec), Error> {
    let stays = stays_in_origin(before, checked);
    let (mut plain, mut secret) = (before.headers.clone(), old.headers.clone());
    if !stays {
        // It names the host of the origin that is left.
        plain.retain(|header| !header.name.eq_ignore_ascii_case("host"));
        secret.clear();
    }
    if changes.clear_headers {
        (plain, secret) = (Vec::new(), Vec::new());
    }
    for headers in [&mut plain, &mut secret] {
        let goes = |header: &RequestHeader| checked.remove_headers.iter().any(|name| header.is_named(name));
        headers.retain(|header| !goes(header));
    }
    replace(&mut plain, checked, &checked.headers);
    replace(&mut secret, checked, &checked.secret_headers);
    append(&mut plain, &mut secret, checked)?;
    let secrets = new_secrets(old, secret, stays, checked);
    let secrets = secrets.with_proxy(proxy_credential(before, old, changes, checked)?);
    let spec = new_spec(before, &secrets, plain, changes, checked);
    Ok((secrets, spec))
}

/// Puts values behind those of the headers of their names.
fn append(plain: &mut Vec<RequestHeader>, secret: &mut Vec<RequestHeader>, checked: &Checked) -> Result<(), Error> {
    let shown = checked.append_headers.iter().map(|new| (new, false));
    let hidden = checked.append_secret_headers.iter().map(|new| (new, true));
    for (new, is_secret) in shown.chain(hidden) {
        let is_same = |header: &RequestHeader| header.is_named(&new.name);
        let in_secret = secret.iter().position(is_same);
        let in_plain = plain.iter().position(is_same);
        let before = match (in_secret, in_plain) {
            (Some(index), _) => Some(secret.remove(index)),
            (None, Some(index)) => Some(plain.remove(index)),
            (None, None) => None,
        };
        let header = before.map_or_else(|| Ok(new.clone()), |before| appended(&before, &new.value))?;
        if is_secret || in_secret.is_some() {
            secret.push(header);
        } else {
            plain.push(header);
        }
    }
    Ok(())
}

fn new_secrets(old: &Secrets, headers: Vec<RequestHeader>, stays: bool, checked: &Checked) -> Secrets {
    let own = old.credential().filter(|_| stays);
    let mut secrets = match &checked.address {
        Some(address) => Secrets::new(address.secret_url.clone(), address.credential.clone().or(own), headers),
        None => Secrets::new(old.url.clone(), own, headers),
    };
    // Mirrors stay, and with them what is hidden of them.
    secrets.mirrors.clone_from(&old.mirrors);
    secrets
}

/// User name and password are for the proxy that they were given for.
fn proxy_credential(
    before: &Spec,
    old: &Secrets,
    changes: &Changes,
    checked: &Checked,
) -> Result<Option<Credential>, Error> {
    let asked = &checked.proxy;
    let is_another = changes.proxy.is_some() && asked.shown != before.proxy;
    if is_another || asked.credential.is_none() {
        let own = old.proxy_credential().filter(|_| !is_another);
        return Ok(asked.credential.clone().or(own));
    }
    // Given for the proxy that it has already.
    Asked::check(before.proxy.as_deref(), asked.credential.as_ref()).map(|asked| asked.credential)
}

fn new_spec(
    before: &Spec,
    secrets: &Secrets,
    headers: Vec<RequestHeader>,
    changes: &Changes,
    checked: &Checked,
) -> Spec {
    let url = checked.address.as_ref().map(|address| address.shown.clone());
    Spec {
        url: url.unwrap_or_else(|| before.url.clone()),
        headers,
        has_secrets: !secrets.is_empty(),
        priority: changes.priority.unwrap_or(before.priority),
        cost_policy: changes.cost_policy.unwrap_or(before.cost_policy),
        proxy: match &changes.proxy {
            None => before.proxy.clone(),
            Some(_) => checked.proxy.shown.clone(),
        },
        ..before.clone()
    }
}

/// Puts new headers in the place of those whose name is given anew, as a plain or as a secret one.
fn replace(headers: &mut Vec<RequestHeader>, checked: &Checked, new: &[RequestHeader]) {
    let given = || checked.headers.iter().chain(&checked.secret_headers);
    headers.retain(|header| !given().any(|new| header.is_named(&new.name)));
    headers.extend_from_slice(new);
}
