//! Layers that are honest, and layers that aren't. Needs root: owners, devices, trusted attributes.

use super::*;
use crate::tarfile::{padding, write};
use std::{
    io::Cursor,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

struct World {
    dir: tempfile::TempDir,
    files: Files,
}

fn world() -> World {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test unpacks layers with their owners: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/keep"), "kept").unwrap();
    let files = Files::new(dir.path().join("files"));
    World { dir, files }
}

impl World {
    /// Unpacks into the folder of this name; gives whether there is a recipe.
    fn unpack(&self, name: &str, tar: &[u8]) -> Result<bool, Error> {
        let root = self.dir.path().join(name);
        fs::create_dir(&root).unwrap();
        let recipe = self.dir.path().join(format!("{name}.recipe"));
        let scratch = self.dir.path().join("scratch");
        let done = unpack(Cursor::new(tar), &root, &recipe, &self.files, &scratch)?;
        if done.has_recipe {
            let mut again = Vec::new();
            let mut rebuilt = recipe::Rebuilt::open(&recipe, &root).unwrap();
            rebuilt.read_to_end(&mut again).unwrap();
            assert!(again == tar, "{name}: it is written anew with other bytes");
        }
        Ok(done.has_recipe)
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

type Entry = (&'static str, Kind, &'static str, &'static [u8]);

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, kind, target, content) in entries {
        let member = Member {
            mode: if *kind == Kind::Folder { 0o755 } else { 0o644 },
            mtime: 1_700_000_000,
            size: content.len() as u64,
            target: target.as_bytes().to_vec(),
            ..Member::new(*path, *kind)
        };
        out.extend(write::header(&member));
        out.extend_from_slice(content);
        out.resize(out.len() + padding(content.len() as u64), 0);
    }
    out.extend(write::END);
    out
}

use Kind::{File, Folder, HardLink, SymLink};

#[test]
fn names_and_links_never_lead_out() {
    let world = world();
    let outside = world.dir.path().join("outside");
    let out: &'static str = Box::leak(outside.to_str().unwrap().to_string().into_boxed_str());
    let through: &'static str = Box::leak(format!("{out}/f").into_boxed_str());
    let check = |case: &str, entries: &[Entry], want: Result<&[&str], &str>| {
        let got = world.unpack(case, &tar(entries));
        match (&got, want) {
            (Ok(_), Ok(paths)) => {
                for path in paths {
                    let there = fs::symlink_metadata(world.root(case).join(path));
                    assert!(there.is_ok(), "{case}: {path} is missing");
                }
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{case}: {error}");
            }
            _ => panic!("{case}: {got:?}"),
        }
        let left: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{case}");
        assert_eq!(fs::read(outside.join("keep")).unwrap(), b"kept", "{case}");
        assert_eq!(
            fs::metadata(outside.join("keep")).unwrap().nlink(),
            1,
            "{case}"
        );
    };
    check(
        "dotdot",
        &[("../outside/f", File, "", b"x")],
        Err("leaves the image"),
    );
    check("dotdot inside", &[("a/../b", File, "", b"x")], Ok(&["b"]));
    check(
        "absolute",
        &[(through, File, "", b"x")],
        Ok(&[&through[1..]]),
    );
    check(
        "absolute link",
        &[("l", SymLink, out, b""), ("l/f", File, "", b"x")],
        Err("no folder"),
    );
    check(
        "link within",
        &[
            ("usr/lib", Folder, "", b""),
            ("lib", SymLink, "/usr/lib", b""),
            ("lib/f", File, "", b"x"),
        ],
        Ok(&["usr/lib/f"]),
    );
    check(
        "relative link out",
        &[
            ("l", SymLink, "../outside", b""),
            ("l/keep", File, "", b"x"),
        ],
        Err("no folder"),
    );
    check(
        "link to itself",
        &[("l", SymLink, "l", b""), ("l/f", File, "", b"x")],
        Err("no folder"),
    );
    check(
        "hard link out",
        &[
            ("l", SymLink, out, b""),
            ("h", HardLink, "l/keep", b""),
            ("h", File, "", b"x"),
        ],
        Err("h can't become"),
    );
    check(
        "hard link up",
        &[("h", HardLink, "../outside/keep", b"")],
        Err("leaves the image"),
    );
    check(
        "hard link to a link",
        &[
            ("l", SymLink, through, b""),
            ("h", HardLink, "l", b""),
            ("h", File, "", b"x"),
        ],
        Ok(&["h", "l"]),
    );
    check(
        "whiteout through a link",
        &[("l", SymLink, out, b""), ("l/.wh.keep", File, "", b"")],
        Err("no folder"),
    );
    check(
        "whiteout of the parent",
        &[("d/.wh...", File, "", b"")],
        Err("whiteout of nothing"),
    );
    check(
        "a file as a folder",
        &[("f", File, "", b"x"), ("f/g", File, "", b"x")],
        Err("no folder"),
    );
    check(
        "a link replaced by a folder",
        &[
            ("l", SymLink, out, b""),
            ("l", Folder, "", b""),
            ("l/f", File, "", b"x"),
        ],
        Ok(&["l/f"]),
    );
    check(
        "a folder replaced by a link",
        &[
            ("d/f", File, "", b"x"),
            ("d", SymLink, out, b""),
            ("d/f", File, "", b"x"),
        ],
        Err("no folder"),
    );
}

#[test]
fn a_shared_file_is_replaced_and_not_written_to() {
    let world = world();
    let one = tar(&[("etc/conf", File, "", b"shared")]);
    assert!(world.unpack("one", &one).unwrap());
    // the same file, then other content, a mode, and links to it
    let two = tar(&[
        ("etc/conf", File, "", b"shared"),
        ("etc/link", HardLink, "etc/conf", b""),
        ("etc/conf", File, "", b"other!"),
    ]);
    assert!(
        !world.unpack("two", &two).unwrap(),
        "content that is nowhere has no recipe"
    );
    let read = |path: &str| fs::read_to_string(world.root(path)).unwrap();
    assert_eq!(read("one/etc/conf"), "shared");
    assert_eq!(read("two/etc/conf"), "other!");
    assert_eq!(read("two/etc/link"), "shared");
    let ino = |path: &str| fs::metadata(world.root(path)).unwrap().ino();
    assert_eq!(ino("one/etc/conf"), ino("two/etc/link"));
}

#[test]
fn large_files_are_shared_too() {
    let world = world();
    let big: &'static [u8] = Box::leak(vec![7u8; 2 << 20].into_boxed_slice());
    for name in ["one", "two"] {
        let other: &'static [u8] = name.as_bytes();
        let entries = tar(&[("big", File, "", big), ("name", File, "", other)]);
        assert!(world.unpack(name, &entries).unwrap());
    }
    let ino = |path: &str| fs::metadata(world.root(path)).unwrap().ino();
    assert_eq!(ino("one/big"), ino("two/big"));
    assert_ne!(ino("one/name"), ino("two/name"));
    assert_eq!(world.files.sweep().unwrap(), 0);
    fs::remove_dir_all(world.root("one")).unwrap();
    fs::remove_dir_all(world.root("two")).unwrap();
    assert!(world.files.sweep().unwrap() >= 2 << 20);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let world = world();
    let entries = tar(&[
        ("gone", Folder, "", b""),
        (".wh.below", File, "", b""),
        ("here", File, "", b"x"),
        (".wh.here", File, "", b""),
        ("dir/f", File, "", b"x"),
        (".wh.dir", File, "", b""),
        (".wh.anew", File, "", b""),
        ("anew", Folder, "", b""),
        (".wh..wh.plnk", Folder, "", b""),
        ("o/.wh..wh..opq", File, "", b""),
    ]);
    assert!(world.unpack("w", &entries).unwrap());
    let root = world.root("w");
    let is_opaque = |path: &str| {
        let mut value = [0u8; 4];
        let n = rustix::fs::getxattr(root.join(path), "trusted.overlay.opaque", &mut value[..]);
        n.is_ok_and(|n| &value[..n] == b"y")
    };
    let kind = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().file_type();
    assert!(kind("below").is_char_device());
    assert!(kind("here").is_file());
    assert!(is_opaque("dir") && is_opaque("anew") && is_opaque("o"));
    assert!(!is_opaque("gone"));
    assert!(!root.join(".wh..wh.plnk").exists());
}

#[test]
fn overlays_own_marks_do_not_come_in() {
    let world = world();
    let note = |name: &str| (name.as_bytes().to_vec(), b"y".to_vec());
    let member = Member {
        mode: 0o755,
        xattrs: vec![
            note("trusted.overlay.opaque"),
            note("trusted.overlay.redirect"),
            note("user.kept"),
        ],
        ..Member::new("d", Folder)
    };
    let tar = [write::header(&member), write::END.to_vec()].concat();
    world.unpack("x", &tar).unwrap();
    let mut list = [0u8; 1024];
    let n = rustix::fs::listxattr(world.root("x/d"), &mut list[..]).unwrap();
    assert_eq!(&list[..n], b"user.kept\0");
}

#[test]
fn holes_of_sparse_files_cost_nothing() {
    let world = world();
    let made = std::process::Command::new("sh")
        .args(["-ec", "cd \"$0\"; mkdir s; printf x >s/f; truncate -s 8M s/f; printf end >>s/f; printf x >s/g; \
            tar --sparse --format=gnu -cf gnu.tar -C s .; tar --sparse --format=posix -cf posix.tar -C s ."])
        .arg(world.dir.path())
        .status()
        .unwrap();
    assert!(made.success());
    for name in ["gnu", "posix"] {
        let bytes = fs::read(world.root(&format!("{name}.tar"))).unwrap();
        assert!(bytes.len() < 1 << 20, "{name} has holes");
        assert!(!world.unpack(name, &bytes).unwrap());
        let got = fs::read(world.root(&format!("{name}/f"))).unwrap();
        assert!(got == fs::read(world.root("s/f")).unwrap(), "{name}");
        assert_eq!(fs::read(world.root(&format!("{name}/g"))).unwrap(), b"x");
        let meta = fs::metadata(world.root(&format!("{name}/f"))).unwrap();
        assert!(meta.blocks() * 512 < 1 << 20, "{name}");
    }
}

#[test]
fn what_other_programs_pack_is_written_anew_bit_for_bit() {
    let world = world();
    for (name, format) in [
        ("gnu", "gnu"),
        ("posix", "posix"),
        ("ustar", "ustar"),
        ("v7", "v7"),
    ] {
        let file = world.root(&format!("{name}.tar"));
        let made = std::process::Command::new("tar")
            .args(["--format", format, "-cf"])
            .arg(&file)
            .args(["-C", "/etc", "--exclude=./ssl", "."])
            .output()
            .unwrap();
        assert!(made.status.success() || format == "v7", "{made:?}");
        assert!(
            world.unpack(name, &fs::read(&file).unwrap()).unwrap(),
            "{name}"
        );
        let meta = |root: &Path| fs::metadata(root.join("passwd")).unwrap();
        let (from, to) = (meta(Path::new("/etc")), meta(&world.root(name)));
        assert_eq!(
            (from.mode(), from.uid(), from.mtime()),
            (to.mode(), to.uid(), to.mtime())
        );
    }
}

#[test]
fn bombs_are_stopped() {
    let world = world();
    let path = world.dir.path().join("bomb");
    // 3 GiB of zeros in a few KiB
    let mut out = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
    let zeros = vec![0u8; 1 << 20];
    let member = Member {
        size: 3 << 30,
        ..Member::new("zeros", File)
    };
    out.write_all(&write::header(&member)).unwrap();
    for _ in 0..3 << 10 {
        out.write_all(&zeros).unwrap();
    }
    out.finish().unwrap();
    let mut stream = crate::layer::open(&path).unwrap();
    let error = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("decompression bomb"), "{error}");
    // a header that announces more than it should
    let mut member = Member::new("x", File);
    member.xattrs = vec![(b"user.x".to_vec(), vec![0; 2 << 20])];
    let error = world.unpack("header", &write::header(&member)).unwrap_err();
    assert!(error.to_string().contains("a header of"), "{error}");
}
