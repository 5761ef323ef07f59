//! The last step of an answer: JSON to what was negotiated, and compression. Streams pass as they are.

use std::{collections::VecDeque, io::Write};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Response, header};

use crate::{
    body::{Body, Items},
    negotiate::{Endpoint, Media, Wants},
    pretty,
    status::Failure,
};

/// Bodies longer than this are compressed for clients that take gzip, in bytes (upstream's threshold).
const GZIP_BYTES_MIN: u64 = 128 * 1024;
/// Size of a protobuf list's chunks, in bytes; large enough for the allocator to give them back at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// In a response's extensions: the body is JSON of an API object, to be sent as the client prefers it.
#[derive(Clone, Copy)]
pub struct Negotiated(pub Endpoint);

/// Encodes and compresses an answer.
pub fn finish(wants: &Wants, response: Response<Body>) -> Response<Body> {
    let response = match response.extensions().get::<Negotiated>().copied() {
        Some(Negotiated(endpoint)) => encode(wants, endpoint, response),
        None => response,
    };
    compress(wants.gzip, response)
}

fn encode(wants: &Wants, endpoint: Endpoint, mut response: Response<Body>) -> Response<Body> {
    // whoever accepts nothing that there is gets the failure itself, as people read it
    let (media, pretty) = wants
        .choose(endpoint)
        .map_or((Media::Json, true), |c| (c.media, c.pretty));
    let body = std::mem::replace(response.body_mut(), Body::empty());
    match written(media, pretty, body) {
        Ok(body) => {
            *response.body_mut() = body;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media.name()));
            response
        }
        Err(f) => crate::server::failure_response(&f),
    }
}

fn written(media: Media, pretty: bool, body: Body) -> Result<Body, Failure> {
    Ok(match (media, body) {
        (_, body @ (Body::Stream(_) | Body::Chunks(..))) => body,
        (Media::Json, body) if pretty => pretty::json(&body.whole()).into(),
        (Media::Json, Body::Whole(bytes)) if !bytes.ends_with(b"\n") => {
            let mut line = Vec::with_capacity(bytes.len() + 1);
            line.extend_from_slice(&bytes);
            line.push(b'\n');
            line.into()
        }
        (Media::Json, body) => body,
        (Media::Yaml, body) => pretty::yaml(&body.whole())?.into(),
        (Media::Protobuf, Body::Items(items)) => list(&items)?,
        (Media::Protobuf, body) => object(&body.whole())?.into(),
    })
}

fn no_protobuf(e: impl std::fmt::Display) -> Failure {
    Failure::new(406, "NotAcceptable", e.to_string())
}

/// JSON of an object in its protobuf envelope.
pub fn object(json: &[u8]) -> Result<Vec<u8>, Failure> {
    #[derive(serde::Deserialize)]
    struct TypeMeta<'a> {
        #[serde(borrow)]
        kind: std::borrow::Cow<'a, str>,
        // `/api`'s list of versions has none (upstream `stripVersionEncoder`)
        #[serde(borrow, default, rename = "apiVersion")]
        api_version: std::borrow::Cow<'a, str>,
    }
    let t: TypeMeta<'_> = serde_json::from_slice(json).map_err(no_protobuf)?;
    knarr_schema::encode_protobuf(&t.api_version, &t.kind, json).map_err(no_protobuf)
}

fn list(items: &Items) -> Result<Body, Failure> {
    let (group, version) = items
        .api_version
        .split_once('/')
        .unwrap_or(("", &items.api_version));
    let kind = items.kind.strip_suffix("List").unwrap_or(&items.kind);
    let ty = knarr_schema::kind(group, version, kind)
        .ok_or_else(|| no_protobuf(format!("{kind} has no protobuf encoding")))?;
    let mut chunks = VecDeque::new();
    let mut chunk = Vec::new();
    knarr_schema::protobuf_list_meta(items.metadata.as_bytes(), &mut chunk).map_err(no_protobuf)?;
    for item in items.iter() {
        if chunk.len() + item.len() > chunk.capacity() {
            if !chunk.is_empty() {
                chunks.push_back(Bytes::from(std::mem::take(&mut chunk)));
            }
            chunk = Vec::with_capacity(CHUNK_BYTES.max(item.len()));
        }
        knarr_schema::protobuf_list_item(ty, item, &mut chunk).map_err(no_protobuf)?;
    }
    chunks.push_back(Bytes::from(chunk));
    let length = chunks.iter().map(Bytes::len).sum();
    let head = knarr_schema::protobuf_envelope(&items.api_version, &items.kind, length);
    chunks.push_front(head.into());
    chunks.push_back(Bytes::from_static(&knarr_schema::ENVELOPE_TAIL));
    if length < CHUNK_BYTES {
        // short ones in one piece
        return Ok(Body::Whole(Body::chunks(chunks).whole()));
    }
    Ok(Body::chunks(chunks))
}

/// Compresses a long body, chunk by chunk as the connection takes it.
fn compress(takes_gzip: bool, mut response: Response<Body>) -> Response<Body> {
    if response.body().len().unwrap_or(0) <= GZIP_BYTES_MIN
        || response.headers().contains_key(header::CONTENT_ENCODING)
        || !takes_gzip
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
