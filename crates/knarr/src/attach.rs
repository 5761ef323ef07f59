//! `kubectl attach`: a person's streams and a container's own, joined.
//!
//! Source: containerd `internal/cri/io` (ContainerIO.Attach) for what the end of input means.

use knarr_remotecommand::ServerStreams;
use knarr_runtime::{AttachVoice, Attachment, Output};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Copies until the container ends or the person leaves. Its exit code is not told here, as upstream: it's in the Pod's status.
pub async fn pump(attachment: Attachment, streams: ServerStreams) {
    let Attachment {
        input,
        tty,
        stdin_once,
        voice,
    } = attachment;
    let ServerStreams {
        stdin,
        mut stdout,
        mut stderr,
        mut resize,
        mut status,
    } = streams;
    let owns_input = stdin_once && !tty && stdin.is_some();
    let sized = voice.clone();
    let sizes = async move {
        loop {
            let size = *resize.borrow_and_update();
            if let Some(size) = size {
                sized.resize(size.width, size.height).await;
            }
            if resize.changed().await.is_err() {
                return std::future::pending::<()>().await;
            }
        }
    };
    let typist = voice.clone();
    let typed = async move {
        match (stdin, input) {
            (Some(from), Some(to)) => {
                type_in(from, to).await;
                if owns_input {
                    typist.end_input().await;
                } else if !stdin_once {
                    return; // leaves the container alone
                }
            }
            (Some(mut from), None) => discard(&mut from).await,
            (None, _) => {}
        }
        std::future::pending().await
    };
    let shown = show(&voice, &mut stdout, &mut stderr);
    tokio::select! {
        () = shown => {}
        () = typed => {}
        () = sizes => {}
        () = status.closed() => {}
    }
    // left without a word, or with one: it was the only one who could type
    if owns_input {
        voice.end_input().await;
    }
    for out in [&mut stdout, &mut stderr].into_iter().flatten() {
        let _ = out.shutdown().await;
    }
    let _ = status.send(bytes::Bytes::from_static(
        b"{\"metadata\":{},\"status\":\"Success\"}",
    ));
}

/// Until the container's end, or until the person is gone.
async fn show<W: AsyncWrite + Unpin>(
    voice: &AttachVoice,
    stdout: &mut Option<W>,
    stderr: &mut Option<W>,
) {
    while let Some(output) = voice.next().await {
        let (bytes, to) = match &output {
            Output::Stdout(bytes) => (bytes, &mut *stdout),
            Output::Stderr(bytes) => (bytes, &mut *stderr),
        };
        if let Some(to) = to
            && (to.write_all(bytes).await.is_err() || to.flush().await.is_err())
        {
            return;
        }
    }
}

/// Takes the fifo's end along: it has one writer less after.
async fn type_in(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0u8; 4096];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
}
