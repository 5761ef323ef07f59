//! What the built-in admission plugins do to writes, and say of them.

mod common;

use common::{Answer, send};
use http::Method;
use knarr_api::ApiServer;
use kube::Client;
use serde_json::{Value, json};

struct Server {
    client: Client,
    _dir: tempfile::TempDir,
}

fn start() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    Server {
        client: api.client("admin", &["system:masters"], "tester/1.0"),
        _dir: dir,
    }
}

impl Server {
    async fn call(&self, method: Method, path: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json")];
        send(
            &self.client,
            method,
            path,
            &headers,
            body.to_string().into(),
        )
        .await
    }
    async fn made(&self, path: &str, body: Value) -> Value {
        let a = self.call(Method::POST, path, body).await;
        assert_eq!(a.code, 201, "{path}: {}", String::from_utf8_lossy(&a.bytes));
        a.json()
    }
    /// Code and message of a refusal.
    async fn refused(&self, path: &str, body: Value) -> String {
        let a = self.call(Method::POST, path, body).await;
        format!("{} {}", a.code, a.json()["message"].as_str().unwrap_or(""))
    }
    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, Value::Null).await.json()
    }
    async fn namespace(&self, name: &str, labels: Value) {
        self.made(
            "/api/v1/namespaces",
            json!({"metadata": {"name": name, "labels": labels}}),
        )
        .await;
    }
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (k, v) in spec.as_object().unwrap() {
        pod["spec"][k] = v.clone();
    }
    pod
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_pod_gets_its_account_priority_and_tolerations() {
    let s = start();
    let p = s.made(PODS, pod("a", json!({}))).await;
    let spec = &p["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    // the account that every namespace has was made on the spot
    let account = s
        .get("/api/v1/namespaces/default/serviceaccounts/default")
        .await;
    assert_eq!(account["kind"], "ServiceAccount");
    assert_eq!(
        s.refused(PODS, pod("b", json!({"serviceAccountName": "nobody"})))
            .await,
        "403 pods \"b\" is forbidden: error looking up service account default/nobody: serviceaccount \"nobody\" not found"
    );
    assert_eq!(
        s.refused(PODS, pod("b", json!({"priorityClassName": "gold"})))
            .await,
        "403 pods \"b\" is forbidden: no PriorityClass with name gold was found"
    );
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value, "globalDefault": true});
    s.made(classes, class("gold", 7)).await;
    assert_eq!(
        s.refused(classes, class("silver", 5)).await,
        "403 priorityclasses.scheduling.k8s.io \"silver\" is forbidden: PriorityClass gold is already marked as default. Only one default can exist"
    );
    let p = s.made(PODS, pod("b", json!({}))).await;
    assert_eq!(p["spec"]["priorityClassName"], "gold");
    assert_eq!(p["spec"]["priority"], 7);
    assert_eq!(
        s.refused(PODS, pod("c", json!({"priority": 3}))).await,
        "403 pods \"c\" is forbidden: the integer value of priority (3) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name"
    );
}

#[tokio::test]
async fn limit_ranges_default_and_bound() {
    let s = start();
    s.made(
        "/api/v1/namespaces/default/limitranges",
        json!({"metadata": {"name": "l"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}},
            {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]}}),
    )
    .await;
    let p = s.made(PODS, pod("a", json!({}))).await;
    assert_eq!(
        p["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
    );
    assert_eq!(
        p["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let big =
        json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]});
    assert_eq!(
        s.refused(PODS, pod("b", big)).await,
        "403 pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
    let claim = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    assert_eq!(
        s.refused("/api/v1/namespaces/default/persistentvolumeclaims", claim)
            .await,
        "403 persistentvolumeclaims \"v\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
    );
}

#[tokio::test]
async fn quotas_are_charged_with_the_write() {
    let s = start();
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let mut q = s
        .made(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "3"}}}))
        .await;
    // until somebody has counted, nothing is refused
    s.made(PODS, pod("free", json!({}))).await;
    q["status"] = json!({"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "3"}, "used": {"pods": "1", "requests.cpu": "0", "count/configmaps": "0"}});
    let path = format!("{quotas}/q");
    let a = s.call(Method::PUT, &format!("{path}/status"), q).await;
    assert_eq!(a.code, 200, "{}", String::from_utf8_lossy(&a.bytes));
    assert_eq!(
        s.refused(PODS, pod("a", json!({}))).await,
        "403 pods \"a\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let asks = |cpu: &str| json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]});
    assert_eq!(
        s.refused(PODS, pod("a", asks("1500m"))).await,
        "403 pods \"a\" is forbidden: exceeded quota: q, requested: requests.cpu=1500m, used: requests.cpu=0, limited: requests.cpu=1"
    );
    // a dry run and a failed create charge nothing
    let dry = s
        .call(
            Method::POST,
            &format!("{PODS}?dryRun=All"),
            pod("a", asks("300m")),
        )
        .await;
    assert_eq!(dry.code, 201);
    assert_eq!(
        s.refused(PODS, pod("free", asks("300m"))).await,
        "409 pods \"free\" already exists"
    );
    s.made(PODS, pod("a", asks("300m"))).await;
    let used = s.get(&path).await["status"]["used"].clone();
    assert_eq!(
        used,
        json!({"pods": "2", "requests.cpu": "300m", "count/configmaps": "0"})
    );
    assert_eq!(
        s.refused(PODS, pod("b", asks("100m"))).await,
        "403 pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    );
    // ten at once: three fit, whoever they are
    let maps = "/api/v1/namespaces/default/configmaps";
    let all = (0..10).map(|i| {
        s.call(
            Method::POST,
            maps,
            json!({"metadata": {"name": format!("m{i}")}}),
        )
    });
    let codes: Vec<u16> = futures::future::join_all(all)
        .await
        .iter()
        .map(|a| a.code)
        .collect();
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 3, "{codes:?}");
    assert_eq!(
        s.get(&path).await["status"]["used"]["count/configmaps"],
        "3"
    );
}

#[tokio::test]
async fn pod_security_refuses_and_warns() {
    let s = start();
    s.namespace("hard", json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"})).await;
    let pods = "/api/v1/namespaces/hard/pods";
    assert_eq!(
        s.refused(pods, pod("a", json!({"hostNetwork": true})))
            .await,
        "403 pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let a = s.call(Method::POST, pods, pod("a", json!({}))).await;
    assert_eq!(a.code, 201);
    let warnings = a.warnings();
    assert!(
        warnings[0].starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false (container \\\"c\\\" must set"),
        "{warnings:?}"
    );
    // a template is warned of, not refused
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true, "containers": [{"name": "c", "image": "i"}]}}}});
    let a = s
        .call(
            Method::POST,
            "/apis/apps/v1/namespaces/hard/deployments",
            deployment,
        )
        .await;
    assert_eq!(a.code, 201);
    assert!(a.warnings()[0].contains("host namespaces (hostPID=true)"));
    // a stricter level tells of the Pods that are there
    let a = send(
        &s.client,
        Method::PATCH,
        "/api/v1/namespaces/hard",
        &[("content-type", "application/merge-patch+json")],
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
            .to_string()
            .into(),
    )
    .await;
    assert_eq!(a.code, 200);
    let warnings = a.warnings();
    assert_eq!(
        warnings[0],
        "299 - \"existing pods in namespace \\\"hard\\\" violate the new PodSecurity enforce level \\\"restricted:latest\\\"\""
    );
    assert_eq!(
        warnings[1],
        "299 - \"a: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile\""
    );
    assert_eq!(
        s.refused(
            "/api/v1/namespaces",
            json!({"metadata": {"name": "bad", "labels": {"pod-security.kubernetes.io/warn": "x"}}})
        )
        .await,
        "422 Namespace \"bad\" is invalid: metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn classes_are_defaulted() {
    let s = start();
    s.made("/apis/networking.k8s.io/v1/ingressclasses", json!({"metadata": {"name": "web", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "a.b/c"}})).await;
    s.made("/apis/storage.k8s.io/v1/storageclasses", json!({"metadata": {"name": "disk", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "a.b/c"})).await;
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let i = s
        .made(
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            ingress,
        )
        .await;
    assert_eq!(i["spec"]["ingressClassName"], "web");
    let claim = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let mut c = s.made(claims, claim).await;
    assert_eq!(c["spec"]["storageClassName"], "disk");
    assert_eq!(
        c["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    c["spec"]["resources"]["requests"]["storage"] = "3Gi".into();
    let larger = c["spec"].clone();
    let a = s.call(Method::PUT, &format!("{claims}/v"), c.clone()).await;
    let message = a.json()["message"].as_str().unwrap_or_default().to_string();
    assert!(
        message.starts_with("PersistentVolumeClaim \"v\" is invalid: spec: Forbidden: spec is immutable after creation"),
        "{message}"
    );
    c["status"]["phase"] = "Bound".into();
    let status = format!("{claims}/v/status");
    let mut c = s.call(Method::PUT, &status, c).await.json();
    c["spec"] = larger;
    let a = s.call(Method::PUT, &format!("{claims}/v"), c).await;
    assert_eq!(
        a.json()["message"],
        "persistentvolumeclaims \"v\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
    );
    s.made("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"kvm": "yes"}}})).await;
    let p = s
        .made(PODS, pod("a", json!({"runtimeClassName": "vm"})))
        .await;
    assert_eq!(p["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(p["spec"]["nodeSelector"], json!({"kvm": "yes"}));
    assert_eq!(
        s.refused(PODS, pod("b", json!({"runtimeClassName": "none"})))
            .await,
        "403 pods \"b\" is forbidden: pod rejected: RuntimeClass \"none\" not found"
    );
    assert_eq!(
        s.refused(PODS, pod("b", json!({"overhead": {"cpu": "1"}})))
            .await,
        "403 pods \"b\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    );
}

#[tokio::test]
async fn a_pod_read_and_written_back_is_the_same_pod() {
    let s = start();
    let pods = "/api/v1/namespaces/default/pods";
    s.made(
        "/api/v1/namespaces/default/serviceaccounts",
        json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
    )
    .await;
    let made = s
        .made(
            pods,
            pod("a", json!({"containers": [{"name": "c", "image": "one"}]})),
        )
        .await;
    assert!(!made.to_string().contains("initContainers"), "{made}");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n"}});
    s.made(&format!("{pods}/a/binding"), binding).await;
    let mut read = s
        .call(Method::GET, &format!("{pods}/a"), Value::Null)
        .await
        .json();
    assert_eq!(
        read["metadata"]["generation"], 1,
        "a node is no change of what is wanted"
    );
    read["spec"]["containers"][0]["image"] = "other".into();
    let answer = s.call(Method::PUT, &format!("{pods}/a"), read).await;
    assert_eq!(answer.code, 200, "{}", answer.json());
    assert_eq!(answer.json()["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_node_keeps_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let api = ApiServer::for_tests(dir.path());
    let admin = Server {
        client: api.client("admin", &["system:masters"], "tester/1.0"),
        _dir: dir,
    };
    let node = Server {
        client: api.client("system:node:a", &["system:nodes"], "kubelet/1.0"),
        _dir: tempfile::tempdir().unwrap(),
    };
    let nodes = "/api/v1/nodes";
    assert_eq!(
        node.refused(nodes, json!({"metadata": {"name": "b"}}))
            .await,
        "403 nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\""
    );
    assert_eq!(
        node.refused(nodes, json!({"metadata": {"name": "a", "labels": {"x.node-restriction.kubernetes.io/y": "z"}}})).await,
        "403 nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: x.node-restriction.kubernetes.io/y"
    );
    node.made(
        nodes,
        json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "a"}}}),
    )
    .await;
    let label = json!({"metadata": {"labels": {"kubernetes.io/other": "z"}}}).to_string();
    let merge = [("content-type", "application/merge-patch+json")];
    let a = send(
        &node.client,
        Method::PATCH,
        "/api/v1/nodes/a",
        &merge,
        label.into(),
    )
    .await;
    assert_eq!(
        a.json()["message"],
        "nodes \"a\" is forbidden: is not allowed to modify labels: kubernetes.io/other"
    );
    assert_eq!(
        node.refused(PODS, pod("p", json!({"nodeName": "a"}))).await,
        "403 pods \"p\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"a\" can only create mirror pods"
    );
    // a zone of the node shows on its Pods
    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}).to_string();
    assert_eq!(
        send(
            &admin.client,
            Method::PATCH,
            "/api/v1/nodes/a",
            &merge,
            zone.into()
        )
        .await
        .code,
        200
    );
    admin.made(PODS, pod("q", json!({}))).await;
    admin
        .made(
            &format!("{PODS}/q/binding"),
            json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "a"}}),
        )
        .await;
    let q = admin.get(&format!("{PODS}/q")).await;
    assert_eq!(q["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    assert_eq!(q["spec"]["nodeName"], "a");
}
