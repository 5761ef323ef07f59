//! Adoption and release by `controllerRef` (`controller_ref_manager.go`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::rest::Rest;
use crate::{
    error::{Error, Result},
    objects::{
        meta::{Meta, Object, OwnerRef},
        selector::Selector,
    },
};

#[derive(Deserialize)]
struct MetaOnly {
    metadata: Meta,
}

/// Of `candidates`, those that `owner` controls: its own that match `selector`, and matching orphans, which it adopts; its own that don't match are released.
pub async fn claim<O: Object, T: Object>(
    rest: &Rest,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<T>>,
) -> Result<Vec<Arc<T>>> {
    claim_marked(rest, owner, selector, candidates, None).await
}

/// [`claim`], where what is adopted gets a finalizer, too, and what is released loses it.
pub async fn claim_marked<O: Object, T: Object>(
    rest: &Rest,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<T>>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<T>>> {
    let me = owner.meta();
    let mut mine = Vec::with_capacity(candidates.len());
    let mut may_adopt = false;
    for item in candidates {
        let meta = item.meta();
        let matches = selector.matches(&meta.labels);
        match meta.controller() {
            Some(c) if c.uid == me.uid => {
                if matches {
                    mine.push(item);
                } else if !me.deleting() {
                    release(rest, &*item, &me.uid, finalizer).await?;
                }
            }
            Some(_) => {}
            None => {
                if !matches || me.deleting() || meta.deleting() {
                    continue;
                }
                if !may_adopt {
                    // the cache may not know yet that the owner goes away
                    let live: MetaOnly = rest.get(&O::KIND.at(me)).await?;
                    if live.metadata.uid != me.uid || live.metadata.deleting() {
                        return Err(Error::Other(format!(
                            "{} {} goes away or was made again, nothing can be adopted",
                            O::KIND.kind,
                            me.key()
                        )));
                    }
                    may_adopt = true;
                }
                if let Some(adopted) =
                    adopt(rest, &*item, owner.controller_ref(), finalizer).await?
                {
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(mine)
}

async fn adopt<T: Object>(
    rest: &Rest,
    item: &T,
    owner: OwnerRef,
    finalizer: Option<&str>,
) -> Result<Option<T>> {
    let mut metadata = json!({});
    let mut owners = item.meta().owner_references.clone();
    owners.push(owner);
    metadata["ownerReferences"] = json!(owners);
    if let Some(f) = finalizer {
        let mut all: Vec<&str> = item.meta().finalizers.iter().map(|f| &**f).collect();
        if !all.contains(&f) {
            all.push(f);
        }
        metadata["finalizers"] = json!(all);
    }
    set(rest, item, metadata).await
}

async fn release<T: Object>(
    rest: &Rest,
    item: &T,
    owner_uid: &str,
    finalizer: Option<&str>,
) -> Result<()> {
    let meta = item.meta();
    let owners = meta.owner_references.iter();
    let owners: Vec<_> = owners.filter(|o| &*o.uid != owner_uid).collect();
    let mut metadata = json!({"ownerReferences": owners});
    if let Some(f) = finalizer {
        let all: Vec<_> = meta.finalizers.iter().filter(|x| &***x != f).collect();
        metadata["finalizers"] = json!(all);
    }
    set(rest, item, metadata).await.map(|_| ())
}

/// None: it's gone, or can't be changed any more.
async fn set<T: Object>(rest: &Rest, item: &T, mut metadata: Value) -> Result<Option<T>> {
    let meta = item.meta();
    metadata["resourceVersion"] = json!(meta.resource_version);
    match rest
        .merge(&T::KIND.at(meta), &json!({"metadata": metadata}))
        .await
    {
        Ok(new) => Ok(Some(new)),
        Err(e) if e.is_not_found() || e.is_invalid() => Ok(None),
        Err(e) => Err(e),
    }
}
