//! Makes hostile inputs of real ones: one seed, one input, always the same.

use fastrand::Rng;

/// Largest input, in bytes: above the largest line and configuration file that are read at all.
const SIZE_MAX: usize = (1 << 20) + 4096;
/// Size beyond which an input grows only seldom, since large ones take long and find little.
const SIZE_USUAL: usize = 64 << 10;

/// What is worth being put anywhere: what our formats are made of, and what breaks readers.
const TOKENS: &[&[u8]] = &[
    b"",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\0",
    b"\"",
    b"'",
    b"\\",
    b"/",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"#",
    b"-",
    b"?",
    b"=",
    b".",
    b"{}",
    b"[]",
    b"\"\"",
    b"null",
    b"true",
    b"~",
    b": ",
    b"- ",
    b"? ",
    b"&a ",
    b"*a",
    b"!t ",
    b"<<: ",
    b"| \n",
    b"---\n",
    b"...\n",
    b"%YAML 1.1\n",
    b"\"\\ud800\"",
    b"\\u0000",
    b"\\",
    b"\\x",
    b"\\u",
    b"0",
    b"-0",
    b"-1",
    b"1e999",
    b"-1e-999",
    b"0x7f",
    b"0.1e+",
    b"nan",
    b".inf",
    b"2147483648",
    b"4294967295",
    b"9223372036854775808",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"1.7976931348623157e308",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x1b[31m",
    b"\x7f",
    // Avro: no bytes, and numbers of bytes up to the largest.
    b"\x01",
    b"\x02",
    b"\x7e",
    b"\x80\x80\x80\x08",
    b"\xfe\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"HTTP/1.1 200 OK\r\n",
    b"\r\n\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"ffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"Location: http://[::1/\r\n",
    b"\"jobId\":",
    b"\"runId\":",
    b"\"phase\":",
    b"\"command\":",
    b"\"execute\"",
    b"\"params\":",
    b"\"seq\":",
    b"instances:",
    b"url: ",
    b"poll_interval: ",
    b"\"type\":",
    b"\"record\"",
    b"\"array\"",
    b"\"items\":",
    b"\"fixed\"",
    b"\"size\":",
    b"\"name\":",
    b"\"fields\":",
    b"\"default\":",
    b"\"union\"",
];

/// What is repeated to make depth or width; an input of the first only never ends.
const NESTS: &[(&[u8], &[u8])] = &[
    (b"[", b"]"),
    (b"{\"a\":", b"}"),
    (b"{a: ", b"}"),
    (b"- ", b""),
    (b"? ", b""),
    (b"[[", b"]]"),
    (b"a.", b"a"),
    (b"(", b")"),
    (b"{\"type\":\"array\",\"items\":", b"}"),
    (b"x = {", b"}"),
    (b"*a,", b""),
    (b"0,", b""),
    (b"\"\",", b""),
    (b"{},", b""),
    (b"\n", b""),
    (b" ", b""),
];

/// The input of a seed.
pub(crate) fn input(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut data = rng.choice(corpus).cloned().unwrap_or_default();
    let size_max = if rng.u8(..) < 4 { SIZE_MAX } else { SIZE_USUAL };
    // Few changes keep what is left of the input sound; many come to other places.
    let changes = if rng.u8(..) < 32 { rng.usize(10..60) } else { rng.usize(1..6) };
    for _ in 0..changes {
        change(&mut data, &mut rng, corpus, size_max);
        data.truncate(size_max);
    }
    data
}

fn change(data: &mut Vec<u8>, rng: &mut Rng, corpus: &[Vec<u8>], size_max: usize) {
    let at = rng.usize(..=data.len());
    match rng.u8(..100) {
        0..12 => flip(data, rng),
        12..20 => replace(data, at, rng.usize(..4), &[rng.u8(..)]),
        20..36 => replace(data, at, rng.usize(..2), rng.choice(TOKENS).copied().unwrap_or_default()),
        36..44 => replace_word(data, at, rng),
        44..52 => drop(data.drain(some(data, rng))),
        52..60 => {
            let copy = data[some(data, rng)].to_vec();
            let times = [1, 1, 2, 10, 1000][rng.usize(..5)].min(size_max / copy.len().max(1));
            replace(data, at, 0, &copy.repeat(times));
        }
        60..64 => data.truncate(at),
        64..76 => splice(data, at, rng, corpus),
        76..82 => {
            let (open, close) = rng.choice(NESTS).copied().unwrap_or_default();
            let times =
                [3, 40, 130, 5_000, 200_000][rng.usize(..5)].min(size_max / (open.len() + close.len()));
            let closed = if rng.bool() { close.repeat(times) } else { Vec::new() };
            let inside = data[some(data, rng)].to_vec();
            replace(data, at, 0, &[open.repeat(times), inside, closed].concat());
        }
        82..90 => swap_lines(data, rng),
        90..96 => {
            let number = rng.choice([0, 1, -1, i64::MAX, i64::MIN, 1 << 31, 1 << 20, 255]).unwrap_or(0);
            replace(data, at, rng.usize(..9), &zigzag(number));
        }
        _ => {
            let word = "x".repeat([100, 70_000, 600_000][rng.usize(..3)].min(size_max));
            replace(data, at, 0, word.as_bytes());
        }
    }
}

fn flip(data: &mut [u8], rng: &mut Rng) {
    for _ in 0..rng.usize(1..4) {
        if data.is_empty() {
            return;
        }
        let at = rng.usize(..data.len());
        data[at] ^= 1 << rng.u8(..8);
    }
}

/// Puts a text in the place of so many bytes.
fn replace(data: &mut Vec<u8>, at: usize, length: usize, text: &[u8]) {
    let end = (at + length).min(data.len());
    data.splice(at..end, text.iter().copied());
}

/// Replaces a word or number, the next one from a place on.
fn replace_word(data: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let start = at + data[at..].iter().position(is_word).unwrap_or(data.len() - at);
    let length = data[start..].iter().position(|byte| !is_word(byte)).unwrap_or(data.len() - start);
    replace(data, start, length, rng.choice(TOKENS).copied().unwrap_or_default());
}

/// A part of the data, mostly a small one.
fn some(data: &[u8], rng: &mut Rng) -> std::ops::Range<usize> {
    let start = rng.usize(..=data.len());
    let left = data.len() - start;
    let length = if rng.bool() { rng.usize(..=left.min(16)) } else { rng.usize(..=left) };
    start..start + length
}

/// Puts a part of another sample in, or continues with it.
fn splice(data: &mut Vec<u8>, at: usize, rng: &mut Rng, corpus: &[Vec<u8>]) {
    let Some(other) = rng.choice(corpus) else { return };
    let part = some(other, rng);
    if rng.bool() {
        replace(data, at, 0, &other[part]);
    } else {
        replace(data, at, usize::MAX - at, &other[part.start..]);
    }
}

fn swap_lines(data: &mut Vec<u8>, rng: &mut Rng) {
    let mut lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let (a, b) = (rng.usize(..lines.len()), rng.usize(..lines.len()));
    match rng.u8(..3) {
        0 => lines.swap(a, b),
        1 => lines.insert(a, lines[b]),
        _ => drop(lines.remove(a)),
    }
    *data = lines.join(&b'\n');
}

/// A number as Avro writes it.
fn zigzag(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest > 0x7f {
        bytes.push(u8::try_from(rest & 0x7f | 0x80).unwrap_or_default());
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or_default());
    bytes
}
