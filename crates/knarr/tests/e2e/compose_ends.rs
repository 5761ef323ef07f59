//! How an attached `up` ends, and what `run` makes of commands that can't be run.

use crate::crew::{Crew, crew, text};
use std::process::Output;

const FILE: &str = r#"
name: ends
services:
  running: { image: "busybox:1", command: sleep 100000, init: true }
  exit:
    image: busybox:1
    command: /bin/true
    depends_on: [running]
  fail:
    image: busybox:1
    command: sh -c 'echo it says; echo it complains >&2; exit 111'
    depends_on: { exit: { condition: service_completed_successfully } }
  built:
    build:
      dockerfile_inline: "FROM base\nCMD [\"env\"]\n"
      additional_contexts: { base: service:base }
    profiles: [off]
  base:
    build: { dockerfile_inline: "FROM busybox:1\n" }
    profiles: [off]
"#;

fn compose(crew: &Crew, line: &[&str]) -> Output {
    let file = crew.dir().join("app/compose.yaml");
    crew.knarr(&[&["compose", "-f", file.to_str().unwrap()], line].concat())
}

#[test]
fn an_attached_up_ends_with_the_container_that_ends_it() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", FILE);
        crew.file("app/.env", "WHO=of the file\n");
        // (flags, code, what is said, what is not)
        for (flags, code, wanted) in [
            (
                &["up", "--abort-on-container-failure"][..],
                111,
                &["fail-1  ", "it says", "fail-1 exited with code 111"][..],
            ),
            (
                &["up", "--abort-on-container-exit", "exit"],
                0,
                &["exit-1 exited with code 0"],
            ),
            (
                &["up", "-d", "--abort-on-container-exit"],
                2,
                &["--detach cannot be combined with"],
            ),
            (
                &["up", "-V", "--no-recreate"],
                2,
                &["--no-recreate and --renew-anon-volumes are incompatible"],
            ),
            // A service that is named is built with what it is built on, whatever their profiles.
            (&["build", "built"], 0, &[]),
            (
                &["run", "--rm", "-e", "WHO", "built"],
                0,
                &["WHO=of the file"],
            ),
            (
                &["run", "--rm", "built", "nothing-there"],
                127,
                &["nothing-there"],
            ),
        ] {
            let output = compose(crew, flags);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
            // As with Docker Compose, what containers write to stderr comes there.
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(!out.contains("it complains"), "{flags:?}: {out}");
            if flags.contains(&"--abort-on-container-failure") {
                let err = String::from_utf8_lossy(&output.stderr);
                assert!(
                    err.contains("fail-1     | it complains"),
                    "{flags:?}: {err}"
                );
                assert!(!err.contains("it says"), "{flags:?}: {err}");
            }
            for part in wanted {
                assert!(said.contains(part), "{flags:?}: {part:?} is not in: {said}");
            }
            compose(crew, &["down", "-t", "0"]);
        }
    });
}
