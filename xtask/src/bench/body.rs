//! The message that the bench sends: fixed size, and every byte of it can be checked by who receives it.
//!
//! Pure. A body says for whom it is, which one of its kind it is, and when it was published; the filler follows from
//! the first two, so that bytes which moved, were cut or belong to another message are found.

use std::sync::LazyLock;

/// Bytes of one body, without the newline that ends its line.
pub(crate) const BODY_LEN: usize = 200;

const HEAD: &[u8] = br#"{"command":"bench","to":""#;
const SEQ: &[u8] = br#"","seq":""#;
const AT: &[u8] = br#"","at":""#;
const PAD: &[u8] = br#"","pad":""#;
const TAIL: &[u8] = br#""}"#;
const TO_AT: usize = HEAD.len();
const SEQ_AT: usize = TO_AT + DIGITS + SEQ.len();
const AT_AT: usize = SEQ_AT + DIGITS + AT.len();
const PAD_AT: usize = AT_AT + NANO_DIGITS + PAD.len();
/// All but the filler.
const OTHERS_LEN: usize = PAD_AT + TAIL.len();
const MOST_LEN: usize = 8_000;
const DIGITS: usize = 10;
const NANO_DIGITS: usize = 15;

static FILLER: LazyLock<[u8; 8192]> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(3);
    std::array::from_fn(|_| random.alphanumeric() as u8)
});

/// Whom a message is for. Users count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Everyone,
    User(u32),
}

impl To {
    fn number(self) -> u64 {
        match self {
            Self::Everyone => 0,
            Self::User(user) => u64::from(user),
        }
    }
}

/// What one body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) to: To,
    /// Counts from 0 for everyone, and for each user.
    pub(crate) seq: u64,
    /// Nanoseconds on the bench's own clock.
    pub(crate) at: u64,
}

impl Stamp {
    /// The body.
    pub(crate) fn encode(self) -> [u8; BODY_LEN] {
        let mut out = [0; BODY_LEN];
        self.write(&mut out);
        out
    }

    /// A body of `len` bytes, at least [`BODY_LEN`] and at most 8,000.
    pub(crate) fn encode_to(self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len.clamp(BODY_LEN, MOST_LEN)];
        self.write(&mut out);
        out
    }

    fn write(self, out: &mut [u8]) {
        let filler = self.filler(out.len() - OTHERS_LEN);
        let mut rest = out;
        let mut put = |bytes: &[u8]| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            rest = after;
        };
        put(HEAD);
        put(&digits::<DIGITS>(self.to.number()));
        put(SEQ);
        put(&digits::<DIGITS>(self.seq));
        put(AT);
        put(&digits::<NANO_DIGITS>(self.at));
        put(PAD);
        put(filler);
        put(TAIL);
    }

    /// Reads a body; `None` when any byte of it is not what [`Stamp::encode`] wrote.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        if !(BODY_LEN..=MOST_LEN).contains(&body.len()) {
            return None;
        }
        let constant =
            [(0, HEAD), (SEQ_AT - SEQ.len(), SEQ), (AT_AT - AT.len(), AT), (PAD_AT - PAD.len(), PAD)];
        if constant.iter().any(|(at, text)| !body[*at..].starts_with(text)) || !body.ends_with(TAIL) {
            return None;
        }
        let to = match number(&body[TO_AT..TO_AT + DIGITS])? {
            0 => To::Everyone,
            user => To::User(u32::try_from(user).ok()?),
        };
        let seq = number(&body[SEQ_AT..SEQ_AT + DIGITS])?;
        let at = number(&body[AT_AT..AT_AT + NANO_DIGITS])?;
        let stamp = Self { to, seq, at };
        let pad = body.len() - OTHERS_LEN;
        (&body[PAD_AT..PAD_AT + pad] == stamp.filler(pad)).then_some(stamp)
    }

    fn filler(self, len: usize) -> &'static [u8] {
        let mixed = (self.to.number() + 1).wrapping_mul(0x9E37_79B9).wrapping_add(self.seq.wrapping_mul(31));
        let start = usize::try_from(mixed % (FILLER.len() - len) as u64).unwrap_or(0);
        &FILLER[start..start + len]
    }
}

fn digits<const N: usize>(mut value: u64) -> [u8; N] {
    let mut out = [b'0'; N];
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_of_the_promised_size_and_says_what_it_was_told() {
        for stamp in [
            Stamp { to: To::Everyone, seq: 0, at: 0 },
            Stamp { to: To::User(18_000), seq: 9_999_999_999, at: 999_999_999_999_999 },
        ] {
            let body = stamp.encode();
            assert!(serde_json::from_slice::<serde_json::Value>(&body).unwrap().is_object());
            assert_eq!(Stamp::decode(&body), Some(stamp));
            let long = stamp.encode_to(1024);
            assert_eq!((long.len(), Stamp::decode(&long)), (1024, Some(stamp)));
            assert_eq!(Stamp::decode(&long[..1023]), None);
        }
    }

    #[test]
    fn any_changed_byte_is_found_or_changes_what_the_body_says() {
        let stamp = Stamp { to: To::User(7), seq: 41, at: 123_456 };
        let body = stamp.encode();
        for at in 0..BODY_LEN {
            let mut other = body;
            other[at] ^= 1;
            assert_ne!(Stamp::decode(&other), Some(stamp), "byte {at}");
        }
        assert_eq!(Stamp::decode(&body[1..]), None);
    }
}
