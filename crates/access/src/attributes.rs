//! What a request wants to do, as the authorizers see it (upstream's `authorizer.Attributes`).

/// A request's attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, …; for other paths the method in lower case.
    pub verb: String,
    /// False for paths like `/healthz`.
    pub resource_request: bool,
    /// Empty for the core group.
    pub group: String,
    /// Version in the path, or `*`.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty for cluster scope, or for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// The path of a request that isn't for a resource.
    pub path: String,
    /// Requirements of the field selector, when it parses.
    pub fields: Vec<FieldRequirement>,
}

/// One requirement of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// e.g. `spec.nodeName`
    pub field: String,
    /// True for `!=`.
    pub not: bool,
    /// What it is compared with.
    pub value: String,
}

impl Attributes {
    /// A request for objects.
    pub fn resource(
        verb: &str,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource_request: true,
            group: group.into(),
            version: "*".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }
    /// A request for any other path.
    pub fn path(verb: &str, path: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            path: path.into(),
            ..Attributes::default()
        }
    }
    /// With this subresource.
    pub fn part(mut self, subresource: &str) -> Attributes {
        self.subresource = subresource.into();
        self
    }
    /// `pods`, or `pods/log`.
    pub fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }
    /// Reads only.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Why not, in upstream's words (apiserver `endpoints/handlers/responsewriters/errors.go`), without the
    /// authorizer's own reason.
    pub fn refusal(&self, user: &str) -> String {
        if !self.resource_request {
            return format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
        }
        let scope = match self.namespace.as_str() {
            "" => "at the cluster scope".to_string(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.verb,
            self.full_resource(),
            self.group
        )
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// Not that this authorizer knew; may be empty.
    NoOpinion(String),
}
impl Decision {
    /// Yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
    /// The authorizer's words.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(r) | Decision::NoOpinion(r) => r,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_upstreams_words() {
        let cases = [
            (
                Attributes::resource("list", "", "pods", "default", ""),
                r#"User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
            ),
            (
                Attributes::resource("get", "apps", "deployments", "", "a").part("scale"),
                r#"User "x" cannot get resource "deployments/scale" in API group "apps" at the cluster scope"#,
            ),
            (
                Attributes::path("get", "/metrics"),
                r#"User "x" cannot get path "/metrics""#,
            ),
        ];
        for (a, want) in cases {
            assert_eq!(a.refusal("x"), want);
        }
    }
}
