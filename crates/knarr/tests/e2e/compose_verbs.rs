//! `knarr compose …` as the fingers of `docker compose` users type it.

use crate::crew::{Crew, crew, eventually, text};
use std::process::Output;

const FILE: &str = r#"
name: verbs
services:
  web:
    image: busybox:1
    command: sh -c 'echo hello > /tmp/index.html; echo begun; exec httpd -f -p 8080 -h /tmp'
    ports: ["8081:8080"]
    environment: { WHO: file }
    healthcheck: { test: wget -q -O- http://localhost:8080/, interval: 1s }
  tool:
    image: busybox:1
    entrypoint: ["sh", "-c"]
    command: ["echo the tool; exit 3"]
    environment: { WHO: file }
    depends_on: [web]
    profiles: [tools]
"#;

fn compose(crew: &Crew, line: &[&str]) -> Output {
    let file = crew.dir().join("app/compose.yaml");
    let file = file.to_str().unwrap();
    crew.knarr(&[&["compose", "-f", file], line].concat())
}

fn ok(crew: &Crew, line: &[&str]) -> String {
    let output = compose(crew, line);
    assert!(output.status.success(), "{line:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command prints, and its code.
fn check(crew: &Crew, line: &[&str], code: i32, wanted: &[&str]) {
    let output = compose(crew, line);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
    for part in wanted {
        assert!(said.contains(part), "{line:?}: {part:?} is not in: {said}");
    }
}

#[test]
fn verbs_do_what_fingers_know() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", FILE);
        check(crew, &["config", "--services"], 0, &["web\n"]);
        check(
            crew,
            &["--profile", "tools", "config", "--services"],
            0,
            &["tool\n", "web\n"],
        );
        check(crew, &["config", "--profiles"], 0, &["tools"]);
        check(crew, &["config", "--images"], 0, &["busybox:1"]);
        check(crew, &["config", "-q"], 0, &[]);
        check(crew, &["version", "--short"], 0, &["."]);

        // Made, not started; started; looked at.
        ok(crew, &["create"]);
        check(crew, &["ps", "-q"], 0, &[]);
        assert!(crew.http("http://127.0.0.1:8081/").is_err());
        ok(crew, &["start"]);
        assert_eq!(crew.http("http://127.0.0.1:8081/").unwrap(), "hello\n");
        assert!(ok(crew, &["up", "-d"]).contains("nothing had changed"));
        check(
            crew,
            &["ps"],
            0,
            &["busybox:1", "web", "(healthy)", "0.0.0.0:8081->8080/tcp"],
        );
        check(crew, &["ps", "--services"], 0, &["web\n"]);
        check(
            crew,
            &["ps", "--format", "json"],
            0,
            &[
                "\"Service\":\"web\"",
                "\"State\":\"running\"",
                "\"PublishedPort\":8081",
            ],
        );
        eventually("its log has what it says", || {
            match ok(crew, &["logs", "web"]) {
                said if said.contains("web-1  | begun") => Ok(()),
                said => Err(said),
            }
        });
        check(
            crew,
            &["logs", "--no-log-prefix", "-n", "1", "web"],
            0,
            &["begun"],
        );
        check(crew, &["port", "web", "8080"], 0, &["0.0.0.0:8081"]);
        check(crew, &["port", "web", "9"], 1, &["no port 9/tcp"]);
        check(crew, &["top"], 0, &["httpd -f -p 8080"]);
        check(crew, &["images"], 0, &["busybox", "MB"]);
        check(crew, &["ls"], 0, &["verbs", "running(1)", "compose.yaml"]);
        check(crew, &["stats", "--no-stream"], 0, &["CPU %", "web"]);

        // Into containers.
        check(
            crew,
            &[
                "exec",
                "-T",
                "-e",
                "WHO=flag",
                "-w",
                "/tmp",
                "web",
                "sh",
                "-c",
                "echo $WHO; pwd; exit 4",
            ],
            4,
            &["flag\n/tmp\n"],
        );
        check(
            crew,
            &["exec", "-T", "-u", "12:34", "web", "id"],
            0,
            &["uid=12 gid=34"],
        );
        check(
            crew,
            &["exec", "-T", "none", "id"],
            2,
            &["no such service: none"],
        );
        check(
            crew,
            &["exec", "-T", "tool", "id"],
            1,
            &["\"tool\" is not running"],
        );
        crew.file("given/deep/a", "copied");
        let given = crew.dir().join("given");
        let given = given.to_str().unwrap();
        ok(crew, &["cp", given, "web:/tmp"]);
        check(
            crew,
            &["exec", "-T", "web", "cat", "/tmp/given/deep/a"],
            0,
            &["copied"],
        );
        let back = crew.dir().join("back");
        ok(
            crew,
            &["cp", "web:/tmp/given/deep/a", back.to_str().unwrap()],
        );
        assert_eq!(std::fs::read_to_string(&back).unwrap(), "copied");
        ok(crew, &["cp", "web:/tmp/given/.", given]);

        // Containers for once.
        check(crew, &["run", "--rm", "-T", "tool"], 3, &["the tool"]);
        check(
            crew,
            &[
                "run",
                "--rm",
                "-T",
                "-e",
                "WHO=flag",
                "tool",
                "echo $WHO; wget -q -O- http://web:8080/; exit 5",
            ],
            5,
            &["flag\nhello"],
        );
        check(
            crew,
            &[
                "run",
                "--rm",
                "-T",
                "--no-deps",
                "--entrypoint",
                "id",
                "-u",
                "12",
                "tool",
            ],
            0,
            &["uid=12"],
        );
        let line =
            "printf 'a\\nb\\n' | KNARR compose -f FILE run --rm -T --no-deps tool 'cat; echo end'";
        let file = crew.dir().join("app/compose.yaml");
        let line = line
            .replace("FILE", file.to_str().unwrap())
            .replace("KNARR", env!("CARGO_BIN_EXE_knarr"));
        let piped = crew.in_crew("sh").args(["-c", &line]).output().unwrap();
        assert!(text(&piped).contains("a\nb\nend"), "{}", text(&piped));
        check(
            crew,
            &["--profile", "tools", "up", "--exit-code-from", "tool"],
            3,
            &["the tool"],
        );
        check(crew, &["ps", "-q"], 0, &[]);

        // Stopped, started, anew.
        ok(crew, &["start", "web"]);
        let before = ok(crew, &["ps", "-q"]);
        ok(crew, &["restart", "web"]);
        let after = ok(crew, &["ps", "-q"]);
        assert!(!after.is_empty() && before != after);
        ok(crew, &["scale", "web=2"]);
        assert_eq!(ok(crew, &["ps", "-q", "web"]).lines().count(), 2);
        ok(crew, &["stop"]);
        assert!(crew.http("http://127.0.0.1:8081/").is_err());
        ok(crew, &["start"]);
        assert_eq!(ok(crew, &["ps", "-q", "web"]).lines().count(), 2);
        ok(crew, &["kill"]);
        check(crew, &["rm", "-f"], 0, &["web  removed"]);
        ok(crew, &["up", "-d", "--wait"]);
        eventually("the page", || crew.http("http://127.0.0.1:8081/"));
        ok(crew, &["down", "-v", "--remove-orphans"]);
        check(crew, &["ls", "-q"], 0, &[]);
    });
}
