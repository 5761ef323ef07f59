//! Which tags a repository has.

use super::{
    ClientConfig, Error, Reference,
    session::{Call, Session},
};
use ::http::Method;

/// Pages that one repository has at most, and the bytes of one.
const PAGES_MAX: usize = 1000;
const PAGE_BYTES_MAX: usize = 8 << 20;

#[derive(serde::Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// All of them, in the registry's order.
///
/// # Errors
/// When the registry doesn't tell.
pub async fn tags(config: &ClientConfig, name: &str) -> Result<Vec<String>, Error> {
    let reference = Reference::parse(name)?;
    let session = Session::new(config, &reference, Vec::new())?;
    let scopes = session.scope("pull");
    let mut path = format!("/{}/tags/list?n=1000", session.repository);
    let mut all = Vec::new();
    for _ in 0..PAGES_MAX {
        let call = Call::new(Method::GET, path.clone(), &scopes);
        // a mirror may know but some of them
        let fits = |host: &super::hosts::Host| host.pull && !host.mirror;
        let (_, answer) = session.ask_any(fits, &call, |s| s.is_success()).await?;
        let next = answer.header("link").and_then(next);
        let url = answer.url.clone();
        let bytes = answer.whole(PAGE_BYTES_MAX).await?;
        let page: Page = serde_json::from_slice(&bytes)
            .map_err(|e| Error::wrong(&url, format!("it is no list of tags: {e}")))?;
        all.extend(page.tags.unwrap_or_default());
        match next {
            Some(next) => path = next,
            None => return Ok(all),
        }
    }
    Err(Error::wrong(&path, "its list of tags doesn't end"))
}

/// Where the next page is, below `/v2`: `</v2/NAME/tags/list?last=…>; rel="next"`.
fn next(link: &str) -> Option<String> {
    let (place, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = rest.contains("rel=\"next\"") || rest.contains("rel=next");
    let path = match place.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => place,
    };
    let below = path.strip_prefix("/v2")?;
    next.then(|| below.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow() {
        for (link, want) in [
            (
                "</v2/a/tags/list?n=2&last=b>; rel=\"next\"",
                Some("/a/tags/list?n=2&last=b"),
            ),
            (
                "<http://r:1/v2/a/tags/list?last=b>; rel=next",
                Some("/a/tags/list?last=b"),
            ),
            ("</v2/a/tags/list>; rel=\"prev\"", None),
            ("</elsewhere>; rel=\"next\"", None),
            ("nonsense", None),
        ] {
            assert_eq!(next(link).as_deref(), want, "{link}");
        }
    }
}
