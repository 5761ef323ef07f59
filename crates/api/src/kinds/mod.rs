//! The built-in kinds: one file a family, each a table of descriptors and its small hooks.

mod age;
mod cells;
pub(crate) mod certificates;
mod cluster;
mod config;
mod events;
mod json;
mod networking;
mod pod_columns;
mod pod_defaults;
mod pod_validation;
mod pods;
mod services;
mod storage;
mod template;
mod workloads;

use crate::registry::{Generic, Resource};
use std::sync::LazyLock;

/// A namespaced core/v1 kind without status, scale, columns or hooks: what the tables fill in.
pub(crate) const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    has_status: false,
    scale: None,
    subresources: &[],
    selectable_fields: &[],
    columns: const { &[] },
    strategy: &Generic,
    custom: None,
};

/// All built-in resources, in discovery order.
pub fn builtin() -> &'static [Resource] {
    static ALL: LazyLock<Vec<Resource>> = LazyLock::new(|| {
        let mut all = Vec::new();
        all.extend(config::resources());
        all.extend(cluster::resources());
        all.extend(events::resources());
        all.extend(storage::resources());
        all.extend(pods::resources());
        all.extend(services::resources());
        all.extend(workloads::resources());
        all.extend(networking::resources());
        all.extend(certificates::resources());
        all
    });
    &ALL
}
