//! A set that is built again from all of its files is the same set, whatever ships by then.

use sluice_policies::{PolicySet, Source, shipped_sources};

fn shipped_site() -> Source {
    shipped_sources().into_iter().find(|source| source.name == "site.yaml").expect("a site ships")
}

#[test]
fn a_set_built_again_from_all_its_files_has_the_same_digest_and_verdicts() {
    let first = PolicySet::shipped().unwrap();
    let again = PolicySet::from_complete_sources(first.sources().to_vec()).unwrap();
    assert_eq!(again.digest(), first.digest());
    assert_eq!(again.verdicts(), first.verdicts());
}

#[test]
fn a_pack_of_detectors_alone_stays_a_pack() {
    let mut site = shipped_site();
    site.text = site.text.replace("packs: [default]", "packs: [default, ./chart.yaml]");
    let chart = "policy: chart\nversion: \"1\"\nowner: ward@example.org\ndetectors:\n  \
                 chart_number: {looks_like: \"SM-9999999\", alone: very_likely}\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chart.yaml"), chart).unwrap();
    let path = folder.path().join("site.yaml");
    std::fs::write(&path, &site.text).unwrap();
    let first = PolicySet::load_site(&path).unwrap();
    let again = PolicySet::from_complete_sources(first.sources().to_vec()).unwrap();
    assert_eq!(again.digest(), first.digest());
    assert_eq!(again.packs(), first.packs());
}

#[test]
fn files_without_a_site_or_with_two_are_refused() {
    let all = PolicySet::shipped().unwrap().sources().to_vec();
    let error = |sources| PolicySet::from_complete_sources(sources).err().unwrap().to_string();
    assert!(error(all[1..].to_vec()).contains("no site file"));
    let twice = [vec![shipped_site()], all].concat();
    assert!(error(twice).contains("second site"));
}
