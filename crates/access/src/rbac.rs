//! Roles and bindings, indexed by subject (upstream `plugin/pkg/auth/authorizer/rbac`, `pkg/registry/rbac/validation`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    attributes::{Attributes, Decision},
    cover::aggregate,
    rule::{Names, Rule},
    user::{User, account_user},
};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The four kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Role
    Role,
    /// ClusterRole
    ClusterRole,
    /// RoleBinding
    RoleBinding,
    /// ClusterRoleBinding
    ClusterRoleBinding,
}
impl Kind {
    /// By the plural.
    pub fn of(plural: &str) -> Option<Kind> {
        Some(match plural {
            "roles" => Kind::Role,
            "clusterroles" => Kind::ClusterRole,
            "rolebindings" => Kind::RoleBinding,
            "clusterrolebindings" => Kind::ClusterRoleBinding,
            _ => return None,
        })
    }
}

/// What a binding refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RoleRef {
    /// Group; empty means RBAC's.
    pub api_group: String,
    /// `Role` or `ClusterRole`
    pub kind: String,
    /// Name.
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RoleObject {
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BindingObject {
    subjects: Option<Vec<SubjectObject>>,
    role_ref: RoleRef,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SubjectObject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
}

#[derive(Debug)]
struct Binding {
    /// empty for a ClusterRoleBinding
    namespace: Arc<str>,
    name: Arc<str>,
    cluster_role: bool,
    role: Arc<str>,
    subjects: Vec<(Subject, Arc<str>)>,
}

/// Binding's namespace (empty for ClusterRoleBindings) and name.
type Id = (Arc<str>, Arc<str>);

/// The index. Fed with objects as they change; asked by user.
#[derive(Debug, Default)]
pub struct Rbac {
    names: Names,
    changes: usize,
    /// namespace (empty for ClusterRoles) and name
    roles: BTreeMap<Id, Arc<[Rule]>>,
    bindings: BTreeMap<Id, Arc<Binding>>,
    /// by the subject, then by namespace (empty for ClusterRoleBindings)
    by_subject: HashMap<Subject, Vec<Arc<Binding>>>,
}

/// Changes between two sweeps of the shared strings.
const SWEEP_CHANGES: usize = 1024;

impl Rbac {
    /// Takes an object in (its JSON), or out (None). An object that doesn't parse counts as absent.
    pub fn apply(&mut self, kind: Kind, namespace: &str, name: &str, json: Option<&[u8]>) {
        self.changes += 1;
        if self.changes.is_multiple_of(SWEEP_CHANGES) {
            self.names.sweep();
        }
        let id = (self.names.shared(namespace), self.names.shared(name));
        match kind {
            Kind::Role | Kind::ClusterRole => {
                let role = json.and_then(|j| serde_json::from_slice::<RoleObject>(j).ok());
                let Some(role) = role else {
                    self.roles.remove(&id);
                    return;
                };
                let mut rules = role.rules.unwrap_or_default();
                for rule in &mut rules {
                    self.names.share(rule);
                }
                self.roles.insert(id, rules.into());
            }
            Kind::RoleBinding | Kind::ClusterRoleBinding => {
                self.forget(&id);
                let object = json.and_then(|j| serde_json::from_slice::<BindingObject>(j).ok());
                if let Some(object) = object {
                    self.bind(id, object);
                }
            }
        }
    }

    fn forget(&mut self, id: &Id) {
        let Some(old) = self.bindings.remove(id) else {
            return;
        };
        for (subject, _) in &old.subjects {
            if let Some(list) = self.by_subject.get_mut(subject) {
                list.retain(|b| !Arc::ptr_eq(b, &old));
                if list.is_empty() {
                    self.by_subject.remove(subject);
                }
            }
        }
    }

    fn bind(&mut self, id: Id, object: BindingObject) {
        let mut subjects: Vec<(Subject, Arc<str>)> = Vec::new();
        for s in object.subjects.unwrap_or_default() {
            let (subject, shown) = match s.kind.as_str() {
                "User" => (Subject::User(self.names.shared(&s.name)), s.name),
                "Group" => (Subject::Group(self.names.shared(&s.name)), s.name),
                "ServiceAccount" => {
                    let namespace = match s.namespace.as_str() {
                        "" => &*id.0,
                        given => given,
                    };
                    // a ClusterRoleBinding must name the namespace
                    if namespace.is_empty() {
                        continue;
                    }
                    let user = account_user(namespace, &s.name);
                    let shown = format!("{}/{namespace}", s.name);
                    (Subject::User(self.names.shared(&user)), shown)
                }
                _ => continue,
            };
            if subjects.iter().any(|(known, _)| *known == subject) {
                continue;
            }
            let shown = format!("{} {shown:?}", s.kind);
            subjects.push((subject, self.names.shared(&shown)));
        }
        let binding = Arc::new(Binding {
            namespace: id.0.clone(),
            name: id.1.clone(),
            cluster_role: object.role_ref.kind == "ClusterRole",
            role: self.names.shared(&object.role_ref.name),
            subjects,
        });
        for (subject, _) in &binding.subjects {
            self.by_subject
                .entry(subject.clone())
                .or_default()
                .push(binding.clone());
        }
        self.bindings.insert(id, binding);
    }

    /// The rules of a role as a binding in `namespace` (empty for a ClusterRoleBinding) refers to it; Err in upstream's
    /// words when there is no such role.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[Rule]>, String> {
        self.rules_of(role.kind == "ClusterRole", &role.name, namespace)
    }

    fn rules_of(
        &self,
        cluster_role: bool,
        name: &str,
        namespace: &str,
    ) -> Result<Arc<[Rule]>, String> {
        let (plural, namespace) = match cluster_role {
            true => ("clusterrole", ""),
            false => ("role", namespace),
        };
        let id: Id = (namespace.into(), name.into());
        self.roles
            .get(&id)
            .cloned()
            .ok_or_else(|| format!("{plural}.{GROUP} {name:?} not found"))
    }

    /// Shows every binding of the user that counts in `namespace` (cluster-wide ones alone when it is empty), those of
    /// the cluster first, until `visit` answers false.
    fn visit(&self, user: &User, namespace: &str, mut visit: impl FnMut(&Binding, &str) -> bool) {
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(
                user.groups
                    .iter()
                    .map(|g| Subject::Group(g.as_str().into())),
            )
            .collect();
        for cluster in [true, false] {
            if !cluster && namespace.is_empty() {
                return;
            }
            for subject in &subjects {
                for binding in self.by_subject.get(subject).into_iter().flatten() {
                    let counts = match cluster {
                        true => binding.namespace.is_empty(),
                        false => &*binding.namespace == namespace,
                    };
                    if !counts {
                        continue;
                    }
                    let shown = binding.subjects.iter().find(|(s, _)| s == subject);
                    if !visit(binding, shown.map_or("", |(_, shown)| shown)) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the user's roles allow it.
    pub fn authorize(&self, user: &User, a: &Attributes) -> Decision {
        let mut errors = Vec::new();
        let mut allowed = None;
        let namespace = if a.resource_request {
            &*a.namespace
        } else {
            ""
        };
        self.visit(user, namespace, |binding, shown| {
            match self.rules_of(binding.cluster_role, &binding.role, &binding.namespace) {
                Ok(rules) if rules.iter().any(|r| r.allows(a)) => {
                    allowed = Some(format!("RBAC: allowed by {}", describe(binding, shown)));
                    false
                }
                Ok(_) => true,
                Err(e) => {
                    errors.push(e);
                    true
                }
            }
        });
        match allowed {
            Some(why) => Decision::Allow(why),
            None if errors.is_empty() => Decision::NoOpinion(String::new()),
            None => Decision::NoOpinion(format!("RBAC: {}", aggregate(&errors))),
        }
    }

    /// All the user's rules in a namespace, and what went wrong on the way.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors, mut seen) = (Vec::new(), Vec::new(), Vec::<Id>::new());
        self.visit(user, namespace, |binding, _| {
            // one binding may name the user and several of their groups
            let id = (binding.namespace.clone(), binding.name.clone());
            if !seen.contains(&id) {
                seen.push(id);
                match self.rules_of(binding.cluster_role, &binding.role, &binding.namespace) {
                    Ok(found) => rules.extend(found.iter().cloned()),
                    Err(e) => errors.push(e),
                }
            }
            true
        });
        (rules, errors)
    }
}

fn describe(binding: &Binding, subject: &str) -> String {
    let kind = match binding.cluster_role {
        true => "ClusterRole",
        false => "Role",
    };
    let (name, role) = (&binding.name, &binding.role);
    match &*binding.namespace {
        "" => format!(
            "ClusterRoleBinding {:?} of {kind} {role:?} to {subject}",
            &**name
        ),
        namespace => format!(
            "RoleBinding {:?} of {kind} {role:?} to {subject}",
            format!("{name}/{namespace}")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Rbac {
        let mut r = Rbac::default();
        let mut put = |kind, ns: &str, name: &str, json: &str| {
            r.apply(kind, ns, name, Some(json.as_bytes()));
        };
        let pods = r#"{"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#;
        let all = r#"{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]},{"verbs":["*"],"nonResourceURLs":["*"]}]}"#;
        put(Kind::ClusterRole, "", "pods", pods);
        put(Kind::ClusterRole, "", "all", all);
        put(Kind::Role, "a", "pods", pods);
        put(
            Kind::ClusterRoleBinding,
            "",
            "everybody",
            r#"{"subjects":[{"kind":"Group","name":"readers"}],"roleRef":{"kind":"ClusterRole","name":"pods"}}"#,
        );
        put(
            Kind::RoleBinding,
            "a",
            "alice",
            r#"{"subjects":[{"kind":"User","name":"alice"}],"roleRef":{"kind":"ClusterRole","name":"all"}}"#,
        );
        put(
            Kind::RoleBinding,
            "a",
            "robot",
            r#"{"subjects":[{"kind":"ServiceAccount","name":"robot"}],"roleRef":{"kind":"Role","name":"pods"}}"#,
        );
        put(
            Kind::ClusterRoleBinding,
            "",
            "other-robot",
            r#"{"subjects":[{"kind":"ServiceAccount","name":"r2","namespace":"b"}],"roleRef":{"kind":"ClusterRole","name":"all"}}"#,
        );
        put(
            Kind::RoleBinding,
            "a",
            "broken",
            r#"{"subjects":[{"kind":"User","name":"bob"}],"roleRef":{"kind":"Role","name":"none"}}"#,
        );
        r
    }

    #[test]
    fn who_may() {
        let r = sample();
        let get = |ns: &str| Attributes::resource("get", "", "pods", ns, "x");
        let user = |n: &str| User::new(n, &[]);
        let no = "";
        let cases = [
            (
                "group, everywhere",
                User::new("x", &["readers"]),
                get("b"),
                r#"RBAC: allowed by ClusterRoleBinding "everybody" of ClusterRole "pods" to Group "readers""#,
            ),
            (
                "group, at the cluster",
                User::new("x", &["readers"]),
                get(""),
                r#"RBAC: allowed by ClusterRoleBinding "everybody" of ClusterRole "pods" to Group "readers""#,
            ),
            (
                "a group's name isn't a user's",
                user("readers"),
                get("b"),
                no,
            ),
            (
                "cluster role in one namespace",
                user("alice"),
                get("a"),
                r#"RBAC: allowed by RoleBinding "alice/a" of ClusterRole "all" to User "alice""#,
            ),
            ("not in another", user("alice"), get("b"), no),
            (
                "nor paths",
                user("alice"),
                Attributes::path("get", "/x"),
                no,
            ),
            (
                "account of the binding's namespace",
                user("system:serviceaccount:a:robot"),
                get("a"),
                r#"RBAC: allowed by RoleBinding "robot/a" of Role "pods" to ServiceAccount "robot/a""#,
            ),
            (
                "account of another",
                user("system:serviceaccount:b:robot"),
                get("a"),
                no,
            ),
            (
                "account, everywhere",
                user("system:serviceaccount:b:r2"),
                Attributes::path("get", "/x"),
                r#"RBAC: allowed by ClusterRoleBinding "other-robot" of ClusterRole "all" to ServiceAccount "r2/b""#,
            ),
        ];
        for (name, user, a, want) in cases {
            let got = r.authorize(&user, &a);
            assert_eq!(got.reason(), want, "{name}");
            assert_eq!(got.allowed(), !want.is_empty(), "{name}");
        }
        let got = r.authorize(&user("bob"), &get("a"));
        assert_eq!(
            got,
            Decision::NoOpinion(
                "RBAC: role.rbac.authorization.k8s.io \"none\" not found".to_string()
            )
        );
    }

    #[test]
    fn what_leaves_counts_no_more() {
        let mut r = sample();
        let alice = User::new("alice", &[]);
        let get = Attributes::resource("get", "", "pods", "a", "x");
        assert_eq!(r.rules_for(&alice, "a").0.len(), 2);
        r.apply(Kind::ClusterRole, "", "all", None);
        assert!(!r.authorize(&alice, &get).allowed());
        let back = br#"{"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#;
        r.apply(Kind::ClusterRole, "", "all", Some(back));
        assert!(r.authorize(&alice, &get).allowed());
        r.apply(Kind::RoleBinding, "a", "alice", None);
        assert!(!r.authorize(&alice, &get).allowed());
        let empty = br#"{"subjects":null,"roleRef":{"kind":"ClusterRole","name":"all"}}"#;
        r.apply(Kind::RoleBinding, "a", "alice", Some(empty));
        assert!(!r.authorize(&alice, &get).allowed());
    }
}
