//! From a packet to the packet that answers it.
//!
//! Invariant: whatever the packet, there is an answer or none is due; nothing here panics on foreign bytes.

use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use parking_lot::RwLock;

use crate::forward::Forwarder;
use crate::zone::{Answer, Records, TTL_SECONDS, Zone};

/// What we tell clients that they may send, and the most that is sent by UDP.
const UDP_PAYLOAD_BYTES: u16 = 1232;
/// Without EDNS, RFC 1035.
const UDP_PAYLOAD_MIN_BYTES: u16 = 512;
/// Aliases of aliases are followed this far within the zone.
const ALIASES_MAX: usize = 8;
/// For the rest of a search path. A client that is told "no such name" goes on searching by itself.
const SEARCH_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

pub struct Resolver {
    pub zone: RwLock<Zone>,
    pub forwarder: Forwarder,
}

/// The first look at a packet.
pub enum First {
    Reply(Vec<u8>),
    /// No answer is due.
    Silence,
    /// Somebody else has to be asked: `Resolver::finish` does.
    Pending(Box<Pending>),
}

pub struct Pending {
    request: Message,
    query: Query,
    /// Aliases found on the way.
    aliases: Vec<Record>,
    /// What to ask for.
    target: Target,
    transport: Transport,
}

enum Target {
    Name(Name),
    /// The first of these that exists stands for the name that was asked for.
    Search(Vec<Name>),
}

impl Resolver {
    /// Answers at once what needs nobody else. `turn` is any number, see `Zone::answer`.
    pub fn start(&self, packet: &[u8], transport: Transport, turn: usize) -> First {
        let request = match Message::from_vec(packet) {
            Ok(request) => request,
            Err(_) => return malformed(packet),
        };
        if request.metadata.message_type != MessageType::Query {
            return First::Silence;
        }
        let refuse = |code| First::Reply(encode(&mut response_to(&request, code), &request, transport));
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = &request.queries[..] else { return refuse(ResponseCode::FormErr) };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        if query.query_class() != DNSClass::IN || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return refuse(ResponseCode::Refused);
        }
        let query = query.clone();
        self.follow(request, query, transport, turn)
    }

    /// Asks other servers, and answers.
    pub async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending { request, query, aliases, target, transport } = pending;
        let mut response = match target {
            Target::Name(name) => {
                let ask = Query::query(name, query.query_type());
                merged(&request, aliases, self.forwarder.ask(&ask, wants_signatures(&request)).await)
            }
            Target::Search(names) => self.search(&request, &query, names).await,
        };
        encode(&mut response, &request, transport)
    }

    /// Answers the first question of a search as its last would be, so that one round trip is enough. What a search
    /// does not find, or not soon, does not exist under the name that was asked for.
    async fn search(&self, request: &Message, query: &Query, names: Vec<Name>) -> Message {
        let search = async {
            for name in names {
                let ask = Query::query(name, query.query_type());
                let answer = self.forwarder.ask(&ask, wants_signatures(request)).await?;
                match answer.metadata.response_code {
                    ResponseCode::NoError => return Some(merged(request, vec![alias(query, ask.name())], Some(answer))),
                    ResponseCode::NXDomain => {}
                    _ => return None,
                }
            }
            None
        };
        match tokio::time::timeout(SEARCH_PATIENCE, search).await {
            Ok(Some(response)) => response,
            _ => self.no_name(request, Vec::new(), &self.zone.read()),
        }
    }

    fn no_name(&self, request: &Message, aliases: Vec<Record>, zone: &Zone) -> Message {
        let mut response = response_to(request, ResponseCode::NXDomain);
        response.metadata.authoritative = true;
        response.answers = aliases;
        response.authorities.push(zone.start_of_authority());
        response
    }

    /// Where the client would go on searching for a name that the zone does not have: a name within the zone that
    /// exists, or else names that others have to be asked for.
    fn rest_of_search(&self, zone: &Zone, query: &Query) -> Option<Target> {
        if !matches!(query.query_type(), RecordType::A | RecordType::AAAA) {
            return None;
        }
        let wanted = zone.searched(query.name())?;
        let within = zone.search_path(&wanted).into_iter().chain([wanted.clone()]).find(|name| zone.has_addresses(name));
        if let Some(name) = within {
            return Some(Target::Name(name));
        }
        if !matches!(zone.answer(&wanted, query.query_type(), 0), Answer::Elsewhere) {
            return None;
        }
        let beyond = self.forwarder.search_domains().into_iter().filter_map(|domain| wanted.clone().append_domain(&domain).ok());
        Some(Target::Search(beyond.chain([wanted.clone()]).collect()))
    }

    fn follow(&self, request: Message, query: Query, transport: Transport, turn: usize) -> First {
        let zone = self.zone.read();
        let mut target = query.name().clone();
        let mut aliases = Vec::new();
        loop {
            let mut response = response_to(&request, ResponseCode::NoError);
            response.metadata.authoritative = true;
            match zone.answer(&target, query.query_type(), turn) {
                Answer::Found(Records { answers, additionals }) => {
                    response.answers = aliases;
                    response.answers.extend(answers);
                    response.additionals = additionals;
                }
                Answer::Alias { record, target: next } => {
                    aliases.push(*record);
                    target = next;
                    if query.query_type() != RecordType::CNAME && aliases.len() < ALIASES_MAX {
                        continue;
                    }
                    response.answers = aliases;
                }
                Answer::NoData => {
                    response.answers = aliases;
                    response.authorities.push(zone.start_of_authority());
                }
                Answer::NoName => match self.rest_of_search(&zone, &query).filter(|_| aliases.is_empty()) {
                    Some(Target::Name(found)) => {
                        aliases.push(alias(&query, &found));
                        target = found;
                        continue;
                    }
                    Some(search) => {
                        drop(zone);
                        return First::Pending(Box::new(Pending { request, query, aliases, target: search, transport }));
                    }
                    None => response = self.no_name(&request, aliases, &zone),
                },
                Answer::Elsewhere => {
                    drop(zone);
                    let ask = Query::query(target.clone(), query.query_type());
                    if let Some(known) = self.forwarder.remembered(&ask, wants_signatures(&request)) {
                        return First::Reply(encode(&mut merged(&request, aliases, Some(known)), &request, transport));
                    }
                    return First::Pending(Box::new(Pending { request, query, aliases, target: Target::Name(target), transport }));
                }
            }
            return First::Reply(encode(&mut response, &request, transport));
        }
    }
}

/// The name that was asked for stands for another.
fn alias(query: &Query, target: &Name) -> Record {
    Record::from_rdata(query.name().clone(), TTL_SECONDS, RData::CNAME(CNAME(target.clone())))
}

/// Our aliases and the other server's answer in one.
fn merged(request: &Message, aliases: Vec<Record>, answer: Option<Message>) -> Message {
    let Some(answer) = answer else { return response_to(request, ResponseCode::ServFail) };
    let mut response = response_to(request, answer.metadata.response_code);
    response.metadata.authentic_data = answer.metadata.authentic_data && aliases.is_empty();
    response.answers = aliases;
    response.answers.extend(answer.answers);
    response.authorities = answer.authorities;
    response.additionals = answer.additionals;
    response
}

fn wants_signatures(request: &Message) -> bool {
    request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

fn response_to(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_BYTES);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        response.edns = Some(edns);
    }
    response
}

/// As many records as the client can take; it is told when there are more.
fn encode(response: &mut Message, request: &Message, transport: Transport) -> Vec<u8> {
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => UDP_PAYLOAD_MIN_BYTES,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(UDP_PAYLOAD_MIN_BYTES, UDP_PAYLOAD_BYTES),
    };
    let limit = usize::from(limit);
    loop {
        let bytes = match response.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(bytes) => bytes.len(),
            Err(_) => usize::MAX, // More than any message can hold.
        };
        // What was not asked for goes first, silently.
        if !response.additionals.is_empty() {
            response.additionals.clear();
            continue;
        }
        response.metadata.truncation = true;
        if response.answers.is_empty() {
            response.authorities.clear();
            return response.to_vec().unwrap_or_default();
        }
        let fitting = (response.answers.len() as u128 * limit as u128 / bytes as u128) as usize;
        let fitting = fitting.min(response.answers.len() - 1);
        response.answers.truncate(fitting);
    }
}

/// A packet that cannot be read gets an answer if it at least looks like a question.
fn malformed(packet: &[u8]) -> First {
    let Some([high, low, flags]) = packet.first_chunk::<3>().filter(|_| packet.len() >= 12) else { return First::Silence };
    if flags & 0x80 != 0 {
        return First::Silence; // An answer: two servers could go on like this for ever.
    }
    let response = Message::error_msg(u16::from_be_bytes([*high, *low]), OpCode::Query, ResponseCode::FormErr);
    response.to_vec().map_or(First::Silence, First::Reply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::forward::Upstreams;
    use crate::zone::{Endpoint, Service, Slice};

    fn resolver() -> Resolver {
        let mut zone = Zone::new("cluster.local", vec![]);
        zone.set_namespace("default", true);
        zone.set_namespace("team", true);
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        zone.set_service(key("web"), Some(Service { cluster_ips: vec!["10.43.0.5".parse().unwrap()], ..Default::default() }));
        let alias = Service { external_name: Some("web.default.svc.cluster.local".into()), ..Default::default() };
        zone.set_service(key("alias"), Some(alias));
        let circle = Service { external_name: Some("circle.default.svc.cluster.local".into()), ..Default::default() };
        zone.set_service(key("circle"), Some(circle));
        zone.set_service(key("many"), Some(Service::default()));
        let endpoint = |n: u8| Endpoint { addresses: vec![std::net::Ipv4Addr::new(10, 42, 1, n).into()], hostname: None, ready: true };
        zone.set_slice(key("many"), "x", Some(Slice { endpoints: (0..=255).map(endpoint).collect(), ports: vec![] }));
        Resolver { zone: RwLock::new(zone), forwarder: Forwarder::new(Upstreams::Fixed(Vec::new()), Vec::new(), Vec::new()) }
    }

    fn request(name: &str, record_type: RecordType) -> Message {
        let mut request = Message::new(77, MessageType::Query, OpCode::Query);
        request.metadata.recursion_desired = true;
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        request
    }

    fn reply(request: &Message, transport: Transport) -> Message {
        match resolver().start(&request.to_vec().unwrap(), transport, 0) {
            First::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            First::Silence => panic!("silence"),
            First::Pending(_) => panic!("pending"),
        }
    }

    #[track_caller]
    fn check(name: &str, record_type: RecordType, expected: &str) {
        let reply = reply(&request(name, record_type), Transport::Udp);
        let answers: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        let authority = if reply.authorities.is_empty() { "" } else { " SOA" };
        assert_eq!(format!("{:?} {}{authority}", reply.metadata.response_code, answers.join(" ")), expected, "{name}");
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.id == 77);
    }

    #[test]
    fn answers_from_the_zone() {
        check("web.default.svc.cluster.local.", RecordType::A, "NoError 10.43.0.5");
        check("web.default.svc.cluster.local.", RecordType::AAAA, "NoError  SOA");
        check("none.default.svc.cluster.local.", RecordType::A, "NXDomain  SOA");
        check("example.com.svc.cluster.local.", RecordType::A, "NXDomain  SOA");
        check("alias.default.svc.cluster.local.", RecordType::A, "NoError web.default.svc.cluster.local. 10.43.0.5");
        check("alias.default.svc.cluster.local.", RecordType::CNAME, "NoError web.default.svc.cluster.local.");
    }

    #[test]
    fn goes_on_with_a_search_within_the_zone() {
        check("web.default.team.svc.cluster.local.", RecordType::A, "NoError web.default.svc.cluster.local. 10.43.0.5");
        check("web.default.team.svc.cluster.local.", RecordType::AAAA, "NoError web.default.svc.cluster.local. SOA");
        check("web.default.svc.team.svc.cluster.local.", RecordType::A, "NoError web.default.svc.cluster.local. 10.43.0.5");
        check("none.default.svc.cluster.local.team.svc.cluster.local.", RecordType::A, "NXDomain  SOA");
        check("web.default.team.svc.cluster.local.", RecordType::SRV, "NXDomain  SOA");
        check("default.svc.team.svc.cluster.local.", RecordType::TXT, "NXDomain  SOA");
    }

    #[test]
    fn does_not_go_round_in_circles() {
        let reply = reply(&request("circle.default.svc.cluster.local.", RecordType::A), Transport::Udp);
        assert_eq!(reply.answers.len(), ALIASES_MAX);
    }

    #[test]
    fn sends_what_fits() {
        let mut asked = request("many.default.svc.cluster.local.", RecordType::A);
        let plain = reply(&asked, Transport::Udp);
        assert!(plain.metadata.truncation && plain.answers.len() > 10 && plain.to_vec().unwrap().len() <= 512);
        let whole = reply(&asked, Transport::Tcp);
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (256, false));
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        asked.set_edns(edns);
        let larger = reply(&asked, Transport::Udp);
        assert!(larger.answers.len() > plain.answers.len() && larger.edns.is_some());
    }

    #[tokio::test]
    async fn refuses_quickly_when_there_is_nobody_to_ask() {
        let resolver = resolver();
        let asked = request("example.com.", RecordType::A).to_vec().unwrap();
        let First::Pending(pending) = resolver.start(&asked, Transport::Udp, 0) else { panic!("not pending") };
        let reply = Message::from_vec(&resolver.finish(*pending).await).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn refuses_what_it_does_not_do() {
        let code = |request: &Message| reply(request, Transport::Udp).metadata.response_code;
        let mut status = request("web.default.svc.cluster.local.", RecordType::A);
        status.metadata.op_code = OpCode::Status;
        assert_eq!(code(&status), ResponseCode::NotImp);
        assert_eq!(code(&request("cluster.local.", RecordType::AXFR)), ResponseCode::Refused);
        let mut none = request("cluster.local.", RecordType::A);
        none.queries.clear();
        assert_eq!(code(&none), ResponseCode::FormErr);
        let mut chaos = request("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos), ResponseCode::Refused);
        let mut later = request("cluster.local.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        assert_eq!(u16::from(code(&later)), 16); // BADVERS, whose number BADSIG shares.
        let mut answer = request("cluster.local.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        assert!(matches!(resolver().start(&answer.to_vec().unwrap(), Transport::Udp, 0), First::Silence));
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            resolver().start(&packet, Transport::Udp, 0);
        }

        #[test]
        fn damaged_questions_do_no_harm(at in 0usize..60, byte in any::<u8>(), cut in 0usize..60) {
            let mut packet = request("_sql._tcp.web.default.svc.cluster.local.", RecordType::SRV).to_vec().unwrap();
            let at = at % packet.len();
            packet[at] = byte;
            packet.truncate(packet.len() - cut % packet.len());
            resolver().start(&packet, Transport::Tcp, 3);
        }
    }
}
