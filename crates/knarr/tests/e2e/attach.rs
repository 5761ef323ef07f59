//! kubectl attach, and run -i.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use crate::crew::{Crew, crew, eventually, text};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1
    stdin: true
    command: [sh, -c, "echo before; while read x; do echo said $x; echo aside $x >&2; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: screen}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1
    stdin: true
    tty: true
    command: [sh]
"#;

fn piped(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn attach(crew: &Crew, arguments: &[&str]) -> Child {
    piped(crew.kubectl_command(&[&["attach"], arguments].concat()))
}

/// The container's next line; kubectl's own hints are passed over.
fn line(out: &mut impl BufRead) -> String {
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended early");
        if !line.starts_with("If you don't see") && !line.trim().is_empty() {
            return line;
        }
    }
}

#[test]
fn people_join_containers() {
    crew(|crew| {
        crew.busybox();
        crew.file("k8s/pods.yaml", PODS);
        crew.serve();
        crew.kube("apply -f k8s");
        crew.kube("wait --for=condition=Ready pod/talks pod/screen --timeout=180s");
        eventually("its first line", || match crew.kube("logs talks") {
            log if log == "before" => Ok(()),
            log => Err(log),
        });

        // what comes from now on, and what is typed
        let mut child = attach(crew, &["-i", "talks", "-c", "main"]);
        let mut typed = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut aside = BufReader::new(child.stderr.take().unwrap());
        typed.write_all(b"one\n").unwrap();
        assert_eq!(line(&mut out), "said one\n");
        assert_eq!(line(&mut aside), "aside one\n");
        drop(typed);
        let status = child.wait().unwrap();
        assert!(status.success(), "the end of what is typed ends it");
        // the container took no harm: the next one types on
        let mut child = attach(crew, &["-i", "talks", "-c", "main"]);
        let mut typed = child.stdin.take().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        typed.write_all(b"two\n").unwrap();
        assert_eq!(line(&mut out), "said two\n");
        crew.kube("delete pod talks --wait=false");
        child.wait().unwrap();

        // a terminal, through a terminal: what is typed waits there until it is joined
        let program = crew.kubectl_command(&[]);
        let line = format!("{} attach -it screen", program.get_program().display());
        let mut screen = crew.in_crew("script");
        screen
            .args(["-qec", &line, "/dev/null"])
            .env("KUBECONFIG", crew.data.join("kubeconfig"))
            .env("HOME", crew.dir());
        let mut screen = piped(screen);
        let mut typed = screen.stdin.take().unwrap();
        typed.write_all(b"echo se''en; exit\n").unwrap();
        let output = screen.wait_with_output().unwrap();
        drop(typed);
        assert!(text(&output).contains("\nseen\r\n"), "{}", text(&output));

        // a Pod for one pipe: stdinOnce
        let mut run = piped(crew.kubectl_command(&[
            "run",
            "once",
            "-i",
            "--rm",
            "--restart=Never",
            "--image=busybox:1",
            "--",
            "cat",
        ]));
        let mut typed = run.stdin.take().unwrap();
        typed.write_all(b"through the pipe\n").unwrap();
        drop(typed);
        let mut said = String::new();
        run.stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(run.wait().unwrap().success(), "{said}");
        assert!(said.contains("through the pipe\n"), "{said}");
    });
}
