//! Whole lines of a file that grows, as they lie in the block that was read: nothing is copied but what a block's end cuts.

use std::io::{self, Read};

/// So much is read at once at first, and so much when there is more. Below what the C library's allocator asks of the kernel
/// each time.
const BLOCK_MIN: usize = 8 * 1024;
const BLOCK_MAX: usize = 64 * 1024;

pub(super) struct Lines<R> {
    from: R,
    block: Vec<u8>,
    /// where in the block the next line begins
    start: usize,
    /// where it ends, without its newline, once it's found
    found: Option<usize>,
    /// up to here the block is filled
    end: usize,
    /// up to here there is no newline
    searched: usize,
    /// the last read filled the block
    more: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn of(from: R) -> Lines<R> {
        Lines {
            from,
            block: Vec::new(),
            start: 0,
            found: None,
            end: 0,
            searched: 0,
            more: false,
        }
    }

    /// Looks for the next whole line; false at the present end, where the beginning of one may wait for the rest of it.
    pub(super) fn find(&mut self) -> io::Result<bool> {
        while self.found.is_none() {
            let new = &self.block[self.searched..self.end];
            if let Some(at) = memchr::memchr(b'\n', new) {
                self.found = Some(self.searched + at);
                break;
            }
            self.searched = self.end;
            if !self.fill()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The line that was found.
    pub(super) fn take(&mut self) -> &[u8] {
        let from = self.start;
        let Some(to) = self.found.take() else {
            return &[];
        };
        self.start = to + 1;
        self.searched = self.start;
        &self.block[from..to]
    }

    /// Reads more; false at the present end. Who waits there for more holds no block meanwhile.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.block.copy_within(self.start..self.end, 0);
            self.searched -= self.start;
            self.end -= self.start;
            self.start = 0;
        }
        let size = self.block.len();
        // a line may be longer than the block
        if self.end == size || self.more && size < BLOCK_MAX {
            self.block.resize((2 * size).max(BLOCK_MIN), 0);
        }
        loop {
            match self.from.read(&mut self.block[self.end..]) {
                Ok(0) => break,
                Ok(n) => {
                    self.end += n;
                    self.more = self.end == self.block.len();
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.block.truncate(self.end);
        self.block.shrink_to_fit();
        self.more = false;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    /// Gives one piece a read, and nothing when there is none for now.
    #[derive(Clone, Default)]
    struct Grows(Rc<RefCell<VecDeque<Vec<u8>>>>);

    impl Grows {
        fn say(&self, text: &[u8]) {
            self.0.borrow_mut().push_back(text.to_vec());
        }
    }

    impl Read for Grows {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let mut pieces = self.0.borrow_mut();
            let Some(mut piece) = pieces.pop_front() else {
                return Ok(0);
            };
            let n = piece.len().min(to.len());
            to[..n].copy_from_slice(&piece[..n]);
            if n < piece.len() {
                piece.drain(..n);
                pieces.push_front(piece);
            }
            Ok(n)
        }
    }

    fn all(lines: &mut Lines<Grows>) -> Vec<String> {
        let mut out = Vec::new();
        while lines.find().unwrap() {
            out.push(String::from_utf8(lines.take().to_vec()).unwrap());
        }
        out
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let long = "l".repeat(3 * BLOCK_MAX);
        let cases: [(&[&str], &[&str]); 7] = [
            (&[], &[]),
            (&["a\nb\n"], &["a", "b"]),
            (&["a", "b", "\n"], &["ab"]),
            (&["\n\n"], &["", ""]),
            (&["a\nb"], &["a"]),
            (&["a\nb", "\nc\n"], &["a", "b", "c"]),
            (&["a\n", &long, "\nb\n"], &["a", &long, "b"]),
        ];
        for (said, wanted) in cases {
            let file = Grows::default();
            said.iter().for_each(|text| file.say(text.as_bytes()));
            assert_eq!(all(&mut Lines::of(file)), wanted);
        }
    }

    #[test]
    fn what_waits_at_the_end_goes_on_and_holds_no_block() {
        let file = Grows::default();
        let mut lines = Lines::of(file.clone());
        file.say(b"one\ntw");
        assert_eq!(all(&mut lines), ["one"]);
        assert!(lines.block.capacity() < BLOCK_MIN);
        assert!(all(&mut lines).is_empty(), "still");
        file.say(b"o\n");
        assert_eq!(all(&mut lines), ["two"]);
        assert_eq!(lines.block.capacity(), 0);
        file.say(b"three\n");
        assert_eq!(all(&mut lines), ["three"]);
    }
}
