//! How long a context's checksum takes, cold and warm: `cargo run --release -p knarr-build --example checksum_time -- FOLDER`.

use knarr_build::copy::{CopyRequest, Source, StatCache, Tree, checksum, copy};
use knarr_dockerfile::Ignore;
use std::{path::Path, time::Instant};

fn main() {
    let folder = std::env::args().nth(1).expect("say: FOLDER");
    let kept = tempfile::tempdir().unwrap();
    let ignore = Ignore::parse("**/*.log\nnode_modules\n.git\n!keep").unwrap();
    for round in ["cold", "warm", "warm again"] {
        let begin = Instant::now();
        let tree = Tree::context("context", Path::new(&folder), ignore.clone()).unwrap();
        let cache = StatCache::open(kept.path(), Path::new(&folder));
        let into = tempfile::tempdir().unwrap();
        let request = CopyRequest {
            sources: vec![Source::Path(".".into())],
            from: &tree,
            destination: "/x/".into(),
            workdir: "/".into(),
            chown: None,
            chmod: None,
            parents: false,
            exclude: vec![],
            link: false,
            unpack: false,
            times: None,
            into: into.path(),
        };
        let sum = checksum(&request, Some(&cache)).unwrap();
        cache.save().unwrap();
        let took = begin.elapsed();
        let begin = Instant::now();
        copy(&request).unwrap();
        println!("{round}: {took:?}, copied in {:?} ({sum})", begin.elapsed());
    }
}
