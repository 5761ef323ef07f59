//! A container's own streams: from now on, typed into, shared, left and ended.

mod common;

use common::{SOON, World};
use knarr_runtime::{AttachVoice, Error, Output};
use tokio::io::AsyncWriteExt;

/// Reads until both outputs hold what is wanted; answers them.
async fn until(voice: &AttachVoice, out_wanted: &str, err_wanted: &str) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let read = async {
        while !(out.contains(out_wanted) && err.contains(err_wanted)) {
            match voice.next().await {
                Some(Output::Stdout(bytes)) => out.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Output::Stderr(bytes)) => err.push_str(&String::from_utf8_lossy(&bytes)),
                None => return false,
            }
        }
        true
    };
    let seen = tokio::time::timeout(SOON, read).await;
    assert!(
        seen == Ok(true),
        "{out_wanted:?}, {err_wanted:?}: {seen:?}, {out:?}, {err:?}"
    );
    (out, err)
}

async fn ended(voice: &AttachVoice) {
    let end = async { while voice.next().await.is_some() {} };
    tokio::time::timeout(SOON, end).await.expect("an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_see_what_comes_and_type() {
    let mut w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec(
        "a",
        "echo before; while read x; do echo out $x; echo err $x >&2; done; echo end of input",
    );
    spec.stdin = true;
    spec.stdin_once = true;
    w.run(spec).await;
    w.log_when("a", |log| log == "before\n").await;
    let mut first = w.rt().attach("a").await.unwrap();
    assert!(!first.tty && first.stdin_once);
    first
        .input
        .as_mut()
        .unwrap()
        .write_all(b"one\n")
        .await
        .unwrap();
    let (out, err) = until(&first.voice, "out one\n", "err one\n").await;
    assert_eq!((&*out, &*err), ("out one\n", "err one\n"), "from now on");
    // one who leaves ends nothing, nor does the platform
    let second = w.rt().attach("a").await.unwrap();
    drop(second);
    drop(first);
    w.reopen();
    let mut one = w.rt().attach("a").await.unwrap();
    let other = w.rt().attach("a").await.unwrap();
    let mut input = one.input.take().unwrap();
    input.write_all(b"two\n").await.unwrap();
    until(&one.voice, "out two\n", "err two\n").await;
    until(&other.voice, "out two\n", "err two\n").await;
    drop((input, other));
    one.voice.end_input().await;
    until(&one.voice, "end of input\n", "").await;
    ended(&one.voice).await;
    assert_eq!(w.wait("a").await.code, 0);
    assert!(matches!(
        w.rt().attach("a").await,
        Err(Error::NotRunning(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_shows_its_prompt_and_is_resized() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec("a", "PS1='pro''mpt> ' exec sh -i");
    spec.tty = true;
    spec.stdin = true;
    w.run(spec).await;
    let mut a = w.rt().attach("a").await.unwrap();
    assert!(a.tty);
    let mut input = a.input.take().unwrap();
    input.write_all(b"\n").await.unwrap();
    until(&a.voice, "prompt> ", "").await;
    a.voice.resize(91, 33).await;
    a.voice.end_input().await;
    // the size and the input come by two ways
    let sized = async {
        loop {
            input.write_all(b"stty size; echo as''ked\n").await.unwrap();
            if until(&a.voice, "asked\r\n", "")
                .await
                .0
                .contains("33 91\r\n")
            {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, sized)
        .await
        .expect("the new size");
    input.write_all(b"exit 3\n").await.unwrap();
    ended(&a.voice).await;
    assert_eq!(w.wait("a").await.code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_never_reads_is_let_go() {
    let w = World::new();
    w.sandbox("s").await;
    let mut spec = w.spec("a", "read x; yes | head -c 3000000 >&2; exit 5");
    spec.stdin = true;
    w.run(spec).await;
    let mut a = w.rt().attach("a").await.unwrap();
    let input = a.input.as_mut().unwrap();
    input.write_all(b"go\n").await.unwrap();
    let exit = tokio::time::timeout(SOON, w.wait("a")).await;
    assert_eq!(exit.expect("the container goes on").code, 5);
    ended(&a.voice).await;
}
