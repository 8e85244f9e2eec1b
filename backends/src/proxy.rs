//! Which proxy leads to which server.

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {}

/// The proxies of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {}

impl Proxies {
    /// The proxy that leads to a port of a host; `None` where the way is direct.
    #[must_use]
    pub fn of(&self, _scheme: &str, _host: &str, _port: u16) -> Option<&Proxy> {
        None
    }
}
