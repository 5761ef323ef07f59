//! The server on HTTPS: certificates, protocols, and Debian's kubectl.

mod common;

use std::{net::SocketAddr, path::PathBuf, process::Output};

use common::*;
use knarr_api::registry::Resource;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server behind HTTPS, and a kubeconfig for it.
struct Served {
    f: Fixture,
    address: SocketAddr,
    kubeconfig: PathBuf,
    task: tokio::task::JoinHandle<()>,
}
impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve() -> Served {
    serve_with(RESOURCES).await
}

async fn serve_with(resources: &'static [Resource]) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let mut config = knarr_api::Config::for_tests(dir.path());
    // the second start needs another certificate
    drop(knarr_api::ApiServer::with_resources(config.clone(), resources).unwrap());
    config.addresses = vec!["192.0.2.7".parse().unwrap()];
    let api = knarr_api::ApiServer::with_resources(config, resources).unwrap();
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = api.clone();
    let task = tokio::spawn(async move { served.serve(listener).await.unwrap() });
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(address, "test").unwrap()).unwrap();
    Served {
        f: Fixture { api, client, dir },
        address,
        kubeconfig,
        task,
    }
}

impl Served {
    fn command(&self, args: &[&str]) -> tokio::process::Command {
        let kubectl = std::env::var("KNARR_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let mut c = tokio::process::Command::new(kubectl);
        c.env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.f.dir.path())
            .args(args)
            .kill_on_drop(true);
        c
    }
    async fn run(&self, args: &[&str]) -> Output {
        let run = self.command(args).output();
        tokio::time::timeout(std::time::Duration::from_secs(180), run)
            .await
            .expect("kubectl in time")
            .expect("kubectl runs: install Debian's kubernetes-client or set KNARR_KUBECTL")
    }
    /// Runs kubectl, expects success, gives its output.
    async fn kubectl(&self, args: &[&str]) -> String {
        let o = self.run(args).await;
        let out = String::from_utf8_lossy(&o.stdout).into_owned();
        let err = String::from_utf8_lossy(&o.stderr);
        assert!(o.status.success(), "kubectl {args:?}: {out}{err}");
        out
    }
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.f.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    }
}

fn manifest(replicas: u32, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: c
        image: {image}
        ports:
        - containerPort: 80
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{mode: fast}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() {
    kubectl_works_on(serve().await).await;
    let builtin = knarr_api::kinds::builtin();
    if !builtin.is_empty() {
        kubectl_works_on(serve_with(builtin).await).await;
    }
}

async fn kubectl_works_on(s: Served) {
    let file = s.file("web.yaml", &manifest(2, "one"));
    let out = s.kubectl(&["apply", "-f", &file]).await;
    assert!(
        out.contains("deployment.apps/web created") && out.contains("configmap/settings created"),
        "{out}"
    );
    let out = s.kubectl(&["apply", "-f", &file]).await;
    assert!(out.contains("deployment.apps/web unchanged"), "{out}");
    let out = s.kubectl(&["get", "deployments", "-o", "wide"]).await;
    assert!(out.contains("NAME") && out.contains("web"), "{out}");
    let out = s
        .kubectl(&[
            "get",
            "deploy/web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].image}",
        ])
        .await;
    assert_eq!(out, "one");
    let out = s.kubectl(&["get", "cm", "-A"]).await;
    assert!(
        out.contains("NAMESPACE") && out.contains("settings"),
        "{out}"
    );

    let changed = s.file("web2.yaml", &manifest(3, "two"));
    let o = s.run(&["diff", "-f", &changed]).await;
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    assert_eq!(
        o.status.code(),
        Some(1),
        "{text}{}",
        String::from_utf8_lossy(&o.stderr)
    );
    assert!(
        text.contains("-  replicas: 2") && text.contains("+  replicas: 3"),
        "{text}"
    );
    let out = s.kubectl(&["apply", "-f", &changed]).await;
    assert!(out.contains("deployment.apps/web configured"), "{out}");

    s.kubectl(&["label", "cm/settings", "tier=back"]).await;
    let out = s
        .kubectl(&["get", "cm", "-l", "tier=back", "-o", "name"])
        .await;
    assert_eq!(out, "configmap/settings\n");
    s.kubectl(&["annotate", "cm/settings", "note=x"]).await;
    s.kubectl(&["patch", "deploy/web", "-p", r#"{"spec":{"replicas":4}}"#])
        .await;
    s.kubectl(&[
        "patch",
        "deploy/web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]"#,
    ])
    .await;
    s.kubectl(&["set", "image", "deploy/web", "c=three"]).await;
    s.kubectl(&["scale", "deploy/web", "--replicas=5"]).await;
    let out = s.kubectl(&["get", "deploy/web", "-o", "jsonpath={.spec.replicas} {.spec.template.spec.containers[*].image} {.metadata.labels.a}"]).await;
    assert_eq!(out, "5 three b");

    let out = s.kubectl(&["explain", "deployment.spec.replicas"]).await;
    assert!(out.contains("FIELD:") && out.contains("replicas"), "{out}");
    let out = s.kubectl(&["auth", "can-i", "create", "pods"]).await;
    assert_eq!(out, "yes\n");
    let out = s.kubectl(&["api-resources"]).await;
    assert!(
        out.contains("deployments") && out.contains("configmaps"),
        "{out}"
    );
    let out = s.kubectl(&["version"]).await;
    assert!(out.contains("knarr"), "{out}");
    s.kubectl(&["describe", "deploy/web"]).await;
    s.kubectl(&["create", "namespace", "team"]).await;
    s.kubectl(&[
        "-n",
        "team",
        "create",
        "configmap",
        "made",
        "--from-literal=k=v",
    ])
    .await;
    let out = s
        .kubectl(&["-n", "team", "create", "deployment", "d", "--image=x"])
        .await;
    assert_eq!(out, "deployment.apps/d created\n");

    let out = s.kubectl(&["delete", "-f", &changed, "--wait=false"]).await;
    assert!(out.contains("deployment.apps \"web\" deleted"), "{out}");
    let o = s.run(&["get", "cm/settings"]).await;
    assert!(
        String::from_utf8_lossy(&o.stderr)
            .contains("Error from server (NotFound): configmaps \"settings\" not found")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_on_the_server() {
    let s = serve().await;
    let file = s.file("web.yaml", &manifest(2, "one"));
    let out = s.kubectl(&["apply", "--server-side", "-f", &file]).await;
    assert!(
        out.contains("deployment.apps/web serverside-applied"),
        "{out}"
    );
    s.kubectl(&["apply", "--server-side", "-f", &file]).await;
    s.kubectl(&["scale", "deploy/web", "--replicas=7"]).await;
    let o = s.run(&["apply", "--server-side", "-f", &file]).await;
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(
        !o.status.success() && err.contains("conflict") && err.contains(".spec.replicas"),
        "{err}"
    );
    s.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])
        .await;
    let out = s
        .kubectl(&["get", "deploy/web", "-o", "jsonpath={.spec.replicas}"])
        .await;
    assert_eq!(out, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_watches() {
    let s = serve().await;
    s.f.made(CONFIGMAPS, configmap("first", json!({}))).await;
    let mut child = s
        .command(&["get", "cm", "-w"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("kubectl runs: install Debian's kubernetes-client or set KNARR_KUBECTL");
    let mut out = child.stdout.take().unwrap();
    let mut seen = String::new();
    for name in ["first", "second"] {
        if name == "second" {
            s.f.made(CONFIGMAPS, configmap(name, json!({"k": "v"})))
                .await;
        }
        while !seen.contains(name) {
            let mut buffer = [0; 4096];
            let n =
                tokio::time::timeout(std::time::Duration::from_secs(180), out.read(&mut buffer))
                    .await
                    .expect("output in time")
                    .unwrap();
            assert!(n > 0, "kubectl ended: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
    }
    child.kill().await.unwrap();
}

fn tls(s: &Served, with_certificate: bool, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let pki = s.f.dir.path().join("pki");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(pki.join("ca.crt")).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots);
    let mut config = if with_certificate {
        let cert = CertificateDer::from_pem_file(pki.join("admin.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(pki.join("admin.key")).unwrap();
        builder.with_client_auth_cert(vec![cert], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    std::sync::Arc::new(config).into()
}

async fn connect(
    s: &Served,
    c: tokio_rustls::TlsConnector,
    name: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let tcp = tokio::net::TcpStream::connect(s.address).await.unwrap();
    c.connect(name.to_string().try_into().unwrap(), tcp)
        .await
        .unwrap()
}

async fn http1(s: &Served, with_certificate: bool, path: &str) -> String {
    let mut c = connect(s, tls(s, with_certificate, &[]), "localhost").await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    c.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = c.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_may_see_health_and_version() {
    let s = serve_with(knarr_api::kinds::builtin()).await;
    for (path, certificate, code) in [
        ("/healthz", false, 200),
        ("/livez", false, 200),
        ("/readyz", false, 200),
        ("/version", false, 200),
        ("/api", false, 403),
        ("/api/v1/namespaces/default/secrets", false, 403),
        ("/apis", false, 403),
        ("/metrics", false, 403),
        ("/openapi/v2", false, 403),
        ("/nonsense", false, 403),
        ("/apis", true, 200),
        ("/api/v1/namespaces", true, 200),
        ("/nonsense", true, 404),
    ] {
        let answer = http1(&s, certificate, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")),
            "{path} {certificate}: {answer}"
        );
        if code == 403 {
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let status: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
            assert_eq!(status["reason"], "Forbidden", "{path}");
            let message = status["message"].as_str().unwrap();
            assert!(
                message.contains("User \"system:anonymous\" cannot"),
                "{message}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_says_who_may_what() {
    let s = serve_with(knarr_api::kinds::builtin()).await;
    s.kubectl(&["create", "serviceaccount", "robot"]).await;
    s.kubectl(&[
        "create",
        "role",
        "reader",
        "--verb=get,list",
        "--resource=configmaps",
    ])
    .await;
    s.kubectl(&[
        "create",
        "rolebinding",
        "r",
        "--role=reader",
        "--serviceaccount=default:robot",
    ])
    .await;
    let robot = "--as=system:serviceaccount:default:robot";
    for (what, may) in [
        ("list configmaps", true),
        ("list secrets", false),
        ("get /version", true),
        ("get /metrics", false),
    ] {
        let mut args = vec!["auth", "can-i", robot];
        args.extend(what.split(' '));
        let o = s.run(&args).await;
        let out = String::from_utf8_lossy(&o.stdout).into_owned();
        assert_eq!(
            (out.trim().starts_with("yes"), o.status.success()),
            (may, may),
            "{what}: {out}"
        );
    }
    let out = s.kubectl(&["auth", "can-i", "--list", robot]).await;
    let line = out
        .lines()
        .find(|l| l.starts_with("configmaps "))
        .unwrap_or_default();
    assert!(line.contains("[get list]"), "{out}");
    let o = s.run(&["get", "secrets", robot]).await;
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(
        err.trim(),
        "Error from server (Forbidden): secrets is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    let more = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules:
- {apiGroups: [''], resources: [secrets], verbs: [list]}
";
    let file = s.file("role.yaml", more);
    let out = s.kubectl(&["auth", "reconcile", "-f", &file]).await;
    assert!(
        out.contains("role.rbac.authorization.k8s.io/reader reconciled"),
        "{out}"
    );
    s.kubectl(&["get", "secrets", robot]).await;

    // with its token instead of the certificate
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let made = s.f.made(path, json!({"spec": {}})).await;
    let token = format!("--token={}", made["status"]["token"].as_str().unwrap());
    let server = format!("--server=https://{}", s.address);
    let ca = format!(
        "--certificate-authority={}",
        s.f.dir.path().join("pki/ca.crt").display()
    );
    let with = |token: &str| {
        [
            "--kubeconfig=/dev/null",
            &server,
            &ca,
            token,
            "get",
            "cm",
            "-o",
            "name",
        ]
        .map(String::from)
    };
    let args = with(&token);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    s.kubectl(&args).await;
    let args = with("--token=nonsense");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let o = s.run(&args).await;
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(
        err.contains("You must be logged in to the server (Unauthorized)"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_http_versions_are_negotiated_and_all_names_are_certified() {
    let s = serve().await;
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.43.0.1",
        "192.0.2.7",
    ] {
        let c = connect(&s, tls(&s, true, &[b"h2", b"http/1.1"]), name).await;
        assert_eq!(c.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "{name}");
    }
    let c = connect(&s, tls(&s, true, &[b"h2"]), "localhost").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(c),
    )
    .await
    .unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/api/v1/namespaces")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, http::Version::HTTP_2)
    );
    driver.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_private_and_survive_a_restart() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let config = knarr_api::Config::for_tests(dir.path());
    let address: SocketAddr = "127.0.0.1:6443".parse().unwrap();
    let first = knarr_api::ApiServer::new(config.clone())
        .unwrap()
        .kubeconfig(address, "a")
        .unwrap();
    for key in ["ca.key", "apiserver.key", "admin.key", "sa.key"] {
        let mode = std::fs::metadata(dir.path().join("pki").join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let second = knarr_api::ApiServer::new(config.clone())
        .unwrap()
        .kubeconfig(address, "a")
        .unwrap();
    assert_eq!(first, second);
    std::fs::remove_file(dir.path().join("pki/ca.crt")).unwrap();
    let third = knarr_api::ApiServer::new(config.clone())
        .unwrap()
        .kubeconfig(address, "a")
        .unwrap();
    assert_ne!(first, third, "a new CA signs new certificates");
    std::fs::write(dir.path().join("pki/ca.key"), "nonsense").unwrap();
    let Err(e) = knarr_api::ApiServer::new(config) else {
        panic!("a broken key was taken")
    };
    assert!(
        e.to_string().contains("ca.key") && e.to_string().contains("remove it"),
        "{e}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_over_a_websocket() {
    let s = serve().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    s.f.made(maps, configmap("a", json!({}))).await;
    let mut stream = connect(&s, tls(&s, true, &[b"http/1.1"]), "localhost").await;
    let request = format!(
        "GET {maps}?watch=true&timeoutSeconds=3 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(120), read)
        .await
        .expect("an end");
    let all = String::from_utf8_lossy(&all);
    assert!(all.starts_with("HTTP/1.1 101 "), "{all}");
    // RFC 6455, section 1.3
    assert!(all.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{all}");
    assert!(all.contains("{\"type\":\"ADDED\""), "{all}");
    assert!(!all.contains("chunked"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_fairness_and_aggregation() {
    let s = serve_with(knarr_api::kinds::builtin()).await;
    let line = |text: &str, name: &str| -> Vec<String> {
        let found = text
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        let found = found.unwrap_or_else(|| panic!("no {name} in {text}"));
        found.split_whitespace().map(String::from).collect()
    };
    let out = s.kubectl(&["get", "flowschemas"]).await;
    assert_eq!(line(&out, "probes")[1..4], ["exempt", "2", "<none>"]);
    assert_eq!(
        line(&out, "service-accounts")[1..4],
        ["workload-low", "9000", "ByUser"]
    );
    assert_eq!(line(&out, "service-accounts")[5], "False");
    let out = s.kubectl(&["get", "prioritylevelconfigurations"]).await;
    assert_eq!(
        line(&out, "system")[1..6],
        ["Limited", "30", "64", "6", "50"]
    );
    assert_eq!(line(&out, "exempt")[1..3], ["Exempt", "<none>"]);
    // they are registered in the background
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let out = s.kubectl(&["get", "apiservices"]).await;
        if out.contains("v1.apps ") {
            assert_eq!(line(&out, "v1.apps")[1..3], ["Local", "True"]);
            break;
        }
        assert!(std::time::Instant::now() < end, "{out}");
    }
}
