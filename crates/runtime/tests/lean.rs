//! Mount namespaces that are copies of next to nothing: the same containers come of it, whatever the host mounts meanwhile.

mod common;

use std::{path::Path, process::Command};

use common::World;
use knarr_runtime::{ContainerSpec, Mount};

/// More starts than one after which the short cut is taken.
const STARTS: u32 = 6;

fn mount(arguments: &[&str], at: &Path) {
    let status = Command::new("mount").args(arguments).arg(at).status();
    assert!(status.unwrap().success(), "mounting {}", at.display());
}

struct Unmount<'a>(&'a Path);
impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-R", "-l"])
            .arg(self.0)
            .status();
    }
}

/// What a container sees of mounts, but for what tells it from others.
async fn seen(w: &World, spec: ContainerSpec) -> String {
    let id = spec.id.clone();
    let (code, text) = w.output(spec).await;
    assert_eq!(code, 0, "{text}");
    let own = text.replace(&id, "ID");
    own.lines()
        .map(|line| {
            // the root's options name descriptors
            let kept = line.split(" lowerdir=").next().unwrap_or_default();
            let mut fields = kept.split(' ');
            let (from, at, rest) = (fields.next(), fields.next(), fields.next());
            format!("{from:?} {at:?} {rest:?}\n")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_the_last_see_the_same() {
    let w = World::new();
    w.sandbox("s").await;
    let shared = w.dir.path().join("shared");
    std::fs::create_dir_all(shared.join("inner")).unwrap();
    mount(&["--bind", shared.to_str().unwrap()], &shared);
    let _off = Unmount(&shared);
    mount(&["--make-shared"], &shared);
    let volume = |id: &str| {
        let mut spec = w.spec(id, "cat /v/inner/file 2>/dev/null; cat /proc/mounts");
        spec.mounts = vec![Mount {
            source: shared.clone(),
            destination: "/v".into(),
            read_only: false,
            propagation: "rslave".into(),
            recursive_read_only: false,
        }];
        spec
    };
    let first = seen(&w, volume("c0")).await;
    for n in 1..STARTS {
        let id = format!("c{n}");
        assert_eq!(seen(&w, volume(&id)).await, first, "{id}");
    }

    // what the host mounts from now on, in a volume
    let inner = shared.join("inner");
    mount(&["-t", "tmpfs", "later"], &inner);
    std::fs::write(inner.join("file"), "from later\n").unwrap();
    let (_, text) = w.output(volume("later")).await;
    assert!(text.starts_with("from later\n"), "{text}");

    // and below an image's layer
    let layer = w.dir.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    mount(&["-t", "tmpfs", "layer"], &layer);
    let _off = Unmount(&layer);
    std::fs::write(layer.join("file"), "from the layer\n").unwrap();
    let mut spec = w.spec("layered", "cat /file");
    spec.lower.insert(0, layer.clone());
    assert_eq!(w.output(spec).await, (0, "from the layer\n".into()));
}
