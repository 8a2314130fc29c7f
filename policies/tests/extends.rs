//! A hospital extends the shipped HIPAA pack in its own site file: the way that `README.md` walks.

use std::path::PathBuf;

use sluice_policies::{PolicySet, Prompt};

/// What the hospital adds below the shipped site.
const EXTENSION: &str = r#"
extends:
  hipaa:
    detectors:
      ward_number: {looks_like: "SM-9999999", alone: very_likely, near_words: [chart, bed]}
    groups:
      patient_numbers: [ward_number]
    tests:
      - {rule: HIPAA-005, say: "Call back SM-0048213", expect: match}
      - {rule: HIPAA-005, say: "Order part SM-00482", expect: no_match}
"#;

/// A folder of its own for each test, removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("sluice-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the temporary folder is writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left behind is no reason to fail a test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shipped_site() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/site.yaml");
    std::fs::read_to_string(path).expect("the shipped site is readable")
}

fn load(name: &str, site: &str) -> Result<PolicySet, String> {
    let folder = Folder::new(name);
    PolicySet::load_site(&folder.write("site.yaml", site)).map_err(|error| error.to_string())
}

#[test]
fn a_number_of_the_hospital_joins_the_shipped_rules() {
    let site = format!("{}{EXTENSION}", shipped_site());
    let set = load("extends", &site).unwrap_or_else(|error| panic!("{error}"));
    let matched = |text: &str| set.classify(&Prompt::from_user_text(text)).rules;
    assert!(matched("SM-0048213 was given insulin").contains(&"HIPAA-002".to_owned()));
    let shipped = PolicySet::shipped().unwrap_or_else(|error| panic!("{error}"));
    let before = shipped.classify(&Prompt::from_user_text("Call back SM-0048213"));
    assert!(!before.rules.contains(&"HIPAA-005".to_owned()));
    assert_ne!(set.digest(), shipped.digest());
}

#[test]
fn a_typo_in_the_extension_is_pointed_at() {
    let site = format!("{}{}", shipped_site(), EXTENSION.replace("looks_like", "look_like"));
    let error = load("typo", &site).err().expect("an unknown key is refused");
    assert!(
        error.contains("extends.hipaa.detectors.ward_number: unknown key \"look_like\""),
        "{error}"
    );
    assert!(error.ends_with("hint: did you mean \"looks_like\"?"), "{error}");
}

#[test]
fn an_extension_of_an_unknown_pack_is_refused() {
    let site = format!("{}{}", shipped_site(), EXTENSION.replace("  hipaa:", "  hippa:"));
    let error = load("unknown", &site).err().expect("an unknown pack is refused");
    assert!(error.contains("no pack of this set is called \"hippa\""), "{error}");
    assert!(error.contains("did you mean \"hipaa\"?"), "{error}");
}

#[test]
fn packs_are_found_beside_the_site_file_and_missing_ones_named() {
    let folder = Folder::new("beside");
    folder.write(
        "ours.yaml",
        "policy: ours\nversion: \"1\"\nowner: us@hospital.example\nrules:\n  - id: OUR-1\n    title: Ours\n    \
         when: {tag: ours}\n    then: {class: regulated}\n",
    );
    let named = shipped_site().replace("packs: [default]", "packs: [default, ./ours.yaml]");
    let set = PolicySet::load_site(&folder.write("site.yaml", &named));
    assert!(set.unwrap_or_else(|error| panic!("{error}")).rule("OUR-1").is_some());
    let missing = named.replace("./ours.yaml", "./theirs.yaml");
    let error = PolicySet::load_site(&folder.write("site.yaml", &missing)).err();
    let error = error.expect("the file is missing").to_string();
    assert!(error.contains("packs[1]: failed to read") && error.contains("theirs.yaml"), "{error}");
}
