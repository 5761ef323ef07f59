//! The options' text. SOURCE: buildx util/buildflags/cache.go

use std::path::PathBuf;

use crate::request::Packing;

/// Where a shared cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheStore {
    /// An OCI layout, and the tag in it.
    Local {
        folder: PathBuf,
        tag: String,
    },
    Registry(String),
    /// In the built image itself.
    Inline,
}

/// `--cache-from`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFrom(pub CacheStore);

/// `--cache-to`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    pub store: CacheStore,
    /// All steps (`mode=max`), not only those of the image's own layers.
    pub max: bool,
    /// That it can't be written is told, and no failure.
    pub ignore_error: bool,
    pub packing: Packing,
}

type Fields = Vec<(String, String)>;

fn fields(text: &str) -> Result<Fields, String> {
    if !text.contains('=') {
        return Ok(vec![
            ("type".into(), "registry".into()),
            ("ref".into(), text.into()),
        ]);
    }
    let field = |field: &str| match field.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.to_owned())),
        None => Err(format!("invalid value {field}")),
    };
    text.split(',').map(field).collect()
}

fn get<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    let found = fields.iter().rfind(|(k, _)| k == key);
    found
        .map(|(_, value)| value.as_str())
        .filter(|v| !v.is_empty())
}

fn yes(fields: &Fields, key: &str) -> Result<bool, String> {
    match get(fields, key).map(str::to_lowercase).as_deref() {
        None | Some("false" | "0" | "f") => Ok(false),
        Some("true" | "1" | "t") => Ok(true),
        Some(other) => Err(format!(
            "failed to parse {key}={other}: it is true or false"
        )),
    }
}

fn store(fields: &Fields, folder: &str, doing: &str) -> Result<CacheStore, String> {
    match get(fields, "type") {
        None => Err("type is required: registry, local or inline".into()),
        Some("registry") => match get(fields, "ref") {
            Some(name) => Ok(CacheStore::Registry(name.into())),
            None => Err(format!("registry cache {doing} requires ref")),
        },
        Some("local") => match get(fields, folder) {
            Some(path) => Ok(CacheStore::Local {
                folder: path.into(),
                tag: get(fields, "tag").unwrap_or("latest").into(),
            }),
            None => Err(format!("local cache {doing} requires {folder}")),
        },
        Some("inline") => Ok(CacheStore::Inline),
        Some(other @ ("gha" | "s3" | "azblob")) => Err(format!(
            "cache {doing} {other} is not there: use registry, local or inline"
        )),
        Some(other) => Err(format!("unknown cache {doing}: {other:?}")),
    }
}

impl CacheFrom {
    /// `type=registry|local,…`, or a name alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<CacheFrom, String> {
        let store = store(&fields(text)?, "src", "importer")?;
        match store {
            CacheStore::Inline => Err(
                "unknown cache importer: \"inline\": an inline cache is read with type=registry,ref=IMAGE"
                    .into(),
            ),
            store => Ok(CacheFrom(store)),
        }
    }
}

impl CacheTo {
    /// `type=registry|local|inline,…`, or a name alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<CacheTo, String> {
        let fields = fields(text)?;
        Ok(CacheTo {
            store: store(&fields, "dest", "exporter")?,
            max: match get(&fields, "mode") {
                None | Some("min") => false,
                Some("max") => true,
                Some(other) => return Err(format!("invalid cache export mode: {other}")),
            },
            ignore_error: yes(&fields, "ignore-error")?,
            packing: match get(&fields, "compression") {
                None | Some("gzip" | "estargz") => Packing::Gzip,
                Some("zstd") => Packing::Zstd,
                Some("uncompressed") => Packing::Plain,
                Some(other) => return Err(format!("unsupported layer compression type: {other}")),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        for (text, want) in [
            ("app:cache", "Registry(\"app:cache\") false false Gzip"),
            (
                "type=registry,ref=a/b:c,mode=max",
                "Registry(\"a/b:c\") true false Gzip",
            ),
            (
                "type=local,dest=/x,compression=zstd,ignore-error=true",
                "Local { folder: \"/x\", tag: \"latest\" } false true Zstd",
            ),
            ("type=inline", "Inline false false Gzip"),
            ("type=local", "local cache exporter requires dest"),
            ("type=registry", "registry cache exporter requires ref"),
            ("type=x", "unknown cache exporter: \"x\""),
            ("type=inline,mode=all", "invalid cache export mode: all"),
        ] {
            let got = CacheTo::parse(text).map_or_else(
                |e| e,
                |c| format!("{:?} {} {} {:?}", c.store, c.max, c.ignore_error, c.packing),
            );
            assert_eq!(got, want, "{text}");
        }
        for (text, good) in [
            ("type=local,src=/x", true),
            ("type=local,dest=/x", false),
            ("type=inline", false),
            ("a", true),
        ] {
            assert_eq!(CacheFrom::parse(text).is_ok(), good, "{text}");
        }
    }
}
