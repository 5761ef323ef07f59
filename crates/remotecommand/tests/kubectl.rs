//! Real kubectls against the server side: every one listed in `KNARR_KUBECTL` (paths separated by colons), else the
//! `kubectl` on the PATH. Those up to 1.30 speak SPDY, later ones WebSocket.

mod common;
use common::*;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

fn kubectls() -> Vec<PathBuf> {
    let listed = std::env::var_os("KNARR_KUBECTL").unwrap_or_else(|| "kubectl".into());
    std::env::split_paths(&listed).collect()
}

fn command(program: impl Into<OsString>, kubectl: &PathBuf) -> Command {
    let mut command = Command::new(program.into());
    command
        // no settings of whoever runs the tests, and no cache left behind
        .env("KUBECONFIG", "/dev/null")
        .env("HOME", "/nonexistent")
        .env("KUBECTL", kubectl)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn start(kubectl: &PathBuf, server: SocketAddr, args: &[&str], stdin: Stdio) -> Child {
    command(kubectl, kubectl)
        .arg(format!("--server=http://{server}"))
        .args(args)
        .stdin(stdin)
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{} cannot be run ({error}): install Debian's kubernetes-client, or set KNARR_KUBECTL",
                kubectl.display()
            )
        })
}

async fn output(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("kubectl hangs")
        .unwrap()
}

/// Runs `kubectl exec` and compares all it shows.
async fn check(
    args: &str,
    stdin: Option<&[u8]>,
    expected_code: i32,
    expected_out: &[u8],
    expected_err: &str,
) {
    for kubectl in kubectls() {
        let server = cluster().await;
        let args: Vec<_> = args.split(' ').collect();
        let pipe = if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = start(&kubectl, server, &args, pipe);
        if let Some(stdin) = stdin {
            let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_vec());
            tokio::spawn(async move {
                // the program may end before it has read all
                let _ = pipe.write_all(&stdin).await;
            });
        }
        let output = output(child).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let name = format!("{} {args:?}", kubectl.display());
        assert_eq!(
            output.status.code(),
            Some(expected_code),
            "{name}: {stderr}"
        );
        assert!(
            output.stdout == expected_out,
            "{name}: {} bytes of output: {:.200}",
            output.stdout.len(),
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(stderr.contains(expected_err), "{name}: {stderr}");
    }
}

#[tokio::test]
async fn output_and_exit_codes() {
    check("exec web -- both", None, 0, b"to stdout\n", "to stderr\n").await;
    check("exec web -- exit 0", None, 0, b"", "").await;
    check(
        "exec web -- exit 3",
        None,
        3,
        b"",
        "command terminated with exit code 3",
    )
    .await;
    check(
        "exec -i web -- exit 137",
        Some(b""),
        137,
        b"",
        "exit code 137",
    )
    .await;
    check("exec web -- vanish", None, 1, b"", "without an exit status").await;
}

#[tokio::test]
async fn standard_input() {
    check("exec -i web -- cat", Some(b"hello\n"), 0, b"hello\n", "").await;
    check("exec -i web -- cat", Some(b""), 0, b"", "").await;
    let count = format!("{BIG_BYTES}\n");
    check(
        "exec -i web -- count",
        Some(&big()),
        0,
        count.as_bytes(),
        "",
    )
    .await;
    check("exec -i web -- cat", Some(&big()), 0, &big(), "").await;
    check("exec -i web -- deaf", Some(&big()), 0, b"", "").await;
}

#[tokio::test]
async fn much_output() {
    check("exec web -- big", None, 0, &big(), "").await;
}

#[tokio::test]
async fn a_terminal_and_its_size() {
    for kubectl in kubectls() {
        let server = cluster().await;
        // script gives it a terminal
        let line =
            format!("stty cols 91 rows 31; $KUBECTL --server=http://{server} exec -it web -- size");
        let child = command("script", &kubectl)
            .args(["-qec", &line, "/dev/null"])
            .spawn()
            .expect("this test needs `script` (Debian: bsdutils)");
        let output = output(child).await;
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains("91x31"), "{}: {shown}", kubectl.display());
        assert!(output.status.success(), "{}: {shown}", kubectl.display());
    }
}

#[tokio::test]
async fn the_container_hears_of_a_killed_client() {
    // `cat` ends when its client is killed: the server must not wait for a polite goodbye
    for kubectl in kubectls() {
        let server = cluster().await;
        let mut child = start(
            &kubectl,
            server,
            &["exec", "-i", "web", "--", "cat"],
            Stdio::piped(),
        );
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        stdin.write_all(b"x").await.unwrap();
        let mut byte = [0];
        timeout(PATIENCE, stdout.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        child.kill().await.unwrap();
        // and it serves on
        let output = output(start(
            &kubectl,
            server,
            &["exec", "web", "--", "both"],
            Stdio::null(),
        ))
        .await;
        assert_eq!(output.stdout, b"to stdout\n");
    }
}

#[tokio::test]
async fn port_forward() {
    for kubectl in kubectls() {
        let name = kubectl.display();
        let server = cluster().await;
        let mut child = start(
            &kubectl,
            server,
            &["port-forward", "pod/web", ":80", ":81"],
            Stdio::null(),
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut local = async |remote: &str| {
            loop {
                let line = timeout(PATIENCE, lines.next_line())
                    .await
                    .expect("kubectl hangs")
                    .unwrap();
                let line = line.unwrap_or_else(|| panic!("{name}: kubectl ended"));
                let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") else {
                    continue;
                };
                let (port, to) = rest.split_once(" -> ").unwrap();
                if to == remote {
                    return port.parse::<u16>().unwrap();
                }
            }
        };
        let (good, bad) = (local("80").await, local("81").await);
        let talks: Vec<_> = (0..8)
            .map(|i| {
                tokio::spawn(async move {
                    let mut socket = TcpStream::connect(("127.0.0.1", good)).await.unwrap();
                    let text = format!("connection {i}\n").repeat(10_000);
                    let (mut read, mut write) = socket.split();
                    let mut back = String::new();
                    let sending = async {
                        write.write_all(text.as_bytes()).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let (_, received) = tokio::join!(sending, read.read_to_string(&mut back));
                    received.unwrap();
                    assert_eq!(
                        back.strip_prefix("port 80\n"),
                        Some(&text[..]),
                        "connection {i}"
                    );
                })
            })
            .collect();
        for talk in talks {
            timeout(PATIENCE, talk)
                .await
                .expect("port-forward hangs")
                .unwrap();
        }
        let mut socket = TcpStream::connect(("127.0.0.1", bad)).await.unwrap();
        let mut nothing = Vec::new();
        // closed or reset, as kubectl likes
        let _ = timeout(PATIENCE, socket.read_to_end(&mut nothing))
            .await
            .expect("port-forward hangs");
        assert!(nothing.is_empty());
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = timeout(PATIENCE, errors.next_line())
            .await
            .expect("kubectl says nothing")
            .unwrap();
        assert!(
            said.unwrap().contains("connection refused on port 81"),
            "{name}"
        );
        child.kill().await.unwrap();
    }
}
