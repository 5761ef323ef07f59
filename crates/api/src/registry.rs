//! The registry of resource descriptors: all the generic handlers know of a kind.

use std::{ops::Deref, sync::Arc};

use serde_json::Value;

/// Reads a field selector's value out of an object; empty when absent.
pub type Getter = fn(&Value) -> String;

/// One served resource, e.g. `deployments.v1.apps`. Static for built-in kinds; for those of CustomResourceDefinitions the
/// texts are interned and `custom` holds what the static fields can't.
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// status is its own subresource: writes to the main resource keep the old status, writes to /status keep the rest
    pub has_status: bool,
    pub scale: Option<Scale>,
    /// names of further subresources: "log", "exec", "binding", "eviction", "ephemeralcontainers", "finalize", "approval" …
    pub subresources: &'static [&'static str],
    /// `(jsonpath-like field name as in a fieldSelector, getter)`; metadata.name and metadata.namespace are always there
    pub selectable_fields: &'static [(&'static str, Getter)],
    pub columns: &'static [Column],
    /// Read it through [`Resource::strategy`].
    pub strategy: &'static dyn Strategy,
    /// How it is stored, when that is not as it is served.
    pub stored: Option<&'static Stored>,
    /// What a CustomResourceDefinition says of it; None for built-in kinds.
    pub custom: Option<Arc<Custom>>,
}

impl Resource {
    /// The kind's behaviour.
    pub fn strategy(&self) -> &dyn Strategy {
        match &self.custom {
            Some(custom) => &**custom,
            None => self.strategy,
        }
    }
}

/// A resource that is served: cheap to clone, and good for as long as it is held, whatever is served meanwhile.
#[derive(Clone)]
pub enum Handle {
    BuiltIn(&'static Resource),
    Custom(Arc<Resource>),
}
impl Deref for Handle {
    type Target = Resource;
    fn deref(&self) -> &Resource {
        match self {
            Handle::BuiltIn(r) => r,
            Handle::Custom(r) => r,
        }
    }
}
impl From<&'static Resource> for Handle {
    fn from(r: &'static Resource) -> Handle {
        Handle::BuiltIn(r)
    }
}

/// JSON pointers (RFC 6901) of the scale subresource.
pub struct Scale {
    pub spec_replicas: &'static str,
    pub status_replicas: &'static str,
    pub selector: Selector,
}
pub enum Selector {
    /** map of labels at this pointer (RC) */
    Labels(&'static str),
    /** LabelSelector at this pointer */
    LabelSelector(&'static str),
    /** the selector's text at this pointer (custom resources) */
    Text(&'static str),
    /** none */
    None,
}

/// A printer column (meta.k8s.io/v1 TableColumnDefinition). `priority` 0 = default output, 1 = wide. `cell` must give what upstream's printer prints.
pub struct Column {
    pub name: &'static str,
    pub r#type: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    pub priority: i32,
    pub cell: fn(&Value) -> Value,
}

/// One failed field, in upstream's `field.Error` wording; rendered by the engine as `spec.replicas: Invalid value: -1: must be greater than or equal to 0`.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldError {
    Required {
        field: String,
        detail: String,
    },
    Invalid {
        field: String,
        value: Value,
        detail: String,
    },
    /// `Invalid` with the value as upstream shows it: as its own types are written, or not at all
    InvalidShown {
        field: String,
        shown: Option<String>,
        detail: String,
    },
    NotSupported {
        field: String,
        value: Value,
        supported: Vec<String>,
    },
    /// `NotSupported` with the value as upstream's own type is written
    NotSupportedShown {
        field: String,
        shown: String,
        supported: Vec<String>,
    },
    Duplicate {
        field: String,
        value: Value,
    },
    /// Invalid or duplicate, with a value that is not shown.
    Omitted {
        field: String,
        duplicate: bool,
        detail: String,
    },
    /// `Duplicate` with the value as upstream's own type is written
    DuplicateShown {
        field: String,
        shown: String,
        detail: String,
    },
    Forbidden {
        field: String,
        detail: String,
    },
    TooLong {
        field: String,
        value: Value,
        max: usize,
    },
    TooMany {
        field: String,
        actual: usize,
        max: usize,
    },
    NotFound {
        field: String,
        value: Value,
    },
    /// `NotFound` with a detail
    NotFoundBecause {
        field: String,
        value: Value,
        detail: String,
    },
    TypeInvalid {
        field: String,
        value: Value,
        detail: String,
    },
    /// No fault of the object's: what it needs can't be had. The answer is a 500 that says so, whatever else is wrong.
    Internal {
        field: String,
        detail: String,
    },
}

/// What hooks may look up while a request is handled.
pub trait Lookup: Send + Sync {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value>;
    fn service_cidr(&self) -> (std::net::Ipv4Addr, u8);
    /// Range of Services' second addresses; None on a platform without IPv6.
    fn service_cidr6(&self) -> Option<(std::net::Ipv6Addr, u8)> {
        None
    }
    fn node_port_range(&self) -> (u16, u16);
    /// Who makes the request, as an `authentication.k8s.io/v1` UserInfo: username, and uid, groups, extra when there are
    /// any. Empty when the server itself writes.
    fn requester(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }
}

/// By what the rows of a Table are sorted: a number, then a text.
pub type RowOrder = fn(&Value) -> (i64, String);

/// Per-kind behaviour, as upstream's rest strategy. Objects are JSON after decoding, pruning and schema defaulting. All calls are pure and quick.
pub trait Strategy: Send + Sync {
    /// upstream's SetDefaults_* for this kind (run on create, update, patch; before validation; also nested templates)
    fn default(&self, _object: &mut Value) {}
    /// drop/initialise server-owned fields on create (status = {}, generation = 1 is done by the engine when `has_status`)
    fn prepare_create(
        &self,
        _object: &mut Value,
        _lookup: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        Ok(())
    }
    /// `old` is the stored object; e.g. keep clusterIP; the engine bumps generation when spec changed
    fn prepare_update(
        &self,
        _new: &mut Value,
        _old: &Value,
        _lookup: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        Ok(())
    }
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        vec![]
    }
    /// What a new object must fulfil; [`Strategy::validate`] and whatever only holds at the start
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        self.validate(object)
    }
    fn validate_update(&self, _new: &Value, _old: &Value) -> Vec<FieldError> {
        vec![]
    }
    /// metadata.name check: defaults to DNS-1123 subdomain
    fn name(&self) -> NameRule {
        NameRule::DnsSubdomain
    }
    /// what the rows of a Table of a list are sorted by; None: the objects' keys
    fn row_order(&self) -> Option<RowOrder> {
        None
    }
    /// warnings for the Warning header
    fn warnings(&self, _object: &Value) -> Vec<String> {
        vec![]
    }
    /// may unconditional update (no resourceVersion) happen; upstream AllowUnconditionalUpdate
    fn unconditional_update(&self) -> bool {
        true
    }
    /// New objects come with their status: Nodes
    fn takes_status(&self) -> bool {
        false
    }
    /// may PUT create
    fn create_on_update(&self) -> bool {
        false
    }
    /// `validate_update` says all there is to say of an update: `validate` is asked at creates alone.
    fn validates_updates_itself(&self) -> bool {
        false
    }
    /// The rules of a subresource (`status`, `approval`, …) that has its own: its `prepare_update` and `validate_update` are
    /// asked at writes of that part. None: the engine's plain ones hold.
    fn part(&self, _subresource: &str) -> Option<&dyn Strategy> {
        None
    }
    /// pods: graceful deletion seconds to record; None = delete at once. (object, requested) → seconds
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /** RFC 1035 label: Services */
    Dns1035Label,
    /** path segment: RBAC names */
    PathSegment,
    /** IP address in its canonical form: IPAddress */
    Ip,
}

pub use crate::crd::Custom;
pub use crate::versions::Stored;

/// The plain kinds' strategy.
pub struct Generic;
impl Strategy for Generic {}
