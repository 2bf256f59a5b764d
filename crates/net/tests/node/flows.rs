//! Tracked flows: found, and forgotten.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use net::conntrack::ConntrackSocket;
use net::nft::matching::connection_state;
use net::nft::{Chain, ChainKind, Expression, Family, Hook, NftSocket, Table, Transaction};

use crate::machine::on_machine;

const UDP: u8 = 17;

#[test]
fn flows_are_listed_by_protocol_and_forgotten() {
    on_machine(|| {
        // Nothing is tracked until some rule asks for it.
        let mut transaction = Transaction::new();
        let table = Table::new(Family::Ipv4, "t");
        transaction.add_table(&table);
        transaction.add_chain(&table, &Chain::base("c", ChainKind::Filter, Hook::Output, 0));
        let mut tracked = connection_state(8);
        tracked.push(Expression::Counter);
        transaction.add_rule(&table, "c", &tracked);
        transaction.commit(&NftSocket::open().unwrap()).unwrap();

        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();

        let conntrack = ConntrackSocket::open().unwrap();
        let flows = conntrack.flows(Family::Ipv4, UDP).unwrap();
        assert_eq!(flows.len(), 1, "{flows:?}");
        let server: SocketAddr = server.local_addr().unwrap();
        assert_eq!(flows[0].original.destination, server);
        assert_eq!(flows[0].reply.source, server);
        assert_eq!(conntrack.flows(Family::Ipv4, 6).unwrap(), []);

        conntrack.forget(&flows).unwrap();
        conntrack.forget(&flows).unwrap();
        assert_eq!(conntrack.flows(Family::Ipv4, UDP).unwrap(), []);
    });
}
