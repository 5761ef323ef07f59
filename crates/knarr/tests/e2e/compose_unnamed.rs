//! Volumes without a name: those of `volumes: [/data]`, and those that an image declares. What is in them is a service's, not
//! a container's.

use crate::crew::{Crew, crew, eventually, text};
use std::collections::BTreeSet;

const FILE: &str = r#"
name: unnamed
services:
  db:
    build: ./image
    image: db:1
    environment: { VERSION: "1" }
    volumes: ["/other"]
    stop_grace_period: 1s
  reader:
    image: busybox:1
    command: sleep 100000
    volumes_from: [db]
    stop_grace_period: 1s
"#;

const IMAGE: &str = r#"
FROM busybox:1
RUN mkdir -p /declared && echo image > /declared/seed
VOLUME /declared
CMD ["sh", "-c", "echo run >> /declared/runs; exec sleep 100000"]
"#;

fn compose(crew: &Crew, line: &[&str]) -> String {
    let file = crew.dir().join("app/compose.yaml");
    crew.ok(&[&["compose", "-f", file.to_str().unwrap()], line].concat())
}

/// What `line` prints in the container of this number.
fn inside(crew: &Crew, service: &str, index: &str, line: &str) -> String {
    let said = compose(
        crew,
        &["exec", "-T", "--index", index, service, "sh", "-c", line],
    );
    said.trim().to_string()
}

/// The file with another version of `db`.
fn version(crew: &Crew, number: &str) {
    let with = format!("VERSION: \"{number}\"");
    crew.file("app/compose.yaml", &FILE.replace("VERSION: \"1\"", &with));
}

#[test]
fn volumes_without_a_name_are_handed_on() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/image/Dockerfile", IMAGE);
        version(crew, "1");
        compose(crew, &["up", "-d"]);
        inside(crew, "db", "1", "echo mine > /other/mine");
        let seen = "cat /declared/seed /declared/runs /other/mine";
        // it runs before its command has written
        let sees = |service: &str, wanted: &str| {
            eventually(&format!("{service} sees {wanted:?}"), || {
                match inside(crew, service, "1", &format!("{seen}; true")) {
                    said if said == wanted => Ok(()),
                    said => Err(said),
                }
            });
        };
        sees("reader", "image\nrun\nmine");
        let environment = inside(crew, "db", "1", "env");
        assert!(!environment.contains("SERVICE_HOST"), "{environment}");

        // Changed: the new container has what the old one had.
        version(crew, "2");
        let file = crew.dir().join("app/compose.yaml");
        let said = text(&crew.knarr(&["compose", "-f", file.to_str().unwrap(), "up", "-d"]));
        let gap = "db: each container ends before the next one starts: its volumes without a name are handed on";
        assert!(said.contains(gap), "{said}");
        sees("db", "image\nrun\nrun\nmine");
        assert_eq!(inside(crew, "db", "1", "echo $VERSION"), "2");
        // Stopped and started, too.
        compose(crew, &["stop"]);
        compose(crew, &["start"]);
        assert_eq!(inside(crew, "db", "1", "cat /other/mine"), "mine");

        // Several, each with its own, also after all of them are replaced.
        compose(crew, &["up", "-d", "--scale", "db=2"]);
        let who = |index: &str| inside(crew, "db", index, "cat /other/*");
        let fresh = if who("1") == "mine" { "2" } else { "1" };
        assert_eq!(inside(crew, "db", fresh, "ls /other"), "");
        inside(crew, "db", fresh, "echo second > /other/second");
        version(crew, "3");
        compose(crew, &["up", "-d", "--scale", "db=2"]);
        let both = BTreeSet::from([who("1"), who("2")]);
        assert_eq!(both, BTreeSet::from(["mine".into(), "second".into()]));
        assert_eq!(inside(crew, "db", "1", "echo $VERSION"), "3");
        // One is left, and hands on what it has.
        compose(crew, &["up", "-d"]);
        let left = eventually("one is left", || {
            let said = compose(crew, &["ps", "-q", "db"]);
            match said.lines().count() {
                1 => Ok(who("1")),
                _ => Err(said),
            }
        });
        version(crew, "4");
        compose(crew, &["up", "-d"]);
        assert_eq!(who("1"), left);

        // A run for once has its own, and leaves nothing.
        let before = compose(crew, &["volumes", "-q"]);
        let line = ["run", "--rm", "-T", "db", "ls", "/other"];
        assert_eq!(compose(crew, &line).trim(), "");
        assert_eq!(compose(crew, &["volumes", "-q"]), before);

        // Begun anew, when that is asked for; `down` leaves what it leaves to nobody.
        compose(crew, &["up", "-d", "-V"]);
        assert_eq!(inside(crew, "db", "1", "ls /other"), "");
        inside(crew, "db", "1", "touch /other/later");
        compose(crew, &["down", "-t", "1"]);
        compose(crew, &["up", "-d"]);
        assert_eq!(inside(crew, "db", "1", "ls /other"), "");
        // With -v they go: of one service, and of all.
        let count = || compose(crew, &["volumes", "-q"]).lines().count();
        let all = count();
        compose(crew, &["rm", "-f", "-s", "-v", "db"]);
        eventually("its volumes are gone", || match count() {
            n if n + 2 <= all => Ok(()),
            n => Err(format!("{n} of {all}")),
        });
        compose(crew, &["down", "-v"]);
        let left = crew.kubectl(&["get", "ns", "unnamed"]);
        assert!(!left.status.success(), "{}", text(&left));
    });
}

const GATED: &str = r#"
name: gated
services:
  db:
    image: busybox:1
    command: sh -c 'echo db says why; DO'
    healthcheck: { test: "echo no answer; exit 1", interval: 1s, retries: 3 }
  web:
    image: busybox:1
    command: sleep 100000
    depends_on: { db: { condition: service_healthy } }
"#;

#[test]
fn who_waits_for_health_that_never_comes_is_told_at_once() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        for (does, wanted) in [
            ("exec sleep 100000", "is unhealthy: no answer"),
            ("sleep 1; exit 3", "exited (3)"),
            ("sleep 1; exit 0", "exited (0)"),
        ] {
            crew.file("app/compose.yaml", &GATED.replace("DO", does));
            // The time that it may take is far longer than the test may.
            let failed = crew.knarr(&["up", "app", "--timeout", "3600"]);
            let said = text(&failed);
            assert_eq!(failed.status.code(), Some(1), "{does}: {said}");
            for part in [
                "dependency failed to start: container ",
                wanted,
                "db says why",
            ] {
                assert!(said.contains(part), "{does}: {part:?} is not in: {said}");
            }
            crew.ok(&["down", "app", "-t", "0"]);
        }
    });
}

const RANGE: &str = r#"
name: range
services:
  web:
    image: busybox:1
    command: sh -c 'hostname > /index.html; exec httpd -f -p 80 -h /'
    ports: ["18000-18003:80"]
    scale: 2
"#;

#[test]
fn of_a_range_of_ports_each_replica_has_a_free_one() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        // One of the ports is somebody else's.
        let held = std::net::TcpListener::bind("0.0.0.0:18000").unwrap();
        crew.file("app/compose.yaml", RANGE);
        crew.ok(&["up", "app"]);
        let answers = |port: u16| crew.http(&format!("http://127.0.0.1:{port}/")).is_ok();
        assert!(answers(18001) && answers(18002) && !answers(18003));
        assert!(crew.ok(&["up", "app"]).contains("nothing had changed"));
        crew.file("app/compose.yaml", &RANGE.replace("scale: 2", "scale: 4"));
        let said = text(&crew.knarr(&["up", "app"]));
        assert!(
            said.contains("3 of the ports 18000-18003 are free"),
            "{said}"
        );
        drop(held);
        crew.ok(&["up", "app"]);
        assert!((18000..=18003).all(answers));
        crew.ok(&["down", "app"]);
    });
}
