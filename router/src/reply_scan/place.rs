//! Where in a reply a text stands, as a number: the same place of every event of a stream has the same. And
//! what counts as a text in a field that nobody knows.
//!
//! A place is the names on the way to it, hashed (FNV-1a, 64 bits). Nobody gains by two places with one number: then
//! their texts are scanned as one.

/// A number with fewer digits says nothing.
pub(crate) const NUMBER_MIN: u64 = 100_000;

/// A place below a choice of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// Stands between names; no UTF-8 has it.
const BORDER: u8 = 0xff;

impl Place {
    /// What has no name.
    pub(crate) const ROOT: Place = Place(BASIS);

    /// The field of this name.
    pub(crate) const fn of(name: &str) -> Place {
        Place::ROOT.below(name)
    }

    /// A field of what stands here.
    pub(crate) const fn below(self, name: &str) -> Place {
        let (mut hash, name, mut at) = (push(self.0, BORDER), name.as_bytes(), 0);
        while at < name.len() {
            hash = push(hash, name[at]);
            at += 1;
        }
        Place(hash)
    }

    /// An item of the list that stands here.
    pub(crate) fn item(self, index: usize) -> Place {
        Place(index.to_le_bytes().into_iter().fold(push(self.0, BORDER), push))
    }
}

const fn push(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(PRIME)
}

/// Whether a field of this name holds no text of a model: what it is, whose, and what nobody can read.
pub(crate) fn is_no_text(name: Place) -> bool {
    const NAMES: [Place; 8] = [
        Place::of("data"),
        Place::of("encrypted_content"),
        Place::of("format"),
        Place::of("id"),
        Place::of("index"),
        Place::of("role"),
        Place::of("signature"),
        Place::of("type"),
    ];
    NAMES.contains(&name)
}
