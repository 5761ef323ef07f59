//! Debian's kubectl against the running app, verb by verb.

use std::io::Read;
use std::process::{Output, Stdio};

use crate::{
    crew::{Crew, crew, eventually, text},
    lifecycle::up,
};

/// Runs a line in a shell, with `kubectl` and the namespace set, and looks for each of `expected` in what it prints.
fn check(crew: &Crew, line: &str, code: i32, expected: &[&str]) {
    let output = run(crew, line);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
    for part in expected {
        assert!(said.contains(part), "{line}\nlacks {part:?} in\n{said}");
    }
}

fn run(crew: &Crew, line: &str) -> Output {
    let program = crew
        .kubectl_command(&[])
        .get_program()
        .to_string_lossy()
        .into_owned();
    let script = format!("kubectl() {{ command '{program}' -n demo \"$@\"; }}\n{line}");
    std::process::Command::new("bash")
        .args(["-c", &script])
        .env("KUBECONFIG", crew.data.join("kubeconfig"))
        .env("HOME", crew.dir())
        .current_dir(crew.dir())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {a: one}\n";

#[test]
fn every_verb() {
    crew(|crew| {
        up(crew);
        let c = |line: &str, expected: &[&str]| check(crew, line, 0, expected);
        c(
            "kubectl get pods",
            &[
                "NAME", "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running", "web-",
            ],
        );
        c(
            "kubectl get pods -o wide",
            &["IP", "NODE", "NOMINATED NODE", "10.42."],
        );
        c(
            "kubectl get deploy,svc,pvc",
            &[
                "deployment.apps/web",
                "2/2",
                "service/web",
                "ClusterIP",
                "persistentvolumeclaim/",
                "Bound",
            ],
        );
        c(
            "kubectl get deploy web -o yaml",
            &["apiVersion: apps/v1", "availableReplicas: 2"],
        );
        c(
            "kubectl get pods -o jsonpath='{.items[*].status.phase}'",
            &["Running Running Running"],
        );
        c(
            "kubectl get pods --field-selector status.phase=Failed",
            &["No resources found in demo namespace."],
        );
        c("kubectl get pods -l '!nothing' -o name | wc -l", &["3"]);
        c(
            "kubectl get nodes; kubectl get ns demo; kubectl get all",
            &["Ready", "Active", "replicaset.apps/web-"],
        );
        c(
            "kubectl get deploy none; test $? = 1",
            &["Error from server (NotFound): deployments.apps \"none\" not found"],
        );
        // what is told of it later
        let later = |line: &str, expected: &[&str]| {
            eventually(line, || {
                let said = text(&run(crew, line));
                match expected.iter().all(|part| said.contains(part)) {
                    true => Ok(()),
                    false => Err(said),
                }
            });
        };
        later(
            "kubectl describe deploy web",
            &[
                "RollingUpdateStrategy",
                "2 desired | 2 updated | 2 total | 2 available",
                "ScalingReplicaSet",
            ],
        );
        later(
            // without the flag, new clients show the events of one object only
            "kubectl describe pod -l '!nothing' --show-events",
            &["Container ID:", "Started", "Successfully assigned"],
        );
        later("kubectl describe svc web", &["Endpoints:", "10.42."]);
        c(
            "kubectl describe node",
            &["Allocatable", "Non-terminated Pods"],
        );
        c(
            "kubectl explain deployment.spec.strategy",
            &["rollingUpdate", "maxUnavailable"].map(|_| "rollingUpdate"),
        );
        c(
            "kubectl api-resources",
            &["deployments", "poddisruptionbudgets"].map(|_| "deployments"),
        );
        c(
            "kubectl version --short 2>&1 || kubectl version",
            &["Server Version"],
        );
        c("kubectl cluster-info", &["127.0.0.1:6443"]);

        crew.file("cm.yaml", CONFIG);
        c("kubectl apply -f cm.yaml", &["configmap/made created"]);
        c("kubectl apply -f cm.yaml", &["configmap/made unchanged"]);
        crew.file("cm.yaml", &CONFIG.replace("one", "two"));
        check(
            crew,
            "kubectl diff -f cm.yaml",
            1,
            &["-  a: one", "+  a: two"],
        );
        c("kubectl apply -f cm.yaml", &["configmap/made configured"]);
        c("kubectl get cm made -o jsonpath={.data.a}", &["two"]);
        c(
            "kubectl apply --server-side --force-conflicts -f cm.yaml",
            &["configmap/made serverside-applied"],
        );
        check(
            crew,
            "sed s/two/three/ cm.yaml | kubectl apply --server-side --field-manager=other -f -",
            1,
            &["conflict", ".data.a"],
        );
        crew.file(
            "wrong.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many}\n",
        );
        check(crew, "kubectl apply -f wrong.yaml", 1, &["replicas"]);
        check(crew, "kubectl get deploy x", 1, &["not found"]);

        crew.file("edit.sh", "sed -i 's/a: two/a: edited/' \"$1\"\n");
        c(
            "KUBE_EDITOR='sh edit.sh' kubectl edit cm made",
            &["configmap/made edited"],
        );
        c("kubectl get cm made -o jsonpath={.data.a}", &["edited"]);
        c(
            "kubectl label cm made tier=front; kubectl get cm -l tier=front -o name",
            &["configmap/made"],
        );
        c(
            "kubectl label cm made tier-; kubectl annotate cm made note=hello; kubectl get cm made -o yaml",
            &["note: hello"],
        );
        c(
            r#"kubectl patch cm made -p '{"data":{"b":"strategic"}}'"#,
            &["configmap/made patched"],
        );
        c(
            r#"kubectl patch cm made --type=merge -p '{"data":{"c":"merge","b":null}}'"#,
            &["patched"],
        );
        c(
            r#"kubectl patch cm made --type=json -p '[{"op":"add","path":"/data/d","value":"json"}]'"#,
            &["patched"],
        );
        c(
            "kubectl get cm made -o jsonpath={.data}",
            &["\"c\":\"merge\"", "\"d\":\"json\""],
        );
        c(
            "kubectl create secret generic s --from-literal=k=v; kubectl get secret s -o jsonpath={.data.k}",
            &["dg=="],
        );

        c(
            "kubectl scale deploy web --replicas=3 && kubectl rollout status deploy web --timeout=180s",
            &["successfully rolled out"],
        );
        crew.ok(&[
            "image",
            "pack",
            "--name",
            "busybox:2",
            "/bin/busybox",
            "--add",
            &format!("{}:/", crew.dir().join("root").display()),
            "--cmd",
            "sh",
        ]);
        c(
            "kubectl set image deploy/web web=busybox:2 && kubectl rollout status deploy web --timeout=180s",
            &["image updated", "successfully rolled out"],
        );
        c("kubectl rollout history deploy web", &["REVISION", "2"]);
        c(
            "kubectl rollout undo deploy web && kubectl rollout status deploy web --timeout=180s",
            &["rolled back", "successfully rolled out"],
        );
        c(
            "kubectl get deploy web -o jsonpath={.spec.template.spec.containers[0].image}",
            &["busybox:1"],
        );
        c(
            "kubectl rollout restart deploy web && kubectl rollout status deploy web --timeout=180s",
            &["restarted", "successfully"],
        );
        c(
            "kubectl rollout pause deploy web; kubectl rollout resume deploy web",
            &["paused", "resumed"],
        );

        c(
            "kubectl wait --for=condition=available --timeout=180s deploy/web",
            &["condition met"],
        );
        later("kubectl logs deploy/web --tail=1", &["serving"]);
        c(
            "kubectl exec deploy/keeper -- sh -c 'echo out; echo err >&2; cat /etc/resolv.conf'",
            &["out", "err", "demo.svc.cluster.local"],
        );
        c(
            "echo typed | kubectl exec -i deploy/keeper -- cat",
            &["typed"],
        );
        check(crew, "kubectl exec deploy/keeper -- sh -c 'exit 9'", 9, &[]);
        c(
            "pod=$(kubectl get pods -o name | grep keeper); echo copied > f; kubectl cp f ${pod#pod/}:/d/f && kubectl exec $pod -- cat /d/f",
            &["copied"],
        );
        later("kubectl get events", &["Scheduled", "Started", "Killing"]);
        c("kubectl get --raw /apis | head -c 4000", &["APIGroupList"]);
        c("kubectl auth can-i create pods", &["yes"]);

        c("kubectl delete cm made", &["configmap \"made\" deleted"]);
        check(crew, "kubectl delete cm made", 1, &["not found"]);
        c(
            "kubectl delete pod --wait=true -l '!nothing' --timeout=180s",
            &["deleted"],
        );
        c(
            "kubectl wait --for=condition=available --timeout=180s deploy/web",
            &["condition met"],
        );
        c(
            "kubectl create ns other && kubectl -n other create cm x && kubectl delete ns other --timeout=180s",
            &["deleted"],
        );
        c(
            "kubectl run one --image=busybox:1 --restart=Never -- sh -c 'echo ran'",
            &["pod/one created"],
        );
        later(
            "kubectl get pod one -o jsonpath={.status.phase}",
            &["Succeeded"],
        );
        c("kubectl logs one", &["ran"]);
        c("kubectl delete deploy web --timeout=180s", &["deleted"]);
    });
}

/// Starts a command that goes on, and waits for parts of its output in order.
fn follow(crew: &Crew, arguments: &[&str], meanwhile: impl FnOnce(), expected: &str) {
    let mut child = crew
        .kubectl_command(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            if send
                .send(String::from_utf8_lossy(&buffer[..n]).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let mut seen = receive
        .recv_timeout(crate::crew::DEADLINE)
        .expect("a first line");
    meanwhile();
    eventually(&format!("kubectl {arguments:?} shows {expected:?}"), || {
        seen.extend(receive.try_iter());
        match seen.contains(expected) {
            true => Ok(()),
            false => Err(seen.clone()),
        }
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_goes_on_is_followed() {
    crew(|crew| {
        up(crew);
        follow(
            crew,
            &["-n", "demo", "logs", "-f", "deploy/keeper"],
            || {},
            "web-",
        );
        let more = || {
            crew.kube("-n demo scale deploy web --replicas=3");
        };
        follow(
            crew,
            &["-n", "demo", "get", "deploy", "web", "-w"],
            more,
            "3/3",
        );
    });
}
