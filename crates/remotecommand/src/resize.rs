//! Terminal sizes, as they come in on the resize stream: JSON objects, one after the other.

use crate::exec::TerminalSize;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

/// No size is written in more bytes than this.
const OBJECT_BYTES_MAX: usize = 1024;

/// Go matches field names whatever their case; clients write both.
#[derive(Deserialize)]
struct Size {
    #[serde(alias = "Width")]
    width: u16,
    #[serde(alias = "Height")]
    height: u16,
}

/// Reads sizes until the stream ends; the latest is in `sizes`. What is no size is skipped.
pub(crate) async fn follow(
    mut stream: impl AsyncRead + Unpin,
    sizes: watch::Sender<Option<TerminalSize>>,
) {
    let mut object = Vec::new();
    let mut chunk = [0; 256];
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        for &byte in &chunk[..read] {
            if object.len() < OBJECT_BYTES_MAX {
                object.push(byte);
            }
            if byte == b'}' {
                if let Ok(Size { width, height }) = serde_json::from_slice(&object) {
                    sizes.send_replace(Some(TerminalSize { width, height }));
                }
                object.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_are_found_whatever_lies_between() {
        let check = async |name: &str, input: &[u8], expected: Option<(u16, u16)>| {
            let (sender, receiver) = watch::channel(None);
            follow(input, sender).await;
            let last = *receiver.borrow();
            assert_eq!(
                last.map(|size| (size.width, size.height)),
                expected,
                "{name}"
            );
        };
        check("none", b"", None).await;
        check("one", br#"{"Width":80,"Height":24}"#, Some((80, 24))).await;
        check(
            "lower case, newline",
            b"{\"width\":80,\"height\":24}\n",
            Some((80, 24)),
        )
        .await;
        check(
            "two",
            br#"{"Width":80,"Height":24}{"Width":90,"Height":30}"#,
            Some((90, 30)),
        )
        .await;
        check(
            "garbage before",
            br#"x}{"Width":80,"Height":24}"#,
            Some((80, 24)),
        )
        .await;
        check("half", br#"{"Width":80,"Hei"#, None).await;
        check("too big", br#"{"Width":99999,"Height":24}"#, None).await;
        let long = [vec![b'x'; 100_000], b"}{\"Width\":1,\"Height\":2}".to_vec()].concat();
        check("endless garbage", &long, Some((1, 2))).await;
    }
}
