//! Leases, as controllers see them.

use serde::Deserialize;

use super::meta::{Meta, object};

/// `coordination.k8s.io/v1.Lease`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: LeaseSpec,
}
object!(Lease, "coordination.k8s.io", "v1", "leases", "Lease");

/// `coordination.k8s.io/v1.LeaseSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// RFC 3339
    pub renew_time: Option<Box<str>>,
}
