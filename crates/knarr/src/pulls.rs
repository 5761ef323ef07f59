//! Images that must be here before anything is changed: those that are not are pulled, a few at a time.

use crate::{
    error::Error,
    layers_shown::size,
    paths::Paths,
    progress::Progress,
    work::{Unit, Work},
};
use futures::StreamExt;
use knarr_image::{
    ImageStore,
    client::{Event, PullOptions, Step},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

/// Most images that are pulled at a time; each pulls several layers at a time.
const PULLS_MAX: usize = 3;

/// An image that is to be asked for.
struct Wanted<'a> {
    service: &'a str,
    image: &'a str,
    /// It is here, if perhaps not in its newest form.
    here: bool,
    /// The Pod has a login of its own: what only that lets in is left to the node.
    own_login: bool,
}

/// Brings what `work` needs and what is not here, or not new enough.
///
/// # Errors
/// When one is not here and can't be pulled; nothing was changed then.
pub async fn bring_images(paths: &Paths, work: &Work, progress: &Progress) -> Result<(), Error> {
    let store = ImageStore::open(&paths.images())?;
    let options = PullOptions {
        config: crate::registries::config(paths),
        ..Default::default()
    };
    let mut wanted = Vec::new();
    let mut seen = BTreeSet::new();
    for unit in &work.units {
        for one in wants(work, unit, &store)? {
            if seen.insert(one.image) {
                wanted.push(one);
            }
        }
    }
    let pulls = wanted
        .iter()
        .map(|one| pull(&store, &options, one, progress));
    let mut pulls = futures::stream::iter(pulls).buffer_unordered(PULLS_MAX);
    while let Some(done) = pulls.next().await {
        done?;
    }
    Ok(())
}

/// What is to be asked for, for one workload.
fn wants<'a>(work: &Work, unit: &'a Unit, store: &ImageStore) -> Result<Vec<Wanted<'a>>, Error> {
    let object = &unit.document.object;
    let spec = object.pointer("/spec/template/spec").or(object.get("spec"));
    let Some(spec) = spec else {
        return Ok(vec![]);
    };
    let own_login = ["imagePullSecrets", "serviceAccountName"]
        .iter()
        .any(|key| !spec[*key].is_null());
    let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
    let mut all = Vec::new();
    for container in lists.into_iter().flatten().flatten() {
        let Some(image) = container["image"].as_str() else {
            continue;
        };
        let always =
            work.composed && container["imagePullPolicy"] == "Always" && !image.contains('@');
        let here = store.resolve(image)?.is_some();
        let stale = match unit.refresh.get(image) {
            Some(after) => store
                .named_at(image)?
                .and_then(|at| at.elapsed().ok())
                .is_some_and(|since| since >= *after),
            None => false,
        };
        if here && !always && !stale {
            continue;
        }
        if container["imagePullPolicy"] == "Never" {
            return Err(missing(&unit.name, image, ""));
        }
        all.push(Wanted {
            service: &unit.name,
            image,
            here,
            own_login,
        });
    }
    Ok(all)
}

fn missing(service: &str, image: &str, why: &str) -> Error {
    Error::Input(format!(
        "{service}: image {image} is not on this machine{why}; load it with `knarr image load`, or make it with `knarr build` or `knarr image pack`"
    ))
}

async fn pull(
    store: &ImageStore,
    options: &PullOptions,
    one: &Wanted<'_>,
    progress: &Progress,
) -> Result<(), Error> {
    let (service, image) = (one.service, one.image);
    progress.set(service, &format!("pulling {image}"), false);
    let layers = Layers::default();
    let shown = |event: Event| {
        if let Some(said) = layers.take(event) {
            progress.tail(service, &said);
        }
    };
    match store.pull(image, options, &shown).await {
        Ok(_) => progress.set(service, &format!("pulled {image}"), false),
        Err(_) if one.own_login => {}
        Err(error) if one.here => {
            progress.say(&format!(
                "warning: {service}: {image} stays as it is: {error}"
            ));
        }
        Err(error) => {
            progress.fail(service, &format!("{image} can't be pulled"));
            let why = format!(" and can't be pulled: {error}");
            return Err(missing(service, image, &why));
        }
    }
    Ok(())
}

/// How far the layers of one image are.
#[derive(Default)]
struct Layers(Mutex<BTreeMap<String, (u64, u64)>>);

impl Layers {
    /// What there is to say after an event.
    fn take(&self, event: Event) -> Option<String> {
        let Event::Blob { digest, step } = event else {
            return None;
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(digest).or_default();
        match step {
            Step::Transferring { at, of } => *known = (at, of),
            Step::Retrying { attempt } => {
                return Some(format!("its registry stalls, attempt {attempt}"));
            }
            Step::Working | Step::Done | Step::Exists | Step::Mounted => known.0 = known.1,
            Step::Waiting => {}
        }
        let (at, of) = all
            .values()
            .fold((0, 0), |(at, of), layer| (at + layer.0, of + layer.1));
        (of > 0).then(|| match at < of {
            true => format!("{} of {}", size(at), size(of)),
            false => format!("unpacking {}", size(of)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_summed_up() {
        let layers = Layers::default();
        let blob = |digest: &str, step| Event::Blob {
            digest: digest.into(),
            step,
        };
        let moves = |at, of| Step::Transferring { at, of };
        for (event, want) in [
            (blob("a", Step::Waiting), None),
            (blob("a", moves(500, 1000)), Some("500B of 1.00kB")),
            (blob("b", moves(0, 3000)), Some("500B of 4.00kB")),
            (blob("b", Step::Working), Some("3.50kB of 4.00kB")),
            (
                blob("a", Step::Retrying { attempt: 2 }),
                Some("its registry stalls, attempt 2"),
            ),
            (blob("a", Step::Done), Some("unpacking 4.00kB")),
        ] {
            assert_eq!(layers.take(event).as_deref(), want);
        }
    }
}
