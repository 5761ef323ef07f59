//! Adoption and release by `controllerRef` (`controller_ref_manager.go`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

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
                    release(rest, &*item, &me.uid).await?;
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
                if let Some(adopted) = adopt(rest, &*item, owner.controller_ref()).await? {
                    mine.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(mine)
}

async fn adopt<T: Object>(rest: &Rest, item: &T, owner: OwnerRef) -> Result<Option<T>> {
    let mut owners = item.meta().owner_references.clone();
    owners.push(owner);
    set_owners(rest, item, &owners).await
}

async fn release<T: Object>(rest: &Rest, item: &T, owner_uid: &str) -> Result<()> {
    let owners: Vec<_> = item
        .meta()
        .owner_references
        .iter()
        .filter(|o| &*o.uid != owner_uid)
        .cloned()
        .collect();
    set_owners(rest, item, &owners).await.map(|_| ())
}

/// None: it's gone, or can't be changed any more.
async fn set_owners<T: Object>(rest: &Rest, item: &T, owners: &[OwnerRef]) -> Result<Option<T>> {
    let meta = item.meta();
    let patch = json!({"metadata": {
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
    }});
    match rest.merge(&T::KIND.at(meta), &patch).await {
        Ok(new) => Ok(Some(new)),
        Err(e) if e.is_not_found() || e.is_invalid() => Ok(None),
        Err(e) => Err(e),
    }
}
