//! What an officer reads when a policy file is wrong: the whole text, mistake by mistake.
//!
//! Each case takes a sound file, changes one thing in it, and shows the complaint.

use sluice_policies::{PolicySet, Source};

/// A sound pack that every case breaks in one place.
const PACK: &str = r#"policy: ward
version: "1.0.0"
owner: privacy@hospital.example
labels:
  WARD: {class: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
detectors:
  ward_number: {looks_like: "W-9999", alone: likely}
groups:
  ward_numbers: [ward_number]
rules:
  - id: WARD-001
    title: A ward number
    citation: "House rule 7"
    severity: high
    floor: true
    mode: enforce
    when: {found: ward_numbers, at_least: likely}
    then: {label: WARD, because: "A ward number"}
    tests:
      - {say: "Bed W-4711", expect: match}
      - {say: "Bed 4711", expect: no_match}
"#;

/// A sound site that every case breaks in one place.
const SITE: &str = r#"site: clinic
version: "1.0.0"
owner: compliance@hospital.example
packs: [ward.yaml]
classes:
  - {name: internal, goes_to: anywhere}
  - {name: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
vouches:
  - upstream: ward-llm
    address: "https://llm.ward.internal"
    zone: on_prem
    does_not_forward: true
    contract: "asset 1"
    owner: it@hospital.example
    expires: "2027-06-30"
must_answer:
  unlabelled: internal
  cannot_scan:
    image: private
    audio: private
    file_reference: refuse
    encrypted_file: private
    remote_url: refuse
    token_ids: private
    hosted_tool: refuse
    provider_stored_state: refuse
    unknown_field: strip_and_continue
  scan_incomplete: private
  detector_failed: private
  edge_unavailable: queue 30s
  edge_too_slow: answer_anyway
  edge_inadequate: refuse
  audit_down: private
  taint_unknown: private
  caller_unknown: internal
  reply_finding: taint
latency:
  default: interactive
  classes:
    interactive: {first_token: 5s, prefers: [cloud, on_prem, edge]}
tests:
  - {say: "Bed W-4711", expect: edge, facts: {offline: true}}
"#;

fn load(pack: &str, site: &str) -> Result<PolicySet, String> {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    PolicySet::from_sources(vec![source("site.yaml", site), source("ward.yaml", pack)])
        .map_err(|error| error.to_string())
}

fn change(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} stands once in the sound file");
    text.replace(from, to)
}

fn check_pack(from: &str, to: &str, expected: &str) {
    let error = load(&change(PACK, from, to), SITE).err().expect("the changed pack is wrong");
    assert_eq!(error, expected, "changed {from:?} to {to:?}");
}

fn check_site(from: &str, to: &str, expected: &str) {
    let error = load(PACK, &change(SITE, from, to)).err().expect("the changed site is wrong");
    assert_eq!(error, expected, "changed {from:?} to {to:?}");
}

#[test]
fn loads_the_sound_files() {
    let set = load(PACK, SITE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.rules().len(), 1);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
}

#[test]
fn points_at_unknown_keys_and_suggests_the_nearest() {
    check_pack(
        "at_least: likely}",
        "at_lest: likely}",
        r#"ward.yaml:17:33: rules[0].when: unknown key "at_lest"
   |
17 |     when: {found: ward_numbers, at_lest: likely}
   |                                 ^^^^^^^
hint: did you mean "at_least"?"#,
    );
    check_pack(
        "citation:",
        "citatoin:",
        r#"ward.yaml:13:5: rules[0]: unknown key "citatoin"
   |
13 |     citatoin: "House rule 7"
   |     ^^^^^^^^
hint: did you mean "citation"?"#,
    );
    check_site(
        "  reply_finding:",
        "  reply_findings:",
        r#"site.yaml:36:3: must_answer: unknown key "reply_findings"
   |
36 |   reply_findings: taint
   |   ^^^^^^^^^^^^^^
hint: did you mean "reply_finding"?"#,
    );
}

#[test]
fn points_at_unknown_names() {
    check_pack(
        "found: ward_numbers,",
        "found: ward_nubers,",
        r#"ward.yaml:17:19: rules[0].when.found: unknown detector "ward_nubers"
   |
17 |     when: {found: ward_nubers, at_least: likely}
   |                   ^^^^^^^^^^^
hint: did you mean "ward_numbers"?"#,
    );
    check_pack(
        "class: regulated",
        "class: regulatet",
        r#"ward.yaml:5:17: labels.WARD.class: unknown class "regulatet"
  |
5 |   WARD: {class: regulatet, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
  |                 ^^^^^^^^^
hint: did you mean "regulated"?"#,
    );
    check_pack(
        "then: {label: WARD",
        "then: {label: WRAD",
        r#"ward.yaml:18:19: rules[0].then.label: unknown label "WRAD"
   |
18 |     then: {label: WRAD, because: "A ward number"}
   |                   ^^^^
hint: did you mean "WARD"?"#,
    );
    check_site(
        "default: interactive",
        "default: interctive",
        r#"site.yaml:38:12: latency.default: unknown latency class "interctive"
   |
38 |   default: interctive
   |            ^^^^^^^^^^
hint: did you mean "interactive"?"#,
    );
    check_site(
        "packs: [ward.yaml]",
        "packs: [hippa, ward.yaml]",
        r#"site.yaml:4:9: packs[0]: no shipped pack is called "hippa"
  |
4 | packs: [hippa, ward.yaml]
  |         ^^^^^
hint: did you mean "hipaa"?; a pack of your own is named by its path: ./mine.yaml"#,
    );
}

#[test]
fn refuses_a_pack_that_the_site_does_not_name() {
    check_site(
        "packs: [ward.yaml]",
        "packs: [pci]",
        "ward.yaml: is given but the site does not name it\n\
         hint: add ward.yaml under packs: in the site file",
    );
}

#[test]
fn points_at_wrong_values() {
    check_pack(
        "severity: high",
        "severity: hihg",
        r#"ward.yaml:14:15: rules[0].severity: expected one of low, medium, high, critical, got "hihg"
   |
14 |     severity: hihg
   |               ^^^^
hint: did you mean "high"?"#,
    );
    check_pack(
        "floor: true",
        "floor: 'yes'",
        r#"ward.yaml:15:12: rules[0].floor: expected true or false, got "yes"
   |
15 |     floor: 'yes'
   |            ^
hint: write true, without quotes"#,
    );
    check_pack(
        "floor: true",
        "floor: [true]",
        r#"ward.yaml:15:12: rules[0].floor: expected true or false, got a list
   |
15 |     floor: [true]
   |            ^"#,
    );
    check_pack(
        "when: {found: ward_numbers, at_least: likely}",
        "when: {found: ward_numbers, count: many}",
        r#"ward.yaml:17:40: rules[0].when.count: expected a whole number, got "many"
   |
17 |     when: {found: ward_numbers, count: many}
   |                                        ^^^^"#,
    );
    check_pack(
        "when: {found: ward_numbers, at_least: likely}",
        "when: ward_numbers",
        r#"ward.yaml:17:11: rules[0].when: expected a map of keys, got "ward_numbers"
   |
17 |     when: ward_numbers
   |           ^^^^^^^^^^^^"#,
    );
    check_pack(
        "when: {found: ward_numbers, at_least: likely}",
        "when: {found: ward_numbers, key_tag: ward}",
        r#"ward.yaml:17:11: rules[0].when: one condition looks at found and key_tag
   |
17 |     when: {found: ward_numbers, key_tag: ward}
   |           ^
hint: write all_of: [{…}, {…}] if both must hold, any_of if one is enough"#,
    );
    check_site(
        "unlabelled: internal",
        "unlabelled: secret",
        r#"site.yaml:17:15: must_answer.unlabelled: expected private, refuse, or a class (internal, regulated), got "secret"
   |
17 |   unlabelled: secret
   |               ^^^^^^"#,
    );
    check_site(
        "edge_unavailable: queue 30s",
        "edge_unavailable: queue thirty",
        r#"site.yaml:30:21: must_answer.edge_unavailable: expected queue <time> or refuse, got "queue thirty"
   |
30 |   edge_unavailable: queue thirty
   |                     ^^^^^"#,
    );
    check_site(
        "\"https://llm.ward.internal\"",
        "\"llm.ward.internal\"",
        r#"site.yaml:10:14: vouches[0].address: expected an address such as https://host:443, got "llm.ward.internal"
   |
10 |     address: "llm.ward.internal"
   |              ^
hint: leave the path out: a vouch is for the whole host"#,
    );
    check_site(
        "image: private",
        "image: strip_and_continue",
        r#"site.yaml:19:12: must_answer.cannot_scan.image: expected private, refuse, or a class (internal, regulated), got "strip_and_continue"
   |
19 |     image: strip_and_continue
   |            ^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn reports_yaml_traps_with_advice() {
    check_pack(
        "floor: true",
        "floor: yes",
        r#"ward.yaml:15:12: rules[0].floor: found the plain word yes, which some YAML readers take for true
   |
15 |     floor: yes
   |            ^^^
hint: write true if you mean that, or 'yes' in quotes if you mean the word"#,
    );
    check_pack(
        "version: \"1.0.0\"",
        "version: 010",
        r#"ward.yaml:2:10: version: found the number 010 with a leading zero, which some YAML readers take as octal
  |
2 | version: 010
  |          ^^^
hint: write '010' in quotes if you mean the text, or leave the zero out"#,
    );
    check_pack(
        "    severity: high",
        "    title: again",
        r#"ward.yaml:14:5: duplicate key "title"
   |
14 |     title: again
   |     ^^^^^
hint: a key may stand only once in a map; join the two entries or rename one"#,
    );
    check_pack(
        "looks_like: \"W-9999\"",
        "looks_like: \"W-\\d\"",
        r#"ward.yaml:7:29: while parsing a quoted scalar, found unknown escape character
  |
7 |   ward_number: {looks_like: "W-\d", alone: likely}
  |                             ^
hint: in double quotes a backslash starts an escape; use single quotes: 'SM-\d+'"#,
    );
    check_pack(
        "  - id: WARD-001",
        "\t- id: WARD-001",
        "ward.yaml:11:1: found a tab in the indentation\n   |\n11 | \t- id: WARD-001\n   | ^\n\
         hint: indent with spaces: YAML does not say how wide a tab is",
    );
    check_pack(
        "severity: high",
        "severity: &s high",
        r#"ward.yaml:14:18: found an anchor or alias
   |
14 |     severity: &s high
   |                  ^^^^
hint: policy files have no anchors (&), aliases (*) or merge keys (<<): write the value out, and quote text that begins with & or *"#,
    );
    check_pack(
        "title: A ward number",
        "title: A ward: number",
        r#"ward.yaml:12:18: mapping values are not allowed in this context
   |
12 |     title: A ward: number
   |                  ^
hint: text that holds a colon and a space needs quotes around it"#,
    );
}

/// A carriage return alone ends a line in YAML: places and traps must count it, too.
#[test]
fn counts_lines_as_yaml_does() {
    let old_mac = PACK.replace('\n', "\r");
    load(&old_mac, SITE).unwrap_or_else(|error| panic!("{error}"));
    let error = load(&change(&old_mac, "floor: true", "floor: yes"), SITE).err().expect("a trap");
    assert!(
        error.starts_with("ward.yaml:15:12: rules[0].floor: found the plain word yes"),
        "{error}"
    );
}

#[test]
fn refuses_what_the_file_s_owner_may_not_write() {
    check_pack(
        "looks_like: \"W-9999\"",
        "pattern: 'W-\\d{4}'",
        r#"ward.yaml:7:3: detectors: detector "ward_number" uses pattern, which only detector files may
  |
7 |   ward_number: {pattern: 'W-\d{4}', alone: likely}
  |   ^^^^^^^^^^^
hint: describe it by looks_like: "SM-9999999" (9 a digit, A a letter) or by words; or let the security team add it to a file under detectors"#,
    );
    check_pack(
        "mode: enforce",
        "mode: shadow",
        r#"ward.yaml:16:11: rules[0].mode: a floor rule cannot be a shadow
   |
16 |     mode: shadow
   |           ^^^^^^
hint: remove floor: true in a reviewed change first"#,
    );
    check_site(
        "    does_not_forward: true\n",
        "",
        r#"site.yaml:9:5: vouches[0]: an on_prem vouch must say that the server asks no other machine
  |
9 |   - upstream: ward-llm
  |     ^^^^^^^^
hint: add does_not_forward: true if that is so; otherwise it is zone: cloud"#,
    );
    check_site(
        "reply_finding: taint\n",
        "reply_finding: taint\nexceptions:\n  - {id: EX-1, rule: WARD-001, owner: cpo, reason: test, \
         expires: \"2027-01-01\"}\n",
        r#"site.yaml:38:22: exceptions[0].rule: rule "WARD-001" is a floor: it has no exceptions
   |
38 |   - {id: EX-1, rule: WARD-001, owner: cpo, reason: test, expires: "2027-01-01"}
   |                      ^^^^^^^^"#,
    );
}

#[test]
fn shows_what_to_write_when_questions_stay_open() {
    check_site(
        "  audit_down: private\n",
        "",
        r#"site.yaml:17:3: must_answer: must_answer leaves open what happens for audit_down
   |
17 |   unlabelled: internal
   |   ^^^^^^^^^^
hint: these questions have no defaults; write, with your own answers:
  must_answer:
    audit_down: private  # the audit log takes no record: private or refuse"#,
    );
    check_site(
        "    token_ids: private\n",
        "",
        r#"site.yaml:17:3: must_answer: must_answer leaves open what happens for cannot_scan.token_ids
   |
17 |   unlabelled: internal
   |   ^^^^^^^^^^
hint: these questions have no defaults; write, with your own answers:
  must_answer:
    cannot_scan:  # content that no detector can read, by kind:
      token_ids: private"#,
    );
    let start = SITE.find("must_answer:").expect("the sound site answers");
    let end = SITE.find("latency:").expect("the sound site has latency classes");
    let without = format!("{}{}", &SITE[..start], &SITE[end..]);
    let error = load(PACK, &without).err().expect("a site must answer");
    for question in ["unlabelled", "provider_stored_state", "edge_inadequate", "reply_finding"] {
        assert!(error.contains(&format!("    {question}: ")), "{question} is shown in:\n{error}");
    }
}

#[test]
fn a_failing_test_keeps_the_set_from_being_activated() {
    check_pack(
        "{say: \"Bed 4711\", expect: no_match}",
        "{say: \"Bed W-4712\", expect: no_match}",
        r#"ward.yaml:21:9: WARD-001: the test fails: expected no match, got one; found: ward_number (likely)
   |
21 |       - {say: "Bed W-4712", expect: no_match}
   |         ^
hint: a set whose tests fail is not activated; change the rule, or the test if it is wrong"#,
    );
}

#[test]
fn reports_several_mistakes_at_once() {
    let pack = change(PACK, "class: regulated", "class: reglated");
    let pack = change(&pack, "found: ward_numbers,", "found: wards,");
    let site = change(SITE, "unlabelled: internal", "unlabelled: secret");
    let error = load(&pack, &site).err().expect("three mistakes");
    for part in ["\"reglated\"", "\"wards\"", "\"secret\""] {
        assert!(error.contains(part), "{part} is reported in:\n{error}");
    }
    assert_eq!(error.matches(".yaml:").count(), 3, "{error}");
}

#[test]
fn warns_of_rules_without_a_negative_test() {
    let pack = change(PACK, "      - {say: \"Bed 4711\", expect: no_match}\n", "");
    let set = load(&pack, SITE).unwrap_or_else(|error| panic!("{error}"));
    let warnings: Vec<String> = set.warnings().iter().map(|w| w.message.clone()).collect();
    assert_eq!(warnings, ["rule \"WARD-001\" has no test that it must not match"]);
}

#[test]
fn the_digest_depends_on_every_file_and_not_on_line_ends() {
    let digest = |pack: &str| load(pack, SITE).map(|set| set.digest().to_owned());
    let sound = digest(PACK).expect("the sound pack loads");
    assert_eq!(sound.len(), 64);
    assert_eq!(digest(&PACK.replace('\n', "\r\n")).as_deref(), Ok(sound.as_str()));
    assert_ne!(digest(&change(PACK, "House rule 7", "House rule 8")), Ok(sound));
}
