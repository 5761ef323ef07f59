use std::os::unix::fs::PermissionsExt;

use super::*;

/// A tree that looks like a machine's.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, AppArmor) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if text.starts_with("#!") {
            program(&path, text);
        } else {
            fs::write(&path, text).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let app_armor = AppArmor::below(dir.path());
    (dir, app_armor)
}

/// Written by another process: what this one has open for writing, processes that other tests start have open, too, until they
/// run their own programs, and so long it can't be run.
fn program(path: &Path, text: &str) {
    let mut cat = Command::new("sh")
        .args(["-c", "exec cat > \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(cat.wait().unwrap().success());
}

const ON: (&str, &str) = ("sys/module/apparmor/parameters/enabled", "Y\n");
const LIST: &str = "sys/kernel/security/apparmor/profiles";

#[test]
fn a_machine_has_it_or_not() {
    let off = ("sys/module/apparmor/parameters/enabled", "N\n");
    let list = (LIST, "");
    let parser = (PARSER, "#!/bin/sh\n");
    for (files, enabled, usable) in [
        (vec![], false, false),
        (vec![ON], false, false),
        (vec![list], false, false),
        (vec![off, list, parser], false, false),
        (vec![ON, list], true, false),
        (vec![ON, list, parser], true, true),
    ] {
        let (_dir, app_armor) = machine(&files);
        let got = (app_armor.enabled(), app_armor.usable());
        assert_eq!(got, (enabled, usable), "{files:?}");
    }
}

#[test]
fn profiles_are_found_by_their_whole_name() {
    let (_dir, app_armor) = machine(&[(LIST, "a (enforce)\nb c (complain)\n:ns://d (enforce)\n")]);
    for (name, there) in [
        ("a", true),
        ("b", false),
        ("b c", true),
        (":ns://d", true),
        ("a (enforce)", false),
        ("", false),
    ] {
        assert_eq!(app_armor.loaded(name).unwrap(), there, "{name:?}");
    }
    let (_dir, bare) = machine(&[]);
    assert!(bare.loaded("a").is_err(), "there is no list");
}

#[test]
fn the_default_profile_is_loaded_once_by_the_parser() {
    // it writes down how it was called and what it got, and is the kernel's list too
    let parser = r#"#!/bin/sh
here=${0%/sbin/*}
echo "$@" > $here/arguments
cat > $here/given
echo "cri-containerd.apparmor.d (enforce)" >> $here/sys/kernel/security/apparmor/profiles
"#;
    let (dir, app_armor) = machine(&[
        (LIST, "a (enforce)\n"),
        (PARSER, parser),
        ("etc/apparmor.d/tunables/global", ""),
        ("proc/self/attr/current", "knarr (enforce)\n"),
    ]);
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(app_armor.default_profile().unwrap(), DEFAULT_PROFILE);
    assert_eq!(read("arguments"), "-Kr\n");
    let given = read("given");
    for line in [
        "#include <tunables/global>",
        "profile cri-containerd.apparmor.d flags=(attach_disconnected,mediate_deleted) {",
        "signal (receive) peer=knarr,",
        "deny @{PROC}/sysrq-trigger rwklx,",
        "deny mount,",
    ] {
        assert!(given.lines().any(|l| l == line), "{line} in {given}");
    }
    assert!(!given.contains("abi <"), "the machine has none");
    fs::remove_file(dir.path().join("given")).unwrap();
    app_armor.default_profile().unwrap();
    assert!(!dir.path().join("given").exists(), "it was there already");
}

#[test]
fn what_the_parser_says_is_told() {
    let parser = "#!/bin/sh\necho 'AppArmor parser error: no' >&2\nexit 1\n";
    let (_dir, app_armor) = machine(&[(LIST, ""), (PARSER, parser)]);
    let error = app_armor.default_profile().unwrap_err().to_string();
    assert!(error.contains("AppArmor parser error: no"), "{error}");
    let (_dir, without) = machine(&[(LIST, "")]);
    let error = without.default_profile().unwrap_err().to_string();
    assert!(error.contains("apparmor_parser"), "{error}");
}

#[test]
fn a_process_is_told_through_the_file_that_its_kernel_has() {
    for (name, files) in [
        ("exec", vec!["exec"]),
        ("apparmor/exec", vec!["exec", "apparmor/exec"]),
    ] {
        let files: Vec<(&str, &str)> = files.into_iter().map(|f| (f, "")).collect();
        let (dir, _) = machine(&files);
        apply_at(dir.path(), "strict", false).unwrap();
        let got = fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(got, "exec strict");
        let fooled = apply_at(dir.path(), "strict", true).unwrap_err();
        assert_eq!(
            fooled,
            "apparmor failed to apply profile: /proc is not proc"
        );
    }
    let (dir, _) = machine(&[]);
    assert_eq!(
        apply_at(dir.path(), "strict", false).unwrap_err(),
        "apparmor failed to apply profile: no such file or directory"
    );
}

#[test]
fn a_label_is_the_name_without_its_mode() {
    for (current, want) in [
        ("", "unconfined"),
        ("unconfined\n", "unconfined"),
        ("my own (complain)\n", "my own"),
    ] {
        assert_eq!(label(current), want);
    }
}

#[test]
fn docker_users_words_are_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let without = AppArmor::below(dir.path());
    let words = |found: Result<String, AppArmorError>| found.map_err(|error| error.to_string());
    for (wanted, privileged, want) in [
        ("", false, Ok("")),
        ("docker-default", false, Ok("")),
        ("unconfined", false, Ok("")),
        (
            "mine",
            false,
            Err("AppArmor is not supported on this host, but the profile 'mine' was specified"),
        ),
    ] {
        let found = words(without.profile_for(wanted, privileged));
        let want = want.map(String::from).map_err(String::from);
        assert_eq!(found, want, "without: {wanted}");
    }
    for (path, text) in [
        ("sys/module/apparmor/parameters/enabled", "Y\n"),
        (
            "sys/kernel/security/apparmor/profiles",
            "mine (enforce)\ncri-containerd.apparmor.d (enforce)\n",
        ),
        ("sbin/apparmor_parser", ""),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    for (wanted, privileged, want) in [
        ("", false, Ok(DEFAULT_PROFILE)),
        ("docker-default", false, Ok(DEFAULT_PROFILE)),
        ("", true, Ok("")),
        ("unconfined", false, Ok("")),
        ("mine", false, Ok("mine")),
        ("mine", true, Ok("mine")),
        (
            "theirs",
            false,
            Err("AppArmor profile 'theirs' is not loaded: load it with apparmor_parser"),
        ),
    ] {
        let found = words(without.profile_for(wanted, privileged));
        let want = want.map(String::from).map_err(String::from);
        assert_eq!(found, want, "with: {wanted} {privileged}");
    }
}
