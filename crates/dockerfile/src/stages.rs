//! Instructions to stages.

use crate::{
    error::{Error, Result},
    instruction::{Arg, Command, Instruction},
    lines::{Lines, lines},
    read::{Read, read},
    words::Escape,
};

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// `ARG`s before the first `FROM`, each with its line.
    pub global: Vec<(usize, Arg)>,
    /// Stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// What escapes.
    pub escape: Escape,
    /// The lines that it was made of.
    pub source: Lines,
}

/// `FROM` and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// First line of the `FROM`, from 1.
    pub first: usize,
    /// Its last line.
    pub last: usize,
    /// Image or stage, with its variables.
    pub base: String,
    /// Name in lower case; "" for none.
    pub name: String,
    /// `--platform=`, with its variables.
    pub platform: Option<String>,
    /// The rest.
    pub instructions: Vec<Instruction>,
}

/// What a name in `FROM` or `--from` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An earlier stage, by its place.
    Stage(usize),
    /// Nothing at all.
    Scratch,
    /// An image, or a named context.
    Other(String),
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// The first mistake, with its lines.
    pub fn parse(text: &str) -> Result<Dockerfile> {
        let source = lines(text)?;
        let escape = source.escape;
        let (mut global, mut stages) = (vec![], Vec::<Stage>::new());
        for line in &source.lines {
            let wrong = |why: String| Error::new(line.first, line.last, why);
            let of_instruction = |w: crate::read::Wrong| Error {
                of_instruction: !w.elsewhere,
                ..wrong(w.why)
            };
            match read(line, escape).map_err(of_instruction)? {
                Read::From(from) => stages.push(Stage {
                    first: line.first,
                    last: line.last,
                    base: from.base,
                    name: from.name,
                    platform: from.platform,
                    instructions: vec![],
                }),
                Read::Command(command) => match (stages.last_mut(), command) {
                    (Some(stage), command) => stage.instructions.push(Instruction {
                        first: line.first,
                        last: line.last,
                        original: line.original.clone(),
                        command,
                    }),
                    (None, Command::Arg(all)) => {
                        global.extend(all.into_iter().map(|a| (line.first, a)));
                    }
                    (None, _) => return Err(wrong("no build stage in current context".into())),
                },
            }
        }
        if stages.is_empty() {
            let last = source.lines.last().map_or(1, |l| l.last);
            return Err(Error::new(
                last,
                last,
                "dockerfile contains no stages to build",
            ));
        }
        Ok(Dockerfile {
            global,
            stages,
            escape,
            source,
        })
    }

    /// What a `FROM` of stage `at` means, its variables replaced: a stage of that name before it, or something else.
    pub fn base(&self, name: &str, at: usize) -> Base {
        if name == "scratch" {
            return Base::Scratch;
        }
        match self.stage(name, at) {
            Some(stage) => Base::Stage(stage),
            None => Base::Other(name.to_owned()),
        }
    }
    /// What a `--from` in stage `at` means: a stage before it by name or number, or something else.
    ///
    /// # Errors
    /// The number of no stage before it.
    pub fn from(&self, name: &str, at: usize) -> std::result::Result<Base, String> {
        if let Ok(number) = name.parse::<usize>() {
            return if number < at {
                Ok(Base::Stage(number))
            } else {
                // SOURCE: dockerfile2llb findStateByIndex
                Err(format!("invalid stage index {number}"))
            };
        }
        Ok(self.base(name, at))
    }
    /// The stage that a build makes: by name, by number, the last.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn target(&self, name: Option<&str>) -> std::result::Result<usize, String> {
        let Some(name) = name else {
            return Ok(self.stages.len() - 1);
        };
        if let Some(found) = self.stage(name, self.stages.len()) {
            return Ok(found);
        }
        match name.parse::<usize>() {
            Ok(number) if number < self.stages.len() => Ok(number),
            _ => {
                let names = self.stages.iter().map(|s| s.name.as_str());
                let hint = crate::suggest::hint(name, names.filter(|n| !n.is_empty()));
                Err(format!("target stage {name:?} could not be found{hint}"))
            }
        }
    }
    /// First and last line of the instruction that begins at a line.
    pub(crate) fn lines_at(&self, line: usize) -> (usize, usize) {
        let found = self.source.lines.iter().find(|l| l.first == line);
        found.map_or((line, line), |l| (l.first, l.last))
    }
    /// The last stage of that name before `at`.
    fn stage(&self, name: &str, at: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.stages[..at]
            .iter()
            .rposition(|s| !s.name.is_empty() && s.name == name)
    }
}
