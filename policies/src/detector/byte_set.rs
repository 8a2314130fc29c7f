//! Which bytes a text holds: what needs a sign that is not there need not look for it.

/// A set of bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct ByteSet([bool; 256]);

impl ByteSet {
    /// The bytes of a text.
    pub(crate) fn of(text: &str) -> ByteSet {
        let mut set = ByteSet([false; 256]);
        text.bytes().for_each(|byte| set.0[usize::from(byte)] = true);
        set
    }

    /// Takes in the bytes of another set.
    pub(crate) fn add(&mut self, other: &ByteSet) {
        self.0.iter_mut().zip(other.0).for_each(|(here, there)| *here |= there);
    }

    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    pub(crate) fn has_digit(&self) -> bool {
        (b'0'..=b'9').any(|digit| self.has(digit))
    }

    /// Whether the text may hold this character: all its bytes are there.
    pub(crate) fn may_have(&self, c: char) -> bool {
        c.encode_utf8(&mut [0; 4]).bytes().all(|byte| self.has(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_bytes_of_a_text() {
        let set = ByteSet::of("a: 37\u{b0}");
        assert!(set.has_digit() && set.has(b':') && set.may_have('7') && set.may_have('\u{b0}'));
        assert!(!set.has(b'A') && !set.may_have('8') && !set.may_have('\u{e9}'));
        assert!((0..=255).all(|byte| !ByteSet::of("").has(byte)));
    }
}
