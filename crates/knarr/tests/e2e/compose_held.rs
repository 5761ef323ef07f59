//! Containers held where they are, and what they have written kept.

use crate::crew::{Crew, crew, eventually, text};

const FILE: &str = r#"
name: held
services:
  counts:
    image: busybox:1
    command: sh -c 'echo kept > /kept; n=0; while true; do n=$$((n+1)); echo $$n > /count; sleep 0.1; done'
    stop_signal: SIGKILL
  idle:
    image: busybox:1
    command: sleep 100000
    stop_signal: SIGKILL
"#;

fn compose(crew: &Crew, line: &[&str]) -> (i32, String) {
    let done = crew.knarr(&[&["compose", "-p", "held"], line].concat());
    (done.status.code().unwrap_or(-1), text(&done))
}

/// The state that `ps` shows of a service's container.
fn state(crew: &Crew, service: &str) -> String {
    let said = crew.ok(&["compose", "-p", "held", "ps", "-a", "--format", "json"]);
    let lines = said.lines().map(|l| serde_json::from_str(l).unwrap());
    let mut own = lines.filter(|c: &serde_json::Value| c["Service"] == service);
    own.next().map_or_else(String::new, |c| {
        assert_eq!(c["Image"], "busybox:1");
        c["State"].as_str().unwrap().to_string()
    })
}

#[test]
fn containers_are_held_and_what_they_wrote_is_kept() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", FILE);
        crew.ok(&["up", "app"]);
        let counted = || {
            let file = crew.data.join("runtime/containers");
            let mut folders = std::fs::read_dir(file).unwrap().flatten();
            folders.find_map(|f| std::fs::read_to_string(f.path().join("upper/count")).ok())
        };
        eventually("a count", || {
            counted().map(drop).ok_or_else(|| "none".to_string())
        });

        let (code, said) = compose(crew, &["pause", "counts"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(state(crew, "counts"), "paused");
        assert_eq!(state(crew, "idle"), "running");
        let before = counted();
        let (code, said) = compose(crew, &["pause", "counts"]);
        assert!(code == 1 && said.contains("is already paused"), "{said}");
        let (code, said) = compose(crew, &["exec", "counts", "true"]);
        assert!(code == 1 && said.contains("unpause"), "{said}");
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(counted(), before, "it counts no further");
        let (code, said) = compose(crew, &["unpause"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(state(crew, "counts"), "running");
        eventually("it counts on", || match counted() {
            now if now != before => Ok(()),
            now => Err(format!("{now:?}")),
        });

        let tar = crew.dir().join("out.tar");
        let tar = tar.to_str().unwrap();
        assert_eq!(compose(crew, &["export", "-o", tar, "counts"]).0, 0);
        let listed = std::process::Command::new("tar")
            .args(["tf", tar])
            .output()
            .unwrap();
        let listed = text(&listed);
        for path in ["kept", "bin/busybox"] {
            assert!(listed.lines().any(|l| l == path), "{path}: {listed}");
        }
        let line = [
            "commit",
            "-c",
            "CMD [\"cat\", \"/kept\"]",
            "counts",
            "made:1",
        ];
        let (code, said) = compose(crew, &line);
        assert!(code == 0 && said.contains("sha256:"), "{said}");
        assert_eq!(state(crew, "counts"), "running", "it goes on");
        let ran = crew.knarr(&["run", "--rm", "--network", "none", "made:1"]);
        assert_eq!(text(&ran), "kept\n");

        // What is held can be ended all the same.
        assert_eq!(compose(crew, &["pause"]).0, 0);
        assert_eq!(compose(crew, &["stop"]).0, 0);
        let (code, said) = compose(crew, &["publish", "--app", "x/y:1"]);
        assert!(code == 2 && said.contains("knarr publishes no"), "{said}");
        crew.ok(&["down", "app"]);

        // Two projects that are one to Kubernetes don't get into each other's way.
        crew.file(
            "one/compose.yaml",
            "services: {a: {image: 'busybox:1', command: 'sleep 100000', stop_signal: SIGKILL}}",
        );
        crew.ok(&["up", "one", "-p", "my_app"]);
        crew.ok(&["up", "one", "-p", "my_app", "--scale", "a=2"]);
        let other = crew.knarr(&["up", "one", "-p", "my-app"]);
        let said = text(&other);
        assert_eq!(other.status.code(), Some(2), "{said}");
        assert!(said.contains("and so is the project \"my_app\""), "{said}");
        crew.ok(&["down", "one", "-p", "my_app"]);
    });
}
