//! Roles and bindings: defaults, and what they must fulfil (upstream `pkg/apis/rbac/{v1,validation}`).

use super::{
    checks::{
        path::{Errors, Go, Path},
        rules, selectors,
    },
    json::{default, items_mut, list, str_of},
};
use crate::registry::{FieldError, NameRule, Strategy};
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Role or ClusterRole.
pub(crate) struct Role {
    pub(crate) namespaced: bool,
}
impl Strategy for Role {
    fn name(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let at = Path::Root("rules");
        for (i, r) in list(o, "rules").iter().enumerate() {
            rule(r, self.namespaced, &at.index(i), &mut errors);
        }
        let aggregation = &o["aggregationRule"];
        if !self.namespaced && aggregation.is_object() {
            let at = Path::Root("aggregationRule");
            let at = at.child("clusterRoleSelectors");
            let chosen = list(aggregation, "clusterRoleSelectors");
            if chosen.is_empty() {
                errors.required(
                    &at,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (i, selector) in chosen.iter().enumerate() {
                selectors::labels(selector, &at.index(i), &mut errors);
            }
        }
        errors.0
    }
}

fn rule(r: &Value, namespaced: bool, at: &Path<'_>, errors: &mut Errors) {
    let has = |field: &str| !list(r, field).is_empty();
    if !has("verbs") {
        errors.required(&at.child("verbs"), "verbs must contain at least one value");
    }
    if has("nonResourceURLs") {
        let (at, value) = (at.child("nonResourceURLs"), &r["nonResourceURLs"]);
        if namespaced {
            let why = "namespaced rules cannot apply to non-resource URLs";
            errors.invalid(&at, value.clone(), why);
        }
        if has("apiGroups") || has("resources") || has("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&at, value.clone(), why);
        }
        return;
    }
    if !has("apiGroups") {
        let why = "resource rules must supply at least one api group";
        errors.required(&at.child("apiGroups"), why);
    }
    if !has("resources") {
        let why = "resource rules must supply at least one resource";
        errors.required(&at.child("resources"), why);
    }
}

/// RoleBinding or ClusterRoleBinding.
pub(crate) struct Binding {
    pub(crate) namespaced: bool,
}
impl Strategy for Binding {
    fn name(&self) -> NameRule {
        NameRule::PathSegment
    }
    fn default(&self, o: &mut Value) {
        if let Some(role) = o.get_mut("roleRef").filter(|r| r.is_object()) {
            fill(role);
        }
        for subject in items_mut(o, "subjects") {
            if subject["kind"] == "User" || subject["kind"] == "Group" {
                fill(subject);
            }
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let (at, role) = (Path::Root("roleRef"), &o["roleRef"]);
        let group = str_of(role, "apiGroup");
        if group != GROUP {
            errors.not_supported(&at.child("apiGroup"), group, &[GROUP]);
        }
        let kinds: &[&str] = match self.namespaced {
            true => &["Role", "ClusterRole"],
            false => &["ClusterRole"],
        };
        let kind = str_of(role, "kind");
        if !kinds.contains(&kind) {
            errors.not_supported(&at.child("kind"), kind, kinds);
        }
        match str_of(role, "name") {
            "" => errors.required(&at.child("name"), ""),
            name => errors.broken(&at.child("name"), name, rules::path_segment(name)),
        }
        let at = Path::Root("subjects");
        for (i, s) in list(o, "subjects").iter().enumerate() {
            subject(s, self.namespaced, &at.index(i), &mut errors);
        }
        errors.0
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::default();
        if new["roleRef"] != old["roleRef"] {
            let at = Path::Root("roleRef");
            errors.invalid_go(
                &at,
                &new["roleRef"],
                &Go::Internal("rbac.RoleRef"),
                "cannot change roleRef",
            );
        }
        errors.0
    }
}

/// An `apiGroup` that is absent or empty is RBAC's.
fn fill(o: &mut Value) {
    if o["apiGroup"] == "" {
        o["apiGroup"] = GROUP.into();
    }
    default(o, "apiGroup", GROUP);
}

fn subject(s: &Value, namespaced: bool, at: &Path<'_>, errors: &mut Errors) {
    let (name, group) = (str_of(s, "name"), str_of(s, "apiGroup"));
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    }
    match str_of(s, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.broken(&at.child("name"), name, rules::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&at.child("apiGroup"), group, &[""]);
            }
            if !namespaced && str_of(s, "namespace").is_empty() {
                errors.required(&at.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&at.child("apiGroup"), group, &[GROUP]);
            }
        }
        kind => errors.not_supported(
            &at.child("kind"),
            kind,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn roles_are_checked() {
        let role = |rule: Value| json!({"rules": [rule]});
        let aggregated =
            |selectors: Value| json!({"aggregationRule": {"clusterRoleSelectors": selectors}});
        let cases: Vec<(&str, bool, Value, &[&str])> = vec![
            (
                "good",
                true,
                role(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})),
                &[],
            ),
            ("no rules", true, json!({"rules": null}), &[]),
            (
                "empty",
                true,
                role(json!({})),
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                "path in a namespace",
                true,
                role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                ],
            ),
            (
                "path",
                false,
                role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
                &[],
            ),
            (
                "both",
                false,
                role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]})),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
                ],
            ),
            (
                "aggregated of nothing",
                false,
                aggregated(json!([])),
                &[
                    "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
                ],
            ),
            (
                "aggregated",
                false,
                aggregated(json!([{"matchLabels": {"a": "b"}}])),
                &[],
            ),
            (
                "aggregated badly",
                false,
                aggregated(json!([{"matchExpressions": [{"key": "a", "operator": "In"}]}])),
                &[
                    "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                ],
            ),
        ];
        for (name, namespaced, object, want) in cases {
            assert_eq!(told(Role { namespaced }.validate(&object)), want, "{name}");
        }
    }

    #[test]
    fn bindings_are_filled_and_checked() {
        let bound = |role: Value, subject: Value| json!({"roleRef": role, "subjects": [subject]});
        let role = || json!({"kind": "ClusterRole", "name": "r"});
        let cases: Vec<(&str, bool, Value, &[&str])> = vec![
            (
                "user",
                false,
                bound(role(), json!({"kind": "User", "name": "u"})),
                &[],
            ),
            (
                "user with an empty group",
                false,
                bound(role(), json!({"kind": "User", "name": "u", "apiGroup": ""})),
                &[],
            ),
            (
                "no subjects",
                false,
                json!({"roleRef": {"kind": "ClusterRole", "name": "r"}}),
                &[],
            ),
            (
                "account in a namespace",
                true,
                bound(role(), json!({"kind": "ServiceAccount", "name": "s"})),
                &[],
            ),
            (
                "account without a namespace",
                false,
                bound(role(), json!({"kind": "ServiceAccount", "name": "s"})),
                &["subjects[0].namespace: Required value"],
            ),
            (
                "account of a group",
                true,
                bound(
                    role(),
                    json!({"kind": "ServiceAccount", "name": "s", "apiGroup": "x"}),
                ),
                &["subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"\""],
            ),
            (
                "nobody",
                true,
                bound(role(), json!({"kind": "Pod"})),
                &[
                    "subjects[0].name: Required value",
                    "subjects[0].kind: Unsupported value: \"Pod\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                ],
            ),
            (
                "role of a namespace everywhere",
                false,
                bound(
                    json!({"kind": "Role", "name": "r"}),
                    json!({"kind": "User", "name": "u"}),
                ),
                &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
            ),
            (
                "no role",
                true,
                bound(
                    json!({"kind": "Role", "apiGroup": "x"}),
                    json!({"kind": "Group", "name": "g"}),
                ),
                &[
                    "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                    "roleRef.name: Required value",
                ],
            ),
            (
                "role's name",
                true,
                bound(
                    json!({"kind": "Role", "name": "a/b"}),
                    json!({"kind": "Group", "name": "g"}),
                ),
                &["roleRef.name: Invalid value: \"a/b\": may not contain '/'"],
            ),
        ];
        for (name, namespaced, mut object, want) in cases {
            let strategy = Binding { namespaced };
            strategy.default(&mut object);
            assert_eq!(told(strategy.validate(&object)), want, "{name}");
        }
        let (a, b) = (
            json!({"roleRef": {"name": "a"}}),
            json!({"roleRef": {"name": "b"}}),
        );
        let told = told(Binding { namespaced: true }.validate_update(&b, &a));
        assert_eq!(
            told,
            [
                r#"roleRef: Invalid value: {"APIGroup":"","Kind":"","Name":"b"}: cannot change roleRef"#
            ]
        );
    }
}
