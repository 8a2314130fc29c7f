//! A tenant's pack adds care to its own requests, and changes nothing for anybody else.

#![forbid(unsafe_code)]

use sluice_policies::{PolicySet, Prompt, Source};

const ACME: &str = r#"
policy: acme
version: "1.0.0"
owner: acme@example.org
detectors:
  acme_part: {looks_like: "AC-9999", alone: very_likely}
groups:
  acme_numbers: [acme_part]
rules:
  - id: ACME-001
    title: A part number of ours
    when: {found: acme_numbers}
    then: {class: regulated}
    tests:
      - {say: "Order AC-1234", expect: match}
      - {say: "Order AC-12", expect: no_match}
      - {given: {tenant: other}, say: "Order AC-1234", expect: no_match}
"#;

fn set(site: &str, acme: &str) -> Result<PolicySet, String> {
    let shipped = include_str!("../site.yaml");
    let source = |name: &str, text: String| Source { name: name.to_owned(), text };
    let site = source("site.yaml", format!("{shipped}\n{site}"));
    let files = vec![site, source("acme.yaml", acme.to_owned())];
    PolicySet::from_sources(files).map_err(|error| error.to_string())
}

fn ask(set: &PolicySet, tenant: &str) -> (String, usize) {
    let mut prompt = Prompt::from_user_text("Order AC-1234");
    prompt.context.tenant = tenant.to_owned();
    prompt.context.caller = Some("app".to_owned());
    let classification = set.classify(&prompt);
    (classification.class, classification.findings.len())
}

#[test]
fn a_tenant_s_rules_and_detectors_look_at_its_own_requests() {
    let set = set("tenants: {acme: acme.yaml}", ACME).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ask(&set, "acme"), ("regulated".to_owned(), 1));
    assert_eq!(ask(&set, "other"), ("internal".to_owned(), 0));
    assert_eq!(ask(&set, ""), ("internal".to_owned(), 0));
    assert!(set.read().contains("ACME-001 (medium; only for the tenant acme;"), "{}", set.read());
}

#[test]
fn what_would_reach_other_tenants_is_refused() {
    let tenants = "tenants: {acme: acme.yaml}";
    let label = ACME.replace("groups:", "labels:\n  ACME: {class: regulated}\ngroups:");
    let group = ACME.replace("acme_numbers", "patient_numbers");
    for (site, pack, complaint) in [
        (tenants, label, "a pack of a tenant may not have labels"),
        (tenants, group, "the group \"patient_numbers\" is used by others, too"),
        (tenants, ACME.replace("owner:", "includes: [pci]\nowner:"), "may not have includes"),
        (
            "tenants: {acme: acme.yaml, other: acme.yaml}",
            ACME.to_owned(),
            "given to the tenant acme already",
        ),
    ] {
        let error = set(site, &pack).err().expect("the set is refused");
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn giving_a_rule_to_one_tenant_loosens_it() {
    let everybody = include_str!("../site.yaml").replace("packs: [", "packs: [acme.yaml, ");
    assert_ne!(
        everybody,
        include_str!("../site.yaml"),
        "the shipped site lists its packs in brackets"
    );
    let acme = ACME.replace(
        "      - {given: {tenant: other}, say: \"Order AC-1234\", expect: no_match}\n",
        "",
    );
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    let files = vec![source("site.yaml", &everybody), source("acme.yaml", &acme)];
    let before = PolicySet::from_sources(files).unwrap_or_else(|error| panic!("{error}"));
    let after = set("tenants: {acme: acme.yaml}", &acme).unwrap_or_else(|error| panic!("{error}"));
    let told: Vec<String> =
        after.changes_since(&before).iter().map(|c| format!("{:?} {c}", c.direction)).collect();
    assert!(told.contains(&"Loosens rule ACME-001 holds for acme only".to_owned()), "{told:?}");
}
