//! What can be asked of which path, as OpenAPI v2 and v3 have it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Served;
use super::parameters::{
    DELETE, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE, LIST, LOG, PRETTY, Parameter,
};
use super::schemas::{Definition, Version};
use crate::types::{Graph, Gvk};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// Strategic merge comes third: custom resources don't have it.
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// One thing that can be asked.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    /// Begins the operation's id.
    verb: &'static str,
    kind: Gvk<'a>,
    /// Of the body; None for none.
    body: Option<&'a str>,
    /// None for text.
    answer: Option<&'a str>,
    parameters: Vec<Parameter>,
}

/// Writes paths and remembers which definitions they refer to.
pub(crate) struct Paths<'a> {
    graph: &'a Graph,
    version: Version,
    pub out: Map<String, Value>,
    pub referred: BTreeSet<Definition>,
}

impl<'a> Paths<'a> {
    pub(crate) fn new(graph: &'a Graph, version: Version) -> Paths<'a> {
        Paths {
            graph,
            version,
            out: Map::new(),
            referred: BTreeSet::new(),
        }
    }

    pub(crate) fn add(&mut self, served: &Served<'_>) {
        let kind = Gvk {
            group: served.group,
            version: served.version,
            kind: served.kind,
        };
        let known = |kind: &str| {
            let ty = crate::types::kind(served.group, served.version, kind);
            ty.map(|ty| ty.name().to_owned())
        };
        let (ty, list) = match &served.custom {
            Some(custom) => {
                for meta in ["ObjectMeta", "ListMeta"] {
                    self.reference(meta);
                }
                let named = |kind| super::custom::name(served.group, served.version, kind);
                (Some(named(served.kind)), Some(named(custom.list_kind)))
            }
            None => (known(served.kind), known(&format!("{}List", served.kind))),
        };
        let Some(ty) = ty.as_deref() else { return };
        let list = list.as_deref();
        self.referred.extend(Definition::named(self.graph, ty));
        self.referred
            .extend(list.and_then(|list| Definition::named(self.graph, list)));
        let base = if served.group.is_empty() {
            format!("/api/{}", served.version)
        } else {
            format!("/apis/{}/{}", served.group, served.version)
        };
        let collection = if served.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", served.plural)
        } else {
            format!("{base}/{}", served.plural)
        };
        let item = format!("{collection}/{{name}}");
        let can = |verb: &str| served.verbs.contains(&verb);

        let lists = || Operation {
            method: "get",
            action: "list",
            verb: "list",
            kind,
            body: None,
            answer: list,
            parameters: LIST.to_vec(),
        };
        let mut operations = Vec::new();
        if can("list") {
            operations.push(lists());
        }
        if can("create") {
            operations.push(self.writes("post", "post", "create", kind, ty));
        }
        if can("deletecollection") {
            let parameters = LIST.into_iter().chain([DRY_RUN]).chain(DELETE).collect();
            operations.push(Operation {
                method: "delete",
                action: "deletecollection",
                verb: "deleteCollection",
                kind,
                body: Some("DeleteOptions"),
                answer: Some("Status"),
                parameters,
            });
        }
        self.path(&collection, "", served, operations);
        if served.namespaced && can("list") {
            self.path(
                &format!("{base}/{}", served.plural),
                "ForAllNamespaces",
                served,
                vec![lists()],
            );
        }

        let mut operations = self.item_operations(kind, ty, &can);
        if can("delete") {
            let parameters = [DRY_RUN].into_iter().chain(DELETE).collect();
            operations.push(Operation {
                method: "delete",
                action: "delete",
                verb: "delete",
                kind,
                body: Some("DeleteOptions"),
                answer: Some("Status"),
                parameters,
            });
        }
        self.path(&item, "", served, operations);
        for subresource in served.subresources {
            self.subresource(&item, subresource, served, kind, ty);
        }
    }

    fn item_operations<'k>(
        &self,
        kind: Gvk<'k>,
        ty: &'k str,
        can: &dyn Fn(&str) -> bool,
    ) -> Vec<Operation<'k>> {
        let mut out = Vec::new();
        if can("get") {
            out.push(Operation {
                method: "get",
                action: "get",
                verb: "read",
                kind,
                body: None,
                answer: Some(ty),
                parameters: Vec::new(),
            });
        }
        if can("update") {
            out.push(self.writes("put", "put", "replace", kind, ty));
        }
        if can("patch") {
            let mut patch = self.writes("patch", "patch", "patch", kind, ty);
            patch.body = Some("Patch");
            patch.parameters.push(FORCE);
            out.push(patch);
        }
        out
    }

    fn writes<'k>(
        &self,
        method: &'static str,
        action: &'static str,
        verb: &'static str,
        kind: Gvk<'k>,
        ty: &'k str,
    ) -> Operation<'k> {
        Operation {
            method,
            action,
            verb,
            kind,
            body: Some(ty),
            answer: Some(ty),
            parameters: vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
        }
    }

    fn subresource(
        &mut self,
        item: &str,
        name: &str,
        served: &Served<'_>,
        kind: Gvk<'_>,
        ty: &str,
    ) {
        let path = format!("{item}/{name}");
        let typed = |group, version, kind| {
            let gvk = Gvk {
                group,
                version,
                kind,
            };
            crate::types::kind(group, version, kind).map(|ty| (gvk, ty.name()))
        };
        let of_other = match name {
            "scale" => typed("autoscaling", "v1", "Scale"),
            "eviction" => typed("policy", "v1", "Eviction"),
            "binding" => typed("", "v1", "Binding"),
            "token" => typed("authentication.k8s.io", "v1", "TokenRequest"),
            _ => Some((kind, ty)),
        };
        let Some((kind, ty)) = of_other else { return };
        let operations = match name {
            "eviction" | "binding" | "token" => {
                vec![self.writes("post", "post", "create", kind, ty)]
            }
            "log" => vec![Operation {
                method: "get",
                action: "get",
                verb: "read",
                kind,
                body: None,
                answer: None,
                parameters: LOG.to_vec(),
            }],
            "exec" | "attach" | "portforward" | "proxy" => {
                let options = match name {
                    "exec" => "PodExecOptions",
                    "attach" => "PodAttachOptions",
                    "portforward" => "PodPortForwardOptions",
                    _ if served.kind == "Node" => "NodeProxyOptions",
                    _ if served.kind == "Service" => "ServiceProxyOptions",
                    _ => "PodProxyOptions",
                };
                let kind = Gvk {
                    kind: options,
                    ..kind
                };
                let connects = |method, verb| Operation {
                    method,
                    action: "connect",
                    verb,
                    kind,
                    body: None,
                    answer: None,
                    parameters: Vec::new(),
                };
                let all = [
                    ("get", "connectGet"),
                    ("post", "connectPost"),
                    ("put", "connectPut"),
                    ("patch", "connectPatch"),
                    ("delete", "connectDelete"),
                    ("options", "connectOptions"),
                    ("head", "connectHead"),
                ];
                // the streams of Pods are only begun; a proxy passes on whatever is asked, and whatever comes after its path
                let some = if name == "proxy" { &all[..] } else { &all[..2] };
                let connects = || some.iter().map(|(m, v)| connects(m, v)).collect();
                if name == "proxy" {
                    self.path(
                        &format!("{path}/{{path}}"),
                        "ProxyWithPath",
                        served,
                        connects(),
                    );
                }
                connects()
            }
            _ => self.item_operations(kind, ty, &|_| true),
        };
        let suffix: String = name
            .chars()
            .take(1)
            .flat_map(char::to_uppercase)
            .chain(name.chars().skip(1))
            .collect();
        self.path(&path, &suffix, served, operations);
    }

    fn path(
        &mut self,
        path: &str,
        suffix: &str,
        served: &Served<'_>,
        operations: Vec<Operation<'_>>,
    ) {
        if operations.is_empty() {
            return;
        }
        let mut shared = Vec::new();
        for (name, what) in [
            ("name", format!("The name of the {}.", served.kind)),
            ("namespace", "The namespace that it is in.".to_owned()),
            ("path", "Path to the resource.".to_owned()),
        ] {
            if path.contains(&format!("{{{name}}}")) {
                shared.push(self.parameter("path", name, "string", &what));
            }
        }
        shared.push(self.parameter("query", PRETTY.0, PRETTY.1, PRETTY.2));
        let mut out = Map::new();
        for operation in operations {
            let method = operation.method;
            let value = self.operation(path, suffix, served, operation);
            out.insert(method.to_owned(), value);
        }
        out.insert("parameters".to_owned(), shared.into());
        self.out.insert(path.to_owned(), Value::Object(out));
    }

    fn operation(
        &mut self,
        path: &str,
        suffix: &str,
        served: &Served<'_>,
        operation: Operation<'_>,
    ) -> Value {
        let capital = |text: &str| -> String {
            text.chars()
                .take(1)
                .flat_map(char::to_uppercase)
                .chain(text.chars().skip(1))
                .collect()
        };
        // `flowcontrol.apiserver.k8s.io` is `flowcontrolApiserver`
        let mut words = served.group.trim_end_matches(".k8s.io").split('.');
        let first = words.next().filter(|w| !w.is_empty()).unwrap_or("core");
        let group: String = std::iter::once(first.to_owned())
            .chain(words.map(capital))
            .collect();
        let namespaced = if path.contains("{namespace}") {
            "Namespaced"
        } else {
            ""
        };
        // upstream's are `deleteCoreV1CollectionNamespacedPod`, `connectCoreV1GetNamespacedPodExec`
        let (verb, rest) = match operation.verb {
            "deleteCollection" => ("delete", "Collection"),
            verb => verb
                .strip_prefix("connect")
                .map_or((verb, ""), |of| ("connect", of)),
        };
        let id = format!(
            "{verb}{}{}{rest}{namespaced}{}{suffix}",
            capital(&group),
            capital(served.version),
            served.kind
        );
        let mut parameters: Vec<Value> = operation
            .parameters
            .iter()
            .map(|(name, ty, what)| self.parameter("query", name, ty, what))
            .collect();
        let body = operation.body.map(|body| self.reference(body));
        let answer = operation.answer.map(|answer| self.reference(answer));
        let mut out = Map::new();
        let mut responses = Map::new();
        let custom = served.custom.is_some();
        let patches = PATCH_TYPES
            .into_iter()
            .filter(|t| !(custom && t.contains("strategic")));
        match self.version {
            Version::V2 => {
                parameters.extend(body.map(|schema| json!({"name": "body", "in": "body", "required": operation.method != "delete", "schema": schema})));
                let ok = answer.unwrap_or_else(|| json!({"type": "string"}));
                responses.insert("200".into(), json!({"description": "OK", "schema": ok}));
                out.insert("schemes".into(), json!(["https"]));
                let consumes: Vec<&str> = if operation.method == "patch" {
                    patches.collect()
                } else {
                    vec!["*/*"]
                };
                out.insert("consumes".into(), consumes.into());
                out.insert(
                    "produces".into(),
                    json!(["application/json", "application/yaml"]),
                );
            }
            Version::V3 => {
                if let Some(schema) = body {
                    let types: Vec<&str> = if operation.method == "patch" {
                        patches.collect()
                    } else {
                        vec!["*/*"]
                    };
                    let content: Map<String, Value> = types
                        .into_iter()
                        .map(|t| (t.to_owned(), json!({ "schema": schema })))
                        .collect();
                    out.insert(
                        "requestBody".into(),
                        json!({"required": operation.method != "delete", "content": content}),
                    );
                }
                let content = match answer {
                    Some(schema) => {
                        json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}})
                    }
                    None => json!({"text/plain": {"schema": {"type": "string"}}}),
                };
                responses.insert(
                    "200".into(),
                    json!({"description": "OK", "content": content}),
                );
            }
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let kind = operation.kind;
        out.insert(
            "description".into(),
            format!(
                "{} {}{}",
                operation.action,
                served.kind,
                if suffix.is_empty() {
                    String::new()
                } else {
                    format!(" ({suffix})")
                }
            )
            .into(),
        );
        out.insert("operationId".into(), id.into());
        out.insert(
            "tags".into(),
            json!([format!("{group}_{}", served.version)]),
        );
        if !parameters.is_empty() {
            out.insert("parameters".into(), parameters.into());
        }
        out.insert("responses".into(), Value::Object(responses));
        out.insert("x-kubernetes-action".into(), operation.action.into());
        out.insert(
            "x-kubernetes-group-version-kind".into(),
            json!({"group": kind.group, "kind": kind.kind, "version": kind.version}),
        );
        Value::Object(out)
    }

    fn parameter(&self, place: &str, name: &str, ty: &str, what: &str) -> Value {
        let mut out = json!({"name": name, "in": place, "description": what});
        match self.version {
            Version::V2 => {
                out["type"] = ty.into();
                out["uniqueItems"] = true.into();
            }
            Version::V3 => out["schema"] = json!({"type": ty, "uniqueItems": true}),
        }
        if place == "path" {
            out["required"] = true.into();
        }
        out
    }

    /// A reference to a type by its full name, or by its short one in meta/v1.
    fn reference(&mut self, name: &str) -> Value {
        let full = if name.contains('.') {
            name.to_owned()
        } else {
            format!("{META}.{name}")
        };
        self.referred.extend(Definition::named(self.graph, &full));
        self.version.reference(&full)
    }
}
