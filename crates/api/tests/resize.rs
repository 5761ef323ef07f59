//! The `resize` subresource of Pods: what it takes over, what it leaves, and what it refuses in upstream's words.

mod common;

use common::*;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

/// A Pod with a container, a sidecar and an init container, all with amounts.
fn subject(name: &str) -> Value {
    let c = |name: &str| {
        json!({"name": name, "image": "x", "resources": {
            "requests": amounts("100m", "64Mi"), "limits": amounts("200m", "128Mi")}})
    };
    let mut sidecar = c("side");
    sidecar["restartPolicy"] = "Always".into();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [c("main"), c("more")], "initContainers": [c("first"), sidecar]}})
}

/// Makes the Pod, lets `change` loose on it, and PUTs it to `…/resize`.
async fn resized(f: &Fixture, pod: Value, change: &dyn Fn(&mut Value)) -> Answer {
    let name = pod["metadata"]["name"].as_str().unwrap().to_string();
    let mut pod = f.made(PODS, pod).await;
    change(&mut pod);
    f.put(&format!("{PODS}/{name}/resize"), pod).await
}

#[tokio::test]
async fn amounts_change_and_nothing_else_does() {
    let f = builtin();
    let done = resized(&f, subject("a"), &|p| {
        p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "0.15".into();
        p["spec"]["initContainers"][1]["resources"]["limits"]["memory"] = "256Mi".into();
        // taken back
        p["spec"]["containers"][1]["image"] = "y".into();
        p["spec"]["activeDeadlineSeconds"] = 5.into();
        p["metadata"]["labels"] = json!({"a": "b"});
    })
    .await;
    let pod = done.json();
    assert_eq!(done.code, 200, "{pod}");
    let c = &pod["spec"]["containers"];
    assert_eq!(c[0]["resources"]["requests"]["cpu"], "150m");
    assert_eq!(c[1]["image"], "x");
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], Value::Null);
    assert_eq!(pod["metadata"]["labels"], Value::Null);
    let init = &pod["spec"]["initContainers"];
    assert_eq!(init[1]["resources"]["limits"]["memory"], "256Mi");
    assert_eq!(pod["metadata"]["generation"], 2);
    let fields = pod["metadata"]["managedFields"].to_string();
    assert!(fields.contains(r#""subresource":"resize""#), "{fields}");
    let of_resize = pod["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["subresource"] == "resize")
        .unwrap()
        .to_string();
    assert!(!of_resize.contains("f:labels"), "{of_resize}");

    // the same again changes nothing
    let again = f.put(&format!("{PODS}/a/resize"), pod.clone()).await.json();
    assert_eq!(
        again["metadata"]["resourceVersion"],
        pod["metadata"]["resourceVersion"]
    );

    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"1"}}}]}}"#;
    for (kind, generation) in [("strategic-merge-patch", 3)] {
        let done = f
            .patch(&format!("{PODS}/a/resize"), kind, patch)
            .await
            .json();
        assert_eq!(
            done["spec"]["containers"][0]["resources"]["limits"]["cpu"],
            "1"
        );
        assert_eq!(done["metadata"]["generation"], generation);
    }
    let read = f.get(&format!("{PODS}/a/resize")).await.json();
    assert_eq!(
        read["spec"]["containers"][0]["resources"]["limits"]["cpu"],
        "1"
    );
    // not by the Pod itself
    let direct = f
        .patch(
            &format!("{PODS}/a"),
            "strategic-merge-patch",
            &patch.replace("\"1\"", "\"2\""),
        )
        .await;
    assert_eq!(direct.code, 422);
}

#[tokio::test]
async fn what_cannot_be_resized_is_refused() {
    let f = builtin();
    type Change = &'static dyn Fn(&mut Value);
    let cases: &[(&str, Change, &str)] = &[
        (
            "qos",
            &|p| {
                for list in ["containers", "initContainers"] {
                    for c in p["spec"][list].as_array_mut().unwrap() {
                        c["resources"]["requests"] = c["resources"]["limits"].clone();
                    }
                }
            },
            r#"spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing"#,
        ),
        (
            "removed-request",
            &|p| p["spec"]["containers"][1]["resources"] = json!({"requests": {"cpu": "100m"}}),
            "[spec.containers[1].resources.requests: Forbidden: resource requests cannot be removed, spec.containers[1].resources.limits: Forbidden: resource limits cannot be removed]",
        ),
        (
            "renamed",
            &|p| p["spec"]["containers"][0]["name"] = "other".into(),
            "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
        ),
        (
            "added",
            &|p| {
                let mut c = p["spec"]["initContainers"][0].clone();
                c["name"] = "third".into();
                p["spec"]["initContainers"].as_array_mut().unwrap().push(c);
            },
            "spec.initContainers: Forbidden: initContainers may not be added or removed on resize",
        ),
        (
            "other-resource",
            &|p| {
                p["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"] =
                    "1Gi".into();
            },
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            "policy",
            &|p| {
                p["spec"]["containers"][0]["resizePolicy"] =
                    json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
            },
            "spec: Forbidden: only cpu and memory resources are mutable",
        ),
        (
            "negative",
            &|p| p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "-1".into(),
            r#"spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
        ),
        (
            "pod-level-other",
            &|p| {
                p["spec"]["resources"] = json!({"limits": {"hugepages-2Mi": "2Mi", "cpu": "4"}});
            },
            "only cpu and memory resources are mutable at pod-level",
        ),
    ];
    for (name, change, want) in cases {
        let a = resized(&f, subject(name), change).await;
        let status = a.json();
        assert_eq!(a.code, 422, "{name}: {status}");
        let message = status["message"].as_str().unwrap();
        let whole = format!("Pod \"{name}\" is invalid: {want}");
        assert!(
            message == whole || (message.contains(want) && name.starts_with("pod-level")),
            "{name}: {message}"
        );
    }
}

#[tokio::test]
async fn the_node_must_be_able_to() {
    let f = builtin();
    f.made(
        "/api/v1/nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}),
    )
    .await;
    let status = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
    f.patch("/api/v1/nodes/n/status", "merge-patch", &status.to_string())
        .await;
    let mut pod = subject("a");
    pod["spec"]["nodeName"] = "n".into();
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    f.made(PODS, pod).await;
    let path = format!("{PODS}/a/resize");
    let patch = |list: &str, name: &str, cpu: &str| {
        json!({"spec": {list: [{"name": name, "resources": {
            "requests": {"cpu": cpu}, "limits": {"cpu": cpu}}}]}})
        .to_string()
    };
    let cases = [
        (
            patch("containers", "main", "2"),
            403,
            r#"pods "a" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2200, allocatable: 1000"#,
        ),
        (
            patch("initContainers", "first", "300m"),
            403,
            r#"pods "a" is forbidden: pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node "n""#,
        ),
        (patch("containers", "main", "300m"), 200, ""),
    ];
    for (patch, code, message) in cases {
        let a = f.patch(&path, "strategic-merge-patch", &patch).await;
        assert_eq!(a.code, code, "{}", a.json());
        if code != 200 {
            assert_eq!(a.json()["message"], message);
        }
    }
    let capacity = f
        .patch(
            &path,
            "strategic-merge-patch",
            &patch("containers", "main", "3"),
        )
        .await
        .json();
    assert_eq!(
        capacity["details"]["causes"],
        json!([{"reason": "NodeCapacity"}])
    );

    // what runs tells its resources where they can be changed
    let running = json!({"status": {"containerStatuses": [{
        "name": "main", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
    f.patch(
        &format!("{PODS}/a/status"),
        "strategic-merge-patch",
        &running.to_string(),
    )
    .await;
    let a = f
        .patch(
            &path,
            "strategic-merge-patch",
            &patch("containers", "main", "350m"),
        )
        .await;
    assert_eq!(
        a.json()["message"],
        r#"Pod "a" is invalid: spec: Forbidden: Pod running on node without support for resize"#
    );
    let declared =
        json!({"status": {"declaredFeatures": ["InPlacePodVerticalScalingInitContainers"]}});
    f.patch(
        "/api/v1/nodes/n/status",
        "merge-patch",
        &declared.to_string(),
    )
    .await;
    let able = json!({"status": {"containerStatuses": [{"name": "main", "resources": {}}]}});
    f.patch(
        &format!("{PODS}/a/status"),
        "strategic-merge-patch",
        &able.to_string(),
    )
    .await;
    let a = f
        .patch(
            &path,
            "strategic-merge-patch",
            &patch("initContainers", "first", "300m"),
        )
        .await;
    assert_eq!(a.code, 200, "{}", a.json());
}
