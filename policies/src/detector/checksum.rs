//! Check digits: the arithmetic that tells an identifier from a number that looks like one.
//!
//! All functions take digits as values 0 to 9, most significant first, and are false for lengths
//! that the scheme does not know. Sources: ISO/IEC 7064, ISO/IEC 7812-1 annex B (Luhn), the schemes'
//! own specifications where a function says so.

/// Luhn, as on payment cards.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &d)| match (i % 2, d * 2) {
            (0, _) => u32::from(d),
            (_, doubled) if doubled > 9 => u32::from(doubled) - 9,
            (_, doubled) => u32::from(doubled),
        })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}

/// Sum of products with the given weights; the shorter of the two ends it.
pub(crate) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(&d, &w)| u32::from(d) * w).sum()
}

/// Remainder of a long decimal number.
pub(crate) fn remainder(digits: &[u8], modulus: u64) -> u64 {
    digits.iter().fold(0, |rest, &d| (rest * 10 + u64::from(d)) % modulus)
}

/// ISO 7064 mod 97-10 over letters and digits, as IBAN uses it after its rotation.
pub(crate) fn mod97(characters: impl Iterator<Item = u8>) -> bool {
    let rest = characters.fold(0u32, |rest, c| match c {
        b'0'..=b'9' => (rest * 10 + u32::from(c - b'0')) % 97,
        b'A'..=b'Z' => (rest * 100 + u32::from(c - b'A') + 10) % 97,
        _ => rest,
    });
    rest == 1
}

/// ISO 7064 mod 11,10, as the German tax number uses it.
pub(crate) fn mod11_10(digits: &[u8]) -> bool {
    let Some((&check, body)) = digits.split_last() else { return false };
    let product = body.iter().fold(10, |product, &d| {
        let sum = (u32::from(d) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(check)
}

/// Verhoeff, as Aadhaar uses it.
pub(crate) fn verhoeff(digits: &[u8]) -> bool {
    const MULTIPLY: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const PERMUTE: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    let check =
        digits.iter().rev().enumerate().fold(0u8, |check, (i, &d)| {
            MULTIPLY[check as usize][PERMUTE[i % 8][d as usize] as usize]
        });
    !digits.is_empty() && check == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<u8> {
        text.bytes().map(|b| b - b'0').collect()
    }

    #[test]
    fn known_numbers_pass_and_their_neighbours_fail() {
        type Check = fn(&[u8]) -> bool;
        let cases: [(Check, &str, &str); 4] = [
            (luhn, "4111111111111111", "4111111111111112"),
            (verhoeff, "234123412346", "234123412347"),
            (mod11_10, "36574261809", "36574261808"),
            (luhn, "79927398713", "79927398710"),
        ];
        for (check, good, bad) in cases {
            assert!(check(&values(good)), "{good}");
            assert!(!check(&values(bad)), "{bad}");
        }
    }

    #[test]
    fn iban_arithmetic_takes_letters() {
        assert!(mod97(b"WEST12345698765432GB82".iter().copied()));
        assert!(!mod97(b"WEST12345698765432GB83".iter().copied()));
    }
}
