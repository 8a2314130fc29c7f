//! Names and values in two columns, as wide as the longest name needs.

/// One line for each pair.
pub(super) fn rows(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    pairs.iter().map(|(name, value)| format!("{name:<width$}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_runs_into_its_value() {
        let pairs = [("a", "1".to_owned()), ("a long name", "2".to_owned())];
        assert_eq!(rows(&pairs), "a            1\na long name  2\n");
    }
}
