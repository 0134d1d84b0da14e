//! Text of other people in a place of fixed size: copied without an allocation, made printable when it is read.

use std::fmt;

/// The first `N` bytes of a text, and how long it was.
#[derive(Debug, Clone, Copy)]
pub struct ShortText<const N: usize> {
    bytes: [u8; N],
    /// Of the whole text; what is beyond `N` was cut.
    len: u32,
}

impl<const N: usize> Default for ShortText<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> ShortText<N> {
    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn set(&mut self, text: &[u8]) {
        self.clear();
        self.append(text);
    }

    pub fn append(&mut self, text: &[u8]) {
        if let Some(free) = self.bytes.get_mut(self.len as usize..) {
            let kept = text.len().min(free.len());
            free[..kept].copy_from_slice(&text[..kept]);
        }
        self.len = self.len.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn kept(&self) -> &[u8] {
        &self.bytes[..N.min(self.len as usize)]
    }
}

impl<const N: usize> fmt::Write for ShortText<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}

impl<const N: usize> fmt::Display for ShortText<N> {
    /// Control characters are escaped, bytes that are not UTF-8 become `\u{fffd}`, and a cut text ends with `…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        let cut = self.len as usize > N;
        for chunk in self.kept().utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
            // A character that was cut through is no fault of the text.
            if !chunk.invalid().is_empty() && !cut {
                f.write_char('\u{fffd}')?;
            }
        }
        if cut { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_text_is_kept_up_to_its_place_and_says_when_it_was_cut() {
        let mut text = ShortText::<4>::default();
        for (given, shown) in
            [("", ""), ("abcd", "abcd"), ("abcde", "abcd…"), ("a\nb", "a\\nb"), ("abcé", "abc…")]
        {
            text.set(given.as_bytes());
            assert_eq!(text.to_string(), shown);
        }
        text.set(b"a\xff");
        assert_eq!(text.to_string(), "a\u{fffd}");
        text.clear();
        assert!(write!(text, "{}-{}", 12, 34).is_ok());
        assert_eq!(text.to_string(), "12-3…");
        text.append(b"more");
        assert_eq!(text.to_string(), "12-3…");
    }
}
