//! The IPAddress objects of Services, and the ranges that addresses are given of (upstream
//! `pkg/registry/core/service/ipallocator`).

mod common;

use common::{Fixture, builtin};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const NETWORKING: &str = "/apis/networking.k8s.io/v1";

fn service(name: &str, spec: Value) -> Value {
    let mut o = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (key, value) in spec.as_object().unwrap() {
        o["spec"][key] = value.clone();
    }
    o
}

async fn address_of(f: &Fixture, ip: &str) -> Option<Value> {
    let a = f.get(&format!("{NETWORKING}/ipaddresses/{ip}")).await;
    (a.code == 200).then(|| a.json())
}

/// What the create of this Service is refused with; empty when it isn't.
async fn refused(f: &Fixture, name: &str, ip: &str) -> String {
    let a = f
        .post(SERVICES, service(name, json!({"clusterIP": ip})))
        .await;
    match a.code {
        201 => String::new(),
        _ => a.json()["message"].as_str().unwrap().to_string(),
    }
}

fn not_given(name: &str, ip: &str, why: &str) -> String {
    format!(
        "Service \"{name}\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: {why}"
    )
}

const OTHER_NETWORK: &str = "the provided network does not match the current range";
const TAKEN: &str = "provided IP is already allocated";

#[tokio::test]
async fn an_address_comes_and_goes_with_its_service() {
    let f = builtin();
    assert!(
        address_of(&f, "10.43.0.1").await.is_some(),
        "of `kubernetes`"
    );
    let made = f.made(SERVICES, service("web", json!({}))).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_string();
    let mut address = address_of(&f, &ip).await.unwrap();
    let manager = &address["metadata"]["managedFields"][0];
    assert_eq!(
        (&manager["manager"], &manager["operation"]),
        (&json!("kube-apiserver"), &json!("Update"))
    );
    let m = address["metadata"].as_object_mut().unwrap();
    for key in [
        "managedFields",
        "uid",
        "creationTimestamp",
        "resourceVersion",
    ] {
        assert!(m.remove(key).is_some(), "{key}");
    }
    assert_eq!(
        address,
        json!({
            "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": ip, "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            }},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}},
        })
    );
    // a change of something else leaves it alone
    let patch = "merge-patch";
    let web = format!("{SERVICES}/web");
    let uid = |o: Option<Value>| o.map(|o| o["metadata"]["uid"].clone());
    let before = uid(address_of(&f, &ip).await);
    assert_eq!(
        f.patch(&web, patch, r#"{"metadata":{"labels":{"a":"b"}}}"#)
            .await
            .code,
        200
    );
    assert_eq!(uid(address_of(&f, &ip).await), before);
    // nobody else gets it
    assert_eq!(refused(&f, "x", &ip).await, not_given("x", &ip, TAKEN));
    // a Service that is only a name has none
    let named = r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#;
    assert_eq!(f.patch(&web, patch, named).await.code, 200);
    assert_eq!(address_of(&f, &ip).await, None);
    let back = r#"{"spec":{"type":"ClusterIP","externalName":null}}"#;
    let again = f.patch(&web, patch, back).await.json();
    let ip = again["spec"]["clusterIP"].as_str().unwrap().to_string();
    assert!(address_of(&f, &ip).await.is_some());
    // a dry run takes none
    let dry = f
        .post(&format!("{SERVICES}?dryRun=All"), service("dry", json!({})))
        .await;
    assert_eq!(
        address_of(&f, dry.json()["spec"]["clusterIP"].as_str().unwrap()).await,
        None
    );
    assert_eq!(f.delete(&web, Value::Null).await.code, 200);
    assert_eq!(address_of(&f, &ip).await, None);
    // headless
    f.made(SERVICES, service("headless", json!({"clusterIP": "None"})))
        .await;
    let all = f.get(&format!("{NETWORKING}/ipaddresses")).await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
}

#[tokio::test]
async fn an_address_of_somebody_elses_is_not_given() {
    let f = builtin();
    let theirs = json!({"metadata": {"name": "10.43.7.7"}, "spec": {"parentRef":
        {"group": "gateway.networking.k8s.io", "resource": "gateways", "namespace": "default", "name": "g"}}});
    f.made(&format!("{NETWORKING}/ipaddresses"), theirs).await;
    for (ip, why) in [
        ("10.43.7.7", TAKEN),
        ("10.43.0.0", OTHER_NETWORK),
        ("10.43.255.255", OTHER_NETWORK),
        ("10.99.0.1", OTHER_NETWORK),
    ] {
        assert_eq!(refused(&f, "x", ip).await, not_given("x", ip, why));
    }
    let made = format!("{NETWORKING}/ipaddresses/10.43.7.7");
    assert_eq!(f.delete(&made, Value::Null).await.code, 200);
    assert_eq!(refused(&f, "x", "10.43.7.7").await, "");
}

#[tokio::test]
async fn further_ranges_are_used_when_they_are_ready() {
    let f = builtin();
    let ranges = format!("{NETWORKING}/servicecidrs");
    let more = json!({"metadata": {"name": "more", "finalizers": ["example.com/stays"]}, "spec": {"cidrs": ["10.99.0.0/28"]}});
    f.made(&ranges, more).await;
    assert_eq!(
        refused(&f, "a", "10.99.0.1").await,
        not_given("a", "10.99.0.1", OTHER_NETWORK)
    );
    let patch = "merge-patch";
    let ready = async |name: &str, status: &str| {
        let now = "2026-01-01T00:00:00Z";
        let body = json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": now}]}});
        let a = f
            .patch(&format!("{ranges}/{name}/status"), patch, &body.to_string())
            .await;
        assert_eq!(a.code, 200, "{}", a.json());
    };
    ready("more", "True").await;
    assert_eq!(refused(&f, "a", "10.99.0.1").await, "");
    // all the rest is of the new range, until it is full
    ready("kubernetes", "False").await;
    for n in 2..=14 {
        let made = f.made(SERVICES, service(&format!("s{n}"), json!({}))).await;
        let ip = made["spec"]["clusterIP"].as_str().unwrap();
        assert!(ip.starts_with("10.99.0."), "{ip}");
    }
    let full = f.post(SERVICES, service("b", json!({}))).await;
    assert_eq!(
        (full.code, full.json()["message"].as_str().unwrap()),
        (
            500,
            "Internal error occurred: failed to allocate a serviceIP for Service \"b\": range is full"
        )
    );
    ready("kubernetes", "True").await;
    // one that is to go gives no more
    assert_eq!(
        f.delete(&format!("{SERVICES}/a"), Value::Null).await.code,
        200
    );
    assert_eq!(
        f.delete(&format!("{ranges}/more"), Value::Null).await.code,
        200
    );
    assert_eq!(
        refused(&f, "a", "10.99.0.1").await,
        not_given("a", "10.99.0.1", OTHER_NETWORK)
    );
}
