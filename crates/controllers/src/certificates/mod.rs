//! CertificateSigningRequests: nodes' own are approved, approved ones are signed, old ones go away
//! (kubernetes `pkg/controller/certificates`: approver, signer, cleaner).

mod authority;
mod rules;

pub use authority::{CertificateAuthority, Subject};

use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    machinery::{
        cache::Cache,
        context::Context,
        queue::Queue,
        reflector::reflect,
        rest::{Delete, Ignored, Rest},
        work::{Next, WORKERS, work},
    },
    objects::meta::{Key, Meta, Object, now, object},
};
use rules::{Requested, Signing};

const NAME: &str = "certificates";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// `certificates.k8s.io/v1`, as far as it is kept: requests are few and short-lived, and read anew when worked on.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Csr {
    metadata: Meta,
}
object!(
    Csr,
    "certificates.k8s.io",
    "v1",
    "certificatesigningrequests",
    "CertificateSigningRequest"
);

struct Controller {
    rest: Rest,
    requests: Arc<Cache<Csr>>,
    authority: Option<Arc<dyn CertificateAuthority>>,
    queue: Queue<Key>,
}

/// Approves, signs and cleans.
pub fn start(ctx: &Context) -> BoxFuture<'static, ()> {
    let c = Arc::new(Controller {
        rest: ctx.rest(NAME),
        requests: Arc::default(),
        authority: ctx.config.authority.clone(),
        queue: Queue::default(),
    });
    let me = c.clone();
    c.requests.on_change(move |_, new| {
        if let Some(csr) = new {
            me.queue.add(csr.metadata.key());
        }
    });
    Box::pin(async move {
        let path = Csr::KIND.collection("");
        let work = async {
            c.requests.synced().await;
            work(NAME, &c.queue, WORKERS, |key| c.reconcile(key)).await;
        };
        futures::join!(reflect(&c.rest, &path, false, &*c.requests), work);
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next> {
        let Some(known) = self.requests.at(&key) else {
            return Ok(Next::Wait);
        };
        let path = Csr::KIND.at(&known.metadata);
        let csr: Value = match self.rest.get(&path).await {
            Err(e) if e.is_not_found() => return Ok(Next::Wait),
            got => got?,
        };
        let asked = Requested::read(&csr);
        let end = |pem: &[u8]| self.authority.as_ref().and_then(|a| a.end(pem));
        match rules::left_seconds(&csr, now(), end) {
            Some(0) => return self.remove(&csr, &path).await,
            left => {
                if let Some(authority) = &self.authority {
                    self.advance(authority, &csr, &asked, &path).await?;
                }
                Ok(left.map_or(Next::Wait, Next::after_s))
            }
        }
    }

    async fn remove(&self, csr: &Value, path: &str) -> Result<Next> {
        let uid = csr["metadata"]["uid"].as_str().unwrap_or_default();
        match self.rest.delete(path, &Delete::uid(uid)).await {
            Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
            _ => Ok(Next::Wait),
        }
    }

    /// The next step of a request: approval, or the certificate. What it changes brings it back here.
    async fn advance(
        &self,
        authority: &Arc<dyn CertificateAuthority>,
        csr: &Value,
        asked: &Requested,
        path: &str,
    ) -> Result<()> {
        if asked.issued || asked.denied || asked.failed {
            return Ok(());
        }
        let unreadable = |e| Error::Other(format!("the request {path} can't be read: {e}"));
        if !asked.approved {
            let subject = authority.read(&asked.pem).map_err(unreadable)?;
            return self.approve(csr, asked, &subject, path).await;
        }
        if !rules::ours(&asked.signer) {
            return Ok(());
        }
        let subject = authority.read(&asked.pem).map_err(unreadable)?;
        let mut new = csr.clone();
        match rules::check(&asked.signer, &subject, &asked.usages) {
            Signing::Refused(why) => {
                let failed = json!({
                    "type": "Failed", "status": "True",
                    "reason": "SignerValidationFailure", "message": why,
                });
                rules::add_condition(&mut new, failed);
            }
            Signing::Fine => {
                let (authority, pem) = (authority.clone(), asked.pem.clone());
                let (usages, seconds) = (asked.usages.clone(), asked.seconds);
                // reads the CA's key from disk
                let signed =
                    tokio::task::spawn_blocking(move || authority.sign(&pem, &usages, seconds));
                let cert = signed
                    .await
                    .map_err(|e| Error::Other(e.to_string()))?
                    .map_err(|e| Error::Other(format!("error auto signing csr: {e}")))?;
                new["status"]["certificate"] = rules::base64(cert.as_bytes()).into();
            }
        }
        self.rest
            .put::<Ignored>(&format!("{path}/status"), &new)
            .await
            .map(|_| ())
    }

    /// A node's request for its own client certificate is approved when its requester may ask for one.
    async fn approve(
        &self,
        csr: &Value,
        asked: &Requested,
        subject: &Subject,
        path: &str,
    ) -> Result<()> {
        for (subresource, message) in rules::recognized(asked, subject) {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {
                    "user": csr["spec"]["username"], "groups": csr["spec"]["groups"],
                    "uid": csr["spec"]["uid"], "extra": csr["spec"]["extra"],
                    "resourceAttributes": {
                        "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                        "verb": "create", "subresource": subresource, "version": "*",
                    },
                },
            });
            let answer: Value = self.rest.create(REVIEWS, &review).await?;
            if answer["status"]["allowed"] == true {
                let mut new = csr.clone();
                let approved = json!({
                    "type": "Approved", "status": "True",
                    "reason": "AutoApproved", "message": message,
                });
                rules::add_condition(&mut new, approved);
                return self
                    .rest
                    .put::<Ignored>(&format!("{path}/approval"), &new)
                    .await
                    .map(|_| ());
            }
        }
        Ok(())
    }
}
