//! Command lines that can't be read. Of Docker's verbs it is told as Docker tells it: 125 for a flag, 1 for the number of
//! words; of our own as our other mistakes are.
//!
//! SOURCE: docker/cli `cli/cobra.go`, `cli/required.go`; spf13/pflag for the words

use clap::{
    Command, CommandFactory,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{error::Error as _, ffi::OsString};

/// What Docker's command line has, too. The code of its other mistakes is 1.
const DOCKERS: [&str; 14] = [
    "build",
    "container",
    "exec",
    "image",
    "inspect",
    "login",
    "logout",
    "logs",
    "network",
    "ps",
    "pull",
    "push",
    "run",
    "volume",
];

const FLAG: u8 = 125;
/// Docker's code of everything else.
const FAILED: u8 = 1;
const OUR_OWN: u8 = 2;

/// Whether the words are of a verb that Docker has.
pub fn is_dockers(words: &[OsString]) -> bool {
    let verb = super::verb(words).and_then(|verb| std::str::from_utf8(verb).ok());
    let containers = || {
        let after = words.iter().skip(super::verb_at(words).unwrap_or(0) + 1);
        after
            .into_iter()
            .any(|w| !w.as_encoded_bytes().starts_with(b"-"))
    };
    match verb {
        // alone it is about the platform
        Some("stop") => containers(),
        verb => verb.is_some_and(|verb| DOCKERS.contains(&verb)),
    }
}

/// Prints what is to be said of it (also help, which is no mistake); the exit code.
pub fn tell(error: &clap::Error, words: &[OsString]) -> u8 {
    let whole = super::Arguments::command();
    if !error.use_stderr() {
        let _ = error.print();
        return 0;
    }
    match is_dockers(words)
        .then(|| said(error, words, whole))
        .flatten()
    {
        None => {
            let _ = error.print();
            match is_dockers(words) {
                true => FAILED,
                false => OUR_OWN,
            }
        }
        // a group of verbs alone: its help, which was asked for
        Some((text, 0)) => {
            print!("{text}");
            0
        }
        Some((text, code)) => {
            eprintln!("{text}");
            code
        }
    }
}

/// An error that is about a word that looks like a flag and is none.
pub fn unknown(flag: &str) -> clap::Error {
    let mut error = clap::Error::new(ErrorKind::UnknownArgument);
    let flag = ContextValue::String(flag.to_string());
    error.insert(ContextKind::InvalidArg, flag);
    error
}

/// `-t=false` as `--tty=false`, when `-t` is a flag that is said or not.
pub fn long_form(words: &[OsString], word: &str) -> Option<String> {
    let (flag, value) = word.split_once('=')?;
    let mut letters = flag.strip_prefix('-')?.chars();
    let (letter, None) = (letters.next()?, letters.next()) else {
        return None;
    };
    let mut whole = super::Arguments::command();
    whole.build();
    let command = of(&whole, words);
    let switch = |a: &&clap::Arg| matches!(a.get_action(), clap::ArgAction::SetTrue);
    let mut all = command.get_arguments().filter(switch);
    let found = all.find(|a| a.get_short() == Some(letter))?;
    Some(format!("--{}={value}", found.get_long()?))
}

fn said(error: &clap::Error, words: &[OsString], mut whole: Command) -> Option<(String, u8)> {
    whole.build();
    let mut command = of(&whole, words);
    let name = command.get_bin_name().unwrap_or("knarr").to_string();
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(all)) => all.first().map(String::as_str),
        _ => None,
    };
    let about = text(ContextKind::InvalidArg).unwrap_or_default();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_string();
    let more = format!("\n\nUsage:  {usage}\n\nRun '{name} --help' for more information");
    let flag = about
        .starts_with('-')
        .then(|| about.split([' ', '=']).next().unwrap_or(about));
    Some(match (error.kind(), flag) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            (command.render_help().to_string(), 0)
        }
        (ErrorKind::MissingSubcommand, _) => (command.render_help().to_string(), 0),
        (ErrorKind::InvalidSubcommand, _) => {
            let verb = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            (
                format!("knarr: unknown command: {name} {verb}{more}"),
                FAILED,
            )
        }
        (ErrorKind::UnknownArgument, Some(flag)) => match flag.strip_prefix("--") {
            Some(_) => (format!("unknown flag: {flag}{more}"), FLAG),
            None => {
                // of several letters the first that is none
                let known = |c: char| command.get_arguments().any(|a| a.get_short() == Some(c));
                let letters = flag.trim_start_matches('-').trim_start_matches(known);
                let flag = format!("-{letters}");
                let letter = letters.chars().next().unwrap_or('-');
                (
                    format!("unknown shorthand flag: '{letter}' in {flag}{more}"),
                    FLAG,
                )
            }
        },
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(flag)) => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let long = flag.trim_start_matches('-');
            let found = command.get_arguments().find(|a| a.get_long() == Some(long));
            let letter = found.and_then(|a| a.get_short());
            let last = words.last().and_then(|w| w.to_str()).unwrap_or_default();
            if value.is_empty() && error.source().is_none() {
                let which = match letter.filter(|l| !last.starts_with("--") && last.ends_with(*l)) {
                    Some(letter) => format!("'{letter}' in {last}"),
                    None => flag.to_string(),
                };
                return Some((format!("flag needs an argument: {which}{more}"), FLAG));
            }
            let shown = match letter {
                Some(letter) => format!("-{letter}, {flag}"),
                None => flag.to_string(),
            };
            let why = match (error.source(), error.get(ContextKind::ValidValue)) {
                (Some(why), _) => why.to_string(),
                (None, Some(ContextValue::Strings(all))) => {
                    format!("must be one of {}", all.join(", "))
                }
                _ => "it can't be read".into(),
            };
            (
                format!("invalid argument {value:?} for {shown:?} flag: {why}{more}"),
                FLAG,
            )
        }
        (
            ErrorKind::UnknownArgument
            | ErrorKind::MissingRequiredArgument
            | ErrorKind::TooFewValues
            | ErrorKind::TooManyValues
            | ErrorKind::WrongNumberOfValues,
            None,
        ) => (format!("knarr: '{name}' {}{more}", arity(&command)), FAILED),
        _ => return None,
    })
}

/// The subcommand that the words lead to.
fn of(whole: &Command, words: &[OsString]) -> Command {
    let mut found = whole;
    let from = super::verb_at(words).unwrap_or(words.len());
    for word in words[from..].iter().filter_map(|w| w.to_str()) {
        if word.starts_with('-') {
            continue;
        }
        match found.find_subcommand(word) {
            Some(below) => found = below,
            None => break,
        }
    }
    found.clone()
}

/// How many words it wants.
fn arity(command: &Command) -> String {
    let (mut least, mut most) = (0, Some(0_usize));
    for word in command.get_positionals() {
        let range = word.get_num_args().unwrap_or(1.into());
        let many = matches!(word.get_action(), clap::ArgAction::Append);
        if word.is_required_set() {
            least += range.min_values().max(1);
        }
        let max = (!many && range.max_values() < usize::MAX).then(|| range.max_values());
        most = most.zip(max).map(|(a, b)| a + b);
    }
    let words = |n: usize| if n == 1 { "argument" } else { "arguments" };
    match most {
        Some(0) => "accepts no arguments".into(),
        Some(most) if most == least => format!("requires {least} {}", words(least)),
        Some(most) if least == 0 => format!("requires at most {most} {}", words(most)),
        Some(most) => format!("requires at least {least} and at most {most} arguments"),
        None => format!("requires at least {least} {}", words(least)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arguments, words};
    use super::*;

    #[test]
    fn what_is_said_of_mistakes() {
        for (line, code, wanted) in [
            (
                "knarr ps --nope",
                125,
                "unknown flag: --nope\n\nUsage:  knarr ps [OPTIONS]",
            ),
            ("knarr ps --nope=1", 125, "unknown flag: --nope\n"),
            (
                "knarr run --nope a:1",
                125,
                "unknown flag: --nope\n\nUsage:  knarr run",
            ),
            (
                "knarr run -itZ a:1",
                125,
                "unknown shorthand flag: 'Z' in -",
            ),
            (
                "knarr create --nope a:1",
                125,
                "unknown flag: --nope\n\nUsage:  knarr container create",
            ),
            (
                "knarr exec --nope web true",
                125,
                "unknown flag: --nope\n\nUsage:  knarr exec",
            ),
            (
                "knarr exec -Z web true",
                125,
                "unknown shorthand flag: 'Z' in -Z",
            ),
            (
                "knarr run --memory x a:1",
                125,
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'\n",
            ),
            (
                "knarr run --cpus=x a:1",
                125,
                "invalid argument \"x\" for \"--cpus\" flag: ",
            ),
            (
                "knarr run --memory",
                125,
                "flag needs an argument: --memory\n",
            ),
            ("knarr run -e", 125, "flag needs an argument: 'e' in -e\n"),
            (
                "knarr inspect --type nope x",
                125,
                "invalid argument \"nope\" for \"--type\" flag: must be one of container, ",
            ),
            (
                "knarr ps extra",
                1,
                "knarr: 'knarr ps' accepts no arguments\n",
            ),
            (
                "knarr rm",
                1,
                "knarr: 'knarr container rm' requires at least 1 argument\n",
            ),
            (
                "knarr run",
                1,
                "knarr: 'knarr run' requires at least 1 argument\n",
            ),
            (
                "knarr exec web",
                1,
                "knarr: 'knarr exec' requires at least 2 arguments\n",
            ),
            (
                "knarr rename a",
                1,
                "knarr: 'knarr container rename' requires 2 arguments\n",
            ),
            (
                "knarr images a b",
                1,
                "knarr: 'knarr image ls' requires at most 1 argument\n",
            ),
            (
                "knarr network create",
                1,
                "knarr: 'knarr network create' requires 1 argument\n",
            ),
            (
                "knarr network nope",
                1,
                "knarr: unknown command: knarr network nope\n",
            ),
            (
                "knarr --data-dir run run --nope a:1",
                125,
                "unknown flag: --nope\n",
            ),
            (
                "knarr stop -t x web",
                125,
                "invalid argument \"x\" for \"-t, --time\" flag: ",
            ),
            ("knarr container", 0, "Usage: knarr container "),
        ] {
            let words = words(line.split(' ').map(OsString::from));
            let Err(error) = Arguments::read(&words) else {
                panic!("{line}: it can be read");
            };
            let (text, got) = said(&error, &words, Arguments::command())
                .unwrap_or_else(|| panic!("{line}: {error}"));
            assert!(text.contains(wanted), "{line}: {text}");
            assert_eq!(got, code, "{line}");
            assert!(is_dockers(&words), "{line}");
        }
        for line in [
            "knarr stop --nope",
            "knarr up --nope",
            "knarr up run --nope",
            "knarr compose run --nope",
            "knarr",
            "knarr --data-dir run up",
        ] {
            let words = words(line.split(' ').map(OsString::from));
            assert!(!is_dockers(&words), "{line}");
        }
    }
}
