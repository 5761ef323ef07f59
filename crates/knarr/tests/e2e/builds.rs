//! `knarr build` where `RUN` has a network of its own.

use crate::crew::{Crew, crew, eventually, shell, text};
use std::{
    io::Write,
    net::TcpListener,
    process::{Command, Output, Stdio},
};

/// Answers `hello` to everybody who comes, on this machine alone or from everywhere.
fn server(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"hello\n"));
        }
    });
    port
}

fn build(crew: &Crew, dockerfile: &str, arguments: &[&str]) -> Output {
    crew.file("app/Dockerfile", dockerfile);
    let all = [
        &["build", "--progress=plain", "--no-cache"],
        arguments,
        &["app"],
    ]
    .concat();
    crew.knarr(&all)
}

fn networks() -> String {
    shell("nft list tables; ip -o addr")
}

#[test]
fn run_has_a_network_of_its_own() {
    crew(|crew| {
        crew.busybox();
        let before = networks();
        let (here, everywhere) = (server("127.0.0.1"), server("0.0.0.0"));
        let reach =
            |ip: &str, port: u16| format!("test \"$(nc -w 60 {ip} {port} </dev/null)\" = hello");
        let from = |run: &str| format!("FROM busybox:1\n{run}\n");
        let mine = reach("127.0.0.1", here);
        for (name, dockerfile, arguments, good, said) in [
            (
                "the machine's loopback is another",
                from(&format!("RUN {mine}")),
                vec![],
                false,
                "--network=host",
            ),
            (
                "the machine is reached as such",
                from(&format!("RUN {}", reach("machine", everywhere))),
                vec!["--add-host", "machine:host-gateway"],
                true,
                "",
            ),
            (
                "the machine's network for all",
                from(&format!("RUN {mine}\nRUN --network=host {mine}")),
                vec!["--network=host"],
                true,
                "",
            ),
            (
                "the machine's network for one",
                from(&format!("RUN --network=host {mine}")),
                vec!["--allow", "network.host"],
                true,
                "",
            ),
            (
                "not without leave",
                from(&format!("RUN --network=host {mine}")),
                vec![],
                false,
                "entitlement network.host is not allowed",
            ),
            (
                "none at all",
                from(&format!(
                    "RUN --network=none ! {}",
                    reach("machine", everywhere)
                )),
                vec!["--add-host", "machine:host-gateway"],
                true,
                "",
            ),
            (
                "several at a time",
                (0..6)
                    .map(|n| {
                        format!(
                            "FROM busybox:1 AS s{n}\nRUN {} && echo {n} > /n\n",
                            reach("machine", everywhere)
                        )
                    })
                    .chain(["FROM scratch\n".to_string()])
                    .chain((0..6).map(|n| format!("COPY --from=s{n} /n /{n}\n")))
                    .collect(),
                vec!["--add-host", "machine:host-gateway"],
                true,
                "",
            ),
        ] {
            let output = build(crew, &dockerfile, &arguments);
            let all = text(&output);
            assert_eq!(output.status.success(), good, "{name}: {all}");
            assert!(all.contains(said), "{name}: {all}");
            assert_eq!(networks(), before, "{name}: what is left");
        }
    });
}

#[test]
fn what_a_killed_build_left_of_its_network_goes_with_the_next() {
    crew(|crew| {
        crew.busybox();
        let before = networks();
        crew.file(
            "app/Dockerfile",
            "FROM busybox:1\nRUN echo begun; sleep 1000\n",
        );
        let mut command: Command = crew.command(&["build", "--progress=plain", "app"]);
        let mut child = command
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the step has a network", || {
            match shell("ip -o addr").contains(" 10.") {
                true => Ok(()),
                false => Err("none yet".into()),
            }
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(networks(), before);
        let output = build(crew, "FROM busybox:1\nRUN true\n", &[]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(networks(), before);
    });
}

#[test]
fn the_cache_is_shown_and_pruned() {
    crew(|crew| {
        crew.busybox();
        let output = build(
            crew,
            "FROM busybox:1\nRUN --mount=type=cache,target=/c echo 12345 > /c/x; echo 1 > /a\n",
            &["-t", "a:1"],
        );
        assert!(output.status.success(), "{}", text(&output));
        let shown = crew.ok(&["builder", "du"]);
        assert!(
            shown.contains("exec.cachemount") && shown.contains("echo 12345"),
            "{shown}"
        );
        let young = crew.ok(&["builder", "prune", "--filter", "until=1h", "-o", "json"]);
        assert!(young.contains("\"CachesDeleted\":[]"), "{young}");
        let kept = crew.ok(&["builder", "prune", "--keep-storage", "1g", "-o", "json"]);
        assert!(kept.contains("\"CachesDeleted\":[]"), "{kept}");
        crew.ok(&["builder", "prune", "-af"]);
        let shown = crew.ok(&["builder", "du", "-o", "json"]);
        assert_eq!(shown.trim(), "[]");
        assert_eq!(crew.ok(&["run", "--rm", "a:1", "cat", "/a"]), "1\n");
    });
}

/// A registry that closes its connection in the middle of a layer is told of; it doesn't end the program without a word.
#[test]
fn a_registry_that_hangs_up_is_told_of() {
    crew(|crew| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            use std::io::Read;
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut head = [0_u8; 4096];
                    let n = stream.read(&mut head).unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..n]).into_owned();
                    let answer = match head.split(' ').next() {
                        Some("HEAD") => {
                            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        }
                        Some("POST") => {
                            "HTTP/1.1 202 Accepted\r\nLocation: /v2/a/blobs/uploads/1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        }
                        Some("GET") => {
                            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        }
                        // the rest of the layer is refused by a reset
                        _ => return,
                    };
                    let _ = stream.write_all(answer.as_bytes());
                });
            }
        });
        let noise: Vec<u8> = (0..8_u64 << 20)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        crew.file("app/Dockerfile", "FROM scratch\nCOPY noise /\n");
        std::fs::write(crew.dir().join("app/noise"), noise).unwrap();
        let name = format!("127.0.0.1:{port}/a:1");
        let output = crew.knarr(&["build", "--progress=plain", "-t", &name, "--push", "app"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(
            text(&output).contains("failed to push"),
            "{}",
            text(&output)
        );
    });
}
