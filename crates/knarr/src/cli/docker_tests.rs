//! The command line against Docker's: `docker_flags.txt` has every flag of Docker's verbs (CLI 28), and whether it is here.

use super::*;

const FLAGS: &str = include_str!("docker_flags.txt");

/// The subcommand that these words lead to.
fn command(words: &str) -> clap::Command {
    let all = std::iter::once("knarr").chain(words.split(' '));
    let written_out = super::words(all.map(OsString::from));
    let mut found = Arguments::command();
    found.build();
    for word in &written_out[1..] {
        let word = word.to_str().unwrap();
        let below = found.find_subcommand(word);
        found = below
            .unwrap_or_else(|| panic!("{words}: no {word}"))
            .clone();
    }
    found
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
    ExecAlone::command().debug_assert();
    go_flags(Arguments::command()).debug_assert();
}

#[test]
fn dockers_flags_are_here() {
    let mut wrong = Vec::new();
    for line in FLAGS.lines().filter(|l| !l.starts_with('#')) {
        let [verb, short, long, kind, here] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let command = command(verb);
        let name = long.trim_start_matches("--");
        let found = command.get_arguments().find(|a| {
            a.get_long() == Some(name) || a.get_all_aliases().is_some_and(|all| all.contains(&name))
        });
        let Some(found) = found else {
            if here == "yes" {
                wrong.push(format!("{line}: there is none"));
            }
            continue;
        };
        if here != "yes" {
            wrong.push(format!("{line}: it is there"));
        }
        let letter = short.chars().nth(1);
        let letters = found.get_short_and_visible_aliases().unwrap_or_default();
        if letter.is_some_and(|l| !letters.contains(&l)) {
            wrong.push(format!("{line}: it is {letters:?}"));
        }
        let takes =
            found.get_action().takes_values() && found.get_num_args() != Some((0..=1).into());
        if takes != (kind == "value") {
            wrong.push(format!("{line}: with a value: {takes}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn short_verbs_and_flags_with_values() {
    let read = |line: &str| {
        let words = words(line.split(' ').map(OsString::from));
        Arguments::read(&words)
            .map(|a| a.verb)
            .map_err(|e| e.to_string())
    };
    for line in [
        "knarr images -q",
        "knarr rmi -f a:1 b:1",
        "knarr rm -fv web",
        "knarr --data-dir /x start -ai web",
        "knarr container run --rm a:1",
        "knarr logs -fn 10 web",
        "knarr logs --tail all --since 10m web",
        "knarr exec -itu root -e A=b -w / web sh",
        "knarr exec -t=false web sh",
        "knarr run --rm=true --tty=false --init=1 a:1 --rm=maybe",
        "knarr run --name a --name b a:1",
        "knarr ps -aqf name=web --no-trunc=false",
    ] {
        let read = read(line);
        assert!(read.is_ok(), "{line}: {}", read.err().unwrap());
    }
    match read("knarr run --rm=true -i --tty=false --read-only=0 a:1 sh --rm=no").unwrap() {
        Verb::Run(a) => {
            assert_eq!(
                (a.rm, a.interactive, a.tty, a.read_only),
                (true, true, false, false)
            );
            assert_eq!(
                (a.image(), a.command()),
                ("a:1", &["sh".to_string(), "--rm=no".into()][..])
            );
        }
        _ => panic!("another verb"),
    }
    match read("knarr exec -t=false -i=1 web sh -t=true").unwrap() {
        Verb::Exec(a) => assert_eq!(
            a.command_line().unwrap(),
            ("web", &["sh".to_string(), "-t=true".into()][..])
        ),
        _ => panic!("another verb"),
    }
    assert!(read("knarr ps --all=maybe").is_err());
}
