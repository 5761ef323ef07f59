//! What people do with Debian's kubectl, and what they see.

mod cluster;

use std::process::Stdio;

use cluster::{deployment, eventually, same, serves, start, template};
use serde_json::json;

struct Kubectl {
    config: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Kubectl {
    /// Runs it to its end; panics with what it said when it fails.
    async fn run(&self, args: &str) -> String {
        let program = std::env::var("KNARR_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let run = tokio::process::Command::new(program)
            .args(args.split_whitespace())
            .env("KUBECONFIG", &self.config)
            .env("HOME", self._dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let out = tokio::time::timeout(std::time::Duration::from_secs(200), run)
            .await
            .unwrap_or_else(|_| panic!("kubectl {args}: no end within 200 s"))
            .unwrap_or_else(|e| {
                panic!("kubectl can't be run ({e}): apt-get install kubernetes-client")
            });
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "kubectl {args}: {text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        text
    }
}

fn missing(text: &str, parts: &[&str]) -> Result<(), String> {
    let lacks = parts.iter().find(|p| !text.contains(**p));
    lacks.map_or(Ok(()), |p| Err(format!("no {p:?} in:\n{text}")))
}

fn has(text: &str, parts: &[&str]) {
    missing(text, parts).unwrap();
}

impl Kubectl {
    /// Asks until it shows all of this: what controllers note beside a rollout may come after its end.
    async fn shows(&self, args: &str, parts: &[&str]) -> String {
        eventually(args, || async {
            let text = self.run(args).await;
            missing(&text, parts).map(|()| text)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollouts() {
    let mut c = start().await;
    let dir = tempfile::tempdir().unwrap();
    let k = Kubectl {
        config: c.serve(dir.path()).await,
        _dir: dir,
    };
    let mut d = deployment("web", 3, "docker.io/library/web:1");
    d["metadata"]["annotations"] = json!({"kubernetes.io/change-cause":"one"});
    c.create("deploy", d).await;
    has(
        &k.run("rollout status deployment/web --timeout=180s").await,
        &["deployment \"web\" successfully rolled out"],
    );
    k.run("set image deployment/web main=docker.io/library/web:2")
        .await;
    k.run("annotate deployment/web --overwrite kubernetes.io/change-cause=two")
        .await;
    k.run("rollout status deployment/web --timeout=180s").await;
    let history = "rollout history deployment/web";
    k.shows(history, &["1         one", "2         two"]).await;
    k.run("rollout undo deployment/web").await;
    k.run("rollout status deployment/web --timeout=180s").await;
    let history = k.shows(history, &["2         two", "3         one"]).await;
    assert!(!history.contains("\n1  "), "{history}");
    assert_eq!(
        k.run("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}")
            .await,
        "docker.io/library/web:1"
    );
    has(
        &k.run("rollout history deployment/web --revision=2").await,
        &["docker.io/library/web:2", "change-cause: two"],
    );
    k.run("scale deployment/web --replicas=5").await;
    k.run("rollout status deployment/web --timeout=180s").await;
    k.run("wait --for=condition=Available deployment/web --timeout=180s")
        .await;
    k.run("rollout restart deployment/web").await;
    k.run("rollout status deployment/web --timeout=180s").await;
    has(
        &k.run("get deployment web").await,
        &["NAME", "READY", "5/5"],
    );
    k.shows(
        "describe deployment web",
        &[
            "StrategyType:           RollingUpdate",
            "5 desired | 5 updated | 5 total | 5 available | 0 unavailable",
            "NewReplicaSetAvailable",
            "ScalingReplicaSet",
            "Scaled up replica set web-",
        ],
    )
    .await;
    // not one of those that the restart ended: it may be gone when it is described
    let pods = c.list("pod").await;
    let pod = pods.iter().find(|p| serves(p)).unwrap();
    k.shows(
        &format!("describe pod {}", pod["metadata"]["name"].as_str().unwrap()),
        &[
            "Controlled By:",
            "Scheduled",
            "Successfully assigned default/web-",
        ],
    )
    .await;
    k.run("delete deployment web --timeout=180s").await;
    eventually("pods go", || async { same(c.names("pod").await, vec![]) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_and_daemon_rollouts() {
    let mut c = start().await;
    let dir = tempfile::tempdir().unwrap();
    let k = Kubectl {
        config: c.serve(dir.path()).await,
        _dir: dir,
    };
    c.create(
        "sts",
        json!({"metadata":{"name":"db"},"spec":{"replicas":2,"serviceName":"db","selector":{"matchLabels":{"app":"db"}},
            "template":template("db","docker.io/library/db:1")}}),
    )
    .await;
    c.create(
        "ds",
        json!({"metadata":{"name":"agent"},"spec":{"selector":{"matchLabels":{"app":"agent"}},
            "template":template("agent","docker.io/library/agent:1")}}),
    )
    .await;
    for (set, container) in [("statefulset/db", "db"), ("daemonset/agent", "agent")] {
        k.run(&format!("rollout status {set} --timeout=180s")).await;
        k.run(&format!(
            "set image {set} main=docker.io/library/{container}:2"
        ))
        .await;
        k.run(&format!("rollout status {set} --timeout=180s")).await;
        has(
            &k.run(&format!("rollout history {set}")).await,
            &["1 ", "2 "],
        );
        k.run(&format!("rollout undo {set}")).await;
        k.run(&format!("rollout status {set} --timeout=180s")).await;
        assert_eq!(
            k.run(&format!(
                "get {set} -o jsonpath={{.spec.template.spec.containers[0].image}}"
            ))
            .await,
            format!("docker.io/library/{container}:1")
        );
        has(&k.run(&format!("rollout history {set}")).await, &["3 "]);
    }
    k.run("scale statefulset/db --replicas=1").await;
    c.gone("pod", "db-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates() {
    let mut c = start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("csr.json");
    let k = Kubectl {
        config: c.serve(dir.path()).await,
        _dir: dir,
    };
    for name in ["yes", "no"] {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let request = STANDARD.encode(include_bytes!("../../api/tests/data/jane.csr"));
        let o = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {"request": request, "usages": ["client auth"], "expirationSeconds": 3600,
                "signerName": "kubernetes.io/kube-apiserver-client"},
        });
        std::fs::write(&file, o.to_string()).unwrap();
        k.run(&format!("create -f {}", file.display())).await;
    }
    has(
        &k.run("get csr yes").await,
        &["kubernetes.io/kube-apiserver-client", "60m", "Pending"],
    );
    has(&k.run("certificate approve yes").await, &["approved"]);
    has(&k.run("certificate deny no").await, &["denied"]);
    eventually("the certificate", || async {
        let text = k.run("get csr yes").await;
        match text.contains("Approved,Issued") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .await;
    has(&k.run("get csr no").await, &["Denied"]);
}
