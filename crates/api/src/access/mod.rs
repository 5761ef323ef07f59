//! Who asks, whether they may, and the resources that answer such questions.

mod aggregation;
pub mod asked;
pub mod authenticate;
mod background;
pub mod bootstrap;
pub mod devices;
pub mod escalation;
pub mod impersonate;
mod index;
mod keys;
mod legacy;
pub mod request;
mod reviews;
pub mod tokens;
mod tracking;

use std::sync::{Arc, OnceLock};

use http::request::Parts;
use knarr_access::{
    Attributes, Decision, Rule, User,
    jwt::{self, Claims, Signer},
    node::Graph,
    rbac::{Rbac, RoleRef},
};
use parking_lot::Mutex;

use index::Follower;

use crate::{audit, identity::Identity, server::Inner, status::Failure};

/// What authentication and authorization keep between requests.
pub struct Access {
    roles: Mutex<Follower<Rbac>>,
    nodes: Mutex<Follower<Graph>>,
    keys: keys::Keys,
    /// use of service accounts' Secrets
    used: Arc<tracking::Used>,
    background: OnceLock<()>,
}

impl Access {
    /// Reads or makes the tokens' key in this directory; blocking.
    pub fn open(dir: &std::path::Path) -> Result<Access, crate::pki::Error> {
        Ok(Access {
            roles: Mutex::default(),
            nodes: Mutex::default(),
            keys: keys::Keys::open(dir)?,
            used: Arc::default(),
            background: OnceLock::new(),
        })
    }
    /// Brings what is kept of roles and nodes up to date, as far as it is in use.
    fn keep(&self, store: &knarr_store::Store) {
        self.roles.lock().keep(store);
        self.nodes.lock().keep(store);
    }
    /// Signs tokens.
    pub fn signer(&self) -> &Signer {
        self.keys.signer()
    }
    /// The claims of a token signed by this server.
    pub fn verified(&self, token: &str) -> Result<Arc<Claims>, jwt::Error> {
        self.keys.verified(token)
    }
}

impl Inner {
    /// `iss` of the tokens made here, and the audience meant when none is named.
    pub fn issuer(&self) -> String {
        format!(
            "https://kubernetes.default.svc.{}",
            self.config.cluster_domain
        )
    }
}

/// Starts what follows from changes of roles and accounts, once; within a tokio runtime.
pub fn start(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    inner.access.background.get_or_init(|| {
        tokio::spawn(background::run(weak.clone()));
        tokio::spawn(crate::admission::policy::types::run(weak));
    });
}

/// Whether the user may; the authorizers are asked in upstream's order.
pub fn decide(inner: &Inner, user: &User, a: &Attributes) -> Decision {
    if user.is_master() {
        return Decision::Allow(String::new());
    }
    // upstream's --authorization-always-allow-paths
    if !a.resource_request && matches!(a.path.as_str(), "/healthz" | "/livez" | "/readyz") {
        return Decision::Allow(String::new());
    }
    let mut node_says = String::new();
    if let Some(node) = user.node() {
        let mut graph = inner.access.nodes.lock();
        match graph.current(&inner.store).authorize(node, a) {
            Decision::Allow(why) => return Decision::Allow(why),
            Decision::NoOpinion(why) => node_says = why,
        }
    }
    let mut roles = inner.access.roles.lock();
    match roles.current(&inner.store).authorize(user, a) {
        Decision::NoOpinion(why) if !node_says.is_empty() => {
            Decision::NoOpinion(match why.as_str() {
                "" => node_says,
                why => format!("{node_says}\n{why}"),
            })
        }
        decision => decision,
    }
}

/// 403 in upstream's words unless the user may.
pub fn authorize(inner: &Inner, who: &Identity, a: &Attributes) -> Result<(), Failure> {
    match decide(inner, who.info(), a) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(forbidden(who.user(), a, &reason)),
    }
}

/// Like [`authorize`], for the request itself: the audit event gets the decision.
pub fn admit(inner: &Inner, parts: &Parts, who: &Identity, a: &Attributes) -> Result<(), Failure> {
    let decision = decide(inner, who.info(), a);
    if let Some(span) = audit::Span::of(parts) {
        let word = if decision.allowed() {
            "allow"
        } else {
            "forbid"
        };
        span.annotate("authorization.k8s.io/decision", word);
        span.annotate("authorization.k8s.io/reason", decision.reason());
    }
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(forbidden(who.user(), a, &reason)),
    }
}

/// The 403 of a refused request (apiserver `ForbiddenStatusError`).
pub fn forbidden(user: &str, a: &Attributes, reason: &str) -> Failure {
    let mut why = a.refusal(user);
    // what comes back may be shown in a browser
    for (from, to) in [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;")] {
        if why.contains(from) {
            why = why.replace(from, to);
        }
    }
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Failure::forbidden_named(&a.group, &a.resource, &a.name, &why)
}

/// All the user's rules that count in a namespace (the cluster-wide ones alone when it is empty), and what went wrong.
pub fn rules_for(inner: &Inner, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
    let mut roles = inner.access.roles.lock();
    roles.current(&inner.store).rules_for(user, namespace)
}

/// The rules a binding in `namespace` would give; Err says that there is no such role.
pub fn rules_of(inner: &Inner, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String> {
    let mut roles = inner.access.roles.lock();
    let rules = roles.current(&inner.store).role(role, namespace)?;
    Ok(rules.to_vec())
}
