//! Aggregated APIs: another server behind a Service answers for a group version.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::*;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_api::ApiServer;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

fn server() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let client = api.client("admin", &["system:masters"], "tester/1.0");
    Fixture { api, client, dir }
}

async fn until<F: Future<Output = Result<(), String>>>(what: &str, look: impl Fn() -> F) {
    let end = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        match look().await {
            Ok(()) => return,
            Err(last) if std::time::Instant::now() > end => panic!("{what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// An aggregated server: it takes only who shows a certificate of the front proxy's CA, and says what it was asked.
struct Other {
    at: SocketAddr,
    ca: String,
}

fn tls(front_ca: &str, name: &str) -> (rustls::ServerConfig, String) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec![name.to_string()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(front_ca.as_bytes()).unwrap())
        .unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (config, cert.pem())
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let length = body.collect().await?.to_bytes().len();
    let all = |name: &str| -> Vec<&str> {
        let values = parts.headers.get_all(name).iter();
        values.map(|v| v.to_str().unwrap()).collect()
    };
    let resource = json!({"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
        "verbs": ["get", "list"], "shortNames": ["fl"]});
    let status = json!({"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]});
    let answer = match parts.uri.path() {
        "/apis/wardle.example.com/v1alpha1" => {
            json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "wardle.example.com/v1alpha1", "resources": [resource, status]})
        }
        "/openapi/v3" => json!({"paths": {"apis/wardle.example.com/v1alpha1":
            {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC"}}}),
        "/openapi/v2" => json!({"swagger": "2.0",
            "parameters": {"dry": {"name": "dryRun", "in": "query", "type": "string"}},
            "paths": {"/apis/wardle.example.com/v1alpha1/flunders": {"get": {
                "operationId": "listFlunder", "parameters": [{"$ref": "#/parameters/dry"}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/example.Flunder"}}}}},
                "/healthz/": {"get": {}}},
            "definitions": {"example.Flunder": {"type": "object", "properties": {
                "status": {"$ref": "#/definitions/io.k8s.api.core.v1.PodStatus"}},
                "x-kubernetes-group-version-kind": [{"group": "wardle.example.com", "kind": "Flunder", "version": "v1alpha1"}]},
                "io.k8s.api.core.v1.PodStatus": {"type": "string"}, "unused": {}}}),
        _ => {
            json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "user": all("x-remote-user"),
            "groups": all("x-remote-group"), "authorization": all("authorization"), "length": length})
        }
    };
    Ok(Response::new(Full::new(answer.to_string().into())))
}

async fn other(front_ca: &str) -> Other {
    let (config, ca) = tls(front_ca, "wardle.default.svc");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    return;
                };
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(respond))
                    .await;
            });
        }
    });
    Other { at, ca }
}

/// The Service and its endpoints.
async fn expose(f: &Fixture, at: SocketAddr) {
    let service = json!({"metadata": {"name": "wardle"}, "spec": {"ports": [{"name": "https", "port": at.port()}]}});
    f.made("/api/v1/namespaces/default/services", service).await;
    let slice = json!({"metadata": {"name": "wardle", "labels": {"kubernetes.io/service-name": "wardle"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": false}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}]});
    f.made(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        slice,
    )
    .await;
}

fn registration(ca: &str, port: u16) -> Value {
    json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "service": {"namespace": "default", "name": "wardle", "port": port}, "caBundle": STANDARD.encode(ca)}})
}

fn condition(o: &Value) -> (String, String) {
    let text = |k: &str| {
        o["status"]["conditions"][0][k]
            .as_str()
            .unwrap_or("")
            .to_string()
    };
    (text("status"), text("reason"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_group_go_to_who_answers_them() {
    let f = server();
    f.get("/api").await;
    let map = f
        .get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
        .await
        .json();
    assert_eq!(
        map["data"]["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
    assert_eq!(
        map["data"]["requestheader-username-headers"],
        "[\"X-Remote-User\"]"
    );
    let other = other(
        map["data"]["requestheader-client-ca-file"]
            .as_str()
            .unwrap(),
    )
    .await;

    f.made(SERVICES, registration(&other.ca, other.at.port()))
        .await;
    let path = format!("{SERVICES}/v1alpha1.wardle.example.com");
    let said = |wanted: &'static str| {
        let (f, path) = (&f, &path);
        until(wanted, move || async move {
            let found = condition(&f.get(path).await.json());
            let (status, reason) = wanted.split_once(' ').unwrap();
            match found.0 == status && found.1 == reason {
                true => Ok(()),
                false => Err(format!("{found:?}")),
            }
        })
    };
    said("False ServiceNotFound").await;
    let below = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    let a = f.get(below).await;
    assert_eq!(
        (a.code, a.bytes.as_slice()),
        (503, &b"service unavailable\n"[..])
    );

    expose(&f, other.at).await;
    said("False MissingEndpoints").await;
    // endpoints can't be on loopback, where a test's servers are: the Service stands for a host of that name instead
    let service = "/api/v1/namespaces/default/services";
    f.delete(&format!("{service}/wardle"), json!({})).await;
    let named = json!({"metadata": {"name": "wardle"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    f.made(service, named).await;
    said("True Passed").await;

    let jane = f.api.client("jane", &["devs"], "tester");
    let rule = json!({"apiGroups": ["wardle.example.com"], "resources": ["*"], "verbs": ["*"]});
    f.made(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        json!({"metadata": {"name": "w"}, "rules": [rule]}),
    )
    .await;
    let a = send(&jane, Method::GET, below, &[], vec![]).await;
    assert_eq!(a.code, 403, "authorization comes first");
    let binding = json!({"metadata": {"name": "w"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "w"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    f.made(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        binding,
    )
    .await;
    let headers: &[(&str, &str)] = &[
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
    ];
    let a = send(
        &jane,
        Method::POST,
        &format!("{below}?a=b"),
        headers,
        vec![b'x'; 5 << 20],
    )
    .await;
    assert_eq!(a.code, 200, "{}", String::from_utf8_lossy(&a.bytes));
    assert_eq!(
        a.json(),
        json!({"method": "POST", "uri": format!("{below}?a=b"), "user": ["jane"],
            "groups": ["devs", "system:authenticated"], "authorization": [], "length": 5 << 20})
    );

    // the documents have its paths, and what these refer to under names of their own
    until("OpenAPI v2 has it", || async {
        let v2 = f.get("/openapi/v2").await.json();
        let operation = &v2["paths"]["/apis/wardle.example.com/v1alpha1/flunders"]["get"];
        if operation["operationId"] != "listFlunder" {
            return Err("not yet".into());
        }
        assert_eq!(operation["parameters"][0]["name"], "dryRun");
        let definitions = &v2["definitions"];
        let status = &definitions["example.Flunder"]["properties"]["status"]["$ref"];
        assert_eq!(status, "#/definitions/io.k8s.api.core.v1.PodStatus_v2");
        assert_eq!(
            definitions["io.k8s.api.core.v1.PodStatus_v2"]["type"],
            "string"
        );
        assert_eq!(
            definitions["io.k8s.api.core.v1.PodStatus"]["type"],
            "object"
        );
        assert!(definitions["unused"].is_null() && v2["paths"]["/healthz/"].is_null());
        Ok(())
    })
    .await;
    // discovery knows it
    let groups = f.get("/apis").await.json();
    let all = groups["groups"].as_array().unwrap();
    assert_eq!(
        all.last().unwrap()["preferredVersion"]["groupVersion"],
        "wardle.example.com/v1alpha1"
    );
    assert_eq!(
        f.get("/apis/wardle.example.com").await.json()["versions"][0]["version"],
        "v1alpha1"
    );
    assert_eq!(
        f.get("/apis/wardle.example.com/v1alpha1").await.json()["resources"][0]["name"],
        "flunders"
    );
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let list = f
        .send(Method::GET, "/apis", &[("accept", accept)], vec![])
        .await
        .json();
    let found = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|g| g["metadata"]["name"] == "wardle.example.com")
        .unwrap();
    assert_eq!(found["versions"][0]["freshness"], "Current");
    let r = &found["versions"][0]["resources"][0];
    assert_eq!(
        (
            &r["resource"],
            &r["scope"],
            &r["subresources"][0]["subresource"]
        ),
        (&json!("flunders"), &json!("Namespaced"), &json!("status"))
    );
    // asked for apart from the rest, so perhaps only at the second look
    until("OpenAPI v3 has it", || async {
        let index = f.get("/openapi/v3").await.json();
        let url = &index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"];
        match url == "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC" {
            true => Ok(()),
            false => Err(url.to_string()),
        }
    })
    .await;
    let document = f
        .get("/openapi/v3/apis/wardle.example.com/v1alpha1")
        .await
        .json();
    assert_eq!(
        document["uri"],
        "/openapi/v3/apis/wardle.example.com/v1alpha1"
    );

    // a server that isn't who it should be
    let stranger = tls(
        map["data"]["requestheader-client-ca-file"]
            .as_str()
            .unwrap(),
        "x",
    )
    .1;
    let change = json!({"spec": {"caBundle": STANDARD.encode(stranger)}}).to_string();
    assert_eq!(f.patch(&path, "merge-patch", &change).await.code, 200);
    said("False FailedDiscoveryCheck").await;
    // a look that took too long says so, and is followed by another
    until("the reason is told", || async {
        let o = f.get(&path).await.json();
        let message = o["status"]["conditions"][0]["message"].to_string();
        match message.contains("x509: certificate signed by unknown authority") {
            true => Ok(()),
            false => Err(message),
        }
    })
    .await;

    assert_eq!(f.delete(&path, json!({})).await.code, 200);
    until("it is gone", || async {
        match f.get(below).await.code {
            404 => Ok(()),
            code => Err(code.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let f = server();
    until("the registrations", || async {
        let list = f.get(SERVICES).await.json();
        let all = list["items"].as_array().unwrap();
        let there = |name: &str| all.iter().any(|o| o["metadata"]["name"] == name);
        match all.len() > 20 && there("v1.") && there("v2.autoscaling") {
            true => Ok(()),
            false => Err(all.len().to_string()),
        }
    })
    .await;
    let core = f.get(&format!("{SERVICES}/v1.")).await.json();
    assert_eq!(
        core["spec"],
        json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})
    );
    assert_eq!(
        core["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"})
    );
    assert_eq!(condition(&core), ("True".into(), "Local".into()));
    let v2 = f.get(&format!("{SERVICES}/v2.autoscaling")).await.json();
    assert_eq!(
        (
            &v2["spec"]["groupPriorityMinimum"],
            &v2["spec"]["versionPriority"]
        ),
        (&json!(17500), &json!(30))
    );

    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    f.made(definitions, definition).await;
    let path = format!("{SERVICES}/v1.example.com");
    until("the custom group", || async {
        let a = f.get(&path).await;
        if a.code == 200 {
            Ok(())
        } else {
            Err(a.code.to_string())
        }
    })
    .await;
    let o = f.get(&path).await.json();
    assert_eq!(
        (
            &o["spec"]["groupPriorityMinimum"],
            &o["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"]
        ),
        (&json!(1000), &json!("true"))
    );
    f.delete(&format!("{definitions}/things.example.com"), json!({}))
        .await;
    until("it is gone", || async {
        let a = f.get(&path).await;
        if a.code == 404 {
            Ok(())
        } else {
            Err(a.code.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn wrong_registrations_are_refused_in_upstreams_words() {
    let f = server();
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 7] = [
        (
            "name",
            |o| o["metadata"]["name"] = "x.y".into(),
            "must be `spec.version+\\\".\\\"+spec.group`",
        ),
        (
            "group",
            |o| {
                o["spec"]["group"] = "".into();
                o["metadata"]["name"] = "v1alpha1.".into();
            },
            "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
        ),
        (
            "priority",
            |o| o["spec"]["groupPriorityMinimum"] = 20_001.into(),
            "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
        ),
        (
            "version priority",
            |o| o["spec"]["versionPriority"] = 0.into(),
            "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
        ),
        (
            "local with CA",
            |o| o["spec"]["service"] = Value::Null,
            "local APIServices may not have a caBundle",
        ),
        (
            "port",
            |o| o["spec"]["service"]["port"] = 70_000.into(),
            "spec.service.port: Invalid value: 70000: port is not valid",
        ),
        (
            "insecure",
            |o| o["spec"]["insecureSkipTLSVerify"] = true.into(),
            "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
        ),
    ];
    for (name, change, want) in cases {
        let mut o = registration("x", 443);
        change(&mut o);
        let a = f.post(SERVICES, o).await;
        let said = a.json()["message"].to_string();
        assert!(a.code == 422 && said.contains(want), "{name}: {said}");
    }
}
