//! Names that aren't the cluster's: passed on to the host's resolvers, byte for byte but for the id.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// One resolver's time to answer.
const TRY: Duration = Duration::from_secs(2);
/// How long a look at resolv.conf is good for.
const FRESH: Duration = Duration::from_secs(5);
/// glibc, too, asks at most three.
const UPSTREAMS_MAX: usize = 3;
const HEADER: usize = 12;
/// The largest UDP answer passed on; a larger one is to be asked for by TCP.
const ANSWER_BYTES_MAX: usize = 4096;
/// The header's third byte: this answer is cut.
const CUT: u8 = 2;

/// Where foreign names are asked.
pub(super) enum Upstreams {
    /// These, and each one's time to answer.
    #[cfg(test)]
    Fixed(Vec<SocketAddr>, Duration),
    /// The host's resolv.conf, read again when it is asked for after a while; never `own`.
    Host {
        path: PathBuf,
        own: Vec<IpAddr>,
        seen: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
    },
}

impl Upstreams {
    pub(super) fn host(path: &Path, own: Vec<IpAddr>) -> Upstreams {
        Upstreams::Host {
            path: path.into(),
            own,
            seen: Mutex::default(),
        }
    }

    fn patience(&self) -> Duration {
        match self {
            #[cfg(test)]
            Upstreams::Fixed(_, patience) => *patience,
            Upstreams::Host { .. } => TRY,
        }
    }

    fn list(&self) -> Vec<SocketAddr> {
        match self {
            #[cfg(test)]
            Upstreams::Fixed(list, _) => list.clone(),
            Upstreams::Host { path, own, seen } => {
                let mut seen = seen.lock();
                if let Some((at, list)) = &*seen
                    && at.elapsed() < FRESH
                {
                    return list.clone();
                }
                let list = host_list(path, Path::new("/run/systemd/resolve/resolv.conf"), own);
                *seen = Some((Instant::now(), list.clone()));
                list
            }
        }
    }
}

/// The `nameserver` lines of `path`; of `real` when only systemd-resolved's stub is listed, as kubelet's users set it.
fn host_list(path: &Path, real: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let stub = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                (words.next()? == "nameserver").then(|| words.next()?.parse().ok())?
            })
            .filter(|ip: &IpAddr| !own.contains(&ip.to_canonical()))
            .take(UPSTREAMS_MAX)
            .collect::<Vec<_>>()
    };
    let mut list = read(path);
    if list == [stub] {
        let behind = read(real);
        if !behind.is_empty() {
            list = behind;
        }
    }
    list.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// The first resolver's answer, with the asker's id; None when none answers. One that says it can't tell (SERVFAIL,
/// NOTIMP, REFUSED) is passed over, as glibc does, and its word is taken when no other has a better.
pub(super) async fn forward(upstreams: &Upstreams, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let mut refusal = None;
    for upstream in upstreams.list() {
        let attempt = async {
            match tcp {
                true => over_tcp(upstream, query).await,
                false => over_udp(upstream, query).await,
            }
        };
        match timeout(upstreams.patience(), attempt).await {
            Ok(Ok(answer)) if matches!(answer[3] & 15, 2 | 4 | 5) => refusal = Some(answer),
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver can't be asked"),
            Err(_) => tracing::debug!(%upstream, "a resolver doesn't answer"),
        }
    }
    refusal
}

/// As [`forward`], by TCP where UDP has no room for the whole; what came by UDP when no resolver takes TCP.
pub(super) async fn whole(upstreams: &Upstreams, query: &[u8]) -> Option<Vec<u8>> {
    let answer = forward(upstreams, query, false).await?;
    if answer[2] & CUT == 0 {
        return Some(answer);
    }
    Some(forward(upstreams, query, true).await.unwrap_or(answer))
}

/// `query` with another id, which the asker can't foresee.
fn masked(query: &[u8]) -> Vec<u8> {
    let mut masked = query.to_vec();
    masked[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    masked
}

/// Where the question's name, type and class end.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while let Some(length) = message.get(at) {
        at += 1 + usize::from(*length);
        if *length == 0 {
            return Some(at + 4).filter(|end| *end <= message.len());
        }
    }
    None
}

/// Is it the answer to that question? Compares id and question, without regard to case.
fn fits(sent: &[u8], answer: &[u8]) -> bool {
    let question = |bytes: &[u8]| Some(bytes[HEADER..question_end(bytes)?].to_ascii_lowercase());
    answer.len() >= HEADER
        && answer[..2] == sent[..2]
        && answer[2] & 0x80 != 0
        && answer[4..6] == sent[4..6]
        && question(sent).is_some_and(|sent| question(answer) == Some(sent))
}

/// An answer's header and question, marked as cut.
fn cut(answer: &mut Vec<u8>) {
    answer.truncate(question_end(answer).unwrap_or(HEADER));
    answer[2] |= CUT;
    // No answers, authorities, or additions.
    answer[6..HEADER].fill(0);
}

async fn over_udp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A port of its own for each question, and connected: only the resolver's packets come in.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    let sent = masked(query);
    socket.send(&sent).await?;
    // One byte more tells that an answer was larger.
    let mut buffer = vec![0; ANSWER_BYTES_MAX + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if fits(&sent, &buffer[..length]) {
            buffer.truncate(length);
            if length > ANSWER_BYTES_MAX {
                cut(&mut buffer);
            }
            buffer[..2].copy_from_slice(&query[..2]);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let sent = masked(query);
    let mut framed = Vec::with_capacity(sent.len() + 2);
    framed.extend_from_slice(&(sent.len() as u16).to_be_bytes());
    framed.extend_from_slice(&sent);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !fits(&sent, &answer) {
        return Err(std::io::Error::other("an answer to another question"));
    }
    answer[..2].copy_from_slice(&query[..2]);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, file: &str, real: &str, expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, file).unwrap();
        fs::write(&b, real).unwrap();
        let own = [IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10))];
        let got = host_list(&a, &b, &own)
            .into_iter()
            .map(|a| a.to_string())
            .collect::<Vec<_>>();
        assert_eq!(got, expected, "{name}");
    }

    #[test]
    fn the_hosts_resolvers() {
        check(
            "plain",
            "# x\nsearch a\nnameserver 1.1.1.1\nnameserver ::1\n",
            "",
            &["1.1.1.1:53", "[::1]:53"],
        );
        check(
            "never ourselves",
            "nameserver 10.43.0.10\nnameserver ::ffff:10.43.0.10\n",
            "",
            &[],
        );
        check(
            "behind the stub",
            "nameserver 127.0.0.53\n",
            "nameserver 9.9.9.9\n",
            &["9.9.9.9:53"],
        );
        check(
            "the stub alone",
            "nameserver 127.0.0.53\n",
            "",
            &["127.0.0.53:53"],
        );
        check("nonsense", "nameserver x\nnameserver\n", "", &[]);
        check(
            "another word",
            "nameservers 1.1.1.1\nnameserver1.1.1.1\n",
            "",
            &[],
        );
        check(
            "tabs, and a remark behind",
            "nameserver\t1.1.1.1 # office\n",
            "",
            &["1.1.1.1:53"],
        );
        check(
            "at most three",
            "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
            "",
            &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
        );
    }

    #[test]
    fn only_the_answer_to_the_question_fits() {
        let sent = b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x03www\0\0\x01\0\x01".to_vec();
        let with = |at: usize, byte: u8| {
            let mut answer = sent.clone();
            answer[2] |= 0x80;
            answer[at] = byte;
            answer
        };
        assert!(fits(&sent, &with(13, b'W')));
        assert!(!fits(&sent, &with(1, 9)), "id");
        assert!(!fits(&sent, &with(13, b'x')), "name");
        assert!(!fits(&sent, &with(18, 28)), "type");
        assert!(!fits(&sent, &with(5, 0)), "no question, says its header");
        assert!(!fits(&sent, &sent), "a question");
        for cut in 0..sent.len() {
            assert!(!fits(&sent, &with(13, b'w')[..cut]), "cut at {cut}");
        }
    }
}
