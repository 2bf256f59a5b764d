//! What is encoded reads, through `nft list ruleset`, as it was meant.

use std::process::Command;
use std::time::Duration;

use net::nft::matching::{
    CT_STATE_NEW, CT_STATUS_DESTINATION_TRANSLATED, clear_mark, connection_state, connection_status,
    destination_is_local, destination_not_in, in_set, input_interface_is, load_destination, load_destination_port,
    load_protocol, load_source, map, mark_has, output_interface_is_not, protocol_is, rule, set_mark, source_in,
};
use net::nft::{
    Chain, ChainKind, DynamicOperation, Element, ElementData, Expression, Family, Field, Hook, Key, Meta, NatKind,
    NftSocket, Register, Reject, Set, Table, Transaction, Verdict, priority,
};

use crate::machine::on_machine;

fn listing() -> Option<String> {
    let output = Command::new("nft").args(["-s", "list", "ruleset"]).output();
    match output {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) => panic!("nft: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("skipped: nft is not installed");
            None
        }
    }
}

#[track_caller]
fn check(build: impl FnOnce(&mut Transaction, &Table) + Send, expected: &str) {
    on_machine(|| {
        let table = Table::new(Family::Ipv4, "t");
        let socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::new();
        transaction.add_table(&table);
        build(&mut transaction, &table);
        transaction.commit(&socket).unwrap();
        let Some(text) = listing() else { return };
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
        };
        assert_eq!(lines(&text), lines(&format!("table ip t {{\n{expected}\n}}")), "\n{text}");
    });
}

#[track_caller]
fn check_rule(expressions: Vec<Expression>, expected: &str) {
    check(
        |transaction, table| {
            transaction.add_chain(table, &Chain::base("c", ChainKind::Nat, Hook::Postrouting, priority::SOURCE_NAT));
            transaction.add_rule(table, "c", &expressions);
        },
        &format!("chain c {{\ntype nat hook postrouting priority srcnat; policy accept;\n{expected}\n}}"),
    );
}

#[test]
fn rules_read_as_meant() {
    let masquerade = || vec![Expression::Masquerade { random_ports: true }];
    let cidr = || "10.42.0.0/16".parse().unwrap();
    check_rule(
        rule([source_in("10.42.1.0/24".parse().unwrap()), destination_not_in(cidr()), masquerade()]),
        "ip saddr 10.42.1.0/24 ip daddr != 10.42.0.0/16 masquerade fully-random",
    );
    check_rule(
        rule([output_interface_is_not("coracle0"), masquerade()]),
        "oifname != \"coracle0\" masquerade fully-random",
    );
    check_rule(rule([mark_has(0x4000), masquerade()]), "meta mark & 0x00004000 != 0x00000000 masquerade fully-random");
    check_rule(
        rule([connection_status(CT_STATUS_DESTINATION_TRANSLATED), set_mark(0x4000)]),
        "ct status dnat meta mark set meta mark | 0x00004000",
    );
    check_rule(rule([clear_mark(0x4000)]), "meta mark set meta mark & 0xffffbfff");
    check_rule(rule([connection_state(CT_STATE_NEW), vec![Expression::Counter]]), "ct state new counter");
    check_rule(rule([protocol_is(6), vec![Expression::Verdict(Verdict::Accept)]]), "meta l4proto tcp accept");
    check_rule(
        vec![Expression::Limit { packets: 10, per_seconds: 60, burst: 5 }, Expression::Verdict(Verdict::Return)],
        "limit rate 10/minute return",
    );
}

#[test]
fn filters_read_as_meant() {
    let expected = "chain c {\ntype filter hook prerouting priority filter; policy accept;\n\
        fib daddr type local reject\n\
        iifname \"eth0\" reject with tcp reset\n}";
    check(
        |transaction, table| {
            transaction.add_chain(table, &Chain::base("c", ChainKind::Filter, Hook::Prerouting, priority::FILTER));
            let local = rule([destination_is_local(), vec![Expression::Reject(Reject::PortUnreachable)]]);
            transaction.add_rule(table, "c", &local);
            let reset = rule([input_interface_is("eth0"), protocol_is(6), vec![Expression::Reject(Reject::TcpReset)]]);
            transaction.add_rule(table, "c", &reset);
        },
        expected,
    );
}

/// The two maps that Services need: what a port leads to, and which of the endpoints.
#[test]
fn maps_read_as_meant() {
    use Field::{Ipv4Address, Number, Port, Protocol};
    let (zero, one, two, three) = (Register(0), Register(1), Register(2), Register(3));
    let frontend = || Key::new().address([10, 43, 0, 1].into()).protocol(6).port(443);
    check(
        |transaction, table| {
            transaction.add_set(table, &Set::map("services", &[Ipv4Address, Protocol, Port], &[Number]));
            transaction.add_set(table, &Set::verdict_map("picks", &[Number]));
            transaction
                .add_set(table, &Set::map("endpoints", &[Ipv4Address, Protocol, Port, Number], &[Ipv4Address, Port]));
            transaction.add_chain(table, &Chain::base("c", ChainKind::Nat, Hook::Prerouting, -100));
            transaction.add_chain(table, &Chain::regular("pick-2"));
            transaction.add_elements(table, "services", &[Element::mapping(frontend(), Key::new().number(7))]);
            transaction.add_elements(
                table,
                "picks",
                &[Element::verdict(Key::new().number(7), Verdict::Goto("pick-2".into()))],
            );
            let slot = |slot, host| {
                Element::mapping(frontend().number(slot), Key::new().address([10, 42, 0, host].into()).port(6443))
            };
            transaction.add_elements(table, "endpoints", &[slot(0, 2), slot(1, 3)]);
            let load = || vec![load_destination(Family::Ipv4, zero), load_protocol(one), load_destination_port(two)];
            let pick = vec![
                Expression::RandomNumber { modulus: 2, offset: 0, to: three },
                map("endpoints", zero, zero),
                Expression::Nat { kind: NatKind::Destination, ipv6: false, address: zero, port: Some(one) },
            ];
            transaction.add_rule(table, "pick-2", &rule([load(), pick]));
        },
        "map services {\ntype ipv4_addr . inet_proto . inet_service : mark\n\
           elements = { 10.43.0.1 . tcp . 443 : 0x00000007 }\n}\n\
         map picks {\ntype mark : verdict\nelements = { 0x00000007 : goto pick-2 }\n}\n\
         map endpoints {\ntype ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service\n\
           elements = { 10.43.0.1 . tcp . 443 . 0x00000000 : 10.42.0.2 . 6443,\n\
           10.43.0.1 . tcp . 443 . 0x00000001 : 10.42.0.3 . 6443 }\n}\n\
         chain c {\ntype nat hook prerouting priority dstnat; policy accept;\n}\n\
         chain pick-2 {\ndnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints\n}",
    );
}

#[test]
fn elements_are_read_back_changed_and_chunked() {
    on_machine(|| {
        let table = Table::new(Family::Ipv4, "t");
        let socket = NftSocket::open().unwrap();
        let key = |n: u32| Key::new().address(std::net::Ipv4Addr::from(n).into()).protocol(17).port(53);
        let mut transaction = Transaction::new();
        transaction.replace_table(&table);
        transaction
            .add_set(&table, &Set::map("m", &[Field::Ipv4Address, Field::Protocol, Field::Port], &[Field::Number]));
        let many: Vec<Element> = (0..5000).map(|n| Element::mapping(key(n), Key::new().number(n))).collect();
        transaction.add_elements(&table, "m", &many);
        transaction.commit(&socket).unwrap();
        assert_eq!(socket.elements(&table, "m").unwrap().len(), 5000);

        // Replacing a value is a deletion and an addition in one transaction.
        let mut transaction = Transaction::new();
        transaction.delete_elements(&table, "m", &[Element::key(key(1))]);
        transaction.add_elements(&table, "m", &[Element::mapping(key(1), Key::new().number(9))]);
        transaction.commit(&socket).unwrap();
        let nine = Some(ElementData::Value(Key::new().number(9)));
        assert_eq!(socket.elements(&table, "m").unwrap().iter().filter(|e| e.data == nine).count(), 2);

        // One bad command undoes all, and is named.
        let mut transaction = Transaction::new();
        transaction.add_chain(&table, &Chain::regular("new"));
        transaction.delete_elements(&table, "m", &[Element::key(key(1 << 20))]);
        transaction.add_chain(&table, &Chain::regular("newer"));
        let error = transaction.commit(&socket).unwrap_err();
        assert_eq!(error.to_string(), "deleting elements of m: No such file or directory");
        assert_eq!(socket.chains(&table).unwrap(), []);

        let mut transaction = Transaction::new();
        transaction.flush_set(&table, "m");
        transaction.commit(&socket).unwrap();
        assert_eq!(socket.elements(&table, "m").unwrap(), []);
        assert_eq!(socket.elements(&Table::new(Family::Ipv4, "none"), "m").unwrap(), []);
    });
}

#[test]
fn dynamic_maps_and_ranges_read_as_meant() {
    use Field::{Ipv4Address, Number, Port};
    let (zero, one, two) = (Register(0), Register(1), Register(2));
    on_machine(|| {
        let table = Table::new(Family::Ipv4, "t");
        let socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::new();
        transaction.add_table(&table);
        let affinity = Set::map("affinity", &[Ipv4Address, Ipv4Address], &[Number]).filled_by_rules(1000);
        transaction.add_set(&table, &affinity);
        transaction.add_set(&table, &Set::verdict_map("picks", &[Number]));
        transaction.add_set(&table, &Set::map("endpoints", &[Ipv4Address, Number], &[Ipv4Address, Port]));
        let ranges = Set::new("ranges", &[Ipv4Address, Port]).with_intervals();
        transaction.add_set(&table, &ranges);
        let from = Key::new().address([10, 0, 0, 0].into()).port(80);
        let to = Key::new().address([10, 0, 0, 255].into()).port(80);
        transaction.add_elements(&table, "ranges", &[Element::range(from, to)]);
        transaction.add_elements(
            &table,
            "affinity",
            &[Element {
                timeout: Some(Duration::from_secs(3600)),
                expires_in: Some(Duration::from_secs(1800)),
                ..Element::mapping(
                    Key::new().address([10, 0, 0, 1].into()).address([10, 0, 0, 2].into()),
                    Key::new().number(3),
                )
            }],
        );
        transaction.add_chain(&table, &Chain::base("c", ChainKind::Nat, Hook::Prerouting, -100));
        let change = |operation, timeout_milliseconds| {
            let set = "affinity".into();
            vec![
                Expression::RandomNumber { modulus: 3, offset: 0, to: two },
                Expression::Dynamic { operation, set, key: zero, value: Some(two), timeout_milliseconds },
            ]
        };
        let load = || vec![load_source(Family::Ipv4, zero), load_destination(Family::Ipv4, one)];
        let mut add = |parts| transaction.add_rule(&table, "c", &rule::<2>(parts));
        add([load(), change(DynamicOperation::Update, Some(5000))]);
        let remember = Expression::SetMeta { key: Meta::Priority, from: two };
        add([load(), vec![map("affinity", zero, two), remember]]);
        let priority = |to| Expression::Meta { key: Meta::Priority, to };
        let translate = Expression::Nat { kind: NatKind::Destination, ipv6: false, address: zero, port: Some(one) };
        add([vec![load_destination(Family::Ipv4, zero), priority(one)], vec![map("endpoints", zero, zero), translate]]);
        add([load(), change(DynamicOperation::Delete, None)]);
        add([vec![priority(zero)], vec![Expression::VerdictLookup { set: "picks".into(), key: zero }]]);
        add([vec![load_source(Family::Ipv4, zero)], vec![load_destination_port(one), in_set("ranges", zero)]]);
        transaction.commit(&socket).unwrap();

        let affinity = socket.elements(&table, "affinity").unwrap();
        assert_eq!(affinity[0].timeout, Some(Duration::from_secs(3600)));
        assert!(affinity[0].expires_in.unwrap() <= Duration::from_secs(1800));
        assert_eq!(affinity[0].key.as_bytes(), [10, 0, 0, 1, 10, 0, 0, 2]);
        let Some(text) = listing() else { return };
        for expected in [
            "10.0.0.0/24 . 80",
            "update @affinity { ip saddr . ip daddr timeout 5s : numgen random mod 3 }",
            "meta priority set ip saddr . ip daddr map @affinity",
            "dnat ip to ip daddr . meta priority map @endpoints",
            "delete @affinity { ip saddr . ip daddr : numgen random mod 3 }",
            "meta priority vmap @picks",
            "ip saddr . th dport @ranges",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    });
}

#[test]
fn inserted_rules_are_found_by_their_comment() {
    on_machine(|| {
        let table = Table::new(Family::Ipv4, "filter");
        let socket = NftSocket::open().unwrap();
        let mut transaction = Transaction::new();
        transaction.add_table(&table);
        transaction.add_chain(&table, &Chain::base("FORWARD", ChainKind::Filter, Hook::Forward, 0));
        transaction.add_rule(&table, "FORWARD", &[Expression::Counter]);
        transaction.insert_rule(&table, "FORWARD", &[Expression::Counter], "ours");
        transaction.commit(&socket).unwrap();
        let rules = socket.rules(&table, "FORWARD").unwrap();
        let comments: Vec<Option<&str>> = rules.iter().map(|rule| rule.comment.as_deref()).collect();
        assert_eq!(comments, [Some("ours"), None]);
        let mut transaction = Transaction::new();
        transaction.delete_rule(&table, "FORWARD", rules[0].handle);
        transaction.commit(&socket).unwrap();
        assert_eq!(socket.rules(&table, "FORWARD").unwrap().len(), 1);
    });
}
