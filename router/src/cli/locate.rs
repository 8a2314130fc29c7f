//! Finds the model to run: what the person named, else what was installed or built with the binary.
//!
//! A named path is taken as it is, even if nothing is there: the engine then says what is wrong with it.
//! Only the two implied places are tried and passed over.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Environment variable that names a model when neither a flag nor the config does.
const VARIABLE: &str = "SLUICE_MODEL";
/// The embedded default model, below an installation's prefix.
const INSTALLED: &str = "share/sluice/models/nano";
/// The same in the source tree that built this binary.
const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/models/nano");

/// The model named by a flag, then by the config, then by `SLUICE_MODEL`, then the default model.
pub(super) fn model(flag: Option<&Path>, config: Option<&Path>) -> anyhow::Result<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    match named(flag, config, variable.as_deref()) {
        Some(path) => Ok(path.to_owned()),
        None => first_that_exists(&implied(std::env::current_exe().ok().as_deref())),
    }
}

fn named<'a>(
    flag: Option<&'a Path>,
    config: Option<&'a Path>,
    variable: Option<&'a Path>,
) -> Option<&'a Path> {
    flag.or(config).or(variable)
}

/// Where the default model may lie, best first.
fn implied(executable: Option<&Path>) -> Vec<PathBuf> {
    let prefix = executable.and_then(Path::parent).and_then(Path::parent);
    let installed = prefix.map(|prefix| prefix.join(INSTALLED));
    installed.into_iter().chain([PathBuf::from(BUILT_FROM)]).collect()
}

fn first_that_exists(places: &[PathBuf]) -> anyhow::Result<PathBuf> {
    if let Some(found) = places.iter().find(|place| place.join("config.json").is_file()) {
        return Ok(found.canonicalize()?);
    }
    let looked: Vec<String> = places.iter().map(|p| format!("  {}", p.display())).collect();
    bail!(
        "no model was named and the default model is not here; looked in\n{}\nhint: name one with --model PATH or {VARIABLE}",
        looked.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_beats_config_beats_variable() {
        let (flag, config, variable) = (Path::new("flag"), Path::new("config"), Path::new("env"));
        assert_eq!(named(Some(flag), Some(config), Some(variable)), Some(flag));
        assert_eq!(named(None, Some(config), Some(variable)), Some(config));
        assert_eq!(named(None, None, Some(variable)), Some(variable));
        assert_eq!(named(None, None, None), None);
    }

    #[test]
    fn installed_model_lies_beside_the_folder_of_the_executable() {
        let places = implied(Some(Path::new("/opt/sluice/bin/sluice")));
        assert_eq!(places[0], Path::new("/opt/sluice/share/sluice/models/nano"));
        assert!(places[1].ends_with("engine/models/nano"));
    }

    #[test]
    fn missing_default_model_names_the_places_and_the_remedy() {
        let error = first_that_exists(&[PathBuf::from("/nowhere/at/all")]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
        assert!(error.contains("--model PATH or SLUICE_MODEL"), "{error}");
    }
}
