//! What is answered to which bytes, without sockets.

use super::*;

/// One query's answer by the pure part, without a socket; None when there is none.
fn handle(server: &Server, query: &[u8]) -> Option<Message> {
    match server.handle(query, &Asker::default(), false) {
        Reply::Now(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Reply::Ask(_) | Reply::Nothing => None,
    }
}

fn server() -> (watch::Sender<bool>, Server) {
    let (sender, synced) = watch::channel(true);
    let server = Server {
        zone: zone::tests::zone(),
        views: Arc::new(ArcSwap::from_pointee(zone::tests::views())),
        clients: Arc::default(),
        synced,
        upstreams: Upstreams::Fixed(vec![], PATIENCE),
        forwards: Semaphore::new(FORWARDS_MAX),
    };
    (sender, server)
}

#[test]
fn the_header_and_sections_of_answers() {
    let (_keep, server) = server();
    let ask = |name: &str, kind, edns| handle(&server, &question(name, kind, edns)).unwrap();
    let plain = ask("wEb.shop.svc.cluster.local.", RecordType::A, None);
    assert!(plain.metadata.authoritative && plain.metadata.recursion_available);
    assert!(plain.metadata.recursion_desired, "as asked");
    assert!(plain.edns.is_none(), "no EDNS unasked");
    let sent = Name::from_ascii("wEb.shop.svc.cluster.local.").unwrap();
    assert!(plain.queries[0].name().eq_case(&sent), "0x20");
    assert!(plain.answers[0].name.eq_case(&sent), "0x20");
    let big = ask("big.shop.svc.cluster.local.", RecordType::A, Some(4096));
    assert!(big.metadata.truncation && big.edns.is_some());

    let shown = |name: &str, kind| {
        let message = ask(name, kind, None);
        let count = (message.answers.len(), message.authorities.len());
        (message.metadata.response_code, count)
    };
    let no_data = (ResponseCode::NoError, (0, 1));
    assert_eq!(
        shown("web.shop.svc.cluster.local.", RecordType::MX),
        no_data
    );
    assert_eq!(
        shown("web.shop.svc.cluster.local.", RecordType::Unknown(65000)),
        no_data
    );
    assert_eq!(
        shown("web.shop.svc.cluster.local.", RecordType::ANY),
        (ResponseCode::NoError, (2, 0))
    );
    assert_eq!(
        shown("none.shop.svc.cluster.local.", RecordType::A),
        (ResponseCode::NXDomain, (0, 1))
    );
    assert_eq!(
        shown("inner.shop.svc.cluster.local.", RecordType::A),
        (ResponseCode::NoError, (3, 0)),
        "an alias within the cluster"
    );
    assert_eq!(
        shown("inner.shop.svc.cluster.local.", RecordType::AAAA),
        (ResponseCode::NoError, (1, 1)),
        "an alias to nothing of this type"
    );
    assert_eq!(
        shown("lost.shop.svc.cluster.local.", RecordType::A),
        (ResponseCode::NXDomain, (1, 1)),
        "RFC 6604: the code is the last name's"
    );
    let (code, (answers, _)) = shown("round.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(code, ResponseCode::NoError);
    assert!(answers <= ALIASES_MAX + 1, "an alias of itself ends");
}

#[test]
fn each_client_gets_another_first_address() {
    let (_keep, server) = server();
    for name in [
        "big.shop.svc.cluster.local.",
        "inner.shop.svc.cluster.local.",
    ] {
        let first = (0..100).map(|_| {
            let query = question(name, RecordType::A, None);
            let Reply::Now(bytes) = server.handle(&query, &Asker::default(), true) else {
                panic!("a cluster name")
            };
            let message = Message::from_vec(&bytes).unwrap();
            let mut addresses = message
                .answers
                .iter()
                .filter(|r| r.record_type() == RecordType::A);
            addresses.next().unwrap().data.to_string()
        });
        let all = first.collect::<std::collections::BTreeSet<_>>();
        assert!(all.len() > 1, "{name} {all:?}");
    }
}

#[test]
fn what_is_never_answered_and_versions_unknown() {
    let (_keep, server) = server();
    let query = question("web.shop.svc.cluster.local.", RecordType::A, Some(1232));
    let mut answer = query.clone();
    answer[2] |= 0x80;
    assert!(handle(&server, &answer).is_none());
    for cut in 0..12 {
        assert!(handle(&server, &query[..cut]).is_none(), "cut at {cut}");
    }
    for cut in 12..query.len() {
        let code = handle(&server, &query[..cut])
            .unwrap()
            .metadata
            .response_code;
        assert_eq!(code, ResponseCode::FormErr, "cut at {cut}");
    }
    let mut later = Message::from_vec(&query).unwrap();
    later.edns.as_mut().unwrap().set_version(1);
    let got = handle(&server, &later.to_vec().unwrap()).unwrap();
    assert_eq!(
        got.metadata.response_code.low(),
        0,
        "the rest is in the OPT record"
    );
    assert_eq!(got.edns.unwrap().rcode_high(), 1, "BADVERS is 16");
}

#[test]
fn bytes_at_random_never_panic() {
    let (_keep, server) = server();
    let seeds = [
        question(
            "_http._tcp.db.shop.svc.cluster.local.",
            RecordType::SRV,
            Some(512),
        ),
        question("7.0.43.10.in-addr.arpa.", RecordType::PTR, None),
    ];
    for round in 0..20_000 {
        let mut query = match round % 3 {
            0 => (0..rand::random::<u16>() % 600)
                .map(|_| rand::random())
                .collect::<Vec<u8>>(),
            n => seeds[n - 1].clone(),
        };
        for _ in 0..round % 5 {
            if !query.is_empty() {
                let at = rand::random::<u16>() as usize % query.len();
                query[at] = rand::random();
            }
        }
        if let Reply::Now(bytes) = server.handle(&query, &Asker::default(), round % 2 == 0) {
            assert_eq!(bytes[..2], query[..2], "the id");
            assert!(bytes[2] & 0x80 != 0, "an answer");
        }
    }
}
