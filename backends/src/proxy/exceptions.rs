//! The servers that are asked without a proxy.

use std::net::IpAddr;

/// Longest list, in bytes.
const LIST_BYTES_MAX: usize = 16 * 1024;

/// Most entries of a list; each request compares its host with all of them.
const ENTRIES_MAX: usize = 512;

/// A list as the variable `no_proxy` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    place: Place,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    /// A name in lower case without dots at its ends: that host, and all below it.
    Domain(String),
    /// An address, or a network by its first bits.
    Network(IpAddr, u32),
}

impl Exceptions {
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        if list.len() > LIST_BYTES_MAX {
            return Err(format!("is longer than {LIST_BYTES_MAX} bytes"));
        }
        let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        let entries: Vec<Entry> = words.map(entry).collect::<Result<_, _>>()?;
        if entries.len() > ENTRIES_MAX {
            return Err(format!("has more than {ENTRIES_MAX} entries"));
        }
        Ok(Self(entries))
    }

    /// The host as a URL has it, an IPv6 address without brackets.
    pub(super) fn contain(&self, host: &str, port: u16) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        let is_meant = |place: &Place| match (place, address) {
            (Place::Everywhere, _) => true,
            (Place::Network(network, bits), Some(address)) => {
                // A server may be named by its IPv4 address in the clothes of IPv6.
                [address, address.to_canonical()]
                    .iter()
                    .any(|address| begins_like(*address, *network, *bits))
            }
            (Place::Domain(domain), None) => is_within(&host, domain),
            (Place::Network(..), None) | (Place::Domain(_), Some(_)) => false,
        };
        let mut entries = self.0.iter();
        entries.any(|entry| entry.port.is_none_or(|own| own == port) && is_meant(&entry.place))
    }
}

fn entry(word: &str) -> Result<Entry, String> {
    let wrong = |what: &str| Err(format!("{word:?} {what}"));
    if !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong("is not ASCII; an international name is written in its xn-- form");
    }
    if word == "*" {
        let place = Place::Everywhere;
        return Ok(Entry { place, port: None });
    }
    if let Some((address, bits)) = word.split_once('/') {
        return match (parse_address(address), bits.parse::<u32>()) {
            (Some(address), Ok(bits)) if bits <= length_bits(address) => Ok(Entry {
                place: Place::Network(address, bits),
                port: None,
            }),
            _ => wrong("is no network as 10.0.0.0/8 or fd00::/8"),
        };
    }
    if let Some(address) = parse_address(word) {
        let place = whole(address);
        return Ok(Entry { place, port: None });
    }
    let (host, port) = match word.rsplit_once(':') {
        None => (word, None),
        Some((host, port)) => match super::parse_port(port) {
            Some(port) => (host, Some(port)),
            None => return wrong("has a port that is no number from 1 to 65535, or is no IPv6 address"),
        },
    };
    if let Some(address) = parse_address(host) {
        let place = whole(address);
        return Ok(Entry { place, port });
    }
    let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.');
    if domain.is_empty() {
        return wrong("names no host");
    }
    let place = Place::Domain(domain.to_ascii_lowercase());
    Ok(Entry { place, port })
}

/// With or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok()
}

fn whole(address: IpAddr) -> Place {
    Place::Network(address, length_bits(address))
}

fn length_bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn begins_like(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let differing = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            u128::from(address.to_bits() ^ network.to_bits()).checked_shr(32 - bits)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits() ^ network.to_bits()).checked_shr(128 - bits),
        _ => return false,
    };
    // No bit of it counts where all are shifted out.
    differing.unwrap_or(0) == 0
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
