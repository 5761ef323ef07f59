//! `knarr.dev/own-folders: VOLUME…`: of the claims behind these volumes of a Pod, each Pod has a folder of its own, and its
//! successor finds it as it was left. That is what Compose makes of volumes without a name: a container that is replaced
//! hands them on, and two that run at the same time never share one.
//!
//! ```text
//! <claim>/<n>                              a folder
//! <claim>/<n>.of                           who has or had it; its time: since when, or when it was given back
//! <data_dir>/pods/<uid>/.folders/<volume>  where that is said: there as long as the Pod has it
//! ```

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::Api;
use parking_lot::Mutex;

use super::{Request, blocking, pod_dir};

const FOLDERS: &str = "knarr.dev/own-folders";
/// Of a Pod's folder. No container sees it.
pub(super) const HELD: &str = ".folders";
/// Successors that find one after the other gone, and no folder free all the same.
const TRIES_MAX: u32 = 16;
/// One that is on its way out is waited for so long at once; then the Pod says so, and tries again.
const LEAVING_MAX: Duration = Duration::from_secs(120);

/// Two Pods never look at the same time.
static LOOKING: Mutex<()> = Mutex::new(());

/// Whether each Pod has a folder of its own in this volume.
pub(super) fn wanted(pod: &Pod, volume: &Volume) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let names = annotations.and_then(|a| a.get(FOLDERS));
    names.is_some_and(|n| n.split_whitespace().any(|n| n == volume.name))
}

/// Who has a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    uid: String,
    pod: String,
}

struct Folder {
    number: u32,
    holder: Option<Holder>,
    since: SystemTime,
}

/// What one look comes to.
#[derive(Debug, PartialEq)]
enum Look {
    Taken(PathBuf),
    /// These have folders; who of them leaves hands on a newer one than those that are free.
    Others(Vec<Holder>),
}

/// The Pod's folder: the one it has, else that which was given back last, else a new one. Waits for who is about to leave.
///
/// # Errors
/// `FailedMount` texts.
pub(super) async fn take(
    request: &Request<'_>,
    volume: &Volume,
    claim: &Path,
) -> Result<PathBuf, String> {
    let own = Own {
        data_dir: request.context.data_dir.clone(),
        claim: claim.to_owned(),
        volume: volume.name.clone(),
        holder: Holder {
            uid: request.uid().to_owned(),
            pod: request.pod.metadata.name.clone().unwrap_or_default(),
        },
    };
    let own = std::sync::Arc::new(own);
    let pods: Api<Pod> = Api::namespaced(request.context.client.clone(), request.namespace());
    let failed = |e: io::Error| format!("cannot take a folder of {}: {e}", claim.display());
    'looks: for _ in 0..TRIES_MAX {
        let looked = own.clone();
        let found = blocking(move || looked.look(false).map_err(|e| e.to_string())).await;
        let holders = match found? {
            Look::Taken(folder) => return Ok(folder),
            Look::Others(holders) => holders,
        };
        for holder in holders {
            // A task of its own: this one is deep in calls already, and the API's are called as deep again.
            let mut asked = tokio::task::JoinSet::new();
            asked.spawn(waits_for(pods.clone(), holder, LEAVING_MAX));
            let left = request.unless_stopped(asked.join_next()).await?;
            if left.transpose().map_err(|e| e.to_string())?.transpose()? == Some(true) {
                continue 'looks;
            }
        }
        let looked = own.clone();
        let made = tokio::task::spawn_blocking(move || looked.look(true)).await;
        let made = made.unwrap_or_else(|e| Err(io::Error::other(e)));
        if let Look::Taken(folder) = made.map_err(failed)? {
            return Ok(folder);
        }
    }
    Err("its folders are taken before it comes to have one".into())
}

/// Waits for a Pod that is on its way out: true when it has gone, false when it stays.
///
/// # Errors
/// Also when it has not gone in time.
async fn waits_for(pods: Api<Pod>, holder: Holder, time: Duration) -> Result<bool, String> {
    let there = pods.get_opt(&holder.pod).await.map_err(|e| e.to_string())?;
    let there = there.filter(|p| p.metadata.uid.as_ref() == Some(&holder.uid));
    let phase = there
        .as_ref()
        .and_then(|p| p.status.as_ref()?.phase.clone());
    let over = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    let Some(pod) = there.filter(|_| !over) else {
        // Its volumes go any moment, which nobody tells: the next try sees it.
        return Err(format!("pod {} still has its folder", holder.pod));
    };
    if pod.metadata.deletion_timestamp.is_none() {
        return Ok(false);
    }
    let gone = kube::runtime::wait::conditions::is_deleted(&holder.uid);
    let gone = kube::runtime::wait::await_condition(pods, &holder.pod, gone);
    match tokio::time::timeout(time, gone).await {
        Ok(gone) => gone.map(|_| true).map_err(|e| e.to_string()),
        Err(_) => {
            let seconds = time.as_secs();
            tracing::warn!(pod = %holder.pod, uid = %holder.uid, seconds, "a pod that is being deleted keeps its folder of a volume, and its successor waits for it");
            Err(format!(
                "pod {} is being deleted, and has not gone in {seconds} s: its folder is waited for",
                holder.pod
            ))
        }
    }
}

struct Own {
    data_dir: PathBuf,
    claim: PathBuf,
    volume: String,
    holder: Holder,
}

impl Own {
    /// Takes the folder that it has, or with `any` the one that was given back last, or a new one. Without, only when nobody has
    /// one that may be about to leave; blocking.
    fn look(&self, any: bool) -> io::Result<Look> {
        let _alone = LOOKING.lock();
        let all = self.folders()?;
        let is_own = |f: &&Folder| f.holder.as_ref() == Some(&self.holder);
        if let Some(own) = all.iter().find(is_own) {
            return self.hold(own.number).map(Look::Taken);
        }
        let (held, free): (Vec<&Folder>, Vec<&Folder>) = all
            .iter()
            .partition(|f| f.holder.as_ref().is_some_and(|h| self.is_held(h)));
        if !any && !held.is_empty() {
            let holders = held.iter().filter_map(|f| f.holder.clone());
            return Ok(Look::Others(holders.collect()));
        }
        let number = match free.iter().max_by_key(|f| f.since) {
            Some(folder) => folder.number,
            None => {
                let taken = |n: &u32| all.iter().any(|f| f.number == *n);
                (0..=u32::MAX).find(|n| !taken(n)).unwrap_or(u32::MAX)
            }
        };
        self.hold(number).map(Look::Taken)
    }

    fn folders(&self) -> io::Result<Vec<Folder>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.claim)? {
            let name = entry?.file_name();
            let Some(number) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let of = self.said(number);
            let text = fs::read_to_string(&of).unwrap_or_default();
            let holder = text.split_once('\n').map(|(uid, pod)| Holder {
                uid: uid.to_owned(),
                pod: pod.trim_end().to_owned(),
            });
            let since = fs::metadata(&of).and_then(|m| m.modified());
            all.push(Folder {
                number,
                holder,
                since: since.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(all)
    }

    fn said(&self, number: u32) -> PathBuf {
        self.claim.join(format!("{number}.of"))
    }

    fn is_held(&self, holder: &Holder) -> bool {
        self.held(&holder.uid).exists()
    }

    fn held(&self, uid: &str) -> PathBuf {
        pod_dir(&self.data_dir, uid).join(HELD).join(&self.volume)
    }

    fn hold(&self, number: u32) -> io::Result<PathBuf> {
        let folder = self.claim.join(number.to_string());
        let of = self.said(number);
        let Holder { uid, pod } = &self.holder;
        replace(&of, &format!("{uid}\n{pod}\n"))?;
        if !folder.exists() {
            fs::create_dir(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        }
        let held = self.held(uid);
        if let Some(parent) = held.parent() {
            fs::create_dir_all(parent)?;
        }
        replace(&held, &of.to_string_lossy())?;
        Ok(folder)
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_added_extension("new");
    fs::write(&new, text)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

/// Gives back what the Pod has: the time of it decides who is taken for its successor. Blocking.
pub(super) fn give_back(pod_dir: &Path) {
    let Ok(held) = fs::read_dir(pod_dir.join(HELD)) else {
        return;
    };
    for volume in held.flatten() {
        let Ok(of) = fs::read_to_string(volume.path()) else {
            continue;
        };
        // A volume that is gone has nobody to come.
        if let Ok(file) = fs::File::options().append(true).open(of) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn own(&self, uid: &str) -> Own {
            Own {
                data_dir: self.dir.path().join("data"),
                claim: self.dir.path().join("claim"),
                volume: "v".into(),
                holder: Holder {
                    uid: uid.into(),
                    pod: format!("pod-{uid}"),
                },
            }
        }
        /// The number of the folder; None: others are to be asked first.
        fn look(&self, uid: &str, any: bool) -> Option<u32> {
            match self.own(uid).look(any).unwrap() {
                Look::Taken(folder) => {
                    let name = folder.file_name().unwrap().to_str().unwrap();
                    Some(name.parse().unwrap())
                }
                Look::Others(_) => None,
            }
        }
        fn leaves(&self, uid: &str, after: u64) {
            let pod = pod_dir(&self.own(uid).data_dir, uid);
            let of = fs::read_to_string(pod.join(HELD).join("v")).unwrap();
            give_back(&pod);
            // Two that leave within one tick of the clock are told apart.
            let at = SystemTime::now() + std::time::Duration::from_secs(after);
            let file = fs::File::options().append(true).open(of).unwrap();
            file.set_modified(at).unwrap();
            fs::remove_dir_all(pod).unwrap();
        }
    }

    #[test]
    fn each_pod_has_a_folder_and_its_successor_the_same() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("claim")).unwrap();
        let world = World { dir };
        assert_eq!(world.look("a", false), Some(0));
        assert_eq!(world.look("a", false), Some(0), "the one it has");
        assert_eq!(world.look("b", false), None, "a may be leaving");
        assert_eq!(world.look("b", true), Some(1));
        assert_eq!(world.look("c", true), Some(2));
        world.leaves("a", 1);
        assert_eq!(world.look("d", false), None, "b and c may be leaving");
        world.leaves("c", 2);
        assert_eq!(world.look("d", true), Some(2), "the last given back");
        assert_eq!(
            world.look("e", true),
            Some(0),
            "no new one while one is free"
        );
        for (n, uid) in ["d", "b", "e"].iter().enumerate() {
            world.leaves(uid, 3 + n as u64);
        }
        assert_eq!(world.look("f", false), Some(0), "nobody is left to ask");
    }

    #[tokio::test]
    async fn who_leaves_is_waited_for_but_not_for_ever() {
        let world = crate::tests::fake::World::without_node().await;
        let container = serde_json::json!({"name": "c", "image": "app:1"});
        let spec = serde_json::json!({"containers": [container]});
        let made = world.create("p", spec).await;
        let holder = Holder {
            uid: made.metadata.uid.unwrap(),
            pod: "p".into(),
        };
        let wait = |seconds: u64| {
            let time = Duration::from_secs(seconds);
            waits_for(world.pods(), holder.clone(), time)
        };
        assert_eq!(wait(0).await, Ok(false), "it stays");
        let finalizers = |all: &[&str]| serde_json::json!({"metadata": {"finalizers": all}});
        world
            .patch("pods/p", finalizers(&["example.com/hold"]))
            .await;
        world.delete("p", Some(0)).await;
        let why = wait(0).await.unwrap_err();
        assert!(why.contains("pod p is being deleted"), "{why}");
    }
}
