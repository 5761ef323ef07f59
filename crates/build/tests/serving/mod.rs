//! Servers of tests: git's own protocol, fixed answers over HTTP; each on a port of its own on loopback.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

/// Serves the repositories below a folder with `git daemon`, one process a connection. Gives the port.
pub fn serve_git(folder: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let base = format!("--base-path={}", folder.display());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream: OwnedFd = stream.unwrap().into();
            // how a client leaves is not its server's affair
            Command::new("git")
                .args(["daemon", "--inetd", "--export-all", &base])
                .stdin(Stdio::from(stream.try_clone().unwrap()))
                .stdout(Stdio::from(stream))
                .stderr(Stdio::null())
                .status()
                .unwrap();
        }
    });
    port
}

pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let done = Command::new("git")
        .current_dir(folder)
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "git {arguments:?}: {said}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// A repository with two commits, a tag, a branch and a link out of it; and its first and last commit.
pub fn repository(folder: &Path) -> (String, String) {
    let repo = folder.join("r");
    fs::create_dir_all(repo.join("sub/deep")).unwrap();
    git(
        folder,
        &["-c", "init.defaultBranch=main", "init", "-q", "r"],
    );
    git(&repo, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    fs::write(repo.join("a"), "one").unwrap();
    fs::write(repo.join("sub/deep/b"), "b").unwrap();
    std::os::unix::fs::symlink("../..", repo.join("out")).unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "1"]);
    git(&repo, &["tag", "-am", "t", "v1"]);
    let first = git(&repo, &["rev-parse", "HEAD"]);
    git(&repo, &["branch", "old"]);
    fs::write(repo.join("a"), "two").unwrap();
    git(&repo, &["commit", "-qam", "2"]);
    (first, git(&repo, &["rev-parse", "HEAD"]))
}

/// What a test's server answers to a path: head without its last line, body.
pub type Answers = Vec<(&'static str, String, Vec<u8>)>;

/// Serves fixed answers; each connection is closed after one. Gives the port and what was asked.
pub fn serve_http(answers: Answers) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(vec![]));
    let (answers, log) = (Arc::new(answers), asked.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // a client that says nothing keeps nobody waiting
            let (stream, answers, log) = (stream.unwrap(), answers.clone(), log.clone());
            std::thread::spawn(move || answer(stream, &answers, &log));
        }
    });
    (port, asked)
}

fn answer(mut stream: TcpStream, answers: &Answers, log: &Mutex<Vec<String>>) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") {
        match reader.read_line(&mut head) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
    log.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let known = head.contains("if-none-match: \"tag\"");
    let answer = answers.iter().find(|(p, ..)| *p == path);
    let (head, body) = match answer {
        Some(_) if known => ("304 Not Modified", &vec![]),
        Some((_, head, body)) => (head.as_str(), body),
        None => ("404 Not Found\r\ncontent-length: 0", &vec![]),
    };
    let _ = write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(body);
}

pub fn ok(more: &str, body: &[u8]) -> (String, Vec<u8>) {
    (
        format!("200 OK\r\ncontent-length: {}{more}", body.len()),
        body.into(),
    )
}

pub fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, "Dockerfile", &b"FROM"[..])
        .unwrap();
    tar.into_inner().unwrap()
}
