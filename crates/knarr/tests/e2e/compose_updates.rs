//! How services are started again, and how they are replaced: real containers that write down when they began and ended.

use crate::crew::{Crew, crew, eventually, text};
use std::process::Stdio;

const RESTARTS: &str = r#"
name: restarts
services:
  # Ends well, and says nothing of restarts: it ran once, and that is that.
  once:
    image: busybox:1
    command: sh -c 'echo once >> /kept/runs; sleep 3'
    volumes: ["kept:/kept"]
  # Came too early: it is started again until it gets through.
  early:
    image: busybox:1
    command: sh -c 'echo early >> /kept/runs; [ $$(grep -c early /kept/runs) -ge 7 ] || exit 1; sleep 100000'
    volumes: ["kept:/kept"]
    restart: always
  asked: { image: "busybox:1", command: "sh -c 'echo up; sleep 100000'", depends_on: [once] }
volumes: { kept: }
"#;

/// How often it was started; waits until `early` runs, which has the volume.
fn runs(crew: &Crew, word: &str) -> usize {
    let line = ["exec", "-p", "restarts", "early", "--", "cat", "/kept/runs"];
    let said = eventually("the volume can be read", || match crew.knarr(&line) {
        good if good.status.success() => Ok(text(&good)),
        bad => Err(text(&bad)),
    });
    said.lines().filter(|l| *l == word).count()
}

#[test]
fn containers_start_again_as_with_compose() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", RESTARTS);
        // short pauses at first: with those that Pods have, so many starts take more than five minutes
        crew.ok(&["up", "app", "--timeout", "200"]);
        eventually("it got through", || match runs(crew, "early") {
            7 => Ok(()),
            n => Err(n.to_string()),
        });
        eventually("the end of once", || {
            let said = crew.ok(&["compose", "-p", "restarts", "ps", "-a"]);
            match said.contains("Exited (0)") {
                true => Ok(()),
                false => Err(said),
            }
        });
        // A second `up` finds nothing to do, and the platform's restart neither.
        assert!(crew.ok(&["up", "app"]).contains("nothing had changed"));
        crew.kill();
        crew.serve();
        assert!(crew.ok(&["status"]).contains("once"));
        assert_eq!(runs(crew, "once"), 1);

        // So many times, and no more.
        let text_of = RESTARTS.replace("asked: {", "asked: { restart: \"on-failure:1\",");
        crew.file(
            "app/compose.yaml",
            &text_of.replace("echo up; sleep 100000", "echo so; exit 7"),
        );
        let failed = crew.knarr(&["up", "app"]);
        let said = text(&failed);
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(
            said.contains("exited with code 7") && said.contains("so"),
            "{said}"
        );
        crew.ok(&["down", "app", "-v"]);
    });
}

const UPDATES: &str = r#"
name: updates
services:
  web:
    image: busybox:1
    command: sh -c 'echo WORD; echo began WORD >> /log/log; trap "sleep 1; echo ended WORD >> /log/log; exit 0" TERM; echo WORD > /tmp/index.html; BAD; httpd -p 80 -h /tmp; while true; do sleep 0.2; done'
    volumes: ["LOG:/log"]
    ports: ["8080:80"]
    healthcheck: { test: wget -q -O- http://localhost:80/, interval: 1s }
    deploy: { update_config: UPDATE }
  zeta:
    image: busybox:1
    environment: { WORD: "WORD" }
    command: sleep 100000
"#;

/// What is in the file for a word; `bad` ends at once.
fn file(crew: &Crew, word: &str, update: &str, bad: bool) {
    let log = crew.dir().join("log");
    std::fs::create_dir_all(&log).unwrap();
    let text = UPDATES
        .replace("WORD", word)
        .replace("UPDATE", update)
        .replace("LOG", log.to_str().unwrap())
        .replace("BAD", if bad { "exit 9" } else { "true" });
    crew.file("app/compose.yaml", &text);
}

fn log(crew: &Crew) -> Vec<String> {
    let text = std::fs::read_to_string(crew.dir().join("log/log")).unwrap_or_default();
    text.lines().map(String::from).collect()
}

#[test]
fn updates_go_as_the_file_says() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let serves = |word: &str| {
            eventually(&format!("{word} serves"), || {
                match crew.http("http://127.0.0.1:8080/") {
                    Ok(page) if page.trim() == word => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        };
        let word_of_zeta = || {
            crew.kube("-n updates get deploy zeta -o jsonpath={.spec.template.spec.containers[0].env[0].value}")
        };
        // (order, which of the two lines comes first)
        for (i, (order, first)) in [("stop-first", "ended"), ("start-first", "began")]
            .into_iter()
            .enumerate()
        {
            let update = format!("{{ order: {order} }}");
            let (old, new) = (format!("old{i}"), format!("new{i}"));
            file(crew, &old, &update, false);
            crew.ok(&["up", "app"]);
            serves(&old);
            file(crew, &new, &update, false);
            crew.ok(&["up", "app"]);
            serves(&new);
            let both = [format!("ended {old}"), format!("began {new}")];
            let lines = eventually("both lines", || {
                let all = log(crew);
                match both.iter().all(|b| all.contains(b)) {
                    true => Ok(all),
                    false => Err(format!("{all:?}")),
                }
            });
            let found = lines.iter().find(|l| both.contains(l)).unwrap();
            assert!(found.starts_with(first), "{order}: {lines:?}");
        }
        // (what is done, what zeta is then, whether the old file's web is asked for again)
        for (action, others, back) in [
            ("rollback", false, true),
            ("pause", false, false),
            ("continue", true, false),
        ] {
            let update = format!("{{ order: start-first, failure_action: {action} }}");
            file(crew, "good", &update, false);
            crew.ok(&["up", "app"]);
            serves("good");
            file(crew, action, &update, true);
            let failed = crew.knarr(&["up", "app", "--timeout", "60"]);
            let said = text(&failed);
            assert_eq!(failed.status.code(), Some(1), "{action}: {said}");
            assert!(
                said.contains("exited with code 9") && said.contains(action),
                "{action}: {said}"
            );
            // In each case what ran goes on.
            serves("good");
            let command = crew.kube(
                "-n updates get deploy web -o jsonpath={.spec.template.spec.containers[0].args}",
            );
            assert_eq!(command.contains("good"), back, "{action}: {command}");
            assert!(
                !others || word_of_zeta() == action,
                "{action}: {}",
                word_of_zeta()
            );
        }
        crew.ok(&["down", "app", "-v"]);
    });
}

/// A program that doesn't outlive the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WATCHED: &str = r#"
name: watched
services:
  web:
    image: watched
    build:
      context: .
      dockerfile_inline: |
        FROM busybox:1
        COPY conf /conf
        COPY dep /dep
    command: sleep 100000
    stop_signal: SIGKILL
    develop:
      watch:
        - { path: ./conf, action: sync+restart, target: /conf }
        - { path: ./dep, action: rebuild }
        - { path: ./hook, action: sync+exec, target: /hook, exec: { command: "sh -c 'cat /hook/a > /tmp/ran'" } }
        - { path: ./some, action: sync, target: /some, include: "*.txt" }
"#;

#[test]
fn every_action_of_watch_does_its_work() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", WATCHED);
        for file in ["conf/a", "dep/a", "hook/a", "some/a.txt"] {
            crew.file(&format!("app/{file}"), "first");
        }
        let said = text(&crew.knarr(&["up", "app"]));
        assert!(
            said.contains("COPY conf /conf"),
            "the build's steps: {said}"
        );
        let pod = || {
            crew.kube("-n watched get pods --field-selector=status.phase=Running -o jsonpath={.items[*].metadata.name}")
        };
        let mut watch = crew.command(&["compose", "-f", "app/compose.yaml", "watch", "--no-up"]);
        let watch = Child(
            watch
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let shows = |what: &str, path: &str, want: &str| {
            eventually(what, || {
                let said = crew.knarr(&["exec", "-p", "watched", "web", "--", "cat", path]);
                match text(&said) {
                    said if said == want => Ok(()),
                    said => Err(said),
                }
            });
        };
        let first = pod();
        // Files that come are seen only once the folders are watched.
        eventually("a file that is brought in", || {
            crew.file("app/hook/a", "second");
            let said = crew.knarr(&["exec", "-p", "watched", "web", "--", "cat", "/tmp/ran"]);
            match text(&said) {
                said if said == "second" => Ok(()),
                said => Err(said),
            }
        });
        crew.file("app/some/b.txt", "in");
        crew.file("app/some/b.log", "out");
        shows("what is included", "/some/b.txt", "in");
        let other = crew.knarr(&["exec", "-p", "watched", "web", "--", "cat", "/some/b.log"]);
        assert!(!other.status.success(), "{}", text(&other));
        assert_eq!(pod(), first, "nothing of this needs a new container");
        crew.file("app/dep/a", "second");
        shows("what is built", "/dep/a", "second");
        let only_another = |than: &str| {
            eventually("another container", || match pod() {
                now if now.is_empty() || now.contains(' ') || now == than => Err(now),
                now => Ok(now),
            })
        };
        let second = only_another(&first);
        crew.file("app/conf/a", "second");
        shows("what needs a restart", "/conf/a", "second");
        only_another(&second);
        drop(watch);
        crew.ok(&["down", "app", "--rmi", "local"]);
    });
}
