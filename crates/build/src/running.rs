//! The container of a `RUN` and the sandbox that it is in: made, and taken away whatever becomes of the step.

use std::sync::Arc;

use knarr_runtime::{Runtime, SandboxSpec};
use tokio::task::JoinHandle;

use crate::{error::Error, network::Networks};

/// A container with its sandbox; dropped before its end, both are removed in the background.
pub(crate) struct Running {
    runtime: Runtime,
    networks: Option<Arc<dyn Networks>>,
    id: Option<String>,
    /// Makes the sandbox. A task of its own, which goes on when the step is canceled: what removes the sandbox waits for it.
    making: Option<JoinHandle<Result<(), Error>>>,
}

async fn remove(runtime: &Runtime, networks: Option<&dyn Networks>, id: &str) -> Result<(), Error> {
    runtime.delete(id).await?;
    runtime.delete_sandbox(id).await?;
    if let Some(networks) = networks {
        let gone = networks.disconnect(id).await;
        gone.map_err(|why| Error::Request(format!("the network of RUN: {why}")))?;
    }
    Ok(())
}

impl Running {
    /// Begins to make the sandbox with its network. It has the id of the container that it is for.
    pub(crate) fn begin(
        runtime: Runtime,
        networks: Option<Arc<dyn Networks>>,
        sandbox: SandboxSpec,
    ) -> Running {
        let id = sandbox.id.clone();
        let making = {
            let (runtime, networks) = (runtime.clone(), networks.clone());
            tokio::spawn(async move {
                let id = sandbox.id.clone();
                let made = runtime.create_sandbox(sandbox).await?;
                if let (Some(networks), Some(namespace)) = (networks, &made.netns) {
                    let connected = networks.connect(&id, namespace).await;
                    connected
                        .map_err(|why| Error::Request(format!("the network of RUN: {why}")))?;
                }
                Ok(())
            })
        };
        Running {
            runtime,
            networks,
            id: Some(id),
            making: Some(making),
        }
    }

    /// Waits for the sandbox.
    pub(crate) async fn begun(&mut self) -> Result<(), Error> {
        let Some(making) = &mut self.making else {
            return Ok(());
        };
        let made = making.await;
        self.making = None;
        made.unwrap_or_else(|e| Err(Error::Request(format!("the sandbox of RUN: {e}"))))
    }

    pub(crate) async fn end(&mut self) -> Result<(), Error> {
        if let Some(id) = &self.id {
            remove(&self.runtime, self.networks.as_deref(), id).await?;
            self.id = None;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (Some(id), Ok(handle)) = (self.id.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (runtime, networks) = (self.runtime.clone(), self.networks.clone());
        let making = self.making.take();
        handle.spawn(async move {
            if let Some(making) = making {
                let _ = making.await; // whatever came of it, it is taken away
            }
            if let Err(e) = remove(&runtime, networks.as_deref(), &id).await {
                tracing::warn!("the container of a canceled step cannot be removed: {e}");
            }
        });
    }
}
