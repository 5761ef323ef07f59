//! Name/value blocks and their compression: one zlib stream a direction for the whole connection.

use super::dictionary::DICTIONARY;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Most bytes a block may expand to.
const BLOCK_BYTES_MAX: usize = 16 << 10;
const PAIRS_MAX: u32 = 64;

pub(crate) struct Decoder {
    zlib: Decompress,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder {
            zlib: Decompress::new(true),
        }
    }

    /// The headers of one block, names in lower case. After an error the connection can't go on: the compression
    /// state is lost.
    pub(crate) fn decode(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, String> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, String> {
        // one byte more than allowed, to notice
        let mut block = Vec::with_capacity(BLOCK_BYTES_MAX + 1);
        loop {
            let (before_in, before_out) = (self.zlib.total_in(), block.len());
            let result = self
                .zlib
                .decompress_vec(input, &mut block, FlushDecompress::Sync);
            let consumed = (self.zlib.total_in() - before_in) as usize;
            input = input.get(consumed..).unwrap_or_default();
            match result {
                Ok(_) if block.len() > BLOCK_BYTES_MAX => {
                    return Err(format!(
                        "a header block is larger than {BLOCK_BYTES_MAX} bytes"
                    ));
                }
                Ok(_) if input.is_empty() => return Ok(block),
                Ok(_) if consumed == 0 && block.len() == before_out => {
                    return Err("a header block has bytes after its end".to_owned());
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| "the header compression uses another dictionary".to_owned())?;
                }
                Err(error) => {
                    return Err(format!("a header block cannot be decompressed: {error}"));
                }
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Vec<(String, String)>, String> {
    let pairs = take_length(&mut block)?;
    if pairs > PAIRS_MAX {
        return Err(format!("{pairs} headers are more than {PAIRS_MAX}"));
    }
    let mut headers = Vec::new();
    for _ in 0..pairs {
        let name = take_text(&mut block)?.to_ascii_lowercase();
        let value = take_text(&mut block)?.to_owned();
        headers.push((name, value));
    }
    Ok(headers)
}

fn take_length(block: &mut &[u8]) -> Result<u32, String> {
    let (length, rest) = block
        .split_first_chunk()
        .ok_or_else(|| "a header block ends too early".to_owned())?;
    *block = rest;
    Ok(u32::from_be_bytes(*length))
}

fn take_text<'a>(block: &mut &'a [u8]) -> Result<&'a str, String> {
    let length = take_length(block)? as usize;
    let (text, rest) = block
        .split_at_checked(length)
        .ok_or_else(|| "a header block ends too early".to_owned())?;
    *block = rest;
    std::str::from_utf8(text).map_err(|_| "a header is not UTF-8".to_owned())
}

/// Makes the blocks we send.
pub(crate) struct Encoder {
    zlib: Compress,
}

impl Encoder {
    pub(crate) fn new() -> Result<Encoder, String> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY)
            .map_err(|error| error.to_string())?;
        Ok(Encoder { zlib })
    }

    pub(crate) fn encode(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend_from_slice(&(text.len() as u32).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        }
        // room for what doesn't compress, the zlib header and the flush marker
        let mut out = Vec::with_capacity(block.len() + 64);
        let before = self.zlib.total_in();
        self.zlib
            .compress_vec(&block, &mut out, FlushCompress::Sync)
            .map_err(|error| error.to_string())?;
        match (self.zlib.total_in() - before) as usize == block.len() {
            true => Ok(out),
            false => Err("a header block did not fit its buffer".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_compression_state_for_all_blocks() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        let blocks: &[&[(&str, &str)]] = &[
            &[("streamType", "stdin"), ("port", "80")],
            &[],
            &[("streamType", "stdin"), ("empty", "")],
            &[("x", "ä")],
        ];
        for block in blocks {
            let decoded = decoder.decode(&encoder.encode(block).unwrap()).unwrap();
            let expected: Vec<_> = block
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()))
                .collect();
            assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn bad_blocks_are_errors() {
        let compress = |block: &[u8]| {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&DICTIONARY).unwrap();
            let mut out = Vec::with_capacity(1 << 20);
            zlib.compress_vec(block, &mut out, FlushCompress::Sync)
                .unwrap();
            out
        };
        let check = |name: &str, block: &[u8], expected: &str| {
            let error = Decoder::new().decode(block).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        };
        check("garbage", b"\xff\xff\xff\xff", "cannot be decompressed");
        check("nothing", b"", "ends too early");
        check(
            "another dictionary",
            &[0x78, 0xbb, 1, 2, 3, 4, 0],
            "another dictionary",
        );
        check("short", &compress(&[0, 0]), "ends too early");
        check("too many", &compress(&[0, 0, 1, 0]), "more than 64");
        check(
            "length past the end",
            &compress(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
            "ends too early",
        );
        check(
            "not UTF-8",
            &compress(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]),
            "not UTF-8",
        );
        check("a bomb", &compress(&vec![0; 1 << 20]), "larger than 16384");
    }
}
