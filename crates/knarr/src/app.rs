//! Which app is meant where none was named: the one in this folder, the one that has what was named, or the only one.

use crate::{
    error::Error,
    logs,
    plan::{self, Source},
    project::ProjectArguments,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt, api::ListParams};
use std::path::Path;

/// The namespace of the app. `names` are services or Pods that the app is to have.
///
/// # Errors
/// When several apps may be meant.
pub async fn of(client: &Client, asked: Option<&str>, names: &[String]) -> Result<String, Error> {
    if let Some(name) = asked {
        return Ok(name.to_string());
    }
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let mut apps: Vec<String> = Api::<Namespace>::all(client.clone())
        .list_metadata(&mine)
        .await?
        .iter()
        .map(|n| n.name_any())
        .collect();
    if apps.len() > 1 {
        let here = tokio::task::spawn_blocking(|| here(Path::new(".")));
        let here = here.await.unwrap_or_default();
        // What manifests bring goes into the default namespace.
        let all = apps.iter().map(String::as_str).chain(["default"]);
        let mut owners = Vec::new();
        if !names.is_empty() {
            for app in all {
                if logs::pods_of(client, app, names).await.is_ok() {
                    owners.push(app.to_string());
                }
            }
        }
        return chosen(&apps, here.iter().flatten(), &owners);
    }
    Ok(apps.pop().unwrap_or_else(|| "default".into()))
}

/// What the app of a folder may be called: as its compose file says, or the folder.
fn here(folder: &Path) -> Vec<Option<String>> {
    let said = match plan::read(folder, &ProjectArguments::default()) {
        Ok(Source::Compose(project)) => Some(knarr_compose::namespace(&project.name)),
        _ => None,
    };
    let folder = folder.canonicalize().ok();
    let folder = folder.and_then(|d| Some(d.file_name()?.to_string_lossy().to_lowercase()));
    vec![said, folder]
}

fn chosen<'a>(
    apps: &[String],
    mut here: impl Iterator<Item = &'a String>,
    owners: &[String],
) -> Result<String, Error> {
    let fits = |h: &&String| apps.contains(h) && (owners.is_empty() || owners.contains(h));
    match (here.find(fits), owners) {
        (Some(here), _) => Ok(here.clone()),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Error::Input(format!(
            "several apps are here: say which with --project: {}",
            apps.join(", ")
        ))),
        (None, several) => Err(Error::Input(format!(
            "several apps have it: say which with --project: {}",
            several.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_that_is_meant() {
        let all = |names: &str| -> Vec<String> {
            let names = names.split(' ').filter(|n| !n.is_empty());
            names.map(String::from).collect()
        };
        for (case, here, owners, want) in [
            ("the one in this folder", "shop folder", "", Ok("shop")),
            ("as the folder is called", "no blog", "", Ok("blog")),
            ("the folder's goes before", "blog", "shop blog", Ok("blog")),
            ("the one that has it", "no", "shop", Ok("shop")),
            (
                "not the folder's, which lacks it",
                "blog",
                "shop",
                Ok("shop"),
            ),
            ("what manifests brought", "", "default", Ok("default")),
            (
                "several that have it",
                "",
                "shop blog",
                Err("several apps have it: say which with --project: shop, blog"),
            ),
            (
                "none that has it",
                "no",
                "",
                Err("several apps are here: say which with --project: shop, blog, mail"),
            ),
        ] {
            let got = chosen(&all("shop blog mail"), all(here).iter(), &all(owners));
            let got = got.map_err(|e| e.to_string());
            let want = want.map(String::from).map_err(String::from);
            assert_eq!(got, want, "{case}");
        }
    }
}
