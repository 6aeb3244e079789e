//! Checks of node URLs.

/// A fault of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlFault {
    /// Not a URL, or another scheme.
    Malformed,
    /// Clear text to another machine: anyone in between can read and change the traffic.
    ClearText,
}

/// Checks that `text` is a node's HTTP URL, encrypted unless it stays on this machine.
///
/// # Errors
/// [`UrlFault`].
pub fn check_http_url(text: &str) -> Result<(), UrlFault> {
    check_url(text, "http", "https")
}

/// Checks that `text` is a WebSocket URL, encrypted unless it stays on this machine.
///
/// # Errors
/// [`UrlFault`].
pub fn check_ws_url(text: &str) -> Result<(), UrlFault> {
    check_url(text, "ws", "wss")
}

fn check_url(text: &str, clear: &str, private: &str) -> Result<(), UrlFault> {
    if text.contains(char::is_whitespace) {
        return Err(UrlFault::Malformed);
    }
    let url = reqwest::Url::parse(text).map_err(|_| UrlFault::Malformed)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlFault::Malformed)?;
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_loopback =
        host == "localhost" || host.ends_with(".localhost") || address.is_some_and(|address| address.is_loopback());
    match url.scheme() {
        scheme if scheme == private => Ok(()),
        scheme if scheme == clear && is_loopback => Ok(()),
        scheme if scheme == clear => Err(UrlFault::ClearText),
        _ => Err(UrlFault::Malformed),
    }
}
