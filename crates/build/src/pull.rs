//! Images from and to registries.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use knarr_dockerfile::Platform;
use knarr_image::{
    Image, ImageStore,
    client::{ClientConfig, Event, Platforms, PullOptions, PushOptions, Step},
    gently,
};

use crate::engine::Resolver;

/// Pulls with the store's own client.
pub struct Pulls {
    pub images: ImageStore,
    pub config: ClientConfig,
}

/// Tells how far all blobs are together.
struct Sum<'a> {
    what: &'static str,
    told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    /// Bytes so far and in all, of each blob.
    blobs: Mutex<HashMap<String, (u64, u64)>>,
}

impl<'a> Sum<'a> {
    fn new(what: &'static str, told: &'a (dyn Fn(&str, u64, u64) + Send + Sync)) -> Sum<'a> {
        Sum {
            what,
            told,
            blobs: Mutex::default(),
        }
    }
}

impl knarr_image::client::Progress for Sum<'_> {
    fn event(&self, event: Event) {
        let Event::Blob {
            digest,
            step: Step::Transferring { at, of },
        } = event
        else {
            return;
        };
        let (done, all) = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.insert(digest, (at, of));
            let sum = |f: fn(&(u64, u64)) -> u64| blobs.values().map(f).sum::<u64>();
            (sum(|b| b.0), sum(|b| b.1))
        };
        (self.told)(self.what, done, all);
    }
}

impl Pulls {
    async fn get(
        &self,
        name: &str,
        platform: &Platform,
        unnamed: bool,
        told: &(dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> Result<Image, String> {
        let options = PullOptions {
            config: self.config.clone(),
            platforms: match *platform == Platform::host() {
                true => Platforms::Here,
                false => Platforms::One(platform.to_string()),
            },
            unnamed,
            ..PullOptions::default()
        };
        let heard = Sum::new("pull", told);
        let pulled = gently(self.images.pull(name, &options, &heard)).await;
        pulled.map_err(|e| e.to_string())
    }
}

impl Resolver for Pulls {
    fn pull<'a>(
        &'a self,
        name: &'a str,
        platform: &'a Platform,
        told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Image, String>> {
        self.get(name, platform, false, told).boxed()
    }

    fn fetch<'a>(
        &'a self,
        name: &'a str,
        told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Image, String>> {
        async move { self.get(name, &Platform::host(), true, told).await }.boxed()
    }

    fn push<'a>(
        &'a self,
        image: &'a str,
        to: &'a str,
        told: &'a (dyn Fn(&str, u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<(), String>> {
        let options = PushOptions {
            config: self.config.clone(),
            all_platforms: true,
            ..PushOptions::default()
        };
        async move {
            let heard = Sum::new("push", told);
            let pushed = gently(self.images.push(image, to, &options, &heard)).await;
            pushed.map(drop).map_err(|e| e.to_string())
        }
        .boxed()
    }
}
