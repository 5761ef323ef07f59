//! What makes containers: `up`, `create`, `scale`.

use std::time::Duration;

use clap::Args;

use super::{
    Asked, PlainUp,
    containers::{Container, containers},
    life::{StopArguments, stop},
    logs, oneoff, words,
};
use crate::{error::Error, up};

#[derive(Args)]
pub struct UpArguments {
    services: Vec<String>,
    /// Return when all is up
    #[arg(short, long)]
    detach: bool,
    /// The same: return when all is up and ready
    #[arg(long)]
    wait: bool,
    /// Build images anew though they are here
    #[arg(long)]
    build: bool,
    /// Build nothing
    #[arg(long)]
    no_build: bool,
    /// Replace containers though nothing has changed
    #[arg(long)]
    force_recreate: bool,
    /// So many containers of a service; may be repeated
    #[arg(long, value_name = "SERVICE=NUMBER", value_parser = up::scaled)]
    scale: Vec<(String, i64)>,
    /// Without what the services depend on
    #[arg(long)]
    no_deps: bool,
    /// Ask registries for images: always, missing, never
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never", "build", "policy"])]
    pull: Option<String>,
    /// Give up when it isn't ready after so many seconds
    #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = crate::cli::seconds)]
    wait_timeout: u64,
    /// Stop all as soon as one container has ended
    #[arg(long)]
    abort_on_container_exit: bool,
    /// Stop all as soon as one container has failed
    #[arg(long)]
    abort_on_container_failure: bool,
    /// Run this service to its end, stop all then, and end with its code
    #[arg(long, value_name = "SERVICE")]
    exit_code_from: Option<String>,
    /// Make everything, and start nothing
    #[arg(long)]
    no_start: bool,
    /// Show only what these services write; may be repeated
    #[arg(long, value_name = "SERVICE")]
    attach: Vec<String>,
    /// Don't show what this service writes; may be repeated
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Bring changes of files into the running containers
    #[arg(short, long)]
    watch: bool,
    /// Without colours
    #[arg(long)]
    no_color: bool,
    /// Without the containers' names
    #[arg(long)]
    no_log_prefix: bool,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Show what the services' dependencies write, too
    #[arg(long)]
    attach_dependencies: bool,
    /// Leave containers that are there as they are, though the file has changed
    #[arg(long)]
    no_recreate: bool,
    /// Replace what the named services depend on, too, though nothing has changed
    #[arg(long)]
    always_recreate_deps: bool,
    /// Begin volumes without a name anew, instead of handing them on
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// Seconds until what does not end is killed, when all is stopped at the end
    #[arg(short = 't', long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Taken for the fingers' sake
    #[arg(long, hide = true)]
    remove_orphans: bool,
    #[arg(long, hide = true)]
    quiet_pull: bool,
    #[arg(long, hide = true)]
    quiet_build: bool,
    #[arg(short = 'y', long, hide = true)]
    yes: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    menu: Option<Option<String>>,
}

impl UpArguments {
    /// Flags that exclude each other, in Compose's words.
    ///
    /// Source: docker/compose `cmd/compose/up.go` validateFlags.
    fn check(&mut self) -> Result<(), Error> {
        if self.exit_code_from.is_some() && !self.abort_on_container_failure {
            self.abort_on_container_exit = true;
        }
        let attaches = self.attach_dependencies || !self.attach.is_empty();
        let ends = self.abort_on_container_exit || self.abort_on_container_failure;
        for (wrong, told) in [
            (
                self.abort_on_container_exit && self.abort_on_container_failure,
                "--abort-on-container-failure cannot be combined with --abort-on-container-exit",
            ),
            (
                self.wait && (attaches || self.abort_on_container_exit),
                "--wait cannot be combined with --abort-on-container-exit, --attach or --attach-dependencies",
            ),
            (
                self.build && self.no_build,
                "--build and --no-build are incompatible",
            ),
            (
                self.wait && (ends || self.watch),
                "--wait cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch",
            ),
            (
                self.detach && (attaches || ends || self.watch),
                "--detach cannot be combined with --abort-on-container-exit, --abort-on-container-failure, --attach, --attach-dependencies or --watch",
            ),
            (
                self.renew_anon_volumes && self.no_recreate,
                "--no-recreate and --renew-anon-volumes are incompatible",
            ),
            (
                self.force_recreate && self.no_recreate,
                "--force-recreate and --no-recreate are incompatible",
            ),
            (
                self.always_recreate_deps && self.no_recreate,
                "--always-recreate-deps and --no-recreate are incompatible",
            ),
            (
                self.no_build && self.watch,
                "--no-build and --watch are incompatible",
            ),
            (
                !self.attach.is_empty() && self.attach_dependencies,
                "cannot combine --attach and --attach-dependencies",
            ),
        ] {
            if wrong {
                return Err(Error::Input(told.into()));
            }
        }
        Ok(())
    }

    /// The services whose words are shown.
    ///
    /// Source: docker/compose `cmd/compose/up.go` runUp.
    fn shown(&self, project: &knarr_compose::Project) -> Result<Vec<String>, Error> {
        let mut brought = project.clone();
        let dependencies = self.attach_dependencies || !self.attach.is_empty();
        let chosen = brought.select(&self.services, dependencies);
        chosen.map_err(|name| Error::Input(format!("no such service: {name}")))?;
        let there = &brought.services;
        let unknown = self.attach.iter().filter(|s| !there.contains_key(*s));
        let unknown: Vec<&str> = unknown.map(String::as_str).collect();
        if !unknown.is_empty() {
            return Err(Error::Input(format!(
                "cannot attach to services not included in up: {}",
                unknown.join(", ")
            )));
        }
        // Who shares another's Pod is brought up with it, and was not asked for.
        let named = |s: &&knarr_compose::Service| {
            dependencies || self.services.is_empty() || self.services.contains(&s.name)
        };
        let all = there.values().filter(named);
        let wanted = all.filter(|s| match self.attach.is_empty() {
            true => s.attach,
            false => self.attach.contains(&s.name),
        });
        let names = wanted.map(|s| s.name.clone());
        Ok(names.filter(|n| !self.no_attach.contains(n)).collect())
    }
}

/// A plain `knarr up` of these services.
pub fn plain(asked: &Asked<'_>, services: &[String]) -> PlainUp {
    let words = words(&asked.arguments, services);
    let mut plain = PlainUp::of(&asked.arguments, words, false);
    plain.force_recreate = false;
    plain.no_deps = false;
    plain
}

pub async fn up(asked: &Asked<'_>, mut a: UpArguments) -> Result<u8, Error> {
    a.check()?;
    let mut services = a.services.clone();
    // A service that is named is switched on, whatever its profile.
    let project = match services.is_empty() {
        true => asked.read()?,
        false => asked.read_all()?,
    };
    let shown = a.shown(&project)?;
    if let Some(name) = &a.exit_code_from {
        if !project.services.contains_key(name) {
            return Err(Error::Input(format!("no such service: {name}")));
        }
        if services.is_empty() {
            services.extend(project.services.keys().cloned());
        }
        services.retain(|s| s != name);
    }
    let mut plain = plain(asked, &services);
    plain.build = a.build;
    plain.no_build = a.no_build;
    plain.force_recreate = a.force_recreate;
    plain.no_recreate = a.no_recreate;
    plain.always_recreate_deps = a.always_recreate_deps;
    plain.renew_anon_volumes = a.renew_anon_volumes;
    plain.scale = a.scale.clone();
    plain.no_deps = a.no_deps;
    plain.pull = match a.pull.as_deref() {
        Some("build") => {
            plain.build = true;
            None
        }
        Some("policy") => None,
        other => other.map(String::from),
    };
    plain.timeout = a.wait_timeout;
    plain.no_start = a.no_start;
    let mut options = logs::Follow {
        prefix: !a.no_log_prefix,
        color: !a.no_color,
        timestamps: a.timestamps,
        exits: true,
        places: super::lines::Places::ours(),
        until: match () {
            () if a.abort_on_container_exit && a.exit_code_from.is_none() => logs::Until::AnyEnds,
            () if a.abort_on_container_failure => logs::Until::AnyFails,
            () => logs::Until::Interrupted,
        },
        ..logs::Follow::default()
    };
    if options.until != logs::Until::Interrupted {
        let code = to_the_first_end(asked, plain, &shown, &mut options).await?;
        return ending(asked, a.timeout, code).await;
    }
    let alone = a.exit_code_from.is_some() && services.is_empty();
    if !alone {
        let done = up::run(asked.paths, plain).await?;
        if a.detach || a.wait || a.no_start || done != 0 {
            return Ok(done);
        }
    }
    if a.watch {
        let mut watch = crate::watch::WatchArguments::of(
            &asked.arguments,
            words(&asked.arguments, &a.services),
        );
        watch.no_up = true;
        return crate::watch::run(asked.paths, watch).await;
    }
    let target = asked.target().await?;
    let code = match &a.exit_code_from {
        None => tokio::select! {
            code = logs::follow(&target, &shown, &options) => code?,
            () = crate::wiring::until_signal() => 130,
        },
        Some(name) => {
            let last = oneoff::to_its_end(asked, name);
            let others = logs::follow(&target, &shown, &options);
            tokio::select! {
                code = last => code?,
                code = others => code?,
                () = crate::wiring::until_signal() => 130,
            }
        }
    };
    ending(asked, a.timeout, code).await
}

/// How long an end that `up` has seen may take to be told of.
const END_IS_TOLD: Duration = Duration::from_secs(60);

/// Brings all up, and shows what is written until the first container has ended that ends it all, be it while the others
/// are still coming up.
async fn to_the_first_end(
    asked: &Asked<'_>,
    plain: PlainUp,
    shown: &[String],
    options: &mut logs::Follow,
) -> Result<u8, Error> {
    crate::connect::ensure(asked.paths).await?;
    let target = asked.target().await?;
    let before = containers(&target, &[]).await?;
    let ended = before.iter().filter(|c| !c.is_running());
    options.old = ended.map(Container::id).collect();
    let (made, coming) = tokio::sync::watch::channel(true);
    options.coming = Some(coming);
    let mut follow = std::pin::pin!(logs::follow(&target, shown, options));
    tokio::select! {
        code = &mut follow => return code,
        done = up::run(asked.paths, plain) => match done {
            Ok(0) => drop(made.send(false)),
            Ok(other) => return Ok(other),
            Err(error) => {
                let mut now = containers(&target, shown).await?;
                now.retain(|c| !options.old.contains(&c.id()));
                if logs::end(&now, options.until).is_none() {
                    return Err(error);
                }
                // What it failed of is the end that is waited for.
                let told = tokio::time::timeout(END_IS_TOLD, follow).await;
                return told.unwrap_or(Err(error));
            }
        },
    }
    tokio::select! {
        code = follow => code,
        () = crate::wiring::until_signal() => Ok(130),
    }
}

/// Stops all, and passes the code on.
async fn ending(asked: &Asked<'_>, timeout: Option<u32>, code: u8) -> Result<u8, Error> {
    eprintln!("Gracefully Stopping...");
    let all = StopArguments {
        services: vec![],
        timeout,
    };
    stop(asked, all).await?;
    Ok(code)
}

#[derive(Args)]
pub struct CreateArguments {
    services: Vec<String>,
    /// Build images anew though they are here
    #[arg(long)]
    build: bool,
    /// Build nothing
    #[arg(long)]
    no_build: bool,
    /// Replace containers though nothing has changed
    #[arg(long)]
    force_recreate: bool,
    /// When registries are asked for images
    #[arg(long, value_name = "POLICY", value_parser = ["always", "missing", "never", "build"])]
    pull: Option<String>,
    /// So many containers of a service
    #[arg(long, value_name = "SERVICE=NUMBER", value_parser = up::scaled)]
    scale: Vec<(String, i64)>,
    #[arg(long, hide = true)]
    remove_orphans: bool,
    #[arg(long, hide = true)]
    no_recreate: bool,
    #[arg(long, hide = true)]
    quiet_pull: bool,
    #[arg(short = 'y', long, hide = true)]
    yes: bool,
}

pub async fn create(asked: &Asked<'_>, a: CreateArguments) -> Result<u8, Error> {
    let mut plain = plain(asked, &a.services);
    plain.build = a.build || a.pull.as_deref() == Some("build");
    plain.no_build = a.no_build;
    plain.force_recreate = a.force_recreate;
    plain.pull = a.pull.filter(|p| p != "build");
    plain.scale = a.scale;
    plain.no_start = true;
    up::run(asked.paths, plain).await
}

#[derive(Args)]
pub struct ScaleArguments {
    #[arg(required = true, value_name = "SERVICE=NUMBER", value_parser = up::scaled)]
    services: Vec<(String, i64)>,
    /// Without what the services depend on
    #[arg(long)]
    no_deps: bool,
}

pub async fn scale(asked: &Asked<'_>, a: ScaleArguments) -> Result<u8, Error> {
    let names: Vec<String> = a.services.iter().map(|(s, _)| s.clone()).collect();
    let mut plain = plain(asked, &names);
    plain.scale = a.services;
    plain.no_deps = a.no_deps;
    up::run(asked.paths, plain).await
}
