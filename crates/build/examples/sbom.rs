//! The packages below a folder: `cargo run -p knarr-build --example sbom -- FOLDER`.

use knarr_build::{attest::packages, copy::Tree};
use std::path::Path;

fn main() {
    let folder = std::env::args().nth(1).expect("say: FOLDER");
    let tree = Tree::root("image", Path::new(&folder)).unwrap();
    let begin = std::time::Instant::now();
    let found = packages(&tree).unwrap();
    let took = begin.elapsed();
    for package in &found {
        println!("{}  {}", package.purl(None), package.found_in);
    }
    println!("{} packages in {took:?}", found.len());
}
