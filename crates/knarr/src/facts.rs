//! What the images of a project say of themselves, for its translation.

use crate::error::Error;
use knarr_compose::{Health, ImageFacts, Project};
use knarr_image::{Healthcheck, ImageStore};
use std::{collections::BTreeMap, time::Duration};

/// The facts of all images that are here. `pinned`: by what was built or pulled, else by the image's own digest, so that
/// a new image under an old name is a change.
///
/// # Errors
/// When the store can't be read.
pub fn facts(
    project: &Project,
    store: &ImageStore,
    pinned: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, ImageFacts>, Error> {
    let mut all = BTreeMap::new();
    for (name, service) in &project.services {
        let Some(image) = store.resolve(pinned.get(name).unwrap_or(&service.image))? else {
            continue;
        };
        let own = match service.image.contains('@') {
            true => service.image.clone(),
            false => format!("{}@{}", service.image, image.digest),
        };
        let config = &image.config;
        let exposed = config.exposed_ports.iter().filter_map(|text| {
            let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            Some((number.parse().ok()?, protocol.to_uppercase()))
        });
        all.insert(
            name.clone(),
            ImageFacts {
                reference: Some(pinned.get(name).cloned().unwrap_or(own)),
                exposed: exposed.collect(),
                health: config.healthcheck.as_ref().and_then(health),
                volumes: config.volumes.clone(),
                entrypoint: config.entrypoint.clone(),
                command: config.cmd.clone(),
            },
        );
    }
    Ok(all)
}

/// What is known when only references are: those that were built.
pub fn pinned(built: &BTreeMap<String, String>) -> BTreeMap<String, ImageFacts> {
    let of = |reference: &String| ImageFacts {
        reference: Some(reference.clone()),
        ..ImageFacts::default()
    };
    built.iter().map(|(s, r)| (s.clone(), of(r))).collect()
}

fn health(said: &Healthcheck) -> Option<Health> {
    if said.test.is_empty() || said.test[0] == "NONE" {
        return None;
    }
    let time = |ns: i64| {
        u64::try_from(ns)
            .ok()
            .filter(|n| *n > 0)
            .map(Duration::from_nanos)
    };
    Some(Health {
        test: Some(said.test.clone()),
        interval: time(said.interval_ns),
        timeout: time(said.timeout_ns),
        retries: Some(said.retries).filter(|r| *r > 0),
        start_period: time(said.start_period_ns),
        start_interval: time(said.start_interval_ns),
    })
}
