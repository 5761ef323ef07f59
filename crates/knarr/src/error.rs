//! What a command can fail with, and the exit code that says so.

/// Exit codes: 1 failed, 2 bad input, 3 the platform can't be reached or started, 4 not ready in time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's input: nothing was changed.
    #[error("{0}")]
    Input(String),
    #[error(transparent)]
    Compose(#[from] knarr_compose::Error),
    #[error(transparent)]
    Image(#[from] knarr_image::Error),
    #[error(transparent)]
    Registry(#[from] knarr_image::client::Error),
    /// The platform does not run, or can't be started here.
    #[error("{0}")]
    Platform(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    TimedOut(String),
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
    #[error("{context}: {source}")]
    Io {
        context: String,
        source: std::io::Error,
    },
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) | Error::Compose(_) => 2,
            Error::Platform(_) => 3,
            Error::TimedOut(_) => 4,
            Error::Api(kube::Error::Api(_))
            | Error::Failed(_)
            | Error::Image(_)
            | Error::Registry(_)
            | Error::Io { .. } => 1,
            Error::Api(_) => 3,
        }
    }
}

fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the platform does not answer: {other}; see `knarr status`"),
    }
}

/// `map_err(io("reading x"))`
pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let context = context.into();
    move |source| Error::Io { context, source }
}
