//! Domains that name servers of their own know about, as text: `DOMAIN=ADDRESS[:PORT],...`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use dns::{Name, StubDomain};

const DNS_PORT: u16 = 53;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StubDomains(pub Vec<StubDomain>);

impl FromStr for StubDomains {
    type Err = String;

    fn from_str(text: &str) -> Result<StubDomains, String> {
        let mut found: Vec<StubDomain> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let problem = || format!("{part:?}: expected DOMAIN=ADDRESS[:PORT]");
            let (domain, server) = part.split_once('=').ok_or_else(problem)?;
            let domain = Name::from_ascii(format!("{}.", domain.trim().trim_end_matches('.'))).map_err(|_| problem())?;
            let with_port = |ip: IpAddr| SocketAddr::new(ip, DNS_PORT);
            let server = server.parse().or_else(|_| server.parse().map(with_port)).map_err(|_| problem())?;
            match found.iter_mut().find(|stub| stub.domain == domain) {
                _ if domain.is_root() => return Err(problem()),
                Some(stub) => stub.servers.push(server),
                None => found.push(StubDomain { domain, servers: vec![server] }),
            }
        }
        Ok(StubDomains(found))
    }
}

impl fmt::Display for StubDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().flat_map(|stub| {
            let domain = stub.domain.to_string();
            stub.servers.iter().map(move |server| format!("{}={server}", domain.trim_end_matches('.')))
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_text_and_back() {
        for (text, expected) in [
            ("", Ok("")),
            ("corp.example=10.0.0.1", Ok("corp.example=10.0.0.1:53")),
            ("a.example=[fd00::1]:5353, b.example.=10.0.0.2:54,a.example=10.0.0.3", Ok("a.example=[fd00::1]:5353,a.example=10.0.0.3:53,b.example=10.0.0.2:54")),
            ("corp.example", Err("\"corp.example\": expected DOMAIN=ADDRESS[:PORT]")),
            ("corp.example=server", Err("\"corp.example=server\": expected DOMAIN=ADDRESS[:PORT]")),
            (".=10.0.0.1", Err("\".=10.0.0.1\": expected DOMAIN=ADDRESS[:PORT]")),
        ] {
            let found = text.parse::<StubDomains>().map(|found| found.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }
}
