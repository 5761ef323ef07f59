//! Compression of answers whose length is known; never of streams.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};

use crate::{body::Body, negotiate};

/// Bodies longer than this are compressed for clients that take gzip, in bytes (upstream's threshold).
const GZIP_BYTES_MIN: u64 = 128 * 1024;

/// Compresses a long body, chunk by chunk as the connection takes it.
pub fn encode(request: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    if response.body().len().unwrap_or(0) <= GZIP_BYTES_MIN
        || response.headers().contains_key(header::CONTENT_ENCODING)
        || !negotiate::takes_gzip(request)
    {
        return response;
    }
    let body = std::mem::replace(response.body_mut(), Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.remove(header::CONTENT_LENGTH);
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    *response.body_mut() = Body::Stream(Box::pin(futures::stream::try_unfold(
        Some((body, encoder)),
        |state| async move {
            let Some((mut body, mut encoder)) = state else {
                return Ok(None);
            };
            loop {
                let Some(chunk) = body.next_chunk() else {
                    let last = encoder.finish()?;
                    return Ok(Some((Bytes::from(last), None)));
                };
                encoder.write_all(&chunk)?;
                if !encoder.get_ref().is_empty() {
                    let out = std::mem::take(encoder.get_mut());
                    return Ok(Some((Bytes::from(out), Some((body, encoder)))));
                }
            }
        },
    )));
    response
}

/// Compresses all at once (documents that are kept).
pub fn gzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.into())
}

/// The opposite.
pub fn gunzip(bytes: &[u8]) -> std::io::Result<Bytes> {
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut out)?;
    Ok(out.into())
}
