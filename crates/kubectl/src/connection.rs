//! The HTTP client made from a narrowed-down kubeconfig.
//!
//! Invariant: a request goes through the proxy that the cluster names (`proxy-url`), else through the one that the
//! environment names, unless `NO_PROXY` or a loopback address speaks against it. Deliberately absent: retries.

use http::Uri;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use tower::ServiceBuilder;

use crate::error::{Error, Result};
use crate::session::Environment;

/// Long enough for a slow link, short enough for a person.
const CONNECT_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

pub fn client(mut config: kube::Config, proxy_url: &str, environment: &Environment) -> Result<kube::Client> {
    // Found here and not by the library, which does not look at NO_PROXY.
    config.proxy_url = None;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    let Some(proxy) = proxy_of(&config.cluster_url, proxy_url, environment) else { return build(&config, tcp) };
    let unparsable = || Error::Message(format!("parse {proxy:?}: invalid URI for request"));
    let uri: Uri = if proxy.contains("://") { proxy.parse() } else { format!("http://{proxy}").parse() }.map_err(|_| unparsable())?;
    let login = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')).map(|(login, _)| login.to_owned());
    match uri.scheme_str() {
        Some("http") => build(&config, with_login(Tunnel::new(uri, tcp), login.as_deref())),
        Some("https") => {
            let tls = config.rustls_https_connector_with_connector(tcp).map_err(failed)?;
            build(&config, with_login(Tunnel::new(uri, tls), login.as_deref()))
        }
        Some("socks5" | "socks5h") => {
            let remote_names = uri.scheme_str() == Some("socks5h");
            let mut socks = SocksV5::new(uri, tcp).local_dns(!remote_names);
            if let Some((user, password)) = login.as_deref().and_then(|login| login.split_once(':')) {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            build(&config, socks)
        }
        _ => Err(Error::Message(format!("unsupported scheme {:?}, must be http, https, or socks5", uri.scheme_str().unwrap_or_default()))),
    }
}

fn with_login<C>(tunnel: Tunnel<C>, login: Option<&str>) -> Tunnel<C> {
    let encoded = login.map(|login| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, login));
    match encoded.and_then(|encoded| http::HeaderValue::try_from(format!("Basic {encoded}")).ok()) {
        Some(value) => tunnel.with_auth(value),
        None => tunnel,
    }
}

fn failed(error: kube::Error) -> Error {
    Error::Message(crate::rest::chain(&error))
}

fn build<C>(config: &kube::Config, connector: C) -> Result<kube::Client>
where
    C: tower::Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + hyper_util::client::legacy::connect::Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: std::error::Error + Send + Sync + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector).map_err(failed)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// The proxy for `server`: the configured one, else the environment's, as Go's `ProxyFromEnvironment` chooses.
fn proxy_of(server: &Uri, configured: &str, environment: &Environment) -> Option<String> {
    if !configured.is_empty() {
        return Some(configured.to_owned());
    }
    let names = if server.scheme_str() == Some("https") { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| environment.var(name).filter(|value| !value.is_empty()).map(str::to_owned));
    let proxy = first(names)?;
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_lowercase();
    let address: Option<std::net::IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return None;
    }
    let excluded = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("https") { 443 } else { 80 });
    (!excluded.split(',').any(|entry| excludes(entry.trim(), &host, address, port))).then_some(proxy)
}

/// One entry of NO_PROXY: `*`, an address, a network, a name with its subdomains; each perhaps with a port.
fn excludes(entry: &str, host: &str, address: Option<std::net::IpAddr>, port: u16) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    if let (Some((network, bits)), Some(address)) = (entry.split_once('/'), address) {
        return match (network.parse::<std::net::IpAddr>(), bits.parse::<u32>()) {
            (Ok(network), Ok(bits)) => same_network(network, address, bits),
            _ => false,
        };
    }
    let entry = entry.to_lowercase();
    let name = match entry.rsplit_once(':') {
        Some((name, wanted)) if !name.contains(':') && wanted.parse::<u16>().is_ok() => {
            if wanted.parse() != Ok(port) {
                return false;
            }
            name
        }
        _ => entry.as_str(),
    };
    if let Some(address) = address {
        return name.trim_matches(['[', ']']).parse() == Ok(address);
    }
    let (suffix, only_below) = match name.strip_prefix('*').unwrap_or(name).strip_prefix('.') {
        Some(suffix) => (suffix, true),
        None => (name, false),
    };
    host == suffix && !only_below || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
}

fn same_network(network: std::net::IpAddr, address: std::net::IpAddr, bits: u32) -> bool {
    use std::net::IpAddr;
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => bits <= 32 && (network.to_bits() ^ address.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0,
        (IpAddr::V6(network), IpAddr::V6(address)) => bits <= 128 && (network.to_bits() ^ address.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_chosen_as_go_does() {
        #[track_caller]
        fn check(server: &str, configured: &str, variables: &str, expected: Option<&str>) {
            let pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            let environment = Environment { variables: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() };
            assert_eq!(proxy_of(&server.parse().unwrap(), configured, &environment).as_deref(), expected);
        }
        check("https://k:6443", "", "", None);
        check("https://k:6443", "socks5://p:1", "HTTPS_PROXY=http://q:2", Some("socks5://p:1"));
        check("https://k:6443", "", "HTTPS_PROXY=http://q:2", Some("http://q:2"));
        check("https://k:6443", "", "https_proxy=q:2", Some("q:2"));
        check("http://k:6443", "", "HTTPS_PROXY=http://q:2", None);
        check("http://k:6443", "", "HTTP_PROXY=http://q:2", Some("http://q:2"));
        check("https://127.0.0.1:6443", "", "HTTPS_PROXY=http://q:2", None);
        check("https://localhost:6443", "", "HTTPS_PROXY=http://q:2", None);
        check("https://a.k.io", "", "HTTPS_PROXY=q NO_PROXY=x,k.io", None);
        check("https://ak.io", "", "HTTPS_PROXY=q NO_PROXY=x,k.io", Some("q"));
        check("https://k.io", "", "HTTPS_PROXY=q NO_PROXY=.k.io", Some("q"));
        check("https://k.io:6443", "", "HTTPS_PROXY=q NO_PROXY=k.io:443", Some("q"));
        check("https://10.1.2.3", "", "HTTPS_PROXY=q NO_PROXY=10.1.0.0/16", None);
        check("https://10.2.2.3", "", "HTTPS_PROXY=q NO_PROXY=10.1.0.0/16", Some("q"));
        check("https://10.2.2.3", "", "HTTPS_PROXY=q NO_PROXY=*", None);
    }
}
