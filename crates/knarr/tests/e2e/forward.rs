//! kubectl port-forward into containers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use crate::crew::{Crew, crew, eventually};

/// Listens on its own loopback only; the second container of the Pod shares it.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: inner, labels: {app: inner}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox:1
    command: [sh, -c, "mkdir /www; echo inside > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"]
  - name: other
    image: busybox:1
    command: [sleep, "100000"]
---
apiVersion: v1
kind: Service
metadata: {name: inner}
spec: {selector: {app: inner}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// Starts a session; answers it with the local port, once it forwards.
fn forward(crew: &Crew, target: &str, port: &str) -> (Child, u16) {
    let mut child = crew
        .kubectl_command(&["port-forward", target, &format!(":{port}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    if line.is_empty() {
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        panic!("kubectl port-forward {target}: {said}");
    }
    // It goes on to tell of each connection.
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let local = line.split(' ').nth(2).unwrap().rsplit(':').next().unwrap();
    (child, local.parse().unwrap())
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ports_of_pods_are_forwarded() {
    crew(|crew| {
        crew.busybox();
        crew.file("k8s/pod.yaml", POD);
        crew.ok(&["up", "k8s"]);
        for (target, port) in [("pod/inner", "8080"), ("service/inner", "80")] {
            let (child, local) = forward(crew, target, port);
            let url = format!("http://127.0.0.1:{local}/");
            eventually(target, || crew.http(&url));
            std::thread::scope(|scope| {
                let all = (0..8).map(|_| scope.spawn(|| crew.http(&url)));
                for answer in all.collect::<Vec<_>>() {
                    assert_eq!(answer.join().unwrap().unwrap().trim(), "inside", "{target}");
                }
            });
            end(child);
        }
        // The server's end is the client's, though the client says nothing more and goes on listening.
        let (child, local) = forward(crew, "pod/inner", "8080");
        let mut stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
        stream
            .set_read_timeout(Some(crate::crew::DEADLINE))
            .unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.trim_end().ends_with("inside"), "{said}");
        end(child);
        // Nobody listens there: kubectl tells.
        let (child, local) = forward(crew, "pod/inner", "9999");
        crew.http(&format!("http://127.0.0.1:{local}/"))
            .unwrap_err();
        let (mut child, (send, line)) = (child, std::sync::mpsc::channel());
        let mut said = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = said.read_line(&mut text);
            send.send(text)
        });
        let said = line.recv_timeout(crate::crew::DEADLINE).unwrap();
        assert!(said.contains("9999") && said.contains("refused"), "{said}");
        child.kill().unwrap();
        child.wait().unwrap();
        crew.ok(&["down", "k8s"]);
    });
}
