//! `update_config` and `rollback_config`: how many at a time, with which pauses, and how many may fail. Real containers
//! that write down when they began; some come right only when others have begun, too.

use crate::crew::{Crew, crew, text};

const FILE: &str = r#"
name: paces
services:
  web:
    image: busybox:1
    environment: { WORD: "@WORD", TOGETHER: "@TOGETHER", BAD: "@BAD", FAILS_FROM: "@FAILS_FROM" }
    command:
      - sh
      - -c
      - |
        echo "$$(date +%s) began $$WORD" >> /log/log
        [ $$(cat /log/log | grep -c "began $$WORD") -ge $$FAILS_FROM ] && echo no good && exit 4
        for n in $$(seq $$BAD); do
          mkdir /log/$$WORD$$n 2>/dev/null && hostname > /log/$$WORD$$n/who
          [ "$$(cat /log/$$WORD$$n/who)" = "$$(hostname)" ] && echo no good && exit 4
        done
        while true; do
          [ $$(grep -c "began $$WORD" /log/log) -ge $$TOGETHER ] && touch /tmp/well
          sleep 0.2
        done
    volumes: ["@LOG:/log"]
    healthcheck: { test: test -f /tmp/well, interval: 1s, retries: 100 }
    restart: "on-failure:1"
    stop_signal: SIGKILL
    deploy:
      replicas: 4
      update_config: @UPDATE
      rollback_config: { parallelism: 1, delay: 4s, order: start-first }
"#;

/// One version of the service.
struct Version<'a> {
    word: &'a str,
    update: &'a str,
    /// A container is well when so many have begun.
    together: u32,
    /// So many containers fail, however often they are started.
    bad: u32,
    /// From this one on, all fail.
    fails_from: u32,
}

const GOOD: Version<'_> = Version {
    word: "good",
    update: "{ parallelism: 0 }",
    together: 4,
    bad: 0,
    fails_from: 99,
};

/// Brings the version up; the exit code and what was said.
fn up(crew: &Crew, version: &Version<'_>) -> (Option<i32>, String) {
    let log = crew.dir().join("log");
    std::fs::create_dir_all(&log).unwrap();
    let number = |n: u32| n.to_string();
    let text_of = FILE
        .replace("@WORD", version.word)
        .replace("@TOGETHER", &number(version.together))
        .replace("@BAD", &number(version.bad))
        .replace("@FAILS_FROM", &number(version.fails_from))
        .replace("@UPDATE", version.update)
        .replace("@LOG", log.to_str().unwrap());
    crew.file("app/compose.yaml", &text_of);
    let done = crew.knarr(&["up", "app"]);
    (done.status.code(), text(&done))
}

/// When containers of a version began, in seconds; those since the line `from`.
fn began(crew: &Crew, word: &str, from: usize) -> Vec<i64> {
    let text = std::fs::read_to_string(crew.dir().join("log/log")).unwrap();
    let lines = text.lines().skip(from);
    let times = lines.filter_map(|l| l.strip_suffix(&format!(" began {word}")));
    times.map(|t| t.parse().unwrap()).collect()
}

fn lines(crew: &Crew) -> usize {
    let text = std::fs::read_to_string(crew.dir().join("log/log")).unwrap();
    text.lines().count()
}

/// The words that the service's living containers were made with.
fn words(crew: &Crew) -> Vec<String> {
    let said = crew.kube(
        "-n paces get pods -l app.kubernetes.io/name=web -o jsonpath={range.items[?(@.status.phase==\"Running\")]}{.metadata.deletionTimestamp}/{.spec.containers[0].env[?(@.name==\"WORD\")].value}{\"\\n\"}{end}",
    );
    let alive = said.lines().filter_map(|l| l.strip_prefix('/'));
    let mut all: Vec<String> = alive.map(String::from).collect();
    all.sort();
    all
}

#[test]
fn updates_keep_the_pace_that_the_file_sets() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        // Four at once, or none of them would ever be well.
        let (code, said) = up(crew, &GOOD);
        assert_eq!(code, Some(0), "{said}");

        // Two at a time: with one, none would be well; with more, the pauses between them would be missing.
        let pairs = Version {
            word: "pairs",
            update: "{ parallelism: 2, delay: 5s, order: start-first }",
            together: 2,
            ..GOOD
        };
        let (code, said) = up(crew, &pairs);
        assert_eq!(code, Some(0), "{said}");
        let times = began(crew, "pairs", 0);
        assert_eq!(times.len(), 4, "{times:?}");
        // Both the log and what counts the pause know whole seconds.
        assert!(times[2] - times[0] >= 3, "{times:?}");
        let lasts = crew.kube("-n paces get deploy web -o jsonpath={.spec.minReadySeconds}");
        assert_eq!(lasts, "", "no pause is left when all is over");
        assert!(up(crew, &pairs).1.contains("nothing had changed"));

        // One of four may fail; the others are replaced all the same.
        let one = Version {
            word: "one",
            update: "{ parallelism: 1, max_failure_ratio: 0.3 }",
            together: 1,
            bad: 1,
            ..GOOD
        };
        let (code, said) = up(crew, &one);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("3/4 ready, 1 failed"), "{said}");
        assert!(!words(crew).contains(&"pairs".to_string()));

        // Two may not.
        let (code, said) = up(crew, &GOOD);
        assert_eq!(code, Some(0), "{said}");
        let two = Version {
            word: "two",
            bad: 2,
            ..one
        };
        let (code, said) = up(crew, &two);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("exited with code 4") && said.contains("no good"),
            "{said}"
        );
        assert!(said.contains("what ran before is back"), "{said}");
        assert_eq!(words(crew), ["good"; 4]);

        // Two were replaced when the third failed: they come back one after the other.
        let (before, third) = (
            lines(crew),
            Version {
                word: "third",
                update: "{ parallelism: 1, order: start-first }",
                together: 1,
                fails_from: 3,
                ..GOOD
            },
        );
        let (code, said) = up(crew, &third);
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(words(crew), ["good"; 4], "{said}");
        let times = began(crew, "good", before);
        assert_eq!(times.len(), 2, "{times:?}");
        assert!(times[1] - times[0] >= 2, "{times:?}");
        crew.ok(&["down", "app"]);
    });
}

const MONITORED: &str = r#"
name: monitored
services:
  web:
    image: busybox:1
    command: sh -c 'echo @WORD; @DOES'
    stop_signal: SIGKILL
    restart: "on-failure:1"
    deploy: { update_config: { monitor: 100s } }
"#;

#[test]
fn what_ends_while_it_is_watched_takes_no_place() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let file = |word: &str, does: &str| {
            let text = MONITORED.replace("@WORD", word).replace("@DOES", does);
            crew.file("app/compose.yaml", &text);
        };
        let pod = || crew.kube("-n monitored get pods -o jsonpath={.items[*].metadata.name}");
        file("old", "sleep 100000");
        // Nobody is worse off when it ends later, so nobody waits.
        crew.ok(&["up", "app", "--timeout", "60"]);
        let old = pod();
        file("new", "sleep 4; exit 3");
        let failed = crew.knarr(&["up", "app"]);
        let said = text(&failed);
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(
            said.contains("exited with code 3") && said.contains("new"),
            "{said}"
        );
        assert!(pod().split(' ').any(|p| p == old), "the old one was kept");
        crew.ok(&["down", "app"]);
    });
}
