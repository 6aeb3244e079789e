//! Mutation of known inputs. The same seed makes the same inputs, on every machine.

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }
}

/// Numbers and words at which parsers break.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1e999",
    "-0",
    "1.5",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "0x",
    "0x0",
    "0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{202e}",
    "NaN",
    "inf",
    "1d",
    "1ms",
    "99999999999999999999d",
    "'",
    "\"",
    "\n",
    "\\",
    "[[",
    "]]",
    "=",
    "#",
    "{\"a\":",
    ",",
    ":",
];
/// Longest mutated input, bytes.
const LONGEST: usize = 1 << 16;
/// Highest number of changes to one input.
const CHANGES: usize = 6;

/// A new input, made from one or two of `corpus`.
pub fn mutate(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus.get(rng.below(corpus.len())).cloned().unwrap_or_default();
    for _ in 0..=rng.below(CHANGES) {
        change(rng, corpus, &mut input);
    }
    input.truncate(LONGEST);
    input
}

fn change(rng: &mut Rng, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = rng.below(input.len() + 1);
    let end = (at + 1 + rng.below(16)).min(input.len());
    match rng.below(9) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = rng.next().to_le_bytes()[0];
            }
        }
        2 => drop(input.drain(at..end.max(at))),
        3 => {
            let again: Vec<u8> = input.get(at..end).unwrap_or(&[]).repeat(1 + rng.below(40));
            input.splice(at..at, again);
        }
        4 => drop(input.splice(at..at, WORDS[rng.below(WORDS.len())].bytes())),
        // Replaces a whole number or word.
        5 | 6 => {
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let from = input[..at].iter().rposition(|byte| !is_part(byte)).map_or(0, |before| before + 1);
            let to = input[at..].iter().position(|byte| !is_part(byte)).map_or(input.len(), |after| at + after);
            input.splice(from..to, WORDS[rng.below(WORDS.len())].bytes());
        }
        7 => input.truncate(at),
        // Joins the head of this input to the tail of another.
        _ => {
            if let Some(other) = corpus.get(rng.below(corpus.len())) {
                let from = rng.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}
