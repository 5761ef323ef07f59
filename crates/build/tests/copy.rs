//! `COPY` and `ADD` by a table of cases: what is there before, the instructions, the tree that comes of it.

#[allow(dead_code)]
mod copying;

use copying::{carry_out, cases, make, tree, trees};

fn check(name: &str, text: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make files of other owners: run them as root"
    );
    let cases = cases(text);
    assert!(!cases.is_empty(), "{name} holds no case");
    let mut wrong = vec![];
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let (context, from) = trees(case, folder.path());
        let image = folder.path().join("image");
        std::fs::create_dir(&image).unwrap();
        make(&image, case.get("image"));
        let got = match carry_out(case, &context, &from, &image) {
            Ok(_) => tree(&image),
            Err(e) => format!("error: {e}"),
        };
        let want = match case.sections.get("error") {
            Some(error) => format!("error: {}", error.trim()),
            None => case.get("tree").trim().to_owned(),
        };
        if got.trim() != want {
            wrong.push(format!(
                "== {}\n-- wanted\n{want}\n-- got\n{got}\n",
                case.name
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn copies_as_buildkit_does() {
    check("copy.txt", include_str!("data/copy.txt"));
}

/// A copy of `setup`'s files to `/x/`; gives the destination's root.
fn copied(
    setup: impl FnOnce(&std::path::Path),
    change: impl FnOnce(&mut knarr_build::copy::CopyRequest<'_>),
) -> tempfile::TempDir {
    use knarr_build::copy::{Source, Tree, copy};
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&into).unwrap();
    setup(&from);
    let tree = Tree::context("context", &from, knarr_dockerfile::Ignore::default()).unwrap();
    let mut request = copying::empty(&tree, &into);
    request.sources = vec![Source::Path("d".into())];
    request.destination = "/x/".into();
    change(&mut request);
    copy(&request).unwrap();
    folder
}

#[test]
fn times_and_attributes_are_kept() {
    use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
    use std::time::{Duration, UNIX_EPOCH};
    let then = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    // cap_net_bind_service, effective and permitted, as the kernel stores it
    let capability = [
        1_u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let setup = |from: &std::path::Path| {
        make(
            from,
            "file d/a 755 0:0 a\ndir d/sub 755 0:0\nfile d/h 644 0:0 h\nhard d/h2 d/h\n",
        );
        for (name, key, value) in [
            ("d/a", "security.capability", &capability[..]),
            ("d/a", "user.own", b"file"),
            ("d/sub", "user.own", b"folder"),
            ("d/h", "user.own", b"link"),
        ] {
            lsetxattr(from.join(name), key, value, XattrFlags::empty()).unwrap();
        }
        for name in ["d/a", "d/h", "d/sub", "d"] {
            std::fs::File::open(from.join(name))
                .unwrap()
                .set_modified(then)
                .unwrap();
        }
    };
    let folder = copied(setup, |_| {});
    let into = folder.path().join("into/x");
    for name in ["a", "h", "h2", "sub", "."] {
        let modified = std::fs::metadata(into.join(name))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(modified, then, "{name}");
    }
    let xattr = |name: &str, key: &str| {
        let mut value = [0_u8; 64];
        let size = lgetxattr(into.join(name), key, &mut value[..]);
        size.map(|size| value[..size].to_vec()).unwrap_or_default()
    };
    assert_eq!(xattr("a", "security.capability"), capability);
    assert_eq!(xattr("a", "user.own"), b"file");
    assert_eq!(xattr("sub", "user.own"), b"folder");
    assert_eq!(xattr("h2", "user.own"), b"link");

    // times that are given count for folders that are made, too
    let folder = copied(setup, |request| {
        request.times = Some(7);
        request.destination = "/new/x/".into();
    });
    let into = folder.path().join("into/new");
    for name in [".", "x", "x/a", "x/sub"] {
        let modified = std::fs::metadata(into.join(name))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(modified, UNIX_EPOCH + Duration::from_secs(7), "{name}");
    }
}

#[test]
fn many_files_are_copied_as_one_is() {
    let setup = |from: &std::path::Path| {
        for folder in 0..20 {
            let folder = from.join(format!("d/{folder}"));
            std::fs::create_dir_all(&folder).unwrap();
            for file in 0..300 {
                std::fs::write(folder.join(file.to_string()), format!("{file}")).unwrap();
            }
        }
    };
    let folder = copied(setup, |_| {});
    let (from, into) = (folder.path().join("from/d"), folder.path().join("into/x"));
    assert_eq!(tree(&from), tree(&into));
}
