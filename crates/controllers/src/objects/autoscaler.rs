//! HorizontalPodAutoscalers, as controllers see them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    meta::{Condition, Meta, nullable, object},
    quantity::Quantity,
    selector::Selector,
};

/// `autoscaling/v2.HorizontalPodAutoscaler`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Autoscaler {
    /// metadata
    pub metadata: Meta,
    /// spec
    pub spec: AutoscalerSpec,
    /// status
    pub status: AutoscalerStatus,
}
object!(
    Autoscaler,
    "autoscaling",
    "v2",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler"
);

/// `autoscaling/v2.HorizontalPodAutoscalerSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerSpec {
    /// what is scaled
    pub scale_target_ref: TargetRef,
    /// 1 unless set
    pub min_replicas: Option<i32>,
    /// most replicas
    pub max_replicas: i32,
    /// what its size follows
    #[serde(deserialize_with = "nullable")]
    pub metrics: Vec<MetricSpec>,
    /// how fast it follows
    pub behavior: Option<Behavior>,
}

/// `autoscaling/v2.CrossVersionObjectReference`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// e.g. `apps/v1`
    #[serde(skip_serializing_if = "str::is_empty")]
    pub api_version: Box<str>,
    /// kind
    pub kind: Box<str>,
    /// name
    pub name: Box<str>,
}

/// `autoscaling/v2.MetricSpec`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// Resource, ContainerResource, Pods, Object, External
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// of that type
    pub resource: Option<ResourceSource>,
    /// of that type
    pub container_resource: Option<ResourceSource>,
    /// of that type
    pub pods: Option<MetricSource>,
    /// of that type
    pub object: Option<MetricSource>,
    /// of that type
    pub external: Option<MetricSource>,
}

/// `autoscaling/v2.ResourceMetricSource`, `ContainerResourceMetricSource`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSource {
    /// e.g. `cpu`
    pub name: Box<str>,
    /// one container's alone
    pub container: Box<str>,
    /// aim
    pub target: MetricTarget,
}

/// `autoscaling/v2.PodsMetricSource`, `ObjectMetricSource`, `ExternalMetricSource`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSource {
    /// the object that the metric is of
    pub described_object: TargetRef,
    /// which
    pub metric: MetricIdentifier,
    /// aim
    pub target: MetricTarget,
}

/// `autoscaling/v2.MetricIdentifier`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricIdentifier {
    /// name
    pub name: Box<str>,
    /// narrows it down
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
}

/// `autoscaling/v2.MetricTarget`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricTarget {
    /// Utilization, Value, AverageValue
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// in all
    pub value: Option<Quantity>,
    /// per pod
    pub average_value: Option<Quantity>,
    /// per cent of what pods request
    pub average_utilization: Option<i32>,
}

/// `autoscaling/v2.HorizontalPodAutoscalerBehavior`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// how fast it grows
    pub scale_up: Option<Rules>,
    /// how fast it shrinks
    pub scale_down: Option<Rules>,
}

/// `autoscaling/v2.HPAScalingRules`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// s in which the most careful of the recommendations counts
    pub stabilization_window_seconds: Option<i32>,
    /// Max (also when empty), Min, Disabled
    pub select_policy: Box<str>,
    /// at most so much at a time; the default ones when None
    pub policies: Option<Vec<Policy>>,
    /// how far from the aim is near enough
    pub tolerance: Option<Quantity>,
}

/// `autoscaling/v2.HPAScalingPolicy`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Pods or Percent
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// pods, or per cent of the pods
    pub value: i32,
    /// in so many s
    pub period_seconds: i32,
}

/// `autoscaling/v2.HorizontalPodAutoscalerStatus`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerStatus {
    /// when it last scaled
    pub last_scale_time: Option<Box<str>>,
    /// replicas seen
    pub current_replicas: i32,
    /// replicas wanted
    pub desired_replicas: i32,
    /// metrics as read
    #[serde(deserialize_with = "nullable")]
    pub current_metrics: Vec<Value>,
    /// conditions
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}
