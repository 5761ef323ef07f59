//! Pull and push of a 500 MB image beside skopeo, against the same registry; and what ten similar images take on the disk
//! beside podman's store.
//!
//! `cargo run --release -p knarr-registry --example bench_images [megabytes] [rounds] [folder]` as root, with skopeo and
//! podman.
//!
//! The image has five layers of files: of a folder (`/usr`), or made ones, of which half of the bytes don't compress. Pull: into an empty store, unpacked, against
//! `skopeo copy docker:// containers-storage:` (which unpacks as well) and `skopeo copy docker:// dir:` (which doesn't).
//! Push: of an image that is here as plain layers, against `skopeo copy containers-storage: docker://`; the registry's
//! repository is a new one each time and its store is emptied of the blobs. Ten similar images: the same base of 60 MB in
//! a layer of its own, and each an application layer of 40 MB of which nine tenths of the files are the same.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use knarr_image::{
    ImageStore, LayerOptions,
    client::{PullOptions, PushOptions, Silent},
};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(format!(
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        )
        .into()),
    }
}

/// Bytes, the first half of each file without pattern.
fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out: Vec<u8> = Vec::with_capacity(bytes);
    while out.len() < bytes / 2 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    while out.len() < bytes {
        out.extend_from_slice(b"fn main() { println!(\"hello, hello\"); }\n");
    }
    out.truncate(bytes);
    out
}

fn fill(folder: &Path, seeds: impl Iterator<Item = u64>, bytes: usize) -> Result<()> {
    for seed in seeds {
        let dir = folder.join(format!("usr/lib/d{}", seed % 17));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("f{seed}")), content(seed, bytes))?;
    }
    Ok(())
}

/// Copies files from below a folder in turns into so many, until there are so many bytes.
fn copied(from: &Path, to: &[PathBuf], bytes: u64) -> Result<()> {
    let mut open = vec![from.to_path_buf()];
    let (mut total, mut at) = (0, 0);
    while let Some(folder) = open.pop() {
        let mut entries = fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, meta) = (entry.path(), entry.metadata()?);
            if meta.is_dir() {
                open.push(path);
            } else if meta.is_file() && total < bytes {
                let target = to[at % to.len()].join(path.strip_prefix("/").unwrap_or(&path));
                fs::create_dir_all(target.parent().unwrap_or(from))?;
                fs::copy(&path, target)?;
                (total, at) = (total + meta.len(), at + 1);
            }
        }
    }
    Ok(())
}

fn config() -> serde_json::Value {
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/true"]}})
}

/// What the folder takes on the disk: each file once, however many names it has.
fn disk(folder: &Path) -> Result<u64> {
    let text = run("du", &["-s", "--block-size=1", &folder.to_string_lossy()])?;
    Ok(text
        .split_whitespace()
        .next()
        .ok_or("du says nothing")?
        .parse()?)
}

struct World {
    dir: PathBuf,
    registry: String,
}

impl World {
    fn storage(&self, name: &str) -> String {
        let dir = self.dir.display();
        format!("containers-storage:[overlay@{dir}/podman+{dir}/podman-run]{name}")
    }

    fn skopeo(&self, from: &str, to: &str, tls: &str) -> Result<f64> {
        let started = Instant::now();
        run(
            "skopeo",
            &["copy", "--insecure-policy", "-q", tls, from, to],
        )?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn empty_podman(&self) -> Result<()> {
        for folder in ["podman", "podman-run"] {
            let _ = Command::new("umount")
                .args(["-q", "-R"])
                .arg(self.dir.join(folder).join("overlay"))
                .status();
            let _ = fs::remove_dir_all(self.dir.join(folder));
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let number =
        |at: usize, default: usize| std::env::args().nth(at).map_or(Ok(default), |n| n.parse());
    let (megabytes, rounds) = (number(1, 500)?, number(2, 5)?);
    let base = std::env::var_os("KNARR_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench(dir.path(), megabytes, rounds))
}

async fn bench(dir: &Path, megabytes: usize, rounds: usize) -> Result<()> {
    let served = ImageStore::open(&dir.join("registry"))?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host = listener.local_addr()?.to_string();
    let options = knarr_registry::Options {
        hosts: vec![host.clone()],
        ..Default::default()
    };
    let router = knarr_registry::router(served.clone(), options)?;
    tokio::spawn(async move { knarr_registry::serve(listener, router).await });
    let world = World {
        dir: dir.to_path_buf(),
        registry: host,
    };
    transfer(&world, megabytes, rounds).await?;
    similar(&world).await
}

async fn transfer(world: &World, megabytes: usize, rounds: usize) -> Result<()> {
    let source = ImageStore::open(&world.dir.join("source"))?;
    let mut layers = Vec::new();
    let files = (megabytes << 20) / (250 << 10) / 5;
    let uppers: Vec<PathBuf> = (0..5)
        .map(|n| world.dir.join(format!("upper{n}")))
        .collect();
    for upper in &uppers {
        fs::create_dir_all(upper)?;
    }
    if let Some(folder) = std::env::args_os().nth(3) {
        copied(Path::new(&folder), &uppers, (megabytes as u64) << 20)?;
    }
    for (layer, upper) in (0u64..).zip(uppers) {
        let seeds = (layer * files as u64)..((layer + 1) * files as u64);
        if std::env::args_os().nth(3).is_none() {
            fill(&upper, seeds, 250 << 10)?;
        }
        layers.push(source.commit_layer(&upper, LayerOptions::default())?);
    }
    let image = source.put_image(&config(), &layers, &BTreeMap::new(), Some("bench:1"))?;
    println!(
        "image: {} layers, {:.0} MB of tar",
        layers.len(),
        image.size_bytes as f64 / 1e6
    );
    let registry = &world.registry;
    let first = format!("{registry}/bench:1");
    source
        .push("bench:1", &first, &PushOptions::default(), &Silent)
        .await?;

    let mut table: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        let from = format!("docker://{first}");
        let started = Instant::now();
        let store = ImageStore::open(&world.dir.join("target"))?;
        store.pull(&first, &PullOptions::default(), &Silent).await?;
        table
            .entry("pull: knarr")
            .or_default()
            .push(started.elapsed().as_secs_f64());
        fs::remove_dir_all(world.dir.join("target"))?;

        world.empty_podman()?;
        let to = world.storage("localhost/bench:1");
        let took = world.skopeo(&from, &to, "--src-tls-verify=false")?;
        table
            .entry("pull: skopeo, unpacked")
            .or_default()
            .push(took);
        let folder = world.dir.join("plain");
        let took = world.skopeo(
            &from,
            &format!("dir:{}", folder.display()),
            "--src-tls-verify=false",
        )?;
        table
            .entry("pull: skopeo, blobs alone")
            .or_default()
            .push(took);
        fs::remove_dir_all(folder)?;

        // a registry of its own for each: nothing of it is there yet
        let (ours, theirs) = (
            Fresh::start(world, "ours").await?,
            Fresh::start(world, "theirs").await?,
        );
        let started = Instant::now();
        let name = format!("{}/p{round}:1", ours.host);
        fs::remove_dir_all(world.dir.join("source/made"))?;
        source
            .push("bench:1", &name, &PushOptions::default(), &Silent)
            .await?;
        table
            .entry("push: knarr")
            .or_default()
            .push(started.elapsed().as_secs_f64());
        let name = format!("docker://{}/p{round}:1", theirs.host);
        let took = world.skopeo(&to, &name, "--dest-tls-verify=false")?;
        table.entry("push: skopeo").or_default().push(took);
    }
    println!("\n| | n | median s | p99 s | to ours |\n|---|---:|---:|---:|---:|");
    let mut ours = f64::NAN;
    for (what, mut times) in table {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        if what.ends_with("knarr") {
            ours = median;
        }
        println!(
            "| {what} | {} | {median:.2} | {:.2} | {:.2} |",
            times.len(),
            times[times.len() - 1],
            median / ours
        );
    }
    Ok(())
}

/// An empty registry.
struct Fresh {
    host: String,
    dir: PathBuf,
    serving: tokio::task::JoinHandle<()>,
}

impl Fresh {
    async fn start(world: &World, name: &str) -> Result<Fresh> {
        let dir = world.dir.join(name);
        let store = ImageStore::open(&dir)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?.to_string();
        let options = knarr_registry::Options {
            hosts: vec![host.clone()],
            ..Default::default()
        };
        let router = knarr_registry::router(store, options)?;
        let serving = tokio::spawn(async move { knarr_registry::serve(listener, router).await });
        Ok(Fresh { host, dir, serving })
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

async fn similar(world: &World) -> Result<()> {
    let store = ImageStore::open(&world.dir.join("similar"))?;
    world.empty_podman()?;
    let upper = world.dir.join("upper");
    fill(&upper, 0..240, 250 << 10)?;
    let base = store.commit_layer(&upper, LayerOptions::default())?;
    let clamp = LayerOptions {
        clamp_mtime: Some(1_700_000_000),
        ..LayerOptions::default()
    };
    for n in 0..10u64 {
        fill(&upper, 1000..1144, 250 << 10)?;
        fill(
            &upper,
            (10_000 * (n + 1))..(10_000 * (n + 1) + 16),
            250 << 10,
        )?;
        let layer = store.commit_layer(&upper, clamp.clone())?;
        let name = format!("{}/similar:{n}", world.registry);
        store.put_image(
            &config(),
            &[base.clone(), layer],
            &BTreeMap::new(),
            Some(&name),
        )?;
        store
            .push(&name, &name, &PushOptions::default(), &Silent)
            .await?;
    }
    let built = disk(&world.dir.join("similar"))?;
    fs::remove_dir_all(world.dir.join("similar"))?;
    let store = ImageStore::open(&world.dir.join("pulled"))?;
    for n in 0..10 {
        let name = format!("{}/similar:{n}", world.registry);
        store.pull(&name, &PullOptions::default(), &Silent).await?;
        let (from, to) = (
            format!("docker://{name}"),
            world.storage(&format!("localhost/similar:{n}")),
        );
        world.skopeo(&from, &to, "--src-tls-verify=false")?;
    }
    let (pulled, podman) = (
        disk(&world.dir.join("pulled"))?,
        disk(&world.dir.join("podman"))?,
    );
    fs::remove_dir_all(world.dir.join("pulled"))?;
    // the same, compressed by another: their blobs can't be made again, so they are kept
    let store = ImageStore::open(&world.dir.join("foreign"))?;
    for n in 0..10 {
        let name = format!("{}/foreign:{n}", world.registry);
        let (from, to) = (
            world.storage(&format!("localhost/similar:{n}")),
            format!("docker://{name}"),
        );
        world.skopeo(&from, &to, "--dest-tls-verify=false")?;
        store.pull(&name, &PullOptions::default(), &Silent).await?;
    }
    let foreign = disk(&world.dir.join("foreign"))?;
    world.empty_podman()?;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "ten similar images on the disk: podman {:.0} MB; knarr {:.0} MB as built, {:.0} MB pulled as knarr pushed them, {:.0} MB pulled as skopeo pushed them",
        mb(podman),
        mb(built),
        mb(pulled),
        mb(foreign)
    );
    Ok(())
}
