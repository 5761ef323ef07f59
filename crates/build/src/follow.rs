//! A container's output as it comes, read from its log (CRI format, see the runtime's `log`).

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use rustix::fs::inotify;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::{
    error::{Error, io},
    told::Telling,
};

/// Lines of a failed step that are shown again at the end.
const TAIL: usize = 20;
/// Output of one step beyond this is not shown, in bytes. SOURCE: buildkit util/progress/logs (2 MiB)
const SHOWN_MAX: usize = 2 << 20;

pub(crate) struct Follow {
    path: PathBuf,
    file: Option<File>,
    /// Read like a pipe: tells that something was written.
    watch: pipe::Receiver,
    /// A line of the log that is not whole yet.
    held: Vec<u8>,
    /// The last lines of output, without their ends.
    tail: std::collections::VecDeque<String>,
    /// The output's line that has no end yet.
    open: String,
    shown: usize,
}

impl Follow {
    /// Of a log that will be written at `path`, in a folder that is there.
    pub(crate) fn new(path: &Path) -> Result<Follow, Error> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = inotify::init(flags).map_err(|e| io(dir)(e.into()))?;
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, dir, what).map_err(|e| io(dir)(e.into()))?;
        Ok(Follow {
            path: path.into(),
            file: None,
            watch: pipe::Receiver::from_owned_fd_unchecked(watch).map_err(io(dir))?,
            held: vec![],
            tail: Default::default(),
            open: String::new(),
            shown: 0,
        })
    }

    /// Tells what is written until the caller drops it.
    pub(crate) async fn run(&mut self, telling: &Telling<'_>) -> Result<(), Error> {
        loop {
            let mut events = [0_u8; 4096];
            let read = self.watch.read(&mut events).await;
            if read.map_err(io(&self.path))? == 0 {
                return Ok(());
            }
            self.read(telling)?;
        }
    }

    /// Tells what is there.
    pub(crate) fn read(&mut self, telling: &Telling<'_>) -> Result<(), Error> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(io(&self.path)(e)),
            };
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        // small memory-cached reads of what was just written
        let mut piece = [0_u8; 64 << 10];
        let mut ended = false;
        loop {
            let n = file.read(&mut piece).map_err(io(&self.path))?;
            if n == 0 {
                match (next(file, &self.path)?, ended) {
                    (None, _) => return Ok(()),
                    // something may have been written between that read and the file's end
                    (Some(_), false) => ended = true,
                    // a long log goes on in another file; what was in more than one before that is lost
                    (Some(new), true) => (*file, ended) = (new, false),
                }
                continue;
            }
            self.held.extend_from_slice(&piece[..n]);
            let Some(end) = self.held.iter().rposition(|b| *b == b'\n') else {
                continue;
            };
            let rest = self.held.split_off(end + 1);
            let whole = std::mem::replace(&mut self.held, rest);
            let mut out = vec![];
            let mut of_stderr = false;
            for line in whole.split_inclusive(|b| *b == b'\n') {
                let Some((stderr, bytes)) = content(line) else {
                    continue;
                };
                if stderr != of_stderr && !out.is_empty() {
                    show(
                        &mut self.shown,
                        telling,
                        of_stderr,
                        std::mem::take(&mut out),
                    );
                }
                of_stderr = stderr;
                out.extend_from_slice(&bytes);
                remember(&mut self.tail, &mut self.open, &bytes);
            }
            if !out.is_empty() {
                show(&mut self.shown, telling, of_stderr, out);
            }
        }
    }

    /// The end of the output, for the report.
    pub(crate) fn tail(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.tail.push_back(self.open);
        }
        self.tail.into()
    }
}

/// The file at this path, if it is another one.
fn next(file: &File, path: &Path) -> Result<Option<File>, Error> {
    use std::os::unix::fs::MetadataExt;
    let new = match File::open(path) {
        Ok(new) => new,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(path)(e)),
    };
    let same = file.metadata().map_err(io(path))?.ino() == new.metadata().map_err(io(path))?.ino();
    Ok((!same).then_some(new))
}

fn show(shown: &mut usize, telling: &Telling<'_>, stderr: bool, bytes: Vec<u8>) {
    if *shown > SHOWN_MAX {
        return;
    }
    *shown += bytes.len();
    telling.output(stderr, bytes);
    if *shown > SHOWN_MAX {
        let text = b"\n[output clipped, log limit 2MiB reached]\n";
        telling.output(true, text.to_vec());
    }
}

fn remember(tail: &mut std::collections::VecDeque<String>, open: &mut String, bytes: &[u8]) {
    for piece in String::from_utf8_lossy(bytes).split_inclusive('\n') {
        match piece.strip_suffix('\n') {
            Some(end) => {
                open.push_str(end);
                tail.push_back(std::mem::take(open));
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
            None => open.push_str(piece),
        }
    }
}

/// `<time> stdout|stderr F|P <text>`: the text, with its end of line when it is whole.
fn content(line: &[u8]) -> Option<(bool, Vec<u8>)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |b| *b == b' ');
    let stream = fields.nth(1)?;
    let tag = fields.next()?;
    let mut text = fields.next().unwrap_or_default().to_vec();
    if tag.starts_with(b"F") {
        text.push(b'\n');
    }
    Some((stream == b"stderr", text))
}
