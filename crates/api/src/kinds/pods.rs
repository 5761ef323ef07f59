//! Pod and PodTemplate.

use super::{
    PLAIN, checks,
    json::{items, map, text},
    pod_columns, pod_defaults, pod_prepare, pod_warnings, qos,
};
use crate::registry::{FieldError, Lookup, Resource, Strategy};
use serde_json::Value;

struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.get_mut("spec").filter(|s| s.is_object()) {
            pod_defaults::pod_spec(spec);
        }
    }

    fn prepare_create(&self, o: &mut Value, _lookup: &dyn Lookup) -> Result<(), Vec<FieldError>> {
        let class = qos::class(&o["spec"]);
        pod_prepare::drop_disabled(&mut o["spec"]);
        pod_prepare::grace(&mut o["spec"]);
        pod_prepare::label_keys(o);
        o["status"] = pod_prepare::status(&o["spec"], class);
        Ok(())
    }

    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _lookup: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        new["status"] = old["status"].clone();
        pod_prepare::drop_disabled(&mut new["spec"]);
        pod_prepare::grace(&mut new["spec"]);
        Ok(())
    }

    fn validate(&self, o: &Value) -> Vec<FieldError> {
        checks::pod::pod(o).0
    }

    fn validate_create(&self, o: &Value) -> Vec<FieldError> {
        checks::pod::created(o)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::pod::update(new, old)
    }

    fn part(&self, subresource: &str) -> Option<&dyn Strategy> {
        match subresource {
            "ephemeralcontainers" => Some(&EphemeralContainers),
            "resize" => Some(&Resize),
            _ => None,
        }
    }

    fn grace_period(&self, o: &Value, requested: Option<i64>) -> Option<i64> {
        let unscheduled = text(o, "/spec/nodeName").is_empty();
        if unscheduled || matches!(text(o, "/status/phase"), "Succeeded" | "Failed") {
            return Some(0);
        }
        Some(
            requested
                .or(o["spec"]["terminationGracePeriodSeconds"].as_i64())
                .unwrap_or(30)
                .max(0),
        )
    }

    fn warnings(&self, o: &Value) -> Vec<String> {
        let mut all: Vec<String> = pod_prepare::name_warning(o).into_iter().collect();
        let root = checks::path::Path::Root("");
        all.extend(pod_warnings::of(&o["metadata"], &o["spec"], &root));
        all
    }
}

/// `…/ephemeralcontainers`
struct EphemeralContainers;
impl Strategy for EphemeralContainers {
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        // only the list itself comes from the request
        let given = new["spec"]["ephemeralContainers"].take();
        new["spec"] = old["spec"].clone();
        if !given.is_null() {
            new["spec"]["ephemeralContainers"] = given;
        } else if let Some(spec) = new["spec"].as_object_mut() {
            spec.remove("ephemeralContainers");
        }
        new["status"] = old["status"].clone();
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::pod::ephemeral(new, old)
    }
}

/// `…/resize`
struct Resize;
impl Strategy for Resize {
    fn prepare_update(
        &self,
        new: &mut Value,
        old: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Vec<FieldError>> {
        pod_prepare::only_resized(new, old);
        pod_prepare::drop_disabled(&mut new["spec"]);
        Ok(())
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        checks::pod::resize(new, old)
    }
}

struct TemplateStrategy;
impl Strategy for TemplateStrategy {
    fn default(&self, o: &mut Value) {
        if let Some(spec) = o.pointer_mut("/template/spec") {
            pod_defaults::template_spec(spec);
        }
    }
    fn validate(&self, o: &Value) -> Vec<FieldError> {
        let mut errors = checks::path::Errors::default();
        let at = checks::path::Path::Root("template");
        checks::pod::template(&o["template"], &at, &mut errors);
        errors.0
    }
}

fn boolean(o: &Value, pointer: &str) -> String {
    o.pointer(pointer)
        .and_then(Value::as_bool)
        .unwrap_or(false)
        .to_string()
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "Pod",
            plural: "pods",
            singular: "pod",
            short_names: &["po"],
            categories: &["all"],
            has_status: true,
            subresources: &[
                "log",
                "exec",
                "attach",
                "portforward",
                "proxy",
                "binding",
                "eviction",
                "ephemeralcontainers",
                "resize",
            ],
            selectable_fields: &[
                ("spec.nodeName", |o| text(o, "/spec/nodeName").into()),
                ("spec.restartPolicy", |o| {
                    text(o, "/spec/restartPolicy").into()
                }),
                ("spec.schedulerName", |o| {
                    text(o, "/spec/schedulerName").into()
                }),
                ("spec.serviceAccountName", |o| {
                    text(o, "/spec/serviceAccountName").into()
                }),
                ("spec.hostNetwork", |o| boolean(o, "/spec/hostNetwork")),
                ("status.phase", |o| text(o, "/status/phase").into()),
                ("status.podIP", |o| text(o, "/status/podIP").into()),
                ("status.podIPs", |o| {
                    items(o, "/status/podIPs")
                        .iter()
                        .map(|i| text(i, "/ip"))
                        .collect::<Vec<_>>()
                        .join(",")
                }),
                ("status.nominatedNodeName", |o| {
                    text(o, "/status/nominatedNodeName").into()
                }),
            ],
            columns: pod_columns::COLUMNS,
            strategy: &PodStrategy,
            ..PLAIN
        },
        Resource {
            kind: "PodTemplate",
            plural: "podtemplates",
            singular: "podtemplate",
            strategy: &TemplateStrategy,
            columns: const {
                &[
                    super::cells::NAME,
                    super::cells::column("Containers", "string", |o| {
                        items(o, "/template/spec/containers")
                            .iter()
                            .map(|c| text(c, "/name"))
                            .collect::<Vec<_>>()
                            .join(",")
                            .into()
                    }),
                    super::cells::column("Images", "string", |o| {
                        items(o, "/template/spec/containers")
                            .iter()
                            .map(|c| text(c, "/image"))
                            .collect::<Vec<_>>()
                            .join(",")
                            .into()
                    }),
                    super::cells::column("Pod Labels", "string", |o| {
                        map(o, "/template/metadata/labels").map_or("<none>".into(), |_| {
                            super::cells::labels(&o["template"]["metadata"]["labels"])
                        })
                    }),
                ]
            },
            ..PLAIN
        },
    ]
}
