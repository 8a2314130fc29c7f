//! Which files belong to a model, and whether they say the same of each other.
//!
//! A split model is `NAME-00001-of-0000N.gguf` and so on; any one of them, or the folder they are in,
//! names it. What each file says of its place (`split.no`, `split.count`) must agree with its name.

use std::path::{Path, PathBuf};

use super::header::Header;
use super::malformed;
use crate::error::EngineError;

/// Most files of a model: five digits.
const SPLITS_MAX: usize = 99_999;

/// The GGUF files of the model at a path, in order; `None` if the path names no GGUF model.
pub(in crate::weights) fn files_of(path: &Path) -> Result<Option<Vec<PathBuf>>, EngineError> {
    if path.is_dir() {
        let Some(first) = only_model_in(path)? else { return Ok(None) };
        return siblings(&first).map(Some);
    }
    let is_gguf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if is_gguf || path.is_file() { siblings(path).map(Some) } else { Ok(None) }
}

/// The first file of the one GGUF model of a folder. A vision tower's own file (`mmproj`) is none, and
/// a folder with safetensors files is a Hugging Face directory, whatever else is there.
fn only_model_in(dir: &Path) -> Result<Option<PathBuf>, EngineError> {
    let read = |source| EngineError::Read { path: dir.to_owned(), source };
    let mut firsts = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".safetensors") {
            return Ok(None);
        }
        let is_first = split_of(&name).is_none_or(|split| split.number == 1);
        if name.ends_with(".gguf") && !name.contains("mmproj") && is_first {
            firsts.push(path);
        }
    }
    firsts.sort();
    if firsts.len() > 1 {
        let names: Vec<_> = firsts.iter().map(|p| p.display().to_string()).collect();
        return Err(EngineError::Malformed {
            path: dir.to_owned(),
            what: format!("holds several GGUF models; name one of {}", names.join(", ")),
        });
    }
    Ok(firsts.pop())
}

/// All files of the model that a file belongs to.
fn siblings(path: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(Split { stem, count, .. }) = split_of(&name) else {
        return Ok(vec![path.to_owned()]);
    };
    let all = (1..=count).map(|number| path.with_file_name(split_name(stem, number, count)));
    all.map(|path| {
        if path.is_file() {
            return Ok(path);
        }
        let what = format!("is missing: the model has {count} files; download them all");
        Err(EngineError::Malformed { path, what })
    })
    .collect()
}

/// What a file's name says of its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    /// The name before the place.
    pub(super) stem: &'a str,
    /// From 1.
    pub(super) number: usize,
    pub(super) count: usize,
}

/// Reads `NAME-00002-of-00005.gguf`; `None` for a name without a place.
pub(super) fn split_of(name: &str) -> Option<Split<'_>> {
    let rest = name.strip_suffix(".gguf")?;
    let (rest, count) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| {
        let plain = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let (number, count) = (digits(number)?, digits(count)?);
    ((1..=count).contains(&number) && count <= SPLITS_MAX).then_some(Split { stem, number, count })
}

/// The name of a model, whatever its files are called.
pub(in crate::weights) fn stem(name: &str) -> &str {
    match split_of(name) {
        Some(split) => split.stem,
        None => name.strip_suffix(".gguf").unwrap_or(name),
    }
}

/// The name of a split.
pub(super) fn split_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// Checks that the files are the splits of one model, each in its place.
pub(super) fn check(headers: &[Header]) -> Result<(), EngineError> {
    let count = headers.len() as i64;
    for (place, header) in headers.iter().enumerate() {
        let claimed = header.integer("split.count").unwrap_or(1).max(1);
        if claimed != count {
            let what = format!(
                "split.count: it is one of {claimed} files, but {count} were found; splits keep the \
                 names that they were published with"
            );
            return Err(malformed(header, what));
        }
        let number = header.integer("split.no").unwrap_or(0);
        if number != place as i64 {
            let what = format!(
                "split.no: it says it is file {number}, but stands in the place of file {place}; was \
                 it renamed?"
            );
            return Err(malformed(header, what));
        }
        for (earlier, other) in headers[..place].iter().enumerate() {
            if let Some(twice) = header.tensors.keys().find(|n| other.tensors.contains_key(*n)) {
                let what = format!("has the tensor {twice:?}, as file {earlier} has");
                return Err(malformed(header, what));
            }
        }
    }
    let tensors: usize = headers.iter().map(|h| h.tensors.len()).sum();
    match headers[0].integer("split.tensors.count") {
        Some(claimed) if claimed != tensors as i64 => Err(malformed(
            &headers[0],
            format!("split.tensors.count: claims {claimed} tensors, the files have {tensors}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_place() {
        let split = |stem, number, count| Some(Split { stem, number, count });
        for (name, expected) in [
            ("m-Q4_K_M-00002-of-00005.gguf", split("m-Q4_K_M", 2, 5)),
            ("m-00006-of-00005.gguf", None),
            ("m-00000-of-00005.gguf", None),
            ("m-2-of-5.gguf", None),
            ("m.gguf", None),
            ("m-00001-of-00001.bin", None),
        ] {
            assert_eq!(split_of(name), expected, "{name}");
        }
        assert_eq!(split_name("m", 2, 5), "m-00002-of-00005.gguf");
    }
}
