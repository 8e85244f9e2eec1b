//! Which proxy leads to which server. Nothing here asks anybody: names are compared as they are written.

mod exceptions;

use std::fmt;

use self::exceptions::Exceptions;
use crate::Credential;

/// Longest text of a proxy: user name and password of 255 bytes each, every byte of them escaped, and a host name.
pub const PROXY_BYTES_MAX: usize = 2048;

/// Longest user name, and longest password, in bytes.
///
/// Source: RFC 1929, section 2; held to with HTTP proxies too.
const CREDENTIAL_BYTES_MAX: usize = 255;

/// Longest host name.
///
/// Source: RFC 1035, section 2.3.4, without the final dot.
const HOST_BYTES_MAX: usize = 253;

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// HTTP/1.1: CONNECT, and the absolute form for plain http (RFC 9110, section 9.3.6; RFC 9112, section 3.2.2).
    Http,
    /// SOCKS version 5, with the name of the server looked up on this side (RFC 1928).
    Socks5,
    /// The same, with the name looked up by the proxy.
    Socks5Hostname,
}

impl ProxyProtocol {
    /// The scheme of its URL.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
            Self::Socks5Hostname => "socks5h",
        }
    }

    /// Where a proxy listens that names no port: what the scheme means elsewhere (RFC 9110, section 4.2.1; RFC 1928,
    /// section 3). curl takes 1080 for all of them.
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Socks5 | Self::Socks5Hostname => 1080,
        }
    }
}

/// A proxy. `Debug` and `Display` show it as a URL without user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    protocol: ProxyProtocol,
    host: String,
    port: u16,
    credential: Option<Credential>,
}

impl Proxy {
    /// Reads `http://[USER[:PASSWORD]@]HOST[:PORT]`, the same with `socks5://` or `socks5h://`, or `HOST:PORT`, which is an
    /// HTTP proxy. User name and password are percent-decoded.
    ///
    /// # Errors
    /// What is wrong, in words that show neither user name nor password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PROXY_BYTES_MAX {
            return Err(format!("is longer than {PROXY_BYTES_MAX} bytes"));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let protocol = protocol(scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '\\']) {
            return Err("has more than a host and a port; in user name and password, '/', '?', '#' and '\\' are written as %2F, %3F, %23 and %5C".to_owned());
        }
        let (credential, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(credential(user_info)?), place),
            None => (None, rest),
        };
        let (host, port) = host_and_port(place)?;
        let proxy = Self {
            protocol,
            host,
            port: port.unwrap_or(protocol.default_port()),
            credential: None,
        };
        match credential {
            None => Ok(proxy),
            Some(credential) => proxy.with_credential(credential),
        }
    }

    /// The same proxy, asked under this user name and password.
    ///
    /// # Errors
    /// What is wrong with them, in words that show neither.
    pub fn with_credential(self, credential: Credential) -> Result<Self, String> {
        check_credential(&credential)?;
        Ok(Self {
            credential: Some(credential),
            ..self
        })
    }

    /// The same proxy, asked without a name, and under which one it was to be.
    #[must_use]
    pub fn without_credential(mut self) -> (Self, Option<Credential>) {
        let credential = self.credential.take();
        (self, credential)
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(&self) -> ProxyProtocol {
        self.protocol
    }

    /// Its name or address, in lower case, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name and password for it.
    #[must_use]
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.protocol.scheme();
        if self.host.contains(':') {
            write!(formatter, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.credential.is_some() { ", ***" } else { "" };
        write!(formatter, "Proxy({self}{mark})")
    }
}

fn protocol(scheme: &str) -> Result<ProxyProtocol, String> {
    const KNOWN: &str = "a proxy begins with http://, socks5:// or socks5h://";
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(ProxyProtocol::Http),
        "socks5" => Ok(ProxyProtocol::Socks5),
        "socks5h" => Ok(ProxyProtocol::Socks5Hostname),
        "https" => Err(format!(
            "a proxy that is itself asked over TLS is not supported; {KNOWN}"
        )),
        "socks" | "socks4" | "socks4a" => Err(format!("SOCKS is supported in version 5 only; {KNOWN}")),
        // What stands there may be a password.
        _ => Err(format!("the scheme is unknown; {KNOWN}")),
    }
}

/// A host in lower case and without brackets, and its port where one is given.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("the bracket of its address is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets is no IPv6 address".to_owned());
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("something stands between its address and its port".to_owned()),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.len() > HOST_BYTES_MAX || !host.bytes().all(is_fine) {
        return Err(format!(
            "the host is no name of at most {HOST_BYTES_MAX} letters, digits, '-', '.' and '_'; an international one is written in its xn-- form"
        ));
    }
    let port = port.map(|port| parse_port(port).ok_or("the port is no number from 1 to 65535"));
    Ok((host.to_ascii_lowercase(), port.transpose()?))
}

/// Digits only, and not 0.
fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = is_number.then(|| text.parse().ok()).flatten()?;
    (port != 0).then_some(port)
}

fn credential(user_info: &str) -> Result<Credential, String> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decode = |text| decode(text).ok_or_else(|| "user name or password are not percent-encoded UTF-8".to_owned());
    Ok(Credential {
        user: decode(user)?,
        password: decode(password)?,
    })
}

/// Source: RFC 1929, section 2, for the lengths; RFC 7617, section 2, for the colon and the control characters.
fn check_credential(credential: &Credential) -> Result<(), String> {
    let Credential { user, password } = credential;
    if user.is_empty() {
        return Err("the user name is empty".to_owned());
    }
    if user.len().max(password.len()) > CREDENTIAL_BYTES_MAX {
        return Err(format!(
            "user name and password have at most {CREDENTIAL_BYTES_MAX} bytes each"
        ));
    }
    if user.contains(':') {
        return Err("the user name has a colon".to_owned());
    }
    if user.chars().chain(password.chars()).any(char::is_control) {
        return Err("user name or password have a control character".to_owned());
    }
    Ok(())
}

/// Strict: a `%` without two digits behind it is refused, where the libraries let it stand for itself.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

/// The proxies of one operation: where each server is asked through. `Debug` shows no user name and no password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    ftp: Option<Proxy>,
    rest: Option<Proxy>,
    exceptions: Exceptions,
}

impl Proxies {
    /// No proxy at all.
    #[must_use]
    pub fn direct() -> Self {
        Self::default()
    }

    /// One proxy for everything.
    #[must_use]
    pub fn all(proxy: Proxy) -> Self {
        Self {
            rest: Some(proxy),
            ..Self::default()
        }
    }

    /// The same, but for the servers of a list as the variable `no_proxy` has it: names, which mean their subdomains too,
    /// with or without a dot before them; addresses, and networks as `10.0.0.0/8`; each with `:PORT` for one port only
    /// (not networks); or `*` for all. Commas or spaces stand between them. A name is compared as it is written, and never
    /// looked up.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn except(self, list: &str) -> Result<Self, String> {
        Ok(Self {
            exceptions: Exceptions::parse(list)?,
            ..self
        })
    }

    /// The same proxies, each of them asked under this user name and password.
    ///
    /// # Errors
    /// What is wrong with them, in words that show neither.
    pub fn under(mut self, credential: &Credential) -> Result<Self, String> {
        check_credential(credential)?;
        for proxy in [&mut self.http, &mut self.https, &mut self.ftp, &mut self.rest] {
            *proxy = match proxy.take() {
                None => None,
                Some(proxy) => Some(proxy.with_credential(credential.clone())?),
            };
        }
        Ok(self)
    }

    /// Those of an environment: `http_proxy`, `https_proxy`, `ftp_proxy` (for ftps as well), and `all_proxy` for every scheme
    /// that has none of its own, without the servers of `no_proxy`. Of each, the name in capitals counts where that in small
    /// letters is not set or empty; but not `HTTP_PROXY`, which a CGI program would take from the header `Proxy` of a request.
    ///
    /// # Errors
    /// The name of the variable, and what is wrong with it.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let find = |name: &'static str| {
            let small = set(name).map(|value| (name.to_owned(), value));
            let capitals = name.to_ascii_uppercase();
            small.or_else(|| {
                let value = set(&capitals).filter(|_| name != "http_proxy")?;
                Some((capitals, value))
            })
        };
        let proxy = |name| {
            let parse = |(name, value): (String, String)| {
                Proxy::parse(value.trim()).map_err(|problem| format!("{name}: {problem}"))
            };
            find(name).map(parse).transpose()
        };
        let proxies = Self {
            http: proxy("http_proxy")?,
            https: proxy("https_proxy")?,
            ftp: proxy("ftp_proxy")?,
            rest: proxy("all_proxy")?,
            exceptions: Exceptions::default(),
        };
        match find("no_proxy") {
            None => Ok(proxies),
            Some((name, list)) => proxies.except(&list).map_err(|problem| format!("{name}: {problem}")),
        }
    }

    /// The proxy that leads to a port of a host; `None` where the way is direct. The scheme is in lower case, an IPv6 address
    /// has no brackets.
    #[must_use]
    pub fn of(&self, scheme: &str, host: &str, port: u16) -> Option<&Proxy> {
        let own = match scheme {
            "http" => &self.http,
            "https" => &self.https,
            "ftp" | "ftps" => &self.ftp,
            _ => &None,
        };
        let proxy = own.as_ref().or(self.rest.as_ref())?;
        (!self.exceptions.contain(host, port)).then_some(proxy)
    }
}

#[cfg(test)]
#[path = "proxy/tests.rs"]
mod tests;
