//! The smallest program that can build: it takes the runtime's roles for tests, and builds a folder until it is done or
//! killed.

use knarr_build::{BuildRequest, Context, Engine, Event, Limits, Options, build};
use knarr_image::ImageStore;
use std::path::{Path, PathBuf};

fn main() {
    knarr_runtime::dispatch_role();
    let args: Vec<String> = std::env::args().collect();
    let [_, data, context, tag] = args.as_slice() else {
        eprintln!("usage: knarr-build-test <data folder> <context> <tag>");
        std::process::exit(2);
    };
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|tokio| tokio.block_on(run(Path::new(data), context, tag)));
    if let Err(text) = done {
        eprintln!("{text}");
        std::process::exit(1);
    }
}

async fn run(data: &Path, context: &str, tag: &str) -> Result<(), String> {
    let engine = Engine::open(Options {
        images: ImageStore::open(&data.join("images")).map_err(|e| e.to_string())?,
        dir: data.join("build"),
        exe: std::env::current_exe().map_err(|e| e.to_string())?,
        cgroup_parent: format!("/knarr-build-test-{}", std::process::id()),
        host: Default::default(),
        limits: Limits::default(),
        resolver: None,
        networks: None,
    })
    .map_err(|e| e.to_string())?;
    let request = BuildRequest {
        context: Context::Folder(PathBuf::from(context)),
        tags: vec![tag.to_owned()],
        ..BuildRequest::default()
    };
    let told = |event: Event| println!("{event:?}");
    let built = build(&engine, request, &told).await;
    engine.close().await.map_err(|e| e.to_string())?;
    let built = built.map_err(|e| e.report())?;
    println!("ran {} cached {}", built.steps_run, built.steps_cached);
    Ok(())
}
