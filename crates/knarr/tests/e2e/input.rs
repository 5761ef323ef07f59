//! Bad input and a bad machine: one clear message that names the place and the fix, and nothing changes.

use std::net::TcpListener;

use crate::crew::{Crew, KNARR, crew, shell, text};

/// What the API holds, but for what changes by itself.
fn contents(crew: &Crew) -> String {
    crew.kube("get ns,deploy,sts,svc,cm,pvc,secret -A -o name")
}

fn check(crew: &Crew, name: &str, arguments: &[&str], code: i32, expected: &[&str]) {
    let before = contents(crew);
    let output = crew.knarr(arguments);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{name}: {said}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in expected {
        assert!(complaint.contains(part), "{name}: lacks {part:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{name}: {said}");
    assert_eq!(before, contents(crew), "{name}: something changed");
}

#[test]
fn files_with_mistakes() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let compose = |name: &str, services: &str| {
            let text = format!("name: bad\nservices:\n{services}");
            crew.file(&format!("{name}/compose.yaml"), &text);
            name.to_string()
        };
        let cases = [
            (
                compose("unknown", "  web:\n    image: busybox:1\n    imagee: x\n"),
                2,
                vec!["compose.yaml", "5", "imagee"],
            ),
            (
                compose(
                    "cycle",
                    "  a: {image: \"busybox:1\", depends_on: [b]}\n  b: {image: \"busybox:1\", depends_on: [a]}\n",
                ),
                2,
                vec!["a", "b", "depends"],
            ),
            (
                compose("context", "  a:\n    build: ./missing\n"),
                2,
                vec!["missing"],
            ),
            (
                compose(
                    "type",
                    "  a:\n    image: busybox:1\n    deploy: {replicas: many}\n",
                ),
                2,
                vec!["replicas"],
            ),
            (
                compose(
                    "port",
                    "  a:\n    image: busybox:1\n    ports: [\"99999:80\"]\n",
                ),
                2,
                vec!["99999"],
            ),
            (compose("yaml", "  a: [\n"), 2, vec!["compose.yaml"]),
            (
                compose(
                    "volume",
                    "  a:\n    image: busybox:1\n    volumes: [\"nowhere:/d\"]\n",
                ),
                2,
                vec!["nowhere"],
            ),
        ];
        for (name, code, expected) in &cases {
            check(crew, name, &["up", name], *code, expected);
        }
        crew.file(
            "k8s/a.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many}\n",
        );
        check(
            crew,
            "manifest with a wrong type",
            &["up", "k8s"],
            2,
            &["a.yaml", "replicas"],
        );
        crew.file(
            "k8s2/a.yaml",
            "apiVersion: example.org/v1\nkind: Sloop\nmetadata: {name: a}\n",
        );
        check(
            crew,
            "a kind that isn't there",
            &["up", "k8s2"],
            2,
            &["Sloop"],
        );
        crew.file("empty/readme.txt", "nothing");
        check(
            crew,
            "an empty folder",
            &["up", "empty"],
            2,
            &["compose.yaml"],
        );
        check(crew, "no folder", &["up", "nowhere"], 2, &["nowhere"]);
        check(
            crew,
            "no such service",
            &["scale", "-p", "none", "web=2"],
            2,
            &["none"],
        );
    });
}

#[test]
fn ports_in_use() {
    crew(|crew| {
        let taken = TcpListener::bind("127.0.0.1:6443").unwrap();
        crew.busybox();
        crew.file("app/compose.yaml", "name: app\nservices:\n  web:\n    image: busybox:1\n    command: [sleep, \"100000\"]\n    stop_grace_period: 1s\n    ports: [\"8000:80\"]\n");
        let output = crew.knarr(&["up", "app"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("6443"), "{said}");
        drop(taken);

        let taken = TcpListener::bind("0.0.0.0:8000").unwrap();
        let output = crew.knarr(&["up", "app", "--timeout", "20"]);
        let said = text(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("8000"), "{said}");
        drop(taken);
        crew.ok(&["up", "app"]);
    });
}

#[test]
fn without_root() {
    crew(|crew| {
        crew.file(
            "app/compose.yaml",
            "name: app\nservices:\n  web: {image: \"busybox:1\"}\n",
        );
        shell(&format!("chmod -R a+rX {}", crew.dir().display()));
        // A copy, as the build's folder may be closed to others.
        let program = crew.dir().join("knarr");
        std::fs::copy(KNARR, &program).unwrap();
        let data = crew.dir().join("nobody");
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["--data-dir", data.to_str().unwrap(), "up"])
            .arg(crew.dir().join("app"))
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("root"), "{said}");
        assert!(!data.exists());
    });
}

#[test]
fn a_full_disk() {
    crew(|crew| {
        std::fs::create_dir_all(&crew.data).unwrap();
        shell(&format!(
            "mount -t tmpfs -o size=64m tmpfs {}",
            crew.data.display()
        ));
        crew.busybox();
        crew.serve();
        let before = contents(crew);
        shell(&format!(
            "dd if=/dev/zero of={}/filler bs=64k 2>/dev/null; true",
            crew.data.display()
        ));
        let said = text(&crew.kubectl(&[
            "create",
            "configmap",
            "big",
            &format!("--from-literal=a={}", "x".repeat(100_000)),
        ]));
        assert!(said.contains("space"), "{said}");
        assert_eq!(before, contents(crew), "what is there can still be read");
        std::fs::remove_file(crew.data.join("filler")).unwrap();
        crate::crew::eventually("writes go on when there is room again", || {
            let output = crew.kubectl(&["create", "configmap", "small", "--from-literal=a=b"]);
            match output.status.success() {
                true => Ok(()),
                false => Err(text(&output)),
            }
        });
        let output = crew.knarr(&["stop", "--purge"]);
        assert!(output.status.success(), "{}", text(&output));
        shell(&format!("umount {0}; rmdir {0}", crew.data.display()));
    });
}
