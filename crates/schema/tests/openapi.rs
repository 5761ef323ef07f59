//! OpenAPI documents: what kubectl of old (v2, protobuf) and new (v3) look for in them.

use knarr_schema::openapi::{Served, v2_json, v2_protobuf, v3};
use serde_json::{Value, json};

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

fn served() -> Vec<Served<'static>> {
    let serve = |group, version, kind, plural, namespaced, subresources| Served {
        group,
        version,
        kind,
        plural,
        namespaced,
        verbs: ALL,
        subresources,
        custom: None,
    };
    vec![
        serve(
            "",
            "v1",
            "Pod",
            "pods",
            true,
            &["status", "log", "exec", "eviction", "binding"],
        ),
        serve("", "v1", "Namespace", "namespaces", false, &["status"]),
        serve("", "v1", "ConfigMap", "configmaps", true, &[]),
        serve(
            "apps",
            "v1",
            "Deployment",
            "deployments",
            true,
            &["status", "scale"],
        ),
        Served {
            verbs: &["create"],
            ..serve(
                "authorization.k8s.io",
                "v1",
                "SelfSubjectAccessReview",
                "selfsubjectaccessreviews",
                false,
                &[],
            )
        },
    ]
}

fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Every `$ref` of a document must lead somewhere.
fn references<'v>(value: &'v Value, out: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            out.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|v| references(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn nothing_is_referred_to_that_is_not_there() {
    for document in [
        document(&v3("", "v1", &served())),
        document(&v3("apps", "v1", &served())),
        document(&v2_json(&served(), &[])),
    ] {
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(all.len() > 100);
        for reference in all {
            assert!(
                document
                    .pointer(reference.trim_start_matches('#'))
                    .is_some(),
                "{reference}"
            );
        }
    }
}

#[test]
fn v3_has_what_kubectl_explains_and_validates_by() {
    let apps = document(&v3("apps", "v1", &served()));
    let schemas = &apps["components"]["schemas"];
    let check = |pointer: &str, expected: Value| {
        assert_eq!(schemas.pointer(pointer), Some(&expected), "{pointer}")
    };
    check(
        "/io.k8s.api.apps.v1.Deployment/x-kubernetes-group-version-kind",
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}]),
    );
    check(
        "/io.k8s.api.apps.v1.DeploymentSpec/required",
        json!(["selector", "template"]),
    );
    check(
        "/io.k8s.api.apps.v1.DeploymentSpec/properties/strategy/allOf/0/$ref",
        json!("#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"),
    );
    check(
        "/io.k8s.api.apps.v1.DeploymentSpec/properties/strategy/x-kubernetes-patch-strategy",
        json!("retainKeys"),
    );
    check(
        "/io.k8s.api.core.v1.PodSpec/properties/containers/x-kubernetes-patch-merge-key",
        json!("name"),
    );
    check(
        "/io.k8s.api.core.v1.PodSpec/properties/containers/x-kubernetes-list-map-keys",
        json!(["name"]),
    );
    check(
        "/io.k8s.api.core.v1.PodSpec/properties/nodeSelector/x-kubernetes-map-type",
        json!("atomic"),
    );
    check(
        "/io.k8s.api.core.v1.ContainerPort/properties/protocol/default",
        json!("TCP"),
    );
    check(
        "/io.k8s.apimachinery.pkg.util.intstr.IntOrString/format",
        json!("int-or-string"),
    );
    let description = schemas
        .pointer("/io.k8s.api.apps.v1.DeploymentSpec/properties/replicas/description")
        .and_then(Value::as_str)
        .unwrap();
    assert!(
        description.starts_with("Number of desired pods"),
        "{description}"
    );

    let path = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(
        path["patch"]["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    assert_eq!(path["patch"]["x-kubernetes-action"], "patch");
    let query: Vec<&str> = path["patch"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["in"] == "query")
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert_eq!(
        query,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    assert!(path["patch"]["requestBody"]["content"]["application/apply-patch+yaml"].is_object());
    let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(
        scale["get"]["x-kubernetes-group-version-kind"]["kind"],
        "Scale"
    );
    assert!(
        apps["paths"]["/apis/apps/v1/deployments"]["get"].is_object(),
        "a list over all namespaces"
    );
    assert!(
        apps["paths"]
            .as_object()
            .unwrap()
            .keys()
            .all(|p| p.starts_with("/apis/apps/v1/")),
        "one group version only"
    );
}

#[test]
fn verbs_that_are_not_served_are_not_there() {
    let document = document(&v3("authorization.k8s.io", "v1", &served()));
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 1);
    let operations: Vec<&String> = paths["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|k| *k != "parameters")
        .collect();
    assert_eq!(operations, ["post"]);
}

/// Reads a protobuf message into its fields, trusting it.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for at in 0.. {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        if key & 7 == 0 {
            varint(&mut bytes);
            out.push((key >> 3, &[][..]));
        } else {
            assert_eq!(key & 7, 2);
            let length = varint(&mut bytes) as usize;
            out.push((key >> 3, &bytes[..length]));
            bytes = &bytes[length..];
        }
    }
    out
}

fn one(message: &[u8], number: u64) -> &[u8] {
    fields(message)
        .into_iter()
        .find(|(n, _)| *n == number)
        .map(|(_, b)| b)
        .unwrap_or_else(|| panic!("no field {number}"))
}

/// The value of a `NamedX` by its name.
fn named<'b>(message: &'b [u8], number: u64, name: &str) -> &'b [u8] {
    let mut all = fields(message)
        .into_iter()
        .filter(|(n, _)| *n == number)
        .map(|(_, b)| b);
    let found = all
        .find(|b| one(b, 1) == name.as_bytes())
        .unwrap_or_else(|| panic!("no {name}"));
    one(found, 2)
}

#[test]
fn v2_protobuf_says_what_v2_json_says() {
    let json = document(&v2_json(&served(), &[]));
    let bytes = v2_protobuf(&served(), &[]);
    assert_eq!(one(&bytes, 1), b"2.0");
    let (paths, definitions) = (one(&bytes, 8), one(&bytes, 9));
    assert_eq!(
        fields(paths).len(),
        json["paths"].as_object().unwrap().len()
    );
    assert_eq!(
        fields(definitions).len(),
        json["definitions"].as_object().unwrap().len()
    );

    let deployment = named(definitions, 1, "io.k8s.api.apps.v1.Deployment");
    let yaml = |any: &[u8]| serde_json::from_slice::<Value>(one(any, 2)).unwrap();
    assert_eq!(
        yaml(named(deployment, 31, "x-kubernetes-group-version-kind")),
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    let containers = named(
        one(named(definitions, 1, "io.k8s.api.core.v1.PodSpec"), 25),
        1,
        "containers",
    );
    assert_eq!(
        yaml(named(containers, 31, "x-kubernetes-patch-merge-key")),
        json!("name")
    );
    assert_eq!(
        one(one(one(containers, 23), 1), 1),
        b"#/definitions/io.k8s.api.core.v1.Container"
    );
    assert!(one(containers, 4).starts_with(b"List of containers"));

    let patch = one(
        named(
            paths,
            2,
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
        ),
        8,
    );
    assert_eq!(
        yaml(named(patch, 13, "x-kubernetes-group-version-kind")),
        json!({"group": "apps", "kind": "Deployment", "version": "v1"})
    );
    let dry_run = fields(patch)
        .into_iter()
        .filter(|(n, _)| *n == 8)
        .any(|(_, item)| {
            let parameter = one(item, 1);
            fields(parameter).first().is_some_and(|(n, of_place)| {
                *n == 2
                    && fields(of_place)
                        .first()
                        .is_some_and(|(n, query)| *n == 3 && one(query, 4) == b"dryRun")
            })
        });
    assert!(
        dry_run,
        "kubectl --dry-run=server looks for the parameter of the patch"
    );
}
