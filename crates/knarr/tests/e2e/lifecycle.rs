//! An app's life through knarr's own verbs.

use crate::crew::{Crew, crew, eventually, text};
use serde_json::Value;

pub const APP: &str = r#"
name: demo
services:
  web:
    image: busybox:1
    command: ["sh", "-c", "mkdir /www; hostname > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www"]
    deploy: {replicas: 2}
    expose: ["8080"]
    ports: ["8000:8080"]
    healthcheck: {test: ["CMD", "wget", "-q", "-O-", "http://localhost:8080/"], interval: 1s}
    stop_grace_period: 1s
  keeper:
    image: busybox:1
    command: ["sh", "-c", "date >> /d/starts; while true; do wget -q -O- http://web:8080/; sleep 1; done"]
    depends_on: {web: {condition: service_healthy}}
    volumes: ["kept:/d"]
    stop_grace_period: 1s
volumes: {kept: }
"#;

pub fn up(crew: &Crew) {
    crew.busybox();
    crew.file("app/compose.yaml", APP);
    crew.ok(&["up", "app"]);
}

#[test]
fn from_up_to_purge() {
    crew(|crew| {
        up(crew);
        let ids = crew.containers("demo");
        assert_eq!(ids.len(), 3, "{ids:?}");

        // again: nothing changes, and it says so
        let again = crew.knarr(&["up", "app"]);
        assert!(
            text(&again).contains("nothing had changed"),
            "{}",
            text(&again)
        );
        assert_eq!(crew.containers("demo"), ids);

        // the published port, balanced over both
        let mut names = std::collections::BTreeSet::new();
        eventually("both serve", || {
            names.insert(crew.http("http://127.0.0.1:8000/").unwrap());
            match names.len() {
                2 => Ok(()),
                _ => Err(format!("{names:?}")),
            }
        });
        // by name, from container to container
        eventually("keeper reads web", || {
            let lines = crew.ok(&["logs", "keeper"]);
            match names.iter().all(|name| lines.contains(name.trim())) {
                true => Ok(()),
                false => Err(lines),
            }
        });

        let status: Value = serde_json::from_str(&crew.ok(&["status", "-o", "json"])).unwrap();
        assert_eq!(status["ready"], true, "{status}");
        assert_eq!(
            crew.ok(&["exec", "keeper", "--", "sh", "-c", "echo $((6*7))"])
                .trim(),
            "42"
        );
        let failed = crew.knarr(&["exec", "keeper", "--", "sh", "-c", "exit 7"]);
        assert_eq!(failed.status.code(), Some(7), "exec passes the code on");

        // With a terminal, and nobody who types.
        let line = format!(
            "{} exec -it keeper sh -c 'echo on $(tty)'",
            crate::crew::KNARR
        );
        let output = crew
            .in_crew("script")
            .args(["-qec", &line, "/dev/null"])
            .output()
            .unwrap();
        assert!(text(&output).contains("on /dev/"), "{}", text(&output));

        crew.ok(&["scale", "web=3"]);
        assert_eq!(crew.containers("demo").len(), 4);
        crew.ok(&["scale", "web=1"]);
        eventually("one web and keeper", || {
            match crew.containers("demo").len() {
                2 => Ok(()),
                other => Err(other.to_string()),
            }
        });

        let refused = crew.knarr(&["image", "rm", "busybox:1"]);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(
            text(&refused).contains("is used by pod"),
            "{}",
            text(&refused)
        );

        // down keeps volumes
        crew.ok(&["down", "app"]);
        assert!(crew.containers("demo").is_empty());
        crew.http("http://127.0.0.1:8000/")
            .expect_err("the port is closed");
        crew.ok(&["up", "app"]);
        eventually("its volume has both starts", || {
            let starts = crew.ok(&["exec", "keeper", "--", "cat", "/d/starts"]);
            match starts.lines().count() {
                2 => Ok(()),
                _ => Err(starts),
            }
        });

        // a stopped platform leaves containers running, and finds them again
        let ids = crew.containers("demo");
        crew.ok(&["stop"]);
        crew.ok(&["up", "app"]);
        assert_eq!(crew.containers("demo"), ids);
        crew.ok(&["down", "app", "--volumes"]);
    });
}

#[test]
fn a_crash_is_healed_and_told() {
    crew(|crew| {
        crew.busybox();
        crew.file(
            "app/compose.yaml",
            r#"
name: sick
services:
  once:
    image: busybox:1
    command: ["sh", "-c", "if [ -e /d/was ]; then exec sleep 100000; fi; touch /d/was; echo falls; sleep 1; exit 3"]
    volumes: ["d:/d"]
    stop_grace_period: 1s
volumes: {d: }
"#,
        );
        crew.ok(&["up", "app"]);
        eventually("the restart", || {
            let pods: Value = serde_json::from_str(&crew.kube("-n sick get pods -o json")).unwrap();
            let status = &pods["items"][0]["status"]["containerStatuses"][0];
            let was = &status["lastState"]["terminated"]["exitCode"];
            match (
                status["restartCount"].as_i64(),
                was.as_i64(),
                &status["ready"],
            ) {
                (Some(1), Some(3), Value::Bool(true)) => Ok(()),
                _ => Err(status.to_string()),
            }
        });
        let pod = &crew.containers("sick")[0].0;
        assert_eq!(
            crew.kube(&format!("-n sick logs --previous {pod}")),
            "falls"
        );

        crew.file(
            "app/compose.yaml",
            "name: sick\nservices:\n  loop:\n    image: busybox:1\n    command: [sh, -c, 'echo no database; exit 3']\n    healthcheck: {test: [CMD, 'false'], interval: 1s}\n",
        );
        let failed = crew.knarr(&["up", "app", "--timeout", "60"]);
        let said = text(&failed);
        assert!(!failed.status.success(), "{said}");
        assert!(said.contains("no database"), "the last log lines: {said}");
        // between two runs, not in one
        eventually("status tells the code", || {
            let said = crew.ok(&["status"]);
            match said.contains("exited with code 3") {
                true => Ok(()),
                false => Err(said),
            }
        });

        crew.kube("create deployment absent --image=nobody/has:1");
        eventually("status names the image and what is wrong with it", || {
            let said = crew.ok(&["status"]);
            match said.contains("nobody/has:1") && said.contains("ImagePull") {
                true => Ok(()),
                false => Err(said),
            }
        });
    });
}
