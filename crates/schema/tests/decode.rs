//! Decoding: types, strictness, defaults and pruning, as upstream words and does them.

use knarr_schema::{TypeRef, conform, decode, kind};
use serde_json::{Value, json};

fn root(gvk: &str) -> TypeRef {
    let mut parts = gvk.splitn(3, '/');
    let mut part = || parts.next().unwrap_or_default();
    let (group, version, name) = (part(), part(), part());
    kind(group, version, name).unwrap_or_else(|| panic!("no kind {gvk}"))
}

/// The value without the objects that are empty and whose place in the input has nothing.
fn without_always(value: &Value, input: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut out = serde_json::Map::new();
            for (key, child) in fields {
                let child = without_always(child, &input[key]);
                if child != json!({}) || !input[key].is_null() {
                    out.insert(key.clone(), child);
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(at, item)| without_always(item, &input[at]))
            .collect(),
        other => other.clone(),
    }
}

const POD: &str = "/v1/Pod";
const DEPLOYMENT: &str = "apps/v1/Deployment";
const SERVICE: &str = "/v1/Service";
const SECRET: &str = "/v1/Secret";
const LEASE: &str = "coordination.k8s.io/v1/Lease";
const CRD: &str = "apiextensions.k8s.io/v1/CustomResourceDefinition";

#[test]
fn values_come_out_as_upstream_writes_them() {
    // The table's value is what upstream writes but for structs held by value, which are always written: `without_always` spares the table those.
    let check = |name: &str, gvk: &str, input: &str, expected: Value| {
        let decoded = decode(root(gvk), input.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            without_always(&decoded.value, &serde_json::from_str(input).unwrap()),
            expected,
            "{name}"
        );
        let again = conform(root(gvk), decoded.value.clone())
            .unwrap_or_else(|e| panic!("{name}, again: {e}"));
        assert_eq!(again.value, decoded.value, "{name}, again");
    };
    check(
        "nulls go",
        DEPLOYMENT,
        r#"{"metadata":{"name":"a","creationTimestamp":null,"labels":null},"spec":{"replicas":null,"paused":null}}"#,
        json!({"metadata":{"name":"a"},"spec":{}}),
    );
    check(
        "omitempty: zero values go, zero behind pointers stays",
        DEPLOYMENT,
        r#"{"metadata":{"name":"","labels":{}},"spec":{"replicas":0,"paused":false,"minReadySeconds":0}}"#,
        json!({"metadata":{},"spec":{"replicas":0}}),
    );
    check(
        "empty struct behind a pointer stays",
        POD,
        r#"{"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":[]}}"#,
        json!({"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":[]}}),
    );
    check(
        "port protocol default",
        SERVICE,
        r#"{"spec":{"ports":[{"port":80},{"port":53,"protocol":"UDP"},{"port":81,"protocol":""}]}}"#,
        json!({"spec":{"ports":[{"port":80,"protocol":"TCP"},{"port":53,"protocol":"UDP"},{"port":81,"protocol":"TCP"}]}}),
    );
    check(
        "container port protocol default",
        POD,
        r#"{"spec":{"containers":[{"name":"a","ports":[{"containerPort":80}]}]}}"#,
        json!({"spec":{"containers":[{"name":"a","ports":[{"containerPort":80,"protocol":"TCP"}]}]}}),
    );
    check(
        "int or string",
        SERVICE,
        r#"{"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":"http"},{"port":81,"protocol":"TCP","targetPort":8080}]}}"#,
        json!({"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":"http"},{"port":81,"protocol":"TCP","targetPort":8080}]}}),
    );
    check(
        "quantity as number",
        POD,
        r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":2,"memory":"1Gi"}}}]}}"#,
        json!({"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"2","memory":"1Gi"}}}]}}),
    );
    check(
        "null map values become zero",
        SECRET,
        r#"{"metadata":{"labels":{"a":null}},"stringData":{"x":"y"}}"#,
        json!({"metadata":{"labels":{"a":""}},"stringData":{"x":"y"}}),
    );
    check(
        "times are UTC seconds",
        POD,
        r#"{"metadata":{"creationTimestamp":"2024-05-06T07:08:09.5+02:00"}}"#,
        json!({"metadata":{"creationTimestamp":"2024-05-06T05:08:09Z"}}),
    );
    check(
        "micro times keep microseconds",
        LEASE,
        r#"{"spec":{"renewTime":"2024-05-06T07:08:09.5Z"}}"#,
        json!({"spec":{"renewTime":"2024-05-06T07:08:09.500000Z"}}),
    );
    check(
        "free JSON stays",
        "apps/v1/ControllerRevision",
        r#"{"data":{"any":[1,null,{"x":null}]},"revision":3}"#,
        json!({"data":{"any":[1,null,{"x":null}]},"revision":3}),
    );
    check(
        "schemas nest",
        CRD,
        r#"{"spec":{"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"array","items":{"type":"string","default":null}},"b":{"additionalProperties":true}}}}}]}}"#,
        json!({"spec":{"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"array","items":{"type":"string","default":null}},"b":{"additionalProperties":true}}}}}]}}),
    );
    check("null body", POD, "null", json!({}));
}

#[test]
fn structs_held_by_value_are_always_written() {
    let check = |gvk: &str, input: &str, expected: Value| {
        let decoded =
            decode(root(gvk), input.as_bytes()).unwrap_or_else(|e| panic!("{input}: {e}"));
        assert_eq!(decoded.value, expected, "{input}");
    };
    check("/v1/ConfigMap", "{}", json!({"metadata":{}}));
    check(
        SERVICE,
        r#"{"spec":{}}"#,
        json!({"metadata":{},"spec":{},"status":{"loadBalancer":{}}}),
    );
    check(
        POD,
        r#"{"spec":{"containers":[{"name":"a"}]}}"#,
        json!({"metadata":{},"spec":{"containers":[{"name":"a","resources":{}}]},"status":{}}),
    );
    check(
        DEPLOYMENT,
        "{}",
        json!({"metadata":{},"spec":{"strategy":{},"template":{"metadata":{},"spec":{}}},"status":{}}),
    );
}

#[test]
fn strict_errors() {
    let check = |name: &str, gvk: &str, input: &str, unknown: &[&str], duplicate: &[&str]| {
        let decoded = decode(root(gvk), input.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(decoded.unknown, unknown, "{name}");
        assert_eq!(decoded.duplicate, duplicate, "{name}");
        assert!(
            !decoded.value.to_string().contains("foo"),
            "{name}: unknown fields are pruned"
        );
    };
    check("none", POD, r#"{"metadata":{"name":"a"}}"#, &[], &[]);
    check(
        "in a list",
        DEPLOYMENT,
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"a","foo":{"x":1}}]}}}}"#,
        &[r#"unknown field "spec.template.spec.containers[0].foo""#],
        &[],
    );
    check(
        "case matters",
        DEPLOYMENT,
        r#"{"spec":{"Replicas":1}}"#,
        &[r#"unknown field "spec.Replicas""#],
        &[],
    );
    check(
        "at the root, once",
        POD,
        r#"{"foo":1,"foo":2}"#,
        &[r#"unknown field "foo""#],
        &[],
    );
    check(
        "duplicate",
        DEPLOYMENT,
        r#"{"spec":{"replicas":1,"replicas":2}}"#,
        &[],
        &[r#"duplicate field "spec.replicas""#],
    );
    check(
        "duplicate null",
        DEPLOYMENT,
        r#"{"spec":{"replicas":null,"replicas":2}}"#,
        &[],
        &[r#"duplicate field "spec.replicas""#],
    );
    check(
        "duplicate map key",
        POD,
        r#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#,
        &[],
        &[r#"duplicate field "metadata.labels.a""#],
    );
    check(
        "below a duplicate",
        POD,
        r#"{"spec":{"containers":[{},{"name":"x","name":"y"}]}}"#,
        &[],
        &[r#"duplicate field "spec.containers[1].name""#],
    );
}

#[test]
fn wrong_types_are_worded_as_upstream_does() {
    let check = |gvk: &str, input: &str, error: &str| match decode(root(gvk), input.as_bytes()) {
        Ok(decoded) => panic!("{input}: decoded as {:?}", decoded.value),
        Err(e) => assert_eq!(e.to_string(), error, "{input}"),
    };
    check(
        DEPLOYMENT,
        r#"{"spec":{"replicas":"three"}}"#,
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        DEPLOYMENT,
        r#"{"spec":{"replicas":1.5}}"#,
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        DEPLOYMENT,
        r#"{"spec":{"replicas":3000000000}}"#,
        "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
    );
    check(
        DEPLOYMENT,
        r#"{"spec":[]}"#,
        "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
    );
    check(
        DEPLOYMENT,
        r#"{"spec":{"template":{"spec":{"containers":{"name":"a"}}}}}"#,
        "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    );
    check(
        POD,
        r#"{"metadata":{"labels":{"a":1}}}"#,
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
    );
    check(
        POD,
        r#"{"metadata":{"labels":["a"]}}"#,
        "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
    );
    check(
        POD,
        r#"{"spec":{"containers":[{"env":[{"name":"A","value":true}]}]}}"#,
        "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
    );
    check(
        POD,
        r#"{"spec":{"restartPolicy":1}}"#,
        "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
    );
    check(
        POD,
        r#"{"spec":{"hostNetwork":"yes","restartPolicy":1}}"#,
        "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
    );
    check(
        POD,
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    check(
        POD,
        r#"{"spec":{"containers":[{"resources":{"limits":["cpu"]}}]}}"#,
        "json: cannot unmarshal array into Go struct field ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
    );
    check(
        SERVICE,
        r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
        "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
    );
    check(
        POD,
        r#"{"spec":{"volumes":[{"configMap":[]}]}}"#,
        "json: cannot unmarshal array into Go struct field Volume.spec.volumes.VolumeSource.configMap of type v1.ConfigMapVolumeSource",
    );
    check(
        SECRET,
        r#"{"data":{"a":"not base64!"}}"#,
        "illegal base64 data at input byte 3",
    );
    check(
        POD,
        r#"{"metadata":{"creationTimestamp":5}}"#,
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
    );
    check(
        POD,
        r#""a""#,
        "json: cannot unmarshal string into Go value of type v1.Pod",
    );
    check(POD, r#"{"metadata":"#, "unexpected end of JSON input");
}

#[test]
fn all_kinds_of_the_first_release_are_known() {
    for gvk in [
        "/v1/Namespace",
        "/v1/Node",
        POD,
        SERVICE,
        "/v1/Endpoints",
        "/v1/ConfigMap",
        SECRET,
        "/v1/ServiceAccount",
        "/v1/PersistentVolume",
        "/v1/PersistentVolumeClaim",
        "/v1/Event",
        "/v1/ReplicationController",
        "/v1/Binding",
        "discovery.k8s.io/v1/EndpointSlice",
        LEASE,
        DEPLOYMENT,
        "apps/v1/ReplicaSet",
        "apps/v1/StatefulSet",
        "apps/v1/DaemonSet",
        "apps/v1/ControllerRevision",
        "networking.k8s.io/v1/Ingress",
        "autoscaling/v1/Scale",
        "batch/v1/Job",
        CRD,
        "policy/v1/Eviction",
        "authentication.k8s.io/v1/TokenRequest",
        "authorization.k8s.io/v1/SelfSubjectAccessReview",
        "/v1/DeleteOptions",
        "apps/v1/DeleteOptions",
        "/v1/Status",
        "rbac.authorization.k8s.io/v1/Role",
        "events.k8s.io/v1/Event",
    ] {
        root(gvk);
    }
    assert!(kind("", "v1", "Nothing").is_none());
}
