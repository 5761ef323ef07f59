//! Compose files as Docker's users write them, run; what the specification's conformance scenarios ask, and more.

use crate::crew::{Crew, crew, eventually, text};
use std::process::Output;

const MANY: &str = r#"
name: many
services:
  entry:
    image: busybox:1
    init: true
    hostname: Entry_Host
    environment: { LITERAL: "$$(X) $$$$" }
    command: ["httpd", "-f", "-p", "8080", "-h", "/site"]
    stop_signal: SIGKILL
    networks: { front: { aliases: [main] } }
    links: ["near:neighbour"]
    depends_on:
      once: { condition: service_completed_successfully }
      near: { condition: service_healthy }
    ports: ["8080:8080"]
    volumes: ["./site:/site:ro", "kept:/kept"]
    tmpfs: /scratch:size=1m
    shm_size: 3m
    configs:
      - source: inline
        target: /etc/inline.conf
        mode: 0440
    secrets: [key]
    extra_hosts: ["else.example:10.9.8.7"]
    ulimits: { nofile: 1000 }
    post_start:
      - command: sh -c 'echo $$0 > /scratch/hooked'
        environment: { A: b }
    deploy: { resources: { limits: { cpus: "100", memory: 64m } } }
  near:
    image: busybox:1
    command: httpd -f -p 80 -h /etc
    container_name: Near.Box
    networks: { front: { aliases: [My_Near, near.internal] } }
    healthcheck: { test: "wget -q -O- http://localhost:80/hosts || exit 1", interval: 60s }
  far:
    image: busybox:1
    command: httpd -f -p 80 -h /etc
    networks: [back]
    device_cgroup_rules: ["c 1:2 r"]
  beside:
    image: busybox:1
    command: sleep 100000
    network_mode: service:entry
  once:
    image: busybox:1
    command: touch /kept/once
    volumes: [kept:/kept]
  off: { image: "nobody/has:1", profiles: [never] }
networks: { front: , back: }
volumes: { kept: }
configs: { inline: { content: "said $WHAT" } }
secrets: { key: { file: ./key.txt } }
"#;

fn exec(crew: &Crew, service: &str, line: &str) -> Output {
    crew.knarr(&["exec", "-p", "many", service, "--", "sh", "-c", line])
}

#[test]
fn keys_do_what_they_say() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", MANY);
        crew.file("app/.env", "WHAT=\"it\"\n");
        crew.file("app/key.txt", "hush");
        crew.file("app/site/index.html", "hello");
        crew.ok(&["up", "app"]);
        assert_eq!(crew.http("http://127.0.0.1:8080/").unwrap(), "hello");
        for (name, service, line, want) in [
            (
                "a config, its mode",
                "entry",
                "cat /etc/inline.conf; ls -lL /etc/inline.conf",
                Some("said it-r--r-----"),
            ),
            ("a secret", "entry", "cat /run/secrets/key", Some("hush")),
            ("a volume that two share", "entry", "ls /kept", Some("once")),
            ("a bind is read-only", "entry", "touch /site/x", None),
            (
                "memory file systems",
                "entry",
                "touch /scratch/x /dev/shm/y && echo yes",
                Some("yes"),
            ),
            (
                "a further host",
                "entry",
                "cat /etc/hosts",
                Some("10.9.8.7"),
            ),
            (
                "a limit of files",
                "entry",
                "ulimit -n; ulimit -Hn",
                Some("10001000"),
            ),
            ("literal dollars", "entry", "env", Some("LITERAL=$(X) $$")),
            ("the host's name", "entry", "hostname", Some("Entry_Host")),
            (
                "a link's name",
                "entry",
                "nslookup neighbour; true",
                Some("neighbour.many"),
            ),
            ("an alias", "near", "nslookup main; true", Some("main.many")),
            ("a hook has run", "entry", "cat /scratch/hooked", Some("sh")),
            (
                "the same network",
                "near",
                "wget -q -O- http://entry:8080/",
                Some("hello"),
            ),
            (
                "a port that nothing names",
                "entry",
                "wget -q -O- http://near:80/hosts",
                Some("localhost"),
            ),
            (
                "an alias as it is written",
                "entry",
                "wget -q -O- http://My_Near/hosts && wget -q -O- http://near.internal/hosts",
                Some("localhost"),
            ),
            (
                "a container's name",
                "beside",
                "wget -q -O- http://Near.Box/hosts",
                Some("localhost"),
            ),
            (
                "the name that Compose gives",
                "near",
                "wget -q -O- http://many-entry-1:8080/ && wget -q -O- http://many_entry_1:8080/",
                Some("hellohello"),
            ),
            (
                "a link's name is nobody else's",
                "near",
                "wget -q -O- http://neighbour/hosts",
                None,
            ),
            (
                "another network",
                "far",
                "busybox timeout 3 wget -q -O- http://entry:8080/",
                None,
            ),
            (
                "a network without others",
                "far",
                "busybox timeout 60 wget -q -O- http://far:80/hosts",
                Some("localhost"),
            ),
            (
                "networks are apart",
                "entry",
                "busybox timeout 3 wget -q -O- http://far:80/hosts",
                None,
            ),
            (
                "a device that a rule is about, which the kernel hasn't",
                "far",
                "busybox mknod /dev/d$$ c 1 2; cat /dev/d$$ 2>&1 | grep 'No such device'",
                Some("No such device"),
            ),
            (
                "a device that no rule is about",
                "near",
                "busybox mknod /dev/d$$ c 1 2; cat /dev/d$$ 2>&1 | grep 'not permitted'",
                Some("not permitted"),
            ),
            (
                "a shared network namespace",
                "beside",
                "wget -q -O- http://127.0.0.1:8080/",
                Some("hello"),
            ),
        ] {
            let Some(want) = want else {
                let output = exec(crew, service, line);
                assert!(!output.status.success(), "{name}: {}", text(&output));
                continue;
            };
            // who is ready is known by name soon, not at once
            eventually(name, || {
                let output = exec(crew, service, line);
                let said = text(&output);
                match output.status.success() && said.replace('\n', "").contains(want) {
                    true => Ok(()),
                    false => Err(said),
                }
            });
        }
        // Nothing has changed, so nothing is done; a service can be brought up by itself, in another number.
        assert!(crew.ok(&["up", "app"]).contains("nothing had changed"));
        crew.ok(&["up", "app", "near", "--scale", "near=2"]);
        assert_eq!(
            crew.kube("-n many get deploy near -o jsonpath={.status.readyReplicas}"),
            "2"
        );
        crew.ok(&["up", "app", "far", "--force-recreate", "--no-deps"]);
        // What ran to its end, and has changed, runs again for whom it is a condition of, whoever is named.
        let twice = MANY.replace("touch /kept/once", "touch /kept/twice");
        crew.file("app/compose.yaml", &twice);
        crew.ok(&["up", "app", "entry"]);
        eventually("the changed job has run", || {
            let output = exec(crew, "entry", "ls /kept");
            match text(&output).contains("twice") {
                true => Ok(()),
                false => Err(text(&output)),
            }
        });
        crew.file("app/compose.yaml", MANY);

        // What is made for Kubernetes is what Kubernetes takes.
        crew.kube("create namespace other");
        let manifests = crew.file("many.yaml", &crew.ok(&["convert", "-p", "other", "app"]));
        let tried = crew.kube(&format!("apply --dry-run=server -f {manifests}"));
        assert!(tried.contains("deployment.apps/entry"), "{tried}");
        let config = crew.ok(&["config", "app"]);
        assert!(config.contains("said it"), "{config}");
        crew.ok(&["down", "app", "-v"]);
    });
}

const STEADY: &str = r#"
name: steady
services:
  web:
    image: busybox:1
    command: sh -c 'echo VERSION > /tmp/index.html; START; exec httpd -f -p 80 -h /tmp'
    ports: ["8080:80"]
    healthcheck: { test: wget -q -O- http://localhost:80/, interval: 1s }
    deploy: { update_config: { failure_action: ACTION } }
"#;

#[test]
fn an_update_that_fails_is_taken_back() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let write = |version: &str, start: &str, action: &str| {
            let file = STEADY.replace("VERSION", version).replace("START", start);
            crew.file("app/compose.yaml", &file.replace("ACTION", action));
        };
        let page = || crew.http("http://127.0.0.1:8080/").unwrap();
        write("one", "true", "rollback");
        crew.ok(&["up", "app"]);
        assert_eq!(page(), "one\n");
        write("two", "echo no luck; exit 4", "rollback");
        let failed = crew.knarr(&["up", "app", "--timeout", "50"]);
        let said = text(&failed);
        assert!(!failed.status.success(), "{said}");
        for word in ["no luck", "code 4", "what ran before is back"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(page(), "one\n");
        let command =
            "-n steady get deploy web -o jsonpath={.spec.template.spec.containers[0].args}";
        assert!(
            crew.kube(command).contains("one"),
            "the template is the old one"
        );
        // A pause leaves it as it is, and what serves goes on.
        write("two", "echo no luck; exit 4", "pause");
        let failed = crew.knarr(&["up", "app", "--timeout", "50"]);
        assert!(!failed.status.success(), "{}", text(&failed));
        assert!(
            crew.kube(command).contains("two"),
            "the template is the new one"
        );
        assert_eq!(page(), "one\n");
        write("three", "true", "rollback");
        crew.ok(&["up", "app"]);
        eventually("the new page", || match page() {
            p if p == "three\n" => Ok(()),
            p => Err(p),
        });
        crew.ok(&["down", "app"]);
    });
}

#[test]
fn changed_files_come_into_running_containers() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file(
            "app/compose.yaml",
            r#"
name: live
services:
  web:
    image: busybox:1
    command: sleep 100000
    stop_signal: SIGKILL
    develop:
      watch:
        - { path: ./src, action: sync, target: /app, ignore: ["*.tmp"], initial_sync: true }
"#,
        );
        crew.file("app/src/first", "1");
        crew.ok(&["up", "app"]);
        let mut watch = crew.command(&["watch", "app", "--no-up"]).spawn().unwrap();
        let inside = |line: &str| {
            let words = ["exec", "-p", "live", "web", "--", "sh", "-c", line];
            crew.knarr(&words)
        };
        let shows = |what: &str, line: &str, want: &str| {
            eventually(what, || match text(&inside(line)) {
                said if said == want => Ok(()),
                said => Err(said),
            });
        };
        shows("what was there", "cat /app/first", "1");
        crew.file("app/src/deep/er/new", "2");
        crew.file("app/src/left.tmp", "3");
        shows("a new file in a new folder", "cat /app/deep/er/new", "2");
        crew.file("app/src/deep/er/new", "changed");
        shows("a change", "cat /app/deep/er/new", "changed");
        std::fs::remove_file(crew.dir().join("app/src/first")).unwrap();
        shows("what is gone, and what is ignored", "ls /app", "deep\n");
        watch.kill().unwrap();
        watch.wait().unwrap();
        crew.ok(&["down", "app"]);
    });
}
