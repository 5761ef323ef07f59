//! The sockets, on loopback.

mod handling;

use super::*;
use hickory_proto::rr::{RData, Record, rdata::A};
use std::net::Ipv4Addr;

/// For a resolver that answers: never too short.
const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback address that no other server here has, so that its port is free over UDP and TCP: the kernel gives it to
/// nobody who asks for any (`ip_local_port_range`).
fn place() -> SocketAddr {
    static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    // processes beside this one have another
    let port = 12_000 + std::process::id().wrapping_mul(7919) % 20_000;
    (Ipv4Addr::new(127, 53, 53, number), port as u16).into()
}

/// Answers every question with 192.0.2.1, after one with a wrong id.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind(place()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let reply = |query: &[u8]| {
        let request = Message::from_vec(query).unwrap();
        let mut message = response(&request);
        let name = request.queries[0].name().clone();
        message.add_answer(Record::from_rdata(
            name,
            60,
            RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
        ));
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = reply(&buffer[..n]);
            let mut spoofed = answer.clone();
            spoofed[0] ^= 1;
            let last = spoofed.len() - 1;
            spoofed[last] = 66;
            socket.send_to(&spoofed, from).await.unwrap();
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let n = stream.read_u16().await.unwrap();
            let mut query = vec![0; n.into()];
            stream.read_exact(&mut query).await.unwrap();
            let answer = reply(&query);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

/// A server on a free port of loopback.
async fn start(synced: bool, upstreams: Vec<SocketAddr>) -> SocketAddr {
    start_with(synced, Upstreams::Fixed(upstreams, PATIENCE)).await
}

async fn start_with(synced: bool, upstreams: Upstreams) -> SocketAddr {
    let listen = place();
    let options = Options {
        place: None,
        listen: vec![listen],
        cluster_domain: "cluster.local".into(),
        ranges: [42, 43]
            .map(|n| (Ipv4Addr::new(10, n, 0, 0).into(), 16))
            .to_vec(),
        own: vec![Ipv4Addr::new(169, 254, 1, 1).into()],
    };
    let views = Arc::new(ArcSwap::from_pointee(zone::tests::views()));
    tokio::spawn(async move {
        let (_keep, receiver) = watch::channel(synced);
        serve(views, Arc::default(), receiver, options, upstreams)
            .await
            .unwrap();
    });
    while TcpStream::connect(listen).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    listen
}

fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

async fn udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut buffer = vec![0; 65535];
    let n = timeout(2 * PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer")
        .unwrap();
    buffer.truncate(n);
    buffer
}

async fn tcp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(query).await.unwrap();
    let n = stream.read_u16().await.unwrap();
    let mut answer = vec![0; n.into()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn show(bytes: &[u8]) -> String {
    let message = Message::from_vec(bytes).unwrap();
    assert_eq!(message.metadata.id, 4711);
    let mut all = message
        .answers
        .iter()
        .map(|r| r.data.to_string())
        .collect::<Vec<_>>();
    all.sort();
    let tc = if message.metadata.truncation {
        " TC"
    } else {
        ""
    };
    format!("{:?}{tc} {}", message.metadata.response_code, all.join(" "))
        .trim()
        .to_string()
}

#[tokio::test]
async fn over_both_transports() {
    let server = start(true, vec![upstream().await]).await;
    let cases = [
        (
            "cluster name",
            "web.shop.svc.cluster.local.",
            "NoError 10.43.0.7",
        ),
        ("no such name", "no.shop.svc.cluster.local.", "NXDomain"),
        ("foreign", "www.example.org.", "NoError 192.0.2.1"),
        (
            "alias",
            "out.shop.svc.cluster.local.",
            "NoError 192.0.2.1 www.example.org.",
        ),
    ];
    for (name, question_name, expected) in cases {
        let query = question(question_name, RecordType::A, None);
        assert_eq!(show(&udp(server, &query).await), expected, "{name}, UDP");
        assert_eq!(show(&tcp(server, &query).await), expected, "{name}, TCP");
    }
}

#[tokio::test]
async fn a_silent_resolver_is_passed_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let both = vec![silent.local_addr().unwrap(), upstream().await];
    let server = start_with(true, Upstreams::Fixed(both, Duration::from_secs(1))).await;
    let query = question("www.example.org.", RecordType::A, None);
    // The second is as silent to a machine that stands still.
    for _ in 0..20 {
        match show(&udp(server, &query).await) {
            failed if failed == "ServFail" => {}
            answer => return assert_eq!(answer, "NoError 192.0.2.1"),
        }
    }
    panic!("nobody was asked after the first");
}

#[tokio::test]
async fn large_answers_go_over_tcp() {
    let server = start(true, vec![]).await;
    let count = |bytes: &[u8]| Message::from_vec(bytes).unwrap().answers.len();
    for edns in [None, Some(4096)] {
        let query = question("big.shop.svc.cluster.local.", RecordType::A, edns);
        let short = udp(server, &query).await;
        assert_eq!(show(&short), "NoError TC");
        assert!(short.len() <= 512);
        assert_eq!(count(&tcp(server, &query).await), 200);
    }
}

#[tokio::test]
async fn failures_have_their_codes() {
    let server = start(true, vec![]).await;
    let plain = question("web.shop.svc.cluster.local.", RecordType::A, None);
    let with = |at: usize, byte: u8| {
        let mut query = plain.clone();
        query[at] = byte;
        query
    };
    let cases = [
        (
            "no resolver",
            question("example.org.", RecordType::A, None),
            "ServFail",
        ),
        ("opcode STATUS", with(2, 2 << 3), "NotImp"),
        (
            "65,535 questions claimed",
            [&plain[..4], b"\xff\xff", &plain[6..]].concat(),
            "FormErr",
        ),
        ("class CH", with(plain.len() - 1, 3), "Refused"),
        ("two questions, one there", with(5, 2), "FormErr"),
        ("no question", with(5, 0)[..12].to_vec(), "FormErr"),
        (
            "a name that points at itself",
            [&plain[..12], b"\xc0\x0c\0\x01\0\x01"].concat(),
            "FormErr",
        ),
        (
            "zone transfer",
            question("cluster.local.", RecordType::AXFR, None),
            "Refused",
        ),
    ];
    for (name, query, expected) in cases {
        assert_eq!(show(&udp(server, &query).await), expected, "{name}");
    }
    let early = start(false, vec![]).await;
    assert_eq!(
        show(&udp(early, &plain).await),
        "ServFail",
        "before the first list is in"
    );
}

#[tokio::test]
async fn noise_is_survived() {
    let server = start(true, vec![]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let plain = question("web.shop.svc.cluster.local.", RecordType::A, Some(1232));
    for round in 0..2000 {
        let mut query = plain.clone();
        for _ in 0..=round % 4 {
            let at = rand::random::<u16>() as usize % query.len();
            query[at] = rand::random();
        }
        query.truncate(rand::random::<u16>() as usize % (query.len() + 1));
        socket.send_to(&query, server).await.unwrap();
    }
    assert_eq!(show(&udp(server, &plain).await), "NoError 10.43.0.7");
}

/// A resolver that answers by `reply` over UDP, and, with `tcp`, 192.0.2.66 over TCP.
async fn resolver(tcp: bool, reply: impl Fn(&Message) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(place()).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = reply(&Message::from_vec(&buffer[..n]).unwrap());
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    if tcp {
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut query).await.unwrap();
                let answer = one_address(&Message::from_vec(&query).unwrap(), 66);
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
    }
    address
}

fn one_address(request: &Message, last: u8) -> Vec<u8> {
    let mut message = response(request);
    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
    message.add_answer(Record::from_rdata(
        request.queries[0].name().clone(),
        60,
        data,
    ));
    message.to_vec().unwrap()
}

/// A cut answer, with the address 192.0.2.`last` or nothing left.
fn cut(request: &Message, last: Option<u8>) -> Vec<u8> {
    let mut message = response(request);
    if let Some(last) = last {
        message = Message::from_vec(&one_address(request, last)).unwrap();
    }
    message.metadata.truncation = true;
    message.to_vec().unwrap()
}

#[tokio::test]
async fn an_alias_is_asked_by_udp_and_by_tcp_when_cut() {
    let cases = [
        (
            "UDP is enough",
            resolver(true, |r| one_address(r, 1)).await,
            "NoError 192.0.2.1 www.example.org.",
        ),
        (
            "cut",
            resolver(true, |r| cut(r, Some(1))).await,
            "NoError 192.0.2.66 www.example.org.",
        ),
        (
            "cut, no TCP",
            resolver(false, |r| cut(r, Some(1))).await,
            "NoError 192.0.2.1 www.example.org.",
        ),
        (
            "cut to nothing, no TCP",
            resolver(false, |r| cut(r, None)).await,
            "ServFail www.example.org.",
        ),
    ];
    let query = question("out.shop.svc.cluster.local.", RecordType::A, None);
    for (name, resolver, expected) in cases {
        let server = start(true, vec![resolver]).await;
        assert_eq!(show(&udp(server, &query).await), expected, "{name}");
    }
}

#[tokio::test]
async fn a_resolver_that_fails_is_passed_over() {
    let refusing = |code| {
        move |request: &Message| {
            let mut message = response(request);
            message.metadata.response_code = code;
            message.to_vec().unwrap()
        }
    };
    let bad = resolver(false, refusing(ResponseCode::Refused)).await;
    let worse = resolver(false, refusing(ResponseCode::ServFail)).await;
    let good = resolver(false, |r| one_address(r, 7)).await;
    let query = question("www.example.org.", RecordType::A, None);
    let server = start(true, vec![bad, worse, good]).await;
    assert_eq!(show(&udp(server, &query).await), "NoError 192.0.2.7");
    let server = start(true, vec![worse, bad]).await;
    assert_eq!(
        show(&udp(server, &query).await),
        "Refused",
        "the last one's word"
    );
    let none = resolver(false, refusing(ResponseCode::NXDomain)).await;
    let server = start(true, vec![none, good]).await;
    assert_eq!(
        show(&udp(server, &query).await),
        "NXDomain",
        "an answer like any"
    );
}

#[tokio::test]
async fn an_answer_larger_than_the_room_is_cut_whole() {
    let huge = |request: &Message| {
        let mut message = response(request);
        for n in 0..400u16 {
            let [a, b] = n.to_be_bytes();
            let data = RData::A(A(Ipv4Addr::new(192, 0, a, b)));
            message.add_answer(Record::from_rdata(
                request.queries[0].name().clone(),
                60,
                data,
            ));
        }
        message.to_vec().unwrap()
    };
    let server = start(true, vec![resolver(false, huge).await]).await;
    let query = question("www.example.org.", RecordType::A, Some(65000));
    assert_eq!(show(&udp(server, &query).await), "NoError TC");
}

#[tokio::test]
async fn a_question_beyond_all_reason_ends_the_connection() {
    let server = start(true, vec![]).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(u16::MAX).await.unwrap();
    // All of it is there, and nobody reads it: there is no answer, not even that it is bad.
    let mut large = question("web.shop.svc.cluster.local.", RecordType::A, None);
    large.resize(u16::MAX.into(), 0);
    let _ = stream.write_all(&large).await;
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn a_connection_carries_many_questions() {
    let server = start(true, vec![upstream().await]).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    let names = [
        ("web.shop.svc.cluster.local.", "NoError 10.43.0.7"),
        ("www.example.org.", "NoError 192.0.2.1"),
        ("none.shop.svc.cluster.local.", "NXDomain"),
    ];
    for (name, _) in names {
        let query = question(name, RecordType::A, None);
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
    }
    for (name, expected) in names {
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(show(&answer), expected, "{name}");
    }
}

#[tokio::test]
async fn before_the_first_list_only_foreign_names_are_known() {
    let server = start(false, vec![upstream().await]).await;
    let cases = [
        ("none.shop.svc.cluster.local.", RecordType::A, "ServFail"),
        ("7.0.43.10.in-addr.arpa.", RecordType::PTR, "ServFail"),
        ("www.example.org.", RecordType::A, "NoError 192.0.2.1"),
    ];
    for (name, kind, expected) in cases {
        let query = question(name, kind, None);
        assert_eq!(show(&udp(server, &query).await), expected, "{name}");
    }
}
