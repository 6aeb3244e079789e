//! The client's address: that of the connection, or the one reported by a trusted proxy.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use axum::http::{HeaderMap, HeaderName};

/// Unit of limits per address: an IPv4 address, or an IPv6 /64, which is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of `ip`; an IPv4 address written as IPv6 counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(IpAddr::V4(ip)),
            IpAddr::V6(ip) => Self(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

/// A range of addresses, `10.0.0.0/8` or `fd00::/8`; without a length it is one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// `text` is no range of addresses. A configuration error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not an address or a range such as 10.0.0.0/8")]
pub struct CidrError;

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix.parse::<u8>().map_err(|_| CidrError)?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| CidrError)?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most { Err(CidrError) } else { Ok(Self { base, prefix }) }
    }
}

impl Cidr {
    /// True if `ip` is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        // The bits that count, at the low end.
        let cut = |bits: u128, width: u8| bits.checked_shr(u32::from(width - self.prefix)).unwrap_or(0);
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                cut(u128::from(base.to_bits()), 32) == cut(u128::from(ip.to_bits()), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => cut(base.to_bits(), 128) == cut(ip.to_bits(), 128),
            _ => false,
        }
    }
}

/// The other end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's address: the connection's own, or the one reported by a trusted proxy.
    pub ip: IpAddr,
    /// The connection's own address.
    pub connection: IpAddr,
    /// The connection is a trusted proxy's (`server.trusted_proxies`).
    pub is_proxied: bool,
    /// It has a header that a proxy adds: `Forwarded` or `X-Forwarded-…`.
    pub is_forwarded: bool,
}

impl Peer {
    /// The peer that sent `headers` over a connection from `connection`.
    ///
    /// From a trusted proxy the last address in `X-Forwarded-For` that is not trusted itself counts: everything before
    /// it was written by somebody who is not trusted. From others the header is ignored.
    pub fn of(connection: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> Self {
        let connection = connection.to_canonical();
        let is_trusted = |ip: IpAddr| trusted.iter().any(|range| range.contains(ip));
        let is_proxied = is_trusted(connection);
        let mut ip = connection;
        if is_proxied {
            let values: Vec<&str> =
                headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap_or("?")).collect();
            for entry in values.iter().rev().flat_map(|value| value.rsplit(',')) {
                // An unreadable entry ends the chain of trust: the proxy that passed it on counts.
                let Some(told) = address(entry.trim()) else { break };
                ip = told;
                if !is_trusted(told) {
                    break;
                }
            }
        }
        Self { ip, connection, is_proxied, is_forwarded: headers.keys().any(is_forwarding) }
    }

    /// The network that limits per address count.
    pub fn network(&self) -> Network {
        Network::of(self.ip)
    }

    /// A program of this machine that speaks for itself: limits per address would only limit the operator.
    pub const fn is_local(&self) -> bool {
        self.connection.is_loopback() && !self.is_proxied && !self.is_forwarded
    }
}

/// `1.2.3.4`, `1.2.3.4:56`, `::1`, `[::1]` or `[::1]:56`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(ip.to_canonical())
}

/// True if proxies add this header.
fn is_forwarding(name: &HeaderName) -> bool {
    name == "forwarded" || name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_subscriber_is_one_network() {
        assert_eq!(Network::of(ip("2001:db8:1:2:3::4")), Network::of(ip("2001:db8:1:2:ffff::")));
        assert_ne!(Network::of(ip("2001:db8:1:2::")), Network::of(ip("2001:db8:1:3::")));
        assert_eq!(Network::of(ip("::ffff:10.0.0.1")), Network::of(ip("10.0.0.1")));
        assert_ne!(Network::of(ip("10.0.0.1")), Network::of(ip("10.0.0.2")));
        assert_eq!(Network::of(ip("2001:db8::1")).to_string(), "2001:db8::/64");
    }

    #[test]
    fn ranges() {
        let contains = |range: &str, address: &str| range.parse::<Cidr>().unwrap().contains(ip(address));
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && !contains("::/0", "1.2.3.4"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("10.1.2.3/8", "10.9.9.9"), "bits beyond the length are ignored");
        assert!(contains("fd00::/8", "fdab::1") && contains("10.0.0.0/8", "::ffff:10.0.0.1"));
        for wrong in ["", "x", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0/8", "10.0.0.0/8/8", "10.0.0.0/-1"] {
            assert_eq!(wrong.parse::<Cidr>(), Err(CidrError), "{wrong}");
        }
    }

    #[track_caller]
    fn resolved(connection: &str, forwarded_for: &[&str], expect: &str) {
        let trusted: Vec<Cidr> = ["127.0.0.1", "10.0.0.0/8"].iter().map(|text| text.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for value in forwarded_for {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let peer = Peer::of(ip(connection), &headers, &trusted);
        assert_eq!(peer.ip, ip(expect));
        assert_eq!(peer.is_forwarded, !forwarded_for.is_empty());
        assert!(!peer.is_local() || forwarded_for.is_empty());
    }

    #[test]
    fn only_what_a_trusted_proxy_adds_counts() {
        resolved("192.0.2.1", &[], "192.0.2.1");
        resolved("192.0.2.1", &["203.0.113.9"], "192.0.2.1");
        resolved("127.0.0.1", &["203.0.113.9"], "203.0.113.9");
        // The left part is made up by the client.
        resolved("127.0.0.1", &["198.51.100.7, 203.0.113.9"], "203.0.113.9");
        resolved("127.0.0.1", &["198.51.100.7", "203.0.113.9, 10.1.1.1"], "203.0.113.9");
        resolved("10.0.0.2", &["203.0.113.9, 10.1.1.1 , 127.0.0.1"], "203.0.113.9");
        resolved("127.0.0.1", &["10.1.1.1"], "10.1.1.1");
        resolved("127.0.0.1", &["203.0.113.9:4711"], "203.0.113.9");
        resolved("127.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1");
        resolved("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1");
        resolved("::ffff:127.0.0.1", &["2001:db8::1"], "2001:db8::1");
        for unreadable in ["", "unknown", "198.51.100.7, _hidden", "198.51.100.7,"] {
            resolved("127.0.0.1", &[unreadable], "127.0.0.1");
        }
    }

    #[test]
    fn a_loopback_peer_that_speaks_for_others_is_not_local() {
        let local = |name: &'static str, trusted: &[Cidr]| {
            let mut headers = HeaderMap::new();
            headers.insert(name, "x".parse().unwrap());
            Peer::of(ip("127.0.0.1"), &headers, trusted).is_local()
        };
        assert!(local("accept", &[]));
        assert!(!local("forwarded", &[]) && !local("x-forwarded-for", &[]) && !local("x-forwarded-proto", &[]));
        assert!(!local("accept", &["127.0.0.0/8".parse().unwrap()]));
        assert!(!Peer::of(ip("192.0.2.1"), &HeaderMap::new(), &[]).is_local());
        assert!(Peer::of(ip("::1"), &HeaderMap::new(), &[]).is_local());
    }
}
