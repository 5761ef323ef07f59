//! A build gone through without its steps: what is wrong in the last line of a Dockerfile is told before the first command
//! runs. BuildKit does so too, for it makes its graph of the whole file first.

use std::collections::HashMap;

use knarr_dockerfile::{Base, Command};

use crate::{
    error::Error,
    graph::{Graph, Outer},
    instructions::At,
    request::NamedContext,
    state::State,
};

impl Graph<'_> {
    /// Expands and checks all that the target's stages say. The images that they begin with are known already.
    ///
    /// # Errors
    /// The first mistake, at its lines.
    pub(crate) async fn rehearse(&self) -> Result<(), Error> {
        let mut states: HashMap<usize, State> = HashMap::new();
        // a stage begins with an earlier one
        for stage in self.needed()? {
            let Some(mut state) = self.beginning(stage, &states).await? else {
                continue;
            };
            let all = self.with_triggers(stage, &mut state)?;
            self.with_path(&mut state)?;
            let mut has_cmd = false;
            for (instruction, _) in &all {
                let at = At {
                    instruction,
                    stage,
                    prefix: String::new(),
                    no_cache: false,
                };
                match &instruction.command {
                    Command::Workdir(path) => drop(self.workdir_of(&at, &mut state, path)?),
                    Command::Run(run) => drop(self.run_asked(&at, &state, run)?),
                    Command::Copy(_) | Command::Add(_) => drop(self.spelled(&at, &state)?),
                    _ => self.said(&at, &mut state, &mut has_cmd)?,
                }
            }
            states.insert(stage, state);
        }
        Ok(())
    }

    /// What a stage begins with; None where that is known only when it is made.
    async fn beginning(
        &self,
        at: usize,
        states: &HashMap<usize, State>,
    ) -> Result<Option<State>, Error> {
        let stage = &self.file.stages[at];
        if self.context_named(&stage.name).is_some() {
            return Ok(None);
        }
        let name = self.base_name(stage)?;
        Ok(match self.file.base(&name, at) {
            Base::Scratch => Some(State::scratch(&self.build.target)),
            Base::Stage(number) => states.get(&number).cloned(),
            Base::Other(name) => {
                let image = match self.context_named(&name) {
                    None | Some(NamedContext::Image(_) | NamedContext::Layout { .. }) => true,
                    Some(_) => false,
                };
                if !image {
                    return Ok(None);
                }
                let found = self.outer(&name, &self.platform(stage)?).await;
                match &*found.map_err(|e| self.no_base(stage, &name, e))? {
                    Outer::State(state) => Some((**state).clone()),
                    Outer::Folder(_) => None,
                }
            }
        })
    }
}
