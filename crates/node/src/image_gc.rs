//! Images that no container uses go when the disk fills up, those unused for longest first.
//!
//! Source: kubernetes `pkg/kubelet/images/image_gc_manager.go`. Dead containers need no collector of their own: of each there is one at most, until the next start or the Pod's end.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use knarr_image::Image;
use knarr_runtime::ContainerSpec;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    ImageUsers, context::Context, events::Note, measure::files::Room, settings, spec::build::labels,
};

const EVERY: Duration = Duration::from_secs(300);

/// What is known of an image, by digest.
#[derive(Debug, Clone, Copy)]
struct Record {
    first_seen: Instant,
    /// None: not while we looked
    last_used: Option<Instant>,
}

pub(crate) struct ImageGc {
    context: Arc<Context>,
    others: ImageUsers,
    records: Mutex<HashMap<String, Record>>,
}

/// One image that nothing uses, under all its names.
#[derive(Debug, Clone, PartialEq)]
struct Unused {
    digest: String,
    names: Vec<String>,
    bytes: u64,
    first_seen: Instant,
    last_used: Option<Instant>,
}

/// What containers run on, or have as volumes.
struct Used<'a> {
    digests: HashSet<&'a str>,
    /// those that are no Pods' have nothing that names their image
    roots: HashSet<&'a [PathBuf]>,
}

impl<'a> Used<'a> {
    fn by(users: &'a [ContainerSpec]) -> Used<'a> {
        let digests = users.iter().flat_map(|user| {
            let label = |key: &str| user.labels.get(key).map_or("", String::as_str);
            let own = label(labels::IMAGE_ID).rsplit('@').next();
            own.into_iter()
                .chain(label(labels::IMAGE_VOLUMES).split(' '))
        });
        Used {
            digests: digests.collect(),
            roots: users.iter().map(|user| &*user.lower).collect(),
        }
    }

    fn holds(&self, image: &Image) -> bool {
        self.digests.contains(image.digest.as_str()) || self.roots.contains(&*image.layers)
    }
}

/// How many bytes are to be freed.
fn wanted(policy: &settings::ImageGc, available: u64, capacity: u64) -> u64 {
    let free_at = |percent: u8, cap: Option<u64>| {
        let share = u64::from(100 - percent.min(100));
        let bytes = (u128::from(capacity) * u128::from(share) / 100) as u64;
        cap.map_or(bytes, |cap| bytes.min(cap))
    };
    let cap = policy.free_bytes_max;
    // a capped high mark has its low one a third further
    let target = free_at(policy.low_percent, cap.map(|c| c + c / 3));
    if policy.high_percent >= 100 || capacity == 0 || available > free_at(policy.high_percent, cap)
    {
        return 0;
    }
    target.saturating_sub(available)
}

/// Which of them go: unused for longest first, until so many bytes are free; never one that came lately.
fn chosen(mut unused: Vec<Unused>, bytes: u64, age_min: Duration, now: Instant) -> Vec<Unused> {
    unused.sort_by_key(|i| (i.last_used, i.first_seen));
    let mut freed = 0u64;
    let mut out = Vec::new();
    for image in unused {
        if freed >= bytes {
            break;
        }
        let young = now - image.first_seen < age_min
            || image.last_used.is_some_and(|at| now - at < age_min);
        if young {
            continue;
        }
        freed = freed.saturating_add(image.bytes);
        out.push(image);
    }
    out
}

impl ImageGc {
    pub(crate) fn new(context: Arc<Context>, others: ImageUsers) -> ImageGc {
        ImageGc {
            context,
            others,
            records: Mutex::default(),
        }
    }

    /// Until cancelled.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut beat = tokio::time::interval(EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.collect().await;
        }
    }

    async fn collect(self: &Arc<Self>) {
        let this = self.clone();
        let short = tokio::task::spawn_blocking(move || {
            let policy = &this.context.settings.image_gc;
            let unused = this.unused();
            let now = Instant::now();
            if !policy.age_max.is_zero() {
                let idle = |i: &&Unused| now - i.last_used.unwrap_or(i.first_seen) > policy.age_max;
                let old: Vec<Unused> = unused.iter().filter(idle).cloned().collect();
                this.remove(old);
            }
            let dir = this.context.images.watch_dir()?;
            let room = Room::of(&dir)?;
            let bytes = wanted(policy, room.available_bytes, room.capacity_bytes);
            if bytes == 0 {
                return None;
            }
            let freed = this.remove(chosen(unused, bytes, policy.age_min, now));
            (freed < bytes).then_some((bytes, freed))
        });
        if let Ok(Some((wanted, freed))) = short.await {
            let name = &self.context.name;
            self.context.events.send(Note {
                object: ObjectReference {
                    kind: Some("Node".into()),
                    name: Some(name.clone()),
                    uid: Some(name.clone()),
                    ..ObjectReference::default()
                },
                warning: true,
                reason: "FreeDiskSpaceFailed",
                message: format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
                ),
            });
        }
    }

    /// All that nothing uses and that didn't come lately: the disk is short.
    pub(crate) async fn remove_unused(self: &Arc<Self>) {
        if self.context.settings.image_gc.high_percent >= 100 {
            return;
        }
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let policy = &this.context.settings.image_gc;
            let unused = this.unused();
            this.remove(chosen(unused, u64::MAX, policy.age_min, Instant::now()));
        });
        // it only logs what goes wrong
        let _ = work.await;
    }

    /// All containers of the machine that run on the store's images. Blocking.
    fn users(&self) -> Vec<ContainerSpec> {
        let own = self.context.engine.containers();
        let mut all = (self.others)();
        all.extend(own.into_iter().map(|c| c.spec));
        all
    }

    /// Looks at all images, notes which are used, and gives the others. Blocking.
    fn unused(&self) -> Vec<Unused> {
        let images = match self.context.images.list() {
            Ok(images) => images,
            Err(error) => {
                tracing::debug!(%error, "the images can't be listed: none is removed");
                return Vec::new();
            }
        };
        let users = self.users();
        let used = Used::by(&users);
        let now = Instant::now();
        let mut records = self.records.lock();
        records.retain(|digest, _| images.iter().any(|i| i.digest == *digest));
        let mut out: HashMap<String, Unused> = HashMap::new();
        for image in images {
            let record = records.entry(image.digest.clone()).or_insert(Record {
                first_seen: now,
                last_used: None,
            });
            if used.holds(&image) {
                record.last_used = Some(now);
                continue;
            }
            let Image {
                name,
                digest,
                size_bytes,
                ..
            } = image;
            let one = out.entry(digest.clone()).or_insert_with(|| Unused {
                digest,
                names: Vec::new(),
                bytes: size_bytes,
                first_seen: record.first_seen,
                last_used: record.last_used,
            });
            one.names.push(name);
        }
        out.into_values().collect()
    }

    /// The bytes that went. Blocking.
    fn remove(&self, images: Vec<Unused>) -> u64 {
        let mut freed = 0;
        for image in images {
            // asked anew each time: a container may have been made meanwhile
            let layers: Vec<PathBuf> = self.users().into_iter().flat_map(|c| c.lower).collect();
            let removed = image
                .names
                .iter()
                .try_for_each(|name| self.context.images.remove(name, &layers));
            match removed {
                Ok(()) => {
                    tracing::info!(names = ?image.names, bytes = image.bytes, "an unused image was removed");
                    freed += image.bytes;
                }
                Err(error) => {
                    tracing::warn!(names = ?image.names, %error, "an unused image was not removed")
                }
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn how_much_is_to_go() {
        let check = |cap: Option<u64>, available: u64, capacity: u64, want: u64| {
            let policy = settings::ImageGc {
                high_percent: 85,
                low_percent: 80,
                age_min: Duration::ZERO,
                age_max: Duration::ZERO,
                free_bytes_max: cap,
            };
            assert_eq!(
                wanted(&policy, available, capacity),
                want,
                "{available} of {capacity}, {cap:?}"
            );
        };
        check(None, 16 * GIB, 100 * GIB, 0);
        check(None, 15 * GIB, 100 * GIB, 5 * GIB);
        check(None, 0, 100 * GIB, 20 * GIB);
        check(Some(15 * GIB), 100 * GIB, 1000 * GIB, 0);
        check(Some(15 * GIB), 15 * GIB, 1000 * GIB, 5 * GIB);
        check(None, 0, 0, 0);
    }

    #[test]
    fn what_any_container_of_the_machine_runs_on_is_used() {
        let image = |digest: &str, layer: &str| Image {
            name: "app:1".into(),
            digest: digest.into(),
            manifest: digest.into(),
            id: digest.into(),
            config: Default::default(),
            layers: vec![layer.into()],
            size_bytes: 0,
            created: None,
            pulled: false,
        };
        let labelled = |key: &str, value: &str| ContainerSpec {
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..ContainerSpec::default()
        };
        let users = [
            labelled(labels::IMAGE_ID, "docker.io/library/app@sha256:pod"),
            labelled(labels::IMAGE_VOLUMES, "sha256:volume sha256:other"),
            ContainerSpec {
                lower: vec!["/alone".into()],
                ..ContainerSpec::default()
            },
        ];
        let used = Used::by(&users);
        for (digest, layer, want) in [
            ("sha256:pod", "/a", true),
            ("sha256:volume", "/b", true),
            ("sha256:renamed", "/alone", true),
            ("sha256:none", "/c", false),
        ] {
            assert_eq!(used.holds(&image(digest, layer)), want, "{digest}");
        }
    }

    #[test]
    fn the_longest_unused_go_first() {
        let start = Instant::now();
        let now = start + Duration::from_secs(1000);
        let image = |name: &str, first: u64, used: Option<u64>| Unused {
            digest: name.into(),
            names: vec![name.into()],
            bytes: 10,
            first_seen: start + Duration::from_secs(first),
            last_used: used.map(|s| start + Duration::from_secs(s)),
        };
        let all = vec![
            image("lately-used", 0, Some(950)),
            image("used", 0, Some(500)),
            image("never", 300, None),
            image("never-older", 200, None),
            image("new", 950, None),
        ];
        let check = |bytes: u64, want: &[&str]| {
            let got = chosen(all.clone(), bytes, Duration::from_secs(120), now);
            let names: Vec<_> = got.iter().map(|i| i.digest.as_str()).collect();
            assert_eq!(names, want, "{bytes}");
        };
        check(0, &[]);
        check(15, &["never-older", "never"]);
        check(u64::MAX, &["never-older", "never", "used"]);
    }
}
