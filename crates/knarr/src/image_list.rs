//! `knarr images` and `knarr history`, as `docker` prints them.

use crate::{
    cli::Output,
    error::Error,
    image_more::find,
    listing::{Filters, Shape, cut, moment},
};
use clap::Args;
use knarr_image::{Image, ImageStore};
use serde_json::{Value, json};

#[derive(Args)]
pub struct ListArguments {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// With digests
    #[arg(long)]
    digests: bool,
    /// There for scripts: an image's layers are no images
    #[arg(short, long, hide = true)]
    all: bool,
    /// Only those of which this holds: reference=redis:*, label=NAME=value, before=IMAGE, since=IMAGE; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// A template like {{.Repository}}:{{.Tag}}, `table …` or `json`
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
    /// Only those of this name: NAME[:TAG]
    name: Option<String>,
}

#[derive(Args)]
pub struct HistoryArguments {
    name: String,
    /// Only this machine's is possible
    #[arg(long, value_parser = crate::image::here, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole lines
    #[arg(long)]
    no_trunc: bool,
    /// Sizes and dates for people
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_name = "BOOL")]
    human: String,
    /// A template like {{.CreatedBy}}, `table …` or `json`
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// As Docker shows a name: without what it has by itself.
pub fn familiar(name: &str) -> &str {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short)
}

/// The repository and the tag of a full name, which may have a digest.
pub fn parts(name: &str) -> (&str, Option<&str>) {
    let plain = name.split('@').next().unwrap_or(name);
    match plain.rfind(':') {
        Some(at) if at > plain.rfind('/').unwrap_or(0) => (&plain[..at], Some(&plain[at + 1..])),
        _ => (plain, None),
    }
}

/// SOURCE: docker/cli `cli/command/formatter/image.go`
const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];
const SHAPE: Shape = Shape {
    heads: HEADS,
    shown: &["Repository", "Tag", "ID", "CreatedSince", "Size"],
};
const WITH_DIGESTS: Shape = Shape {
    heads: HEADS,
    shown: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
};

fn created(image: &Image) -> jiff::Timestamp {
    let text = image.created.as_deref().unwrap_or_default();
    text.parse().unwrap_or_default()
}

fn ago(at: jiff::Timestamp) -> String {
    if at == jiff::Timestamp::UNIX_EPOCH {
        return "N/A".into();
    }
    let seconds = jiff::Timestamp::now().duration_since(at).as_secs();
    format!(
        "{} ago",
        crate::run::human(u64::try_from(seconds).unwrap_or(0))
    )
}

/// `sha256:…`, or what people see of it.
fn short(id: &str, whole: bool) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    match whole {
        true => id,
        false => hex.get(..12).unwrap_or(hex),
    }
}

/// `redis`, `redis:7`, `*/app:1.*`: a star is anything but a slash. SOURCE: distribution/reference `FamiliarMatch`
fn fits(pattern: &str, name: &str) -> bool {
    let familiar = familiar(name);
    let (repository, tag) = parts(familiar);
    let tagged = tag.map(|tag| format!("{repository}:{tag}"));
    like(pattern, repository) || tagged.is_some_and(|t| like(pattern, &t)) || like(pattern, name)
}

fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            let ends = (0..=end).filter(|at| rest.is_char_boundary(*at));
            ends.into_iter().any(|at| like(after, &rest[at..]))
        }),
    }
}

pub fn list(
    store: &ImageStore,
    a: &ListArguments,
    describe: fn(&Image) -> Value,
) -> Result<(), Error> {
    let known = [
        "reference",
        "label",
        "label!",
        "before",
        "since",
        "dangling",
    ];
    let filters = Filters::read(&a.filter, &known)?;
    let moments = |key: &str| -> Result<Vec<jiff::Timestamp>, Error> {
        filters
            .values(key)
            .map(|name| find(store, name).map(|i| created(&i)))
            .collect()
    };
    let (before, since) = (moments("before")?, moments("since")?);
    let mut images = store.list()?;
    images.retain(|i| {
        a.name.as_deref().is_none_or(|name| fits(name, &i.name))
            && filters.any("reference", |pattern| fits(pattern, &i.name))
            && filters.labels(
                &i.config
                    .labels
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            )
            && filters.any("dangling", |said| !matches!(said, "true" | "1"))
            && before.iter().all(|at| created(i) < *at)
            && since.iter().all(|at| created(i) > *at)
    });
    if a.output == Output::Json {
        println!("{}", json!(images.iter().map(describe).collect::<Vec<_>>()));
        return Ok(());
    }
    images.sort_by_key(|i| std::cmp::Reverse(created(i)));
    if a.quiet && a.format.is_none() {
        images
            .iter()
            .for_each(|i| println!("{}", short(&i.id, a.no_trunc)));
        return Ok(());
    }
    let row = |i: &Image| {
        let (repository, tag) = parts(&i.name);
        let size = knarr_docker::human_size(i.size_bytes, 3);
        json!({
            "ID": short(&i.id, a.no_trunc), "Repository": familiar(repository), "Tag": tag.unwrap_or("<none>"),
            "Digest": i.digest, "CreatedSince": ago(created(i)), "CreatedAt": moment(created(i)), "Size": size,
            "VirtualSize": size, "Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
        })
    };
    let rows: Vec<Value> = images.iter().map(row).collect();
    let shape = if a.digests { &WITH_DIGESTS } else { &SHAPE };
    shape.print(&rows, a.format.as_deref())
}

/// SOURCE: docker/cli `cli/command/image/formatter_history.go`
const HISTORY: Shape = Shape {
    heads: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    shown: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
};
const HISTORY_EXACT: Shape = Shape {
    heads: HISTORY.heads,
    shown: &["ID", "CreatedAt", "CreatedBy", "Size", "Comment"],
};

/// The steps that made the image, the latest first.
pub fn history(store: &ImageStore, a: &HistoryArguments) -> Result<(), Error> {
    let image = find(store, &a.name)?;
    let config = store.raw_config(&image)?;
    let mut sizes = store.layer_infos(&image)?.into_iter().map(|l| l.size_bytes);
    let mut steps = Vec::new();
    for step in config["history"].as_array().into_iter().flatten() {
        let bytes = match step["empty_layer"].as_bool() {
            Some(true) => 0,
            _ => sizes.next().unwrap_or(0),
        };
        steps.push((step.clone(), bytes));
    }
    // images without a history have layers all the same
    steps.extend(sizes.map(|bytes| (json!({}), bytes)));
    let human = !matches!(a.human.as_str(), "false" | "0");
    let row = |(at, (step, bytes)): (usize, (Value, u64))| {
        let text = |key: &str| step[key].as_str().unwrap_or_default().replace('\t', " ");
        let made = text("created").parse::<jiff::Timestamp>();
        let id = if at == 0 {
            short(&image.id, a.no_trunc)
        } else {
            "<missing>"
        };
        let size = match human {
            true => knarr_docker::human_size(bytes, 3),
            false => bytes.to_string(),
        };
        json!({
            "ID": id,
            "CreatedSince": made.as_ref().map_or("N/A".into(), |at| ago(*at)),
            "CreatedAt": text("created"),
            "CreatedBy": cut(&text("created_by"), 45, a.no_trunc),
            "Size": size,
            "Comment": text("comment"),
        })
    };
    let rows: Vec<Value> = steps.into_iter().rev().enumerate().map(row).collect();
    if a.quiet && a.format.is_none() {
        rows.iter()
            .for_each(|row| println!("{}", row["ID"].as_str().unwrap_or_default()));
        return Ok(());
    }
    let shape = if human { &HISTORY } else { &HISTORY_EXACT };
    shape.print(&rows, a.format.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_docker_shows_them() {
        for (full, short, repository, tag) in [
            (
                "docker.io/library/redis:7",
                "redis:7",
                "docker.io/library/redis",
                Some("7"),
            ),
            (
                "docker.io/owner/app:1",
                "owner/app:1",
                "docker.io/owner/app",
                Some("1"),
            ),
            (
                "localhost:5000/a",
                "localhost:5000/a",
                "localhost:5000/a",
                None,
            ),
            (
                "ghcr.io/a/b@sha256:00",
                "ghcr.io/a/b@sha256:00",
                "ghcr.io/a/b",
                None,
            ),
        ] {
            assert_eq!(familiar(full), short);
            assert_eq!(parts(full), (repository, tag));
        }
        let name = "docker.io/owner/app:1.2";
        for (pattern, wanted) in [
            ("owner/app", true),
            ("owner/app:1.2", true),
            ("owner/*", true),
            ("*/app:1.*", true),
            ("docker.io/owner/app:1.2", true),
            ("app", false),
            ("*", false),
            ("owner/app:2", false),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern}");
        }
    }
}
