//! Steady HTTP load that counts every failure.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What is sent, and the status that must come back.
#[derive(Clone)]
pub struct Shot {
    pub request: String,
    pub status: u16,
}

pub fn get(path: &str, cookie: &str, status: u16) -> Shot {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n\r\n");
    Shot { request, status }
}

pub fn post(path: &str, cookie: &str, form: &str, status: u16) -> Shot {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n");
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    let request = format!("{head}{kind}content-length: {}\r\n\r\n{form}", form.len());
    Shot { request, status }
}

pub struct Connection(BufReader<TcpStream>);

pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Connection {
    pub fn open(port: u16) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Connection(BufReader::new(stream)))
    }

    pub fn send(&mut self, request: &str) -> std::io::Result<Answer> {
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut headers)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = headers.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        let field = |name: &str| {
            let line = headers
                .lines()
                .find(|l| l.to_ascii_lowercase().starts_with(name))?;
            Some(line[name.len()..].trim().to_string())
        };
        let mut body = Vec::new();
        if let Some(length) = field("content-length:").and_then(|l| l.parse().ok()) {
            body.resize(length, 0);
            self.0.read_exact(&mut body)?;
        } else if field("transfer-encoding:").is_some() {
            loop {
                let mut line = String::new();
                self.0.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
                let at = body.len();
                body.resize(at + size + 2, 0);
                self.0.read_exact(&mut body[at..])?;
                body.truncate(at + size);
                if size == 0 {
                    break;
                }
            }
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(u64, Vec<String>)>>,
    since: Instant,
}

/// Sends `per_second` requests a second over 20 connections until it is ended.
pub fn start(port: u16, per_second: u32, shots: Vec<Shot>) -> Load {
    const CONNECTIONS: u32 = 20;
    let stop = Arc::new(AtomicBool::new(false));
    let pause = Duration::from_secs(1) * CONNECTIONS / per_second;
    let threads = (0..CONNECTIONS).map(|number| {
        let (stop, shots) = (stop.clone(), shots.clone());
        std::thread::spawn(move || {
            let (mut sent, mut failures) = (0u64, Vec::new());
            let mut connection = None;
            let start = Instant::now() + pause * number / CONNECTIONS;
            while !stop.load(Relaxed) {
                // A schedule, not a pause: a slow answer doesn't make the load smaller.
                let due = start + pause * sent as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let shot = &shots[(sent as usize * 7 + number as usize) % shots.len()];
                sent += 1;
                let mut open = match connection.take().map_or_else(|| Connection::open(port), Ok) {
                    Ok(open) => open,
                    Err(error) => {
                        failures.push(format!("connecting: {error}"));
                        continue;
                    }
                };
                let line = shot.request.lines().next().unwrap_or_default();
                match open.send(&shot.request) {
                    Ok(answer) if answer.status == shot.status => connection = Some(open),
                    Ok(answer) => {
                        let body = String::from_utf8_lossy(&answer.body);
                        let body = body.chars().take(300).collect::<String>();
                        failures.push(format!("{line}: {} {body}", answer.status));
                    }
                    Err(error) => failures.push(format!("{line}: {error}")),
                }
            }
            (sent, failures)
        })
    });
    Load {
        threads: threads.collect(),
        stop,
        since: Instant::now(),
    }
}

impl Load {
    /// Requests sent, and each failure.
    pub fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        let (mut sent, mut failures) = (0, Vec::new());
        for thread in self.threads {
            let (n, failed) = thread.join().unwrap();
            sent += n;
            failures.extend(failed);
        }
        let seconds = self.since.elapsed().as_secs_f64();
        println!(
            "{sent} requests in {seconds:.1} s, {:.0}/s, {} failed",
            sent as f64 / seconds,
            failures.len()
        );
        (sent, failures)
    }
}
