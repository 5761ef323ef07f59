//! What `FROM` and `--from` can't name.

use crate::{
    error::{Error, Result},
    instruction::Command,
    scope::Scope,
    stages::{Base, Dockerfile},
};

/// Why a name is no image's, None when it is one. `is_reference` knows the grammar.
///
/// SOURCE: distribution/reference ParseNormalizedNamed
pub fn bad_reference(name: &str, is_reference: impl Fn(&str) -> bool) -> Option<String> {
    if is_reference(name) {
        return None;
    }
    let path = name.split('@').next().unwrap_or(name);
    // what a tag may follow
    let last = path.rfind('/').map_or(0, |at| at + 1);
    let path = match path[last..].find(':') {
        Some(at) => &path[..last + at],
        None => path,
    };
    let why = match path.chars().any(char::is_uppercase) {
        true => {
            let library = if path.contains('/') { "" } else { "library/" };
            format!(": repository name ({library}{path}) must be lowercase")
        }
        false => String::new(),
    };
    Some(format!(
        "failed to parse stage name {name:?}: invalid reference format{why}"
    ))
}

/// All stages have a base, and none of `stages` one that can't be.
///
/// # Errors
/// The first that has not, in BuildKit's words.
pub(crate) fn named(file: &Dockerfile, global: &Scope, stages: &[usize]) -> Result<()> {
    let mut bases = vec![];
    for stage in &file.stages {
        let wrong = |e| Error::words(stage.first, stage.last, &e);
        let base = global.expand(&stage.base, file.escape).map_err(wrong)?;
        if base.text.is_empty() {
            let why = format!("base name ({}) should not be blank", stage.base);
            return Err(Error::new(stage.first, stage.last, why));
        }
        bases.push(base.text);
    }
    for instruction in file.stages.iter().flat_map(|s| &s.instructions) {
        if let Command::Copy(copy) = &instruction.command
            && copy.from.as_ref().is_some_and(|from| from.contains('$'))
        {
            let why = "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround";
            return Err(Error::new(0, 0, why));
        }
    }
    for &at in stages {
        let stage = &file.stages[at];
        if let Base::Other(name) = file.base(&bases[at], at)
            && let Some(why) = bad_reference(&name, crate::checks::reference)
        {
            return Err(Error::new(stage.first, stage.last, why));
        }
    }
    Ok(())
}
