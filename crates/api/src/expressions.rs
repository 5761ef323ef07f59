//! CEL as admission uses it: the variables of webhooks' match conditions and of policies
//! (`apiserver/pkg/admission/plugin/cel`).

use std::sync::LazyLock;

use knarr_access::{Attributes as Question, User};
use knarr_cel::{
    Activation, Authorizer, AuthzAttributes, AuthzDecision, CompileError, Env, Program, Type,
    Value as Cel,
};
use serde_json::Value;

use crate::{access, server::Inner};

/// Which variables there are besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variables {
    /// `params`
    pub params: bool,
    /// `authorizer`
    pub authorizer: bool,
    /// `Object{}` and `JSONPatch{}` can be built.
    pub mutation: bool,
}

fn request_type() -> Type {
    let gvk = |name, last| {
        Type::object(
            name,
            [
                ("group", Type::String),
                ("version", Type::String),
                (last, Type::String),
            ],
        )
    };
    let kind = gvk("kubernetes.GroupVersionKind", "kind");
    let resource = gvk("kubernetes.GroupVersionResource", "resource");
    let texts = || Type::list(Type::String);
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", texts()),
            ("extra", Type::map(Type::String, texts())),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

fn namespace_type() -> Type {
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let map = || Type::map(Type::String, Type::String);
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", map()),
            ("annotations", map()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let finalizers = Type::list(Type::String);
    Type::object(
        "kubernetes.Namespace",
        [
            ("metadata", metadata),
            (
                "spec",
                Type::object("kubernetes.NamespaceSpec", [("finalizers", finalizers)]),
            ),
            (
                "status",
                Type::object(
                    "kubernetes.NamespaceStatus",
                    [
                        ("conditions", Type::list(condition)),
                        ("phase", Type::String),
                    ],
                ),
            ),
        ],
    )
}

/// The environment with these variables; the objects' types are known when evaluating.
pub fn env(v: Variables) -> Env {
    static PLAIN: LazyLock<Env> = LazyLock::new(|| {
        Env::builder()
            .variable("object", Type::Dyn)
            .variable("oldObject", Type::Dyn)
            .variable("request", request_type())
            .variable("namespaceObject", namespace_type())
            .build()
    });
    let mut builder = PLAIN.extend();
    if v.params {
        builder = builder.variable("params", Type::Dyn);
    }
    if v.authorizer {
        builder = builder
            .variable("authorizer", Type::AUTHORIZER)
            .variable("authorizer.requestResource", Type::RESOURCE_CHECK);
    }
    if v.mutation {
        builder = builder.mutation();
    }
    builder.build()
}

/// Compiles; the error is what a client is told.
pub fn compile(env: &Env, text: &str, expected: &[Type]) -> Result<Program, String> {
    env.compile(text, expected).map_err(|e| match e {
        CompileError::Result { expected, found } => {
            let names: Vec<String> = expected.iter().map(Type::to_string).collect();
            match names.as_slice() {
                [one] => format!("must evaluate to {one} but got {found}"),
                many => format!(
                    "must evaluate to one of [{}] but got {found}",
                    many.join(" ")
                ),
            }
        }
        e => e.to_string(),
    })
}

/// Answers `authorizer` for one user.
pub struct Asker<'a> {
    inner: &'a Inner,
    user: &'a User,
}

impl<'a> Asker<'a> {
    /// Asks for this user.
    pub fn new(inner: &'a Inner, user: &'a User) -> Asker<'a> {
        Asker { inner, user }
    }
}

impl Authorizer for Asker<'_> {
    fn authorize(&self, q: &AuthzAttributes) -> AuthzDecision {
        let other = q.service_account.as_ref().map(|(namespace, name)| {
            let groups = [
                "system:serviceaccounts".to_string(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_string(),
            ];
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            User::new(
                &format!("system:serviceaccount:{namespace}:{name}"),
                &groups,
            )
        });
        let user = other.as_ref().unwrap_or(self.user);
        let question = match &q.path {
            Some(path) => Question::path(&q.verb, path),
            None => Question::resource(&q.verb, &q.group, &q.resource, &q.namespace, &q.name)
                .part(&q.subresource),
        };
        let decision = access::decide(self.inner, user, &question);
        AuthzDecision {
            allowed: decision.allowed(),
            reason: decision.reason().to_string(),
            error: None,
        }
    }
}

/// The values of one request.
pub struct Input<'a> {
    /// The new object, null for deletes.
    pub object: &'a Value,
    /// The stored one, null for creates.
    pub old: &'a Value,
    /// See [`crate::admission`]'s request.
    pub request: &'a Value,
    /// Null for cluster scope.
    pub namespace: &'a Value,
    /// Null when there are none.
    pub params: &'a Value,
    /// For `authorizer`.
    pub asker: &'a Asker<'a>,
}

impl<'a> Input<'a> {
    /// The variables, bound.
    pub fn activation(&self) -> Activation<'a> {
        let mut vars = Activation::new();
        vars.bind_json("object", self.object);
        vars.bind_json("oldObject", self.old);
        vars.bind_json("request", self.request);
        vars.bind_json("namespaceObject", self.namespace);
        vars.bind_json("params", self.params);
        vars.bind_authorizer(self.asker);
        let text = |p: &str| {
            let v = self.request.pointer(p).and_then(Value::as_str);
            v.unwrap_or("").to_string()
        };
        // upstream asks with the verb of the operation left to the expression
        vars.bind_request_resource(
            self.asker,
            AuthzAttributes {
                group: text("/resource/group"),
                resource: text("/resource/resource"),
                subresource: text("/subResource"),
                namespace: text("/namespace"),
                name: text("/name"),
                ..AuthzAttributes::default()
            },
        );
        vars
    }
}

/// Was it false, and not merely an error?
pub fn is_false(v: &Cel<'_>) -> bool {
    v.as_bool() == Some(false)
}
