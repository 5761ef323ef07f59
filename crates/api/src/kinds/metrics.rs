//! NodeMetrics and PodMetrics (metrics.k8s.io): served from what the nodes measure, not from the store.

use super::{PLAIN, cells::NAME};
use crate::{
    measured::{GROUP, total_cpu, total_memory},
    registry::{Column, Resource},
};

const fn column(
    name: &'static str,
    format: &'static str,
    cell: fn(&serde_json::Value) -> serde_json::Value,
) -> Column {
    Column {
        name,
        r#type: "string",
        format,
        description: "",
        priority: 0,
        cell,
    }
}

/// metrics-server's, in its order and with its names.
const COLUMNS: [Column; 4] = [
    Column {
        description: "Name of the resource",
        ..NAME
    },
    column("cpu", "quantity", total_cpu),
    column("memory", "quantity", total_memory),
    column("Window", "duration", |o| o["window"].clone()),
];

const METRICS: Resource = Resource {
    group: GROUP,
    version: "v1beta1",
    columns: const { &COLUMNS },
    ..PLAIN
};

pub(crate) fn resources() -> [Resource; 2] {
    [
        Resource {
            kind: "NodeMetrics",
            plural: "nodes",
            namespaced: false,
            ..METRICS
        },
        Resource {
            kind: "PodMetrics",
            plural: "pods",
            ..METRICS
        },
    ]
}
