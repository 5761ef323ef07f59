//! Random trees, paths and archives in bounded amounts: nothing panics, and nothing outside of a root is read or touched.
//! `cargo run -p xtask -- fuzz --target copy --minutes N` runs more of them.

#[allow(dead_code)]
#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use knarr_build::{
    copy::{CopyRequest, Mode, Source, Tree, checksum, copy},
    source::{GitRef, context::from_stream},
};
use knarr_dockerfile::Ignore;
use mutate::{Mutator, rounds};
use std::{fs, os::unix::fs::symlink, path::Path};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e.txt"];
/// Where links lead, and what is asked for.
const PARTS: [&str; 16] = [
    "a", "b", "c", "d", "e.txt", "..", "..", ".", "", "*", "?", "[a-c]", "**", "e.*", "/",
    "outside",
];
const SECRET: &str = "nobody may read this";

fn path(m: &mut Mutator, parts: usize) -> String {
    let start = if m.below(3) == 0 { "/" } else { "" };
    let rest: Vec<&str> = (0..1 + m.below(parts))
        .map(|_| PARTS[m.below(PARTS.len())])
        .collect();
    let end = ["", "", "/", "/."][m.below(4)];
    format!("{start}{}{end}", rest.join("/"))
}

/// Up to eight files, folders and links.
fn plant(m: &mut Mutator, root: &Path) {
    fs::create_dir(root).unwrap();
    for _ in 0..m.below(9) {
        let below: Vec<&str> = (0..1 + m.below(3))
            .map(|_| NAMES[m.below(NAMES.len())])
            .collect();
        let place = root.join(below.join("/"));
        // links must not lead the test itself away
        let by_link = place
            .ancestors()
            .take_while(|p| *p != root)
            .any(|p| p.is_symlink());
        if by_link || fs::create_dir_all(place.parent().unwrap()).is_err() {
            continue;
        }
        let target = path(m, 4);
        let _ = match m.below(3) {
            0 => fs::write(&place, "file"),
            1 => fs::create_dir(&place),
            _ if target.is_empty() => Ok(()),
            _ => symlink(target, &place),
        };
    }
}

fn holds_secret(folder: &Path) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let kind = entry.file_type().unwrap();
            (kind.is_dir() && holds_secret(&entry.path()))
                || (kind.is_file() && fs::read(entry.path()).unwrap() == SECRET.as_bytes())
        })
}

fn untouched(folder: &Path) -> bool {
    let around = fs::read_dir(folder).unwrap().count();
    let secret = fs::read(folder.join("outside")).unwrap();
    around == 3 && secret == SECRET.as_bytes()
}

#[test]
fn fuzz_copy() {
    let mut m = Mutator::new("copy");
    for _ in rounds(400) {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().canonicalize().unwrap();
        fs::write(folder.join("outside"), SECRET).unwrap();
        let (from, into) = (folder.join("from"), folder.join("into"));
        plant(&mut m, &from);
        plant(&mut m, &into);
        let ignore = Ignore::parse(&format!("{}\n!{}\n", path(&mut m, 2), path(&mut m, 2)));
        let tree = Tree::context("context", &from, ignore.unwrap_or_default()).unwrap();
        let exclude = match m.below(3) {
            0 => vec![path(&mut m, 2)],
            _ => vec![],
        };
        let request = CopyRequest {
            sources: vec![Source::Path(path(&mut m, 4))],
            from: &tree,
            destination: path(&mut m, 4),
            workdir: "/".into(),
            chown: None,
            chmod: None,
            parents: m.below(3) == 0,
            exclude,
            link: false,
            unpack: m.below(2) == 0,
            times: None,
            into: &into,
        };
        let run = || {
            let sum = checksum(&request, None);
            let done = copy(&request);
            (sum.is_ok(), done.map_err(|e| e.to_string()))
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let told = || format!("{} with {request:?}", m.told());
        let (summed, done) = done.unwrap_or_else(|_| panic!("a panic: {}", told()));
        assert!(
            summed || done.is_err(),
            "copied without a checksum: {}",
            told()
        );
        assert!(
            untouched(&folder),
            "something outside was touched: {}",
            told()
        );
        assert!(
            !holds_secret(&into),
            "something outside was read: {}",
            told()
        );
    }
}

/// An archive with links, long names and an extended header.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    let mut add = |kind, name: &str, target: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        match target {
            "" => tar.append_data(&mut header, name, content).unwrap(),
            target => tar.append_link(&mut header, name, target).unwrap(),
        }
    };
    add(tar::EntryType::Directory, "a/", "", b"");
    add(tar::EntryType::Regular, "a/b", "", b"content");
    add(tar::EntryType::Symlink, "a/l", "../..", b"");
    add(tar::EntryType::Link, "h", "a/b", b"");
    add(tar::EntryType::Regular, &"long/".repeat(30), "", b"x");
    tar.append_pax_extensions([("mtime", &b"1.5"[..]), ("size", b"1")])
        .unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn fuzz_unpack() {
    let mut m = Mutator::new("unpack");
    let seed = archive();
    for _ in rounds(400) {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        fs::write(folder.join("outside"), SECRET).unwrap();
        fs::create_dir(folder.join("from")).unwrap();
        let mut bytes = m.bytes(&seed);
        // most mutations would end at a header's checksum
        if m.below(4) != 0 {
            mend(&mut bytes);
        }
        let into = folder.join("into");
        fs::create_dir(&into).unwrap();
        let run = || {
            let _ = from_stream(&bytes[..], &into);
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(done.is_ok(), "a panic: {} with {bytes:?}", m.told());
        assert!(
            untouched(folder),
            "outside was touched: {} with {bytes:?}",
            m.told()
        );
        assert!(
            !holds_secret(&into),
            "outside was read: {} with {bytes:?}",
            m.told()
        );
    }
}

/// Makes the checksums of all blocks that look like headers right.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            let text = format!("{:06o}\0 ", sum & 0o777_777);
            block[148..156].copy_from_slice(text.as_bytes());
        }
    }
}

#[test]
fn fuzz_words() {
    let mut m = Mutator::new("words");
    let seeds = [
        "u=rwx,go=u-w,a+Xst",
        "https://u:p@h/x.git?branch=a&subdir=b#c:d",
        "git@h:p/q.git#r:s",
        "0755",
        "*[a-\\]]?**/x",
    ];
    for _ in rounds(5000) {
        let seed = seeds[m.below(seeds.len())];
        let text = m.bytes(seed.as_bytes());
        let text = String::from_utf8_lossy(&text);
        let run = || {
            if let Ok(mode) = Mode::parse(&text) {
                assert!(mode.apply(0o644, false) <= 0o7777);
            }
            if let Some(Ok(reference)) = GitRef::parse(&text) {
                assert!(!reference.remote.starts_with('-'));
            }
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(done.is_ok(), "a panic: {} with {text:?}", m.told());
    }
}
