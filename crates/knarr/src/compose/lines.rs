//! The lines of one container as they come, each where it was meant to: what it wrote to stderr on ours, as an attached
//! `docker compose up` has it (`logs` shows all on stdout, as there).

use super::{containers::Container, logs::Follow};
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{LogParams, Request},
};
use std::io::Write;

/// Where a container's lines go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Places {
    /// All to stdout, in the order they were written.
    #[default]
    One,
    /// Those of stderr to stderr.
    Two,
}

impl Places {
    /// Two, but where both of ours lead to one file or terminal: only one reader of both keeps the order.
    pub fn ours() -> Places {
        Places::of(std::io::stdout(), std::io::stderr())
    }

    fn of(out: impl rustix::fd::AsFd, err: impl rustix::fd::AsFd) -> Places {
        match (rustix::fs::fstat(out), rustix::fs::fstat(err)) {
            (Ok(out), Ok(err)) if (out.st_dev, out.st_ino) != (err.st_dev, err.st_ino) => {
                Places::Two
            }
            _ => Places::One,
        }
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Both,
    Stdout,
    Stderr,
}

/// Prints a container's lines until its log ends.
pub(super) async fn lines(
    client: &Client,
    api: &Api<Pod>,
    c: &Container,
    options: &Follow,
    follow: bool,
    prefix: &str,
) {
    let parameters = LogParams {
        container: Some(c.name.clone()),
        follow,
        tail_lines: options.tail,
        timestamps: options.timestamps || options.before.is_some(),
        since_time: options.since,
        ..LogParams::default()
    };
    let read = |stream| {
        let (pod, parameters) = (c.pod_name(), &parameters);
        async move { one(client, api, &pod, parameters, stream, options, prefix).await }
    };
    match options.places {
        // The last lines of both together can be told of both together only.
        Places::Two if options.tail.is_none() => {
            tokio::join!(read(Stream::Stdout), read(Stream::Stderr));
        }
        _ => read(Stream::Both).await,
    }
}

/// `kube` doesn't know that streams can be read apart.
fn request(
    api: &Api<Pod>,
    pod: &str,
    parameters: &LogParams,
    stream: Stream,
) -> Option<http::Request<Vec<u8>>> {
    let mut request = Request::new(api.resource_url())
        .logs(pod, parameters)
        .ok()?;
    let asked = match stream {
        Stream::Both => return Some(request),
        Stream::Stdout => "stream=Stdout",
        Stream::Stderr => "stream=Stderr",
    };
    let between = match request.uri().query() {
        Some(query) if query.ends_with('&') => "",
        Some(_) => "&",
        None => "?",
    };
    *request.uri_mut() = format!("{}{between}{asked}", request.uri()).parse().ok()?;
    Some(request)
}

async fn one(
    client: &Client,
    api: &Api<Pod>,
    pod: &str,
    parameters: &LogParams,
    stream: Stream,
    options: &Follow,
    prefix: &str,
) {
    let Some(request) = request(api, pod, parameters, stream) else {
        return;
    };
    let Ok(said) = client.request_stream(request).await else {
        return; // it has not begun
    };
    let mut lines = said.lines();
    while let Some(Ok(line)) = lines.next().await {
        let mut shown = line.as_str();
        if let Some(before) = options.before
            && let Some((time, rest)) = line.split_once(' ')
        {
            if time.parse::<Timestamp>().is_ok_and(|t| t > before) {
                return;
            }
            shown = if options.timestamps { &line } else { rest };
        }
        let written = match stream {
            Stream::Stderr => writeln!(std::io::stderr().lock(), "{prefix}{shown}"),
            _ => writeln!(std::io::stdout().lock(), "{prefix}{shown}"),
        };
        if written.is_err() {
            return; // the reader has gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_apart_where_they_lead_apart() {
        let one = tempfile::NamedTempFile::new().unwrap();
        let (same, other) = (one.reopen().unwrap(), tempfile::tempfile().unwrap());
        assert_eq!(Places::of(&one, &same), Places::One);
        assert_eq!(Places::of(&one, &other), Places::Two);
        let (_, pipe) = std::io::pipe().unwrap();
        let (_, another) = std::io::pipe().unwrap();
        assert_eq!(Places::of(&pipe, pipe.try_clone().unwrap()), Places::One);
        assert_eq!(Places::of(&pipe, &another), Places::Two);
    }
}
