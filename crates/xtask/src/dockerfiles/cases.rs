//! The cases' file: `== name`, then lines that begin with a sign and a space, then the Dockerfile.

use anyhow::{Context, ensure};

#[derive(Default)]
pub struct Case {
    pub name: String,
    /// `$`: a shell's lines, run in the context's folder; `$SERVED` is the folder that is served.
    pub setup: String,
    /// `%`: flags, as a shell reads them.
    pub flags: String,
    /// `@`: the context, `.` without.
    pub context: String,
    /// `~`: part of a difference that is known.
    pub known: Vec<String>,
    /// `!times`: files' times count, too.
    pub times: bool,
    pub dockerfile: String,
}

pub fn read(text: &str) -> anyhow::Result<Vec<Case>> {
    let mut all: Vec<Case> = vec![];
    let mut head = true;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            let used = all.iter().any(|case| case.name == name);
            ensure!(!used, "two cases are {name:?}");
            all.push(Case {
                name: name.to_owned(),
                context: ".".into(),
                ..Case::default()
            });
            head = true;
            continue;
        }
        let Some(case) = all.last_mut() else {
            continue;
        };
        match line.split_once(' ').filter(|_| head) {
            Some(("$", rest)) => case.setup += &format!("{rest}\n"),
            Some(("%", rest)) => case.flags += &format!("{rest} "),
            Some(("@", rest)) => case.context = rest.into(),
            Some(("~", rest)) => case.known.push(rest.into()),
            _ if head && line == "!times" => case.times = true,
            _ => {
                head = false;
                case.dockerfile += line;
                case.dockerfile.push('\n');
            }
        }
    }
    for case in &mut all {
        // an empty line before the next case is none of the Dockerfile
        let kept = case.dockerfile.trim_end_matches('\n').len();
        let last = case.dockerfile.ends_with("\n\n") || kept == 0;
        case.dockerfile
            .truncate(kept + usize::from(kept > 0 && last));
        if kept > 0 && !last {
            case.dockerfile.push('\n');
        }
    }
    all.first().context("no cases")?;
    Ok(all)
}
