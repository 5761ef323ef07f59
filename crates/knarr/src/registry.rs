//! The registry as a part of the platform: where it listens, and for whom.

use crate::error::Error;
use clap::Args;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use knarr_registry::{Access, Anonymous, Auth, Options, Registry};
use kube::{Api, api::PostParams};
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    str::FromStr,
    sync::Arc,
};
use tokio::{net::TcpListener, task::JoinSet};

const PORT: u16 = 5000;
/// How long another program's port is left alone.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// An address, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    At(SocketAddr),
    Nowhere,
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "none" {
            return Ok(Listen::Nowhere);
        }
        let parsed = text.parse().map(Listen::At);
        parsed.map_err(|_| "expected ADDRESS:PORT, e.g. 127.0.0.1:5000, or none".into())
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::At(address) => address.fmt(f),
            Listen::Nowhere => f.write_str("none"),
        }
    }
}

const DEFAULT: Listen = Listen::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT));

#[derive(Args, Clone)]
#[command(next_help_heading = "Registry")]
pub struct RegistryArguments {
    /// Where the registry of this machine's images listens; none = nowhere
    #[arg(long, default_value_t = DEFAULT, value_name = "ADDRESS:PORT|none")]
    pub registry_listen: Listen,
    /// Who may use the registry: lines of `htpasswd -B`, and service accounts that may `get` or `create` the path /v2/.
    /// Needed when it listens on other addresses than loopback
    #[arg(long, value_name = "FILE")]
    pub registry_users: Option<PathBuf>,
    /// Users get a token with their password and show that, as with Docker Hub
    #[arg(long, requires = "registry_users")]
    pub registry_tokens: bool,
    /// Everybody may pull
    #[arg(long, requires = "registry_users")]
    pub registry_anonymous_pull: bool,
    /// A further name under which clients know the registry, with its port
    #[arg(long, value_name = "HOST:PORT")]
    pub registry_name: Vec<String>,
    /// Take manifests that refer to what has not been pushed
    #[arg(long)]
    pub registry_sparse: bool,
}

/// The registry's address: who may want it, and where it is noted for the other verbs.
pub struct Spot {
    pub place: knarr_gateway::Place,
    pub note: PathBuf,
}

impl Spot {
    fn holds(&self, address: Option<SocketAddr>) {
        let noted = match address {
            Some(at) => crate::paths::write_private(&self.note, at.to_string().as_bytes()),
            None => match std::fs::remove_file(&self.note) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::Failed(format!("{}: {e}", self.note.display())))
                }
                _ => Ok(()),
            },
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "where the registry listens is not noted");
        }
        self.place.holds(address);
    }
}

/// Where the registry of the platform that runs listens: its port is free for who publishes it.
pub fn gives_way(paths: &crate::paths::Paths) -> Option<SocketAddr> {
    paths.running()?;
    let noted = std::fs::read_to_string(paths.registry()).ok()?;
    noted.trim().parse().ok()
}

/// Serves at `address`, but not while that is published for somebody.
async fn attend(
    registry: Arc<Registry>,
    mut listener: TcpListener,
    at: SocketAddr,
    mut spot: Spot,
) {
    loop {
        spot.holds(Some(at));
        tokio::select! {
            () = knarr_registry::serve(listener, registry.router()) => return spot.holds(None),
            () = spot.place.until_wanted(at, true) => {}
        }
        spot.holds(None);
        tracing::info!("the registry leaves {at} to an app that publishes this port");
        listener = loop {
            spot.place.until_wanted(at, false).await;
            match TcpListener::bind(at).await {
                Ok(listener) => break listener,
                // What was published is being closed, or another program was faster.
                Err(error) => tracing::debug!(%error, "the registry does not listen on {at}"),
            }
            tokio::time::sleep(AGAIN).await;
        };
    }
}

/// Starts the registry. That its address is taken is no reason not to start the platform.
///
/// # Errors
/// When what was asked for would let strangers push, or the users can't be read.
pub async fn start(
    arguments: &RegistryArguments,
    images: knarr_image::ImageStore,
    api: kube::Client,
    spot: Spot,
    tasks: &mut JoinSet<()>,
) -> Result<(), Error> {
    spot.holds(None);
    let Listen::At(address) = arguments.registry_listen else {
        return Ok(());
    };
    let loopback = address.ip().is_loopback();
    if !loopback && arguments.registry_users.is_none() {
        return Err(Error::Platform(format!(
            "the registry would let everybody who reaches {address} push images: give its users with --registry-users FILE (made by `htpasswd -B -c FILE NAME`), or a loopback address"
        )));
    }
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                %error,
                "the registry does not listen on {address}: stop what holds it (`ss -ltnp sport = :{}` tells what), or choose another address with --registry-listen ADDRESS:PORT, or none, and start again",
                address.port()
            );
            return Ok(());
        }
    };
    let at = listener.local_addr().unwrap_or(address);
    let port = at.port();
    let mut hosts = vec![format!("localhost:{port}")];
    match address.ip() {
        any if any.is_unspecified() => hosts.push(format!("127.0.0.1:{port}")),
        one => hosts.push(SocketAddr::new(one, port).to_string()),
    }
    hosts.extend(arguments.registry_name.iter().cloned());
    let arguments = arguments.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let auth = match &arguments.registry_users {
            None => None,
            Some(file) => {
                let anonymous = match arguments.registry_anonymous_pull {
                    true => Anonymous::Pull,
                    false => Anonymous::Nothing,
                };
                let judge = Arc::new(Judge { api });
                let tokens = arguments.registry_tokens;
                let auth = Auth::open(file, anonymous, tokens, Some(judge))?;
                Some(Arc::new(auth))
            }
        };
        let options = Options {
            hosts,
            known_hosts_only: auth.is_none(),
            auth,
            sparse: arguments.registry_sparse,
            ..Options::default()
        };
        Registry::open(images, options)
    });
    let opened = opened.await.map_err(|e| Error::Failed(e.to_string()))?;
    let registry = opened.map_err(|e| Error::Platform(format!("registry: {e}")))?;
    tasks.spawn(registry.clone().collect_when_needed());
    tasks.spawn(attend(registry, listener, at, spot));
    Ok(())
}

/// Asks the API whose a token is, and whether its bearer may use the registry's paths.
struct Judge {
    api: kube::Client,
}

impl Judge {
    async fn ask(&self, token: &str) -> Option<Access> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_string(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.api.clone());
        let status = reviews
            .create(&PostParams::default(), &review)
            .await
            .ok()?
            .status?;
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        let mut access = None;
        for (verb, grants) in [("get", Access::Pull), ("create", Access::Push)] {
            let asked = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: user.username.clone(),
                    groups: user.groups.clone(),
                    uid: user.uid.clone(),
                    non_resource_attributes: Some(NonResourceAttributes {
                        path: Some("/v2/".into()),
                        verb: Some(verb.into()),
                    }),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let reviews: Api<SubjectAccessReview> = Api::all(self.api.clone());
            let answer = reviews.create(&PostParams::default(), &asked).await.ok()?;
            if answer.status.is_some_and(|status| status.allowed) {
                access = Some(grants);
            }
        }
        access
    }
}

impl knarr_registry::TokenReview for Judge {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Access>> + Send + 'a>> {
        Box::pin(self.ask(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_listens() {
        for (text, want) in [
            ("none", Some(Listen::Nowhere)),
            ("127.0.0.1:5000", Some(DEFAULT)),
            ("[::1]:0", Some(Listen::At("[::1]:0".parse().unwrap()))),
            ("5000", None),
            ("localhost:5000", None),
        ] {
            assert_eq!(text.parse().ok(), want, "{text}");
        }
        assert_eq!(DEFAULT.to_string(), "127.0.0.1:5000");
    }
}
