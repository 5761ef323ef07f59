//! `authorizer`: asking whether somebody may do something, through a trait the caller gives.

use std::sync::Arc;

use crate::types::Type;

/// A question to the authorizer. Empty means not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthzAttributes {
    /// `namespace` and `name` of another user to ask for, as `serviceAccount(namespace, name)` gave them.
    pub service_account: Option<(String, String)>,
    /// A non-resource path, if that is asked about.
    pub path: Option<String>,
    pub verb: String,
    pub group: String,
    /// Upstream asks about version `*`.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// As given to `fieldSelector`.
    pub field_selector: Option<String>,
    /// As given to `labelSelector`.
    pub label_selector: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthzDecision {
    pub allowed: bool,
    pub reason: String,
    /// What went wrong while deciding, if anything.
    pub error: Option<String>,
}

/// Decides for the user of the request, or for the service account in the question.
pub trait Authorizer: Send + Sync {
    /// Must not block: it is called in the midst of an evaluation.
    fn authorize(&self, question: &AuthzAttributes) -> AuthzDecision;
}

/// The values `authorizer` leads to.
pub enum Authz<'a> {
    Authorizer(Asking<'a>),
    Path(Asking<'a>),
    Group(Asking<'a>),
    Resource(Asking<'a>),
    Decision(AuthzDecision),
}

/// A question being put together.
#[derive(Clone)]
pub struct Asking<'a> {
    pub(crate) authorizer: &'a dyn Authorizer,
    pub(crate) question: AuthzAttributes,
}

impl<'a> Authz<'a> {
    pub(crate) fn type_of(&self) -> Type {
        Type::Opaque(match self {
            Authz::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Authz::Path(_) => "kubernetes.authorization.PathCheck",
            Authz::Group(_) => "kubernetes.authorization.GroupCheck",
            Authz::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Authz::Decision(_) => "kubernetes.authorization.Decision",
        })
    }
    /// The variable `authorizer`.
    pub(crate) fn root(authorizer: &'a dyn Authorizer) -> Arc<Authz<'a>> {
        Arc::new(Authz::Authorizer(Asking {
            authorizer,
            question: AuthzAttributes::default(),
        }))
    }
    /// The variable `authorizer.requestResource`.
    pub(crate) fn resource(
        authorizer: &'a dyn Authorizer,
        question: AuthzAttributes,
    ) -> Arc<Authz<'a>> {
        Arc::new(Authz::Resource(Asking {
            authorizer,
            question,
        }))
    }
}
