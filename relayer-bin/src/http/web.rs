//! Rules for calls from web pages. A browser on this machine reaches whatever this machine reaches, and runs anybody's
//! pages.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, Uri, header};

use super::{peer::Peer, problem::Problem};

/// Origins whose pages may call (`server.cors_origins`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// `origins` as configured: `*` stands for all, and `:*` at the end of one for every port.
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// True if none is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if all origins may call.
    pub fn has_all(&self) -> bool {
        self.0.iter().any(|origin| origin == "*")
    }

    /// True if pages of `origin` may call.
    pub fn allow(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|allowed| match allowed.strip_suffix(":*") {
            _ if allowed == "*" => true,
            None => allowed.as_bytes() == origin,
            Some(host) => origin.strip_prefix(host.as_bytes()).is_some_and(|port| match port {
                [] => true,
                [b':', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
                _ => false,
            }),
        })
    }
}

/// The rules in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebRules<'a> {
    /// No API key is needed.
    pub(crate) is_open: bool,
    /// Host names of the relayer (`server.hosts`).
    pub(crate) hosts: &'a [String],
    /// Origins whose pages may call.
    pub(crate) origins: &'a Origins,
}

/// The parts of a call that the rules check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    /// A probe: it may come without a `Host` header.
    pub(crate) is_probe: bool,
    /// A page for people: links from other sites may lead to it.
    pub(crate) is_page: bool,
}

impl WebRules<'_> {
    /// Checks that a call is allowed.
    ///
    /// Where no key is needed, whoever reaches the relayer can spend its money, so the caller must be a program of this
    /// machine: not a page of another site (`Origin`, `Sec-Fetch-Site`), not a page whose own name resolves to this
    /// machine (`Host`), not a client behind a proxy. Where keys are needed, a page has none, and only `server.hosts`
    /// is checked.
    ///
    /// # Errors
    /// `proxy_refused`, `host_refused` or `origin_refused`, with the key that would allow it.
    pub(crate) fn check(&self, peer: &Peer, asked: &Asked<'_>) -> Result<(), Problem> {
        if self.is_open && peer.is_forwarded {
            return Err(Problem::new(
                "proxy_refused",
                "a proxy passed this on, so others than this machine can call: give every tenant an API key instead of \
                 `server.allow_anonymous`",
            ));
        }
        if self.is_open || !self.hosts.is_empty() {
            self.check_host(asked)?;
        }
        if self.is_open { self.check_origin(asked) } else { Ok(()) }
    }

    fn check_host(&self, asked: &Asked<'_>) -> Result<(), Problem> {
        let named = match (asked.uri.authority(), asked.headers.get(header::HOST)) {
            (Some(authority), _) => Some(authority.as_str().as_bytes()),
            (None, value) => value.map(|value| value.as_bytes()),
        };
        let Some(named) = named else {
            let detail = "the call has no `Host` header";
            return if asked.is_probe { Ok(()) } else { Err(Problem::new("host_refused", detail)) };
        };
        let name = std::str::from_utf8(named).unwrap_or_default();
        if is_allowed_host(name, self.hosts) {
            return Ok(());
        }
        let shown = slackwater_core::wire::Excerpt(name);
        let detail = format!("{shown} is no name of this relayer: name it in `server.hosts`, or use an address");
        Err(Problem::new("host_refused", detail))
    }

    fn check_origin(&self, asked: &Asked<'_>) -> Result<(), Problem> {
        let refused = |what: &str| {
            let detail = format!("pages of {what} may not call: name their origin in `server.cors_origins`");
            Err(Problem::new("origin_refused", detail))
        };
        if self.origins.has_all() {
            return Ok(());
        }
        let mut origins = asked.headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) => {
                if self.origins.allow(origin.as_bytes()) || is_own(origin.as_bytes(), asked.headers) {
                    return Ok(());
                }
                return refused(
                    &slackwater_core::wire::Excerpt(&String::from_utf8_lossy(origin.as_bytes())).to_string(),
                );
            }
            (Some(_), Some(_)) => return refused("more than one origin"),
            (None, _) => {}
        }
        let fetch = |name: &str| asked.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        let is_cross = fetch("sec-fetch-site").eq_ignore_ascii_case(b"cross-site");
        // The user follows a link: the page that held it sees nothing of the answer.
        let is_link = asked.is_page && *asked.method == Method::GET && fetch("sec-fetch-mode") == b"navigate";
        if is_cross && !is_link { refused("another site") } else { Ok(()) }
    }
}

/// True if the page of `origin` was served by this relayer under the host name of this call.
fn is_own(origin: &[u8], headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map_or(&b""[..], |value| value.as_bytes());
    let rest = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    !host.is_empty() && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

/// An address, `localhost`, or one of `hosts`; a port may follow.
fn is_allowed_host(named: &str, hosts: &[String]) -> bool {
    if named.parse::<std::net::SocketAddr>().is_ok() || named.parse::<IpAddr>().is_ok() {
        return true;
    }
    let (name, port) = match named.rsplit_once(':') {
        Some((name, port)) if !named.ends_with(']') => (name, port),
        _ => (named, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bracketed.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()) || name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(rules: WebRules<'_>, method: &Method, path: &str, pairs: &[(&'static str, &str)], expect: &str) {
        let headers = headers(pairs);
        let peer = Peer::of([127, 0, 0, 1].into(), &headers, &[]);
        let uri = path.parse().unwrap();
        let is_page = path == "/";
        let asked = Asked { method, uri: &uri, headers: &headers, is_probe: path == "/healthz", is_page };
        let found = rules.check(&peer, &asked).map_or_else(|problem| problem.code(), |()| "");
        assert_eq!(found, expect, "{method} {path} {pairs:?}");
    }

    #[test]
    fn without_keys_only_programs_of_this_machine_call() {
        let origins = Origins::new(vec!["https://app.example.org".to_owned(), "http://localhost:*".to_owned()]);
        let hosts = ["relay.lan".to_owned()];
        let rules = WebRules { is_open: true, hosts: &hosts, origins: &origins };
        let post = |pairs: &[(&'static str, &str)], expect: &str| {
            check(rules, &Method::POST, "/v1/requests", pairs, expect);
        };
        let own = ("host", "127.0.0.1:7700");
        post(&[own], "");
        for host in ["localhost", "LOCALHOST:7700", "localhost.:1", "[::1]:7700", "[::1]", "10.1.2.3", "relay.lan:80"] {
            post(&[("host", host)], "");
        }
        for host in ["evil.example", "evil.example:7700", "localhost.evil.example", "relay.lan.evil", "", "[::1", "x:y"]
        {
            post(&[("host", host)], "host_refused");
        }
        post(&[], "host_refused");
        check(rules, &Method::GET, "/healthz", &[], "");
        check(rules, &Method::GET, "/healthz", &[("host", "evil.example")], "host_refused");
        check(rules, &Method::POST, "http://evil.example/v1/requests", &[own], "host_refused");
        for origin in ["https://app.example.org", "http://localhost:5173", "http://localhost", "http://127.0.0.1:7700"]
        {
            post(&[own, ("origin", origin), ("sec-fetch-site", "cross-site")], "");
        }
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1:7701",
            "https://app.example.org.evil.example",
            "http://localhost:5173.evil.example",
            "http://localhost.evil.example",
            "http://localhost:",
        ] {
            post(&[own, ("origin", origin)], "origin_refused");
        }
        post(&[own, ("origin", "http://localhost"), ("origin", "https://evil.example")], "origin_refused");
        post(&[own, ("sec-fetch-site", "cross-site")], "origin_refused");
        post(&[own, ("sec-fetch-site", "same-origin")], "");
        post(&[own, ("sec-fetch-site", "none")], "");
        // A link to a page for people may be followed, but to nothing else.
        let link = [own, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        check(rules, &Method::GET, "/", &link, "");
        check(rules, &Method::GET, "/v1/requests", &link, "origin_refused");
        check(rules, &Method::POST, "/", &link, "origin_refused");
        for proxy in ["forwarded", "x-forwarded-for", "x-forwarded-host"] {
            post(&[own, (proxy, "x")], "proxy_refused");
        }
    }

    #[test]
    fn all_origins_are_an_answer_too() {
        let origins = Origins::new(vec!["*".to_owned()]);
        let rules = WebRules { is_open: true, hosts: &[], origins: &origins };
        let cross = [("host", "localhost"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
        check(rules, &Method::POST, "/v1/requests", &cross, "");
        check(rules, &Method::POST, "/v1/requests", &[("host", "evil.example")], "host_refused");
    }

    #[test]
    fn with_keys_only_named_hosts_are_checked() {
        let origins = Origins::default();
        let anything = [("host", "evil.example"), ("origin", "https://evil.example"), ("x-forwarded-for", "1.2.3.4")];
        let rules = WebRules { is_open: false, hosts: &[], origins: &origins };
        check(rules, &Method::POST, "/v1/requests", &anything, "");
        check(rules, &Method::POST, "/v1/requests", &[], "");
        let hosts = ["relay.example.org".to_owned()];
        let rules = WebRules { hosts: &hosts, ..rules };
        check(rules, &Method::POST, "/v1/requests", &anything, "host_refused");
        check(rules, &Method::POST, "/v1/requests", &[("host", "relay.example.org")], "");
    }
}
