//! Bootstrap tokens are deleted when they have ended (`pkg/controller/bootstrap/tokencleaner.go`).

use std::sync::Arc;

use futures::future::BoxFuture;

use super::secret::{NAMESPACE, SELECTOR, Secret};
use crate::{
    error::Result,
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::reflect,
        rest::{Delete, Rest},
        work::{Next, work},
    },
    objects::meta::{Key, Object, now},
};

const NAME: &str = "tokencleaner";

struct Controller {
    rest: Rest,
    tokens: Arc<Cache<Secret>>,
    queue: Queue<Key>,
}

/// The token cleaner.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        tokens: Arc::default(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.tokens.on_change(move |_, new| {
        if let Some(token) = new {
            me.queue.add(token.metadata.key());
        }
    });
    Box::pin(async move {
        let path = format!("{}?{SELECTOR}", Secret::KIND.collection(NAMESPACE));
        let work = work(NAME, &c.queue, 1, |key| c.reconcile(key));
        futures::join!(reflect(&c.rest, &path, false, &*c.tokens), work);
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(token) = self.tokens.at(&key) else {
            return Ok(Next::Wait);
        };
        let Some(end) = token.end() else {
            return Ok(Next::Wait);
        };
        let left = end - now();
        if left > 0 {
            return Ok(Next::after_s(left));
        }
        let meta = &token.metadata;
        let this = Delete::uid(&meta.uid).at(&meta.resource_version);
        self.rest.delete(&Secret::KIND.at(meta), &this).await?;
        Ok(Next::Wait)
    }
}
