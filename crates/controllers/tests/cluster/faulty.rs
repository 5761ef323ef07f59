//! A client whose requests get lost, before or after they were carried out, and whose watches break.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use http_body::Frame;
use kube::{Client, client::Body};

/// Answers that the test gives in place of a server, by path.
pub type MadeUp = Arc<parking_lot::Mutex<HashMap<String, serde_json::Value>>>;

/// `percent` of the requests fail: half of them before the server sees them, half after it carried them out.
pub fn client(inner: Client, percent: Arc<AtomicU32>, made_up: MadeUp) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, percent) = (inner.clone(), percent.load(Ordering::Relaxed));
        let answer = made_up.lock().get(request.uri().path()).cloned();
        async move {
            if let Some(answer) = answer {
                let body = Body::from(answer.to_string().into_bytes());
                let frames = u32::MAX;
                return Ok(http::Response::new(Breaking { body, frames }));
            }
            let luck = rand::random_range(0..200);
            let lost =
                || std::io::Error::new(std::io::ErrorKind::ConnectionReset, "a test's fault");
            if luck < percent {
                return Err::<http::Response<Breaking>, tower::BoxError>(lost().into());
            }
            let watch = request
                .uri()
                .query()
                .is_some_and(|q| q.contains("watch=true"));
            let response = inner.send(request).await?;
            if !watch && luck < 2 * percent {
                return Err(lost().into());
            }
            let frames = if watch && percent > 0 {
                rand::random_range(1..60)
            } else {
                u32::MAX
            };
            Ok(response.map(|body| Breaking { body, frames }))
        }
    });
    Client::new(service, "default")
}

pub struct Breaking {
    body: Body,
    frames: u32,
}

impl http_body::Body for Breaking {
    type Data = bytes::Bytes;
    type Error = tower::BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, tower::BoxError>>> {
        if self.frames == 0 {
            return Poll::Ready(Some(Err("a test's fault".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.frames != u32::MAX {
            self.frames -= 1;
        }
        Poll::Ready(frame.map(|f| f.map_err(Into::into)))
    }
}
