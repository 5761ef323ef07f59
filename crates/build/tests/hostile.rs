//! What is made to lead out of a root, to fill the memory, or to never end: a clear error, and nothing outside is touched.

#[allow(dead_code)]
mod copying;

use copying::{empty, make, tree};
use knarr_build::{
    copy::{Source, StatCache, Tree, checksum, copy},
    source::context::from_stream,
};
use knarr_dockerfile::Ignore;
use std::{
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
};

/// An archive's entry: kind, name, link target, announced size, content.
type Entry<'a> = (u8, &'a str, &'a str, u64, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = vec![];
    for (kind, name, target, size, content) in entries {
        let mut header = tar::Header::new_ustar();
        // by hand: the crate refuses such names
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(*size);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Entry<'a> {
    (b'0', name, "", content.len() as u64, content)
}

#[test]
fn archives_stay_in_their_folder() {
    let link = |name, target| (b'2', name, target, 0, &b""[..]);
    let hard = |name, target| (b'1', name, target, 0, &b""[..]);
    let dir = |name| (b'5', name, "", 0, &b""[..]);
    // what comes of it in the folder, or the error
    type Case<'a> = (&'a str, Vec<Entry<'a>>, Result<&'a str, &'a str>);
    let table: Vec<Case<'_>> = vec![
        (
            "dots",
            vec![file("../../x/evil", b"e")],
            Ok("x/ 755 0:0\nx/evil 644 0:0 e"),
        ),
        ("a root", vec![file("/x", b"e")], Ok("x 644 0:0 e")),
        (
            "through a link to the root",
            vec![link("l", "/"), file("l/evil", b"e")],
            Ok("evil 644 0:0 e\nl -> / 0:0"),
        ),
        (
            "through a link with dots",
            vec![link("l", "../../.."), file("l/evil", b"e")],
            Ok("evil 644 0:0 e\nl -> ../../.. 0:0"),
        ),
        (
            "a link to a file outside, then the file",
            vec![link("l", "../outside"), file("l", b"e")],
            Ok("l 644 0:0 e"),
        ),
        (
            "a hard link to a file outside",
            vec![hard("h", "../outside")],
            Err("No such file"),
        ),
        (
            "a hard link to the machine's",
            vec![hard("h", "/etc/passwd")],
            Err("No such file"),
        ),
        (
            "a hard link through a link",
            vec![link("l", ".."), hard("h", "l/outside"), file("h", b"e")],
            Err("No such file"),
        ),
        (
            "a hard link to a link, then written",
            vec![link("l", "../outside"), hard("h", "l"), file("h", b"e")],
            Ok("h 644 0:0 e\nl -> ../outside 0:0"),
        ),
        (
            "a hard link to the root",
            vec![hard("h", "/")],
            Err("a hard link to the archive's root"),
        ),
        (
            "a circle of links",
            vec![link("a", "b"), link("b", "a"), file("a/x", b"e")],
            Err("Too many levels"),
        ),
        (
            "a folder for a file",
            vec![dir("a"), file("a", b"e")],
            Ok("a 644 0:0 e"),
        ),
        (
            "below a file",
            vec![file("a", b"e"), file("a/b", b"e")],
            Err("Not a directory"),
        ),
        ("the folder itself as a file", vec![file(".", b"e")], Ok("")),
        (
            "a huge file announced",
            vec![(b'0', "a", "", 1 << 32, b"little")],
            Err("4294967296 bytes are announced"),
        ),
        (
            "a huge name announced",
            vec![(b'L', "././@LongLink", "", 1 << 32, b"a")],
            Err("an extended header of 4294967296 bytes"),
        ),
        (
            "a huge extended header",
            vec![(b'x', "x", "", 1 << 32, b"a")],
            Err("an extended header of 4294967296 bytes"),
        ),
        (
            "an unknown kind",
            vec![(b'Z', "a", "", 0, b"")],
            Err("unhandled tar header type 90"),
        ),
    ];
    for (name, entries, want) in table {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("outside"), "untouched").unwrap();
        let into = folder.path().join("into");
        let got = from_stream(&archive(&entries)[..], &into);
        match (&got, want) {
            (Ok(_), Ok(want)) => assert_eq!(tree(&into), want, "{name}"),
            (Err(e), Err(want)) => {
                let text = e.to_string();
                assert!(text.contains(want), "{name}: {text}");
            }
            _ => panic!("{name}: {got:?}, not {want:?}"),
        }
        let outside = fs::read_to_string(folder.path().join("outside")).unwrap();
        assert_eq!(outside, "untouched", "{name}");
        let around: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(around.len(), 2, "{name}: {around:?}");
    }
}

#[test]
fn long_names_within_bounds_are_read() {
    let long = "d/".repeat(100) + "end";
    let mut builder = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder
        .append_pax_extensions([("mtime", &b"12.5"[..]), ("uid", b"7")])
        .unwrap();
    builder
        .append_data(&mut header, "after", &b"y"[..])
        .unwrap();
    let into = tempfile::tempdir().unwrap();
    from_stream(&builder.into_inner().unwrap()[..], into.path()).unwrap();
    assert_eq!(fs::read(into.path().join(long)).unwrap(), b"x");
    assert!(tree(into.path()).contains("after 600 7:0 y"));
    let time = fs::metadata(into.path().join("after"))
        .unwrap()
        .modified()
        .unwrap();
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_millis(), 12_500);
}

#[test]
fn a_bomb_of_names_is_stopped_early() {
    // 4 GiB of zeros as a name, packed to a few MB at most: only its beginning is unpacked
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    let head = archive(&[(b'L', "././@LongLink", "", 1 << 32, b"")]);
    gzip.write_all(&head[..512]).unwrap();
    gzip.write_all(&vec![b'a'; 8 << 20]).unwrap();
    let packed = gzip.finish().unwrap();
    let into = tempfile::tempdir().unwrap();
    let e = from_stream(&packed[..], into.path()).unwrap_err();
    assert!(e.to_string().contains("an extended header of"), "{e}");
}

/// Copies `sources` of a context made of `lines` to `destination` of a root made of `image`.
fn bring(lines: &str, image: &str, source: &str, destination: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    for (path, lines) in [(&from, lines), (&into, image)] {
        fs::create_dir(path).unwrap();
        make(path, lines);
    }
    fs::write(folder.path().join("outside"), "untouched").unwrap();
    let context = Tree::context("context", &from, Ignore::default()).unwrap();
    let mut request = empty(&context, &into);
    request.sources = vec![Source::Path(source.into())];
    request.destination = destination.into();
    let done = copy(&request).map_err(|e| e.to_string());
    let outside = fs::read_to_string(folder.path().join("outside")).unwrap();
    assert_eq!(outside, "untouched", "{source} to {destination}");
    let around: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(around.len(), 3, "{source} to {destination}: {around:?}");
    done.map(|_| tree(&into))
}

#[test]
fn copies_stay_in_their_roots() {
    let table = [
        (
            "link l ..\n",
            "",
            "l/outside",
            "/x",
            Err("\"/l/outside\": not found"),
        ),
        (
            "link l ../outside\n",
            "",
            "l",
            "/x",
            Err("\"/l\": not found"),
        ),
        (
            "link d/l ../../outside\n",
            "",
            "d",
            "/x",
            Ok("x/ 755 0:0\nx/l -> ../../outside 0:0"),
        ),
        ("link l ..\n", "", "l/*", "/x/", Ok("")),
        (
            "file a 644 0:0 a\n",
            "link x ../outside\n",
            "a",
            "/x",
            Ok("outside 644 0:0 a\nx -> ../outside 0:0"),
        ),
        (
            "file a 644 0:0 a\n",
            "link x ../..\n",
            "a",
            "/x/y",
            Ok("x -> ../.. 0:0\ny 644 0:0 a"),
        ),
        ("file a 644 0:0 a\n", "", "a", "/../../x", Ok("x 644 0:0 a")),
        (
            "file a 644 0:0 a\n",
            "link x y\nlink y x\n",
            "a",
            "/x",
            Err("too many levels"),
        ),
        (
            "file d/l/a 644 0:0 a\n",
            "link l ../..\n",
            "d",
            "/",
            Err("cannot copy to non-directory: /l"),
        ),
    ];
    for (lines, image, source, destination, want) in table {
        let got = bring(lines, image, source, destination);
        match (&got, want) {
            (Ok(got), Ok("")) => {
                // a link to the root shows the root, never more
                assert!(!got.contains("outside"), "{source}: {got}");
            }
            (Ok(got), Ok(want)) => assert_eq!(got, want, "{source} to {destination}"),
            (Err(e), Err(want)) => assert!(e.contains(want), "{source}: {e}"),
            _ => panic!("{source} to {destination}: {got:?}, not {want:?}"),
        }
    }
}

#[test]
fn a_file_that_only_announces_a_terabyte_stays_small() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&into).unwrap();
    let file = fs::File::create(from.join("big")).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"middle", 1 << 39).unwrap();
    let context = Tree::context("context", &from, Ignore::default()).unwrap();
    let mut request = empty(&context, &into);
    request.sources = vec![Source::Path("big".into())];
    copy(&request).unwrap();
    let meta = fs::metadata(into.join("big")).unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut middle = [0; 6];
    let file = fs::File::open(into.join("big")).unwrap();
    std::os::unix::fs::FileExt::read_at(&file, &mut middle, 1 << 39).unwrap();
    assert_eq!(&middle, b"middle");
}

#[test]
fn names_that_are_no_text_are_copied_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&into).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff\xfe\nname");
    fs::write(from.join(odd), "odd").unwrap();
    let context = Tree::context("context", &from, Ignore::parse("*.log").unwrap()).unwrap();
    let mut request = empty(&context, &into);
    request.sources = vec![Source::Path(".".into())];
    let before = checksum(&request, None).unwrap();
    copy(&request).unwrap();
    assert_eq!(fs::read(into.join(odd)).unwrap(), b"odd");
    let other = std::ffi::OsStr::from_bytes(b"odd\xff\xfd\nname");
    fs::rename(from.join(odd), from.join(other)).unwrap();
    assert_ne!(checksum(&request, None).unwrap(), before);
}

#[test]
fn a_very_deep_folder_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    let deep = "d/".repeat(700);
    fs::create_dir_all(from.join(&deep)).unwrap();
    fs::write(from.join(&deep).join("end"), "x").unwrap();
    fs::create_dir(&into).unwrap();
    let context = Tree::context("context", &from, Ignore::default()).unwrap();
    let mut request = empty(&context, &into);
    request.sources = vec![Source::Path(".".into())];
    checksum(&request, None).unwrap();
    copy(&request).unwrap();
    assert_eq!(fs::read(into.join(&deep).join("end")).unwrap(), b"x");
}

#[test]
fn a_context_that_is_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), "x").unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    for name in ["f", "l", "nope"] {
        let got = Tree::context("context", &folder.path().join(name), Ignore::default());
        let e = got.unwrap_err().to_string();
        assert!(e.starts_with("failed to open the folder"), "{e}");
    }
}

/// What a change of a context does to its checksum.
#[test]
fn checksums_tell_what_counts() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    make(
        &from,
        "file d/a 644 0:0 a\nlink d/l a\ndir d/e 755 0:0\nfile log 644 0:0 l\n",
    );
    let cache = StatCache::open(&folder.path().join("kept"), &from);
    let sum = |source: &str| {
        let context = Tree::context("context", &from, Ignore::parse("log").unwrap()).unwrap();
        let mut request = empty(&context, Path::new("/nowhere"));
        request.sources = vec![Source::Path(source.into())];
        let plain = checksum(&request, None).unwrap();
        // the cache makes no difference
        for _ in 0..2 {
            assert_eq!(checksum(&request, Some(&cache)).unwrap(), plain);
        }
        plain
    };
    let (d, dot) = (sum("d"), sum("."));
    let same = || assert_eq!((sum("d"), sum(".")), (d.clone(), dot.clone()));
    let changed = |what: &str| assert_ne!(sum("d"), d, "{what}");
    fs::write(from.join("log"), "what is ignored counts for nothing").unwrap();
    let file = fs::File::open(from.join("d/a")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    std::os::unix::fs::chown(from.join("d/a"), Some(5), None).unwrap();
    same();
    make(&from, "file d/a 600 0:0 a\n");
    changed("a mode");
    make(&from, "file d/a 644 0:0 b\n");
    changed("content of the same length");
    make(&from, "file d/a 644 0:0 a\n");
    same();
    fs::remove_file(from.join("d/l")).unwrap();
    symlink("b", from.join("d/l")).unwrap();
    changed("a link's target");
    fs::remove_file(from.join("d/l")).unwrap();
    symlink("a", from.join("d/l")).unwrap();
    same();
    fs::rename(from.join("d/e"), from.join("d/f")).unwrap();
    changed("an empty folder's name");
    fs::rename(from.join("d/f"), from.join("d/e")).unwrap();
    same();
    cache.save().unwrap();
    let kept: Vec<_> = fs::read_dir(folder.path().join("kept"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(kept.len(), 1);
    // a damaged file is an empty cache
    let mut bytes = fs::read(kept[0].path()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(kept[0].path(), bytes).unwrap();
    let cache = StatCache::open(&folder.path().join("kept"), &from);
    let context = Tree::context("context", &from, Ignore::parse("log").unwrap()).unwrap();
    let mut request = empty(&context, Path::new("/nowhere"));
    request.sources = vec![Source::Path("d".into())];
    assert_eq!(checksum(&request, Some(&cache)).unwrap(), d);
}
