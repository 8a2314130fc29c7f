//! Where requests go: facts in, route out, over one small site.
//!
//! The site has a ladder of classes and labels whose rules match tags, so that every level can be
//! reached without any text; what the detectors find is tested elsewhere.

use std::sync::LazyLock;

use proptest::prelude::*;
use sluice_policies::{
    Classification, ContentKind, Decision, Facts, Mode, PolicySet, Prompt, Quality, RefusalCode,
    Route, Source, Unscanned, UpstreamFacts,
};

const SITE: &str = r#"site: clinic
version: "1.0.0"
owner: compliance@hospital.example
packs: [rules.yaml]
classes:
  - {name: public, goes_to: anywhere}
  - {name: internal, goes_to: anywhere}
  - name: confidential
    goes_to: [{zone: [edge, on_prem]}, {zone: cloud, zero_retention: true}]
  - {name: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
vouches:
  - upstream: ward
    address: "https://llm.ward.internal:8443"
    zone: on_prem
    does_not_forward: true
    quality: approved
    contract: "asset 1"
    owner: it@hospital.example
    expires: "2027-06-30"
  - {upstream: eu, address: "https://eu.cloud.example", zone: cloud, region: eu, baa: true,
     zero_retention: true, quality: approved, contract: "DPA 1", owner: cpo, expires: "2027-06-30"}
  - {upstream: twice, address: "https://twice.example", zone: on_prem, does_not_forward: true,
     contract: "a", owner: it, expires: "2027-06-30"}
  - {upstream: twice, address: "https://twice.example", zone: cloud, zero_retention: true,
     contract: "b", owner: cpo, expires: "2027-06-30"}
must_answer:
  unlabelled: internal
  cannot_scan: {image: private, audio: private, file_reference: refuse, encrypted_file: private,
    remote_url: refuse, token_ids: private, hosted_tool: refuse, provider_stored_state: refuse,
    unknown_field: strip_and_continue}
  scan_incomplete: private
  detector_failed: private
  edge_unavailable: queue 30s
  edge_too_slow: queue 2m
  edge_inadequate: refuse
  audit_down: private
  taint_unknown: private
  caller_unknown: internal
  reply_finding: taint
latency:
  default: interactive
  classes:
    interactive: {first_token: 5s, tokens_per_second: 5, prefers: [cloud, on_prem, edge]}
    batch: {first_token: 10m, prefers: [edge, on_prem, cloud], also_called: [flex], key_tag: nightly}
exceptions:
  - {id: EX-1, rule: R-EXC, when: {caller: statistics}, owner: cpo, reason: "aggregates only",
     expires: "2026-12-15"}
"#;

const PACK: &str = r#"policy: rules
version: "1.0.0"
owner: privacy@hospital.example
labels:
  PHI: {class: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem], quality: approved}}
  CARD: {class: regulated, never_cloud: true}
  KEPT: {class: regulated, never_cloud: true, keep_on_disk: allowed}
  STAFF: {class: confidential, keep_on_disk: allowed}
  NOBODY: {class: regulated, never_cloud: true, goes_to: nowhere}
  EU: {class: confidential, goes_to: [{zone: [edge, on_prem]}, {zone: cloud, region: eu}]}
  US: {class: confidential, goes_to: [{zone: [edge, on_prem]}, {zone: cloud, region: us}]}
  HERE: {class: confidential, goes_to: {zone: edge}}
  NAMES: {class: confidential, redact: allowed, goes_to: {zone: [edge, on_prem]}}
rules:
  - {id: R-PUB, title: public, when: {tag: public}, then: {class: public}}
  - {id: R-CONF, title: confidential, when: {tag: confidential}, then: {class: confidential}}
  - {id: R-PHI, title: patient data, when: {tag: phi}, then: {label: PHI}}
  - {id: R-CARD, title: cards, when: {tag: card}, then: {label: CARD}}
  - {id: R-KEPT, title: kept, when: {tag: kept}, then: {label: KEPT}}
  - {id: R-STAFF, title: staff, when: {tag: staff}, then: {label: STAFF}}
  - {id: R-NOBODY, title: nobody, when: {tag: nobody}, then: {label: NOBODY}}
  - {id: R-EU, title: eu, when: {tag: eu}, then: {label: EU}}
  - {id: R-US, title: us, when: {tag: us}, then: {label: US}}
  - {id: R-HERE, title: here, when: {tag: here}, then: {label: HERE}}
  - {id: R-NAMES, title: names, when: {tag: names}, then: {label: NAMES, redact: true}}
  - {id: R-SHADOW, title: shadow, mode: shadow, when: {tag: shadow}, then: {label: CARD}}
  - {id: R-EXC, title: excepted, when: {tag: excepted}, then: {label: CARD}}
  - {id: R-DATED, title: dated, effective: {from: "2026-12-10", until: "2026-12-20"},
     when: {tag: dated}, then: {label: CARD}}
"#;

static SET: LazyLock<PolicySet> = LazyLock::new(|| {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    PolicySet::from_sources(vec![source("site.yaml", SITE), source("rules.yaml", PACK)])
        .unwrap_or_else(|error| panic!("{error}"))
});

fn upstream(id: &str, host: &str, port: u16) -> UpstreamFacts {
    match host.is_empty() {
        true => UpstreamFacts { quality: Some(Quality::General), ..UpstreamFacts::edge(id) },
        false => UpstreamFacts::server(id, "https", host, port),
    }
}

/// The edge, a vouched server on the premises, a vouched cloud and an unknown one, all healthy.
fn facts() -> Facts {
    let upstreams = vec![
        upstream("edge", "", 0),
        upstream("ward", "llm.ward.internal", 8443),
        upstream("eu", "eu.cloud.example", 443),
        upstream("any", "any.cloud.example", 443),
    ];
    Facts::ordinary(jiff::civil::date(2026, 12, 1), upstreams)
}

fn classify(change: impl FnOnce(&mut Prompt)) -> Classification {
    let mut prompt = Prompt::from_user_text("a text without anything in it");
    change(&mut prompt);
    SET.classify(&prompt)
}

#[test]
fn where_no_rule_asks_for_detectors_only_what_cannot_be_scanned_is_looked_for() {
    let card = "Refund the card 4539 8145 3840 1916, please.";
    // Bytes that no text decodes to, enough that they may be anything.
    let opaque = "kS+9/w4Yh0".repeat(140);
    let texts = |prompt: &mut Prompt| prompt.texts[0].text = format!("{card} {opaque}");
    let found = classify(texts);
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    let one =
        PACK.replace("when: {tag: card}", "when: {any_of: [{tag: card}, {found: payment_card}]}");
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    let asks = PolicySet::from_sources(vec![source("site.yaml", SITE), source("rules.yaml", &one)]);
    let mut prompt = Prompt::from_user_text("");
    texts(&mut prompt);
    let asked = asks.unwrap_or_else(|error| panic!("{error}")).classify(&prompt);
    assert!(asked.findings.iter().any(|finding| finding.detector == "payment_card"));
    assert!(asked.never_cloud && !asked.unscanned.is_empty());
    assert_eq!(found.unscanned, asked.unscanned);
}

#[test]
fn a_site_that_minds_no_text_decides_the_same_unread() {
    let set = |answers: [&str; 3], pack: Option<&str>| {
        let [image, audio, encrypted] = answers;
        let site = SITE[..SITE.find("exceptions:").unwrap()]
            .replace("image: private", &format!("image: {image}"))
            .replace("audio: private", &format!("audio: {audio}"))
            .replace("encrypted_file: private", &format!("encrypted_file: {encrypted}"));
        let packs = if pack.is_some() { "packs: [rules.yaml]" } else { "packs: []" };
        let mut files = vec![("site.yaml", site.replace("packs: [rules.yaml]", packs))];
        files.extend(pack.map(|text| ("rules.yaml", text.to_owned())));
        let source = |(name, text): (&str, String)| Source { name: name.to_owned(), text };
        PolicySet::from_sources(files.into_iter().map(source).collect())
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let (open, low) = (["internal"; 3], ["public", "internal", "public"]);
    for (answers, pack, minds) in [
        (open, None, false),
        (low, None, false),
        (["internal", "internal", "private"], None, true),
        (["internal", "refuse", "internal"], None, true),
        (["confidential", "internal", "internal"], None, true),
        (open, Some(PACK), true),
    ] {
        let set = set(answers, pack);
        assert_eq!(set.minds_texts(), minds, "{answers:?}");
        let mut prompt = Prompt::from_user_text("kS+9/w4Yh0".repeat(140));
        prompt.context.class = Some("confidential".to_owned());
        let (read, unread) = (set.classify(&prompt), set.classify_unread(&prompt));
        assert!(!read.unscanned.is_empty() && unread.unscanned.is_empty());
        let decided = |classification| set.decide(&classification, &facts());
        let (read, unread) = (decided(read), decided(unread));
        if !minds {
            assert_eq!((read.class, read.allowed), (unread.class, unread.allowed), "{answers:?}");
        }
    }
}

fn tagged(tags: &str) -> Classification {
    classify(|prompt| prompt.context.tags = tags.split_whitespace().map(str::to_owned).collect())
}

fn decide(tags: &str, change: impl FnOnce(&mut Facts)) -> Decision {
    let mut facts = facts();
    change(&mut facts);
    SET.decide(&tagged(tags), &facts)
}

fn by_id<'a>(facts: &'a mut Facts, id: &str) -> &'a mut UpstreamFacts {
    facts.upstreams.iter_mut().find(|upstream| upstream.id == id).expect("an upstream of the facts")
}

/// Tags, a change of the facts, and the upstreams that are allowed, best first.
type Case = (&'static str, fn(&mut Facts), &'static [&'static str]);

#[test]
fn demands_of_class_and_labels_intersect() {
    let cases: [Case; 14] = [
        ("", |_| (), &["eu", "any", "ward", "edge"]),
        ("public", |_| (), &["eu", "any", "ward", "edge"]),
        ("confidential", |_| (), &["eu", "ward", "edge"]),
        ("card", |_| (), &["ward", "edge"]),
        ("eu", |_| (), &["eu", "ward", "edge"]),
        ("us", |_| (), &["ward", "edge"]),
        ("eu us", |_| (), &["ward", "edge"]),
        ("here", |_| (), &["edge"]),
        ("eu here", |_| (), &["edge"]),
        ("card eu confidential", |_| (), &["ward", "edge"]),
        ("nobody", |_| (), &[]),
        ("nobody public", |_| (), &[]),
        ("shadow", |_| (), &["eu", "any", "ward", "edge"]),
        ("card", |f| f.upstreams.retain(|u| u.id == "any"), &[]),
    ];
    for (tags, change, allowed) in cases {
        assert_eq!(decide(tags, change).allowed, allowed, "tags {tags:?}");
    }
}

#[test]
fn a_vouch_counts_only_for_its_address_and_until_its_day() {
    let cases: [Case; 6] = [
        ("confidential", |f| by_id(f, "eu").host = "evil.example".into(), &["ward", "edge"]),
        ("confidential", |f| by_id(f, "eu").port = 8443, &["ward", "edge"]),
        ("confidential", |f| by_id(f, "eu").scheme = "http".into(), &["ward", "edge"]),
        (
            "confidential",
            |f| by_id(f, "eu").host = "EU.cloud.example.".into(),
            &["eu", "ward", "edge"],
        ),
        ("card", |f| by_id(f, "ward").host = "10.0.0.1".into(), &["edge"]),
        ("card", |f| f.today = "2027-07-01".parse().expect("a date"), &["edge"]),
    ];
    for (index, (tags, change, allowed)) in cases.into_iter().enumerate() {
        assert_eq!(decide(tags, change).allowed, allowed, "case {index}");
    }
    let twice = upstream("twice", "twice.example", 443);
    let standing = SET.standing(&twice, facts().today);
    assert_eq!(standing.zone, sluice_policies::Zone::Cloud, "the worse of two vouches counts");
    assert!(!standing.zero_retention);
}

#[test]
fn health_and_speed_order_the_allowed() {
    let cases: [Case; 6] = [
        ("", |f| by_id(f, "eu").healthy = false, &["any", "ward", "edge", "eu"]),
        ("", |f| by_id(f, "eu").first_token_ms = Some(9_000), &["any", "ward", "edge", "eu"]),
        ("", |f| by_id(f, "eu").tokens_per_second = Some(1.0), &["any", "ward", "edge", "eu"]),
        ("", |f| f.offline = Some("declared".into()), &["edge", "ward"]),
        ("card", |f| f.offline = Some("declared".into()), &["edge", "ward"]),
        ("", |f| f.audit_writable = false, &["edge"]),
    ];
    for (index, (tags, change, allowed)) in cases.into_iter().enumerate() {
        assert_eq!(decide(tags, change).allowed, allowed, "case {index}");
    }
}

#[test]
fn latency_classes_come_from_names_tags_and_the_default() {
    let latency = |latency: Option<&str>, key_tag: Option<&str>| {
        let asked = latency.map(str::to_owned);
        classify(|prompt| {
            prompt.context.latency = asked;
            prompt.context.key_tags = key_tag.into_iter().map(str::to_owned).collect();
        })
        .latency
    };
    assert_eq!(latency(None, None), "interactive");
    assert_eq!(latency(Some("BATCH"), None), "batch");
    assert_eq!(latency(Some("flex"), None), "batch");
    assert_eq!(latency(Some("no such class"), None), "interactive");
    assert_eq!(latency(None, Some("nightly")), "batch");
    assert_eq!(latency(Some("interactive"), Some("nightly")), "interactive");
    let batch = classify(|prompt| prompt.context.latency = Some("batch".into()));
    let decision = SET.decide(&batch, &facts());
    assert_eq!(decision.allowed, ["edge", "ward", "eu", "any"]);
}

#[test]
fn refusals_say_what_is_missing_and_whether_to_try_again() {
    type Refused = (&'static str, fn(&mut Facts), RefusalCode, Option<u32>, Option<u64>);
    let only_edge = |f: &mut Facts| f.upstreams.truncate(1);
    let cases: [Refused; 8] = [
        ("nobody", |_| (), RefusalCode::PolicyBlocked, None, None),
        (
            "here",
            |f| by_id(f, "edge").healthy = false,
            RefusalCode::EdgeUnavailable,
            Some(30),
            Some(30_000),
        ),
        (
            "card",
            |f| {
                by_id(f, "edge").healthy = false;
                by_id(f, "ward").healthy = false;
            },
            RefusalCode::UpstreamUnavailable,
            Some(10),
            None,
        ),
        (
            "here",
            |f| by_id(f, "edge").first_token_ms = Some(60_000),
            RefusalCode::EdgeTooSlow,
            Some(120),
            Some(120_000),
        ),
        (
            "here",
            |f| by_id(f, "edge").tokens_per_second = Some(0.2),
            RefusalCode::EdgeTooSlow,
            Some(120),
            Some(120_000),
        ),
        (
            "phi",
            |f| {
                f.mode = Mode::Production;
                f.upstreams.truncate(1);
            },
            RefusalCode::EdgeInadequate,
            None,
            None,
        ),
        (
            "card",
            |f| {
                f.mode = Mode::Production;
                f.upstreams.truncate(1);
                f.upstreams[0].quality = Some(Quality::Demo);
            },
            RefusalCode::EdgeInadequate,
            None,
            None,
        ),
        ("", |f| f.upstreams.clear(), RefusalCode::PolicyBlocked, None, None),
    ];
    for (index, (tags, change, code, retry_after_s, queue_ms_max)) in cases.into_iter().enumerate()
    {
        let decision = decide(tags, change);
        let refusal = decision.refusal.unwrap_or_else(|| panic!("case {index} is refused"));
        assert_eq!(decision.route, Route::Refuse, "case {index}");
        assert_eq!(decision.upstream, None, "case {index}");
        assert_eq!((refusal.code, refusal.retry_after_s), (code, retry_after_s), "case {index}");
        assert_eq!(decision.queue_ms_max, queue_ms_max, "case {index}");
    }
    assert_eq!(decide("phi", only_edge).route, Route::Edge, "a trial answers with what it has");
}

#[test]
fn a_slow_edge_is_no_reason_to_refuse_what_a_cloud_may_answer() {
    let slow = |f: &mut Facts| by_id(f, "edge").first_token_ms = Some(60_000);
    assert_eq!(decide("", slow).upstream.as_deref(), Some("eu"));
    let slow_and_offline = |f: &mut Facts| {
        by_id(f, "edge").first_token_ms = Some(60_000);
        f.upstreams.retain(|u| u.id != "ward");
        f.offline = Some("every breaker is open".into());
    };
    assert_eq!(decide("", slow_and_offline).route, Route::Edge);
}

#[test]
fn checkpoints_go_to_disk_only_where_every_label_and_the_class_allow_it() {
    let cases = [
        ("", true),
        ("confidential", true),
        ("staff", true),
        ("kept", true),
        ("kept staff", true),
        ("card", false),
        ("kept card", false),
        ("eu", false),
    ];
    for (tags, kept) in cases {
        let decision = decide(tags, |_| ());
        assert_eq!(SET.keeps_on_disk(&decision.class, &decision.labels), kept, "{tags}");
    }
    // A class that none of the labels reaches, such as that of a tainted conversation.
    for tags in ["", "staff"] {
        let decision = decide(tags, |facts| facts.tainted = true);
        assert!(!SET.keeps_on_disk(&decision.class, &decision.labels), "{tags}");
    }
    assert!(!SET.keeps_on_disk("of another set", &[]));
}

#[test]
fn taint_raises_to_never_cloud_and_says_so() {
    let decision = decide("", |f| f.tainted = true);
    assert_eq!((decision.route, decision.class.as_str()), (Route::OnPrem, "regulated"));
    assert!(
        decision.never_cloud && decision.reason.contains("has held text"),
        "{}",
        decision.reason
    );
    let unknown = decide("names", |f| f.taint_unknown = true);
    assert!(unknown.never_cloud && !unknown.redact);
}

#[test]
fn dates_and_exceptions_count_on_the_day_of_the_decision() {
    let on = |day: &str, classification: &Classification| {
        let facts = Facts { today: day.parse().expect("a date"), ..facts() };
        SET.decide(classification, &facts).never_cloud
    };
    let dated = tagged("dated");
    for (day, acts) in
        [("2026-12-09", false), ("2026-12-10", true), ("2026-12-20", true), ("2026-12-21", false)]
    {
        assert_eq!(on(day, &dated), acts, "{day}");
    }
    let excepted = classify(|prompt| {
        prompt.context.tags = ["excepted".to_owned()].into();
        prompt.context.caller = Some("statistics".to_owned());
    });
    assert!(!on("2026-12-15", &excepted), "the exception speaks for the caller");
    assert!(on("2026-12-16", &excepted), "the exception has ended");
    assert!(on("2026-12-15", &tagged("excepted")), "another caller has no exception");
}

#[test]
fn unreadable_content_is_answered_as_the_site_says() {
    let with = |kind: ContentKind| {
        classify(|prompt| {
            prompt.unscanned.push(Unscanned { kind, place: "messages[0].content[1]".to_owned() });
        })
    };
    assert_eq!(with(ContentKind::Image).class, "regulated");
    assert!(with(ContentKind::RemoteUrl).refuse.is_some());
    let stripped = with(ContentKind::UnknownField);
    assert_eq!(stripped.strip, ["messages[0].content[1]"]);
    assert_eq!(stripped.class, "internal");
    let refused = SET.decide(&with(ContentKind::HostedTool), &facts());
    assert_eq!(refused.refusal.map(|r| r.code), Some(RefusalCode::PolicyBlocked));
    assert_eq!(refused.allowed, Vec::<String>::new());
}

#[test]
fn clients_can_raise_a_class_and_never_lower_it() {
    let asked = |class: &str, tags: &str| {
        let classification = classify(|prompt| {
            prompt.context.class = Some(class.to_owned());
            prompt.context.tags = tags.split_whitespace().map(str::to_owned).collect();
        });
        SET.decide(&classification, &facts()).class
    };
    assert_eq!(asked("confidential", ""), "confidential");
    assert_eq!(asked("public", ""), "internal");
    assert_eq!(asked("public", "card"), "regulated");
    assert_eq!(asked("no-such-class", ""), "regulated");
}

#[test]
fn placeholders_open_a_cloud_only_where_every_rule_allows_them() {
    let decision = decide("names", |_| ());
    assert_eq!((decision.upstream.as_deref(), decision.redact), (Some("eu"), true));
    assert_eq!(decision.class, "confidential", "the request keeps its class");
    let with_card = decide("names card", |_| ());
    assert_eq!((with_card.route, with_card.redact), (Route::OnPrem, false));
    let with_us = decide("names us", |_| ());
    assert!(!with_us.redact, "what another rule keeps home stays home: {:?}", with_us.upstream);
    let with_image = classify(|prompt| {
        prompt.context.tags = ["names".to_owned()].into();
        prompt.unscanned.push(Unscanned { kind: ContentKind::UnknownField, place: "x".to_owned() });
    });
    assert!(!SET.decide(&with_image, &facts()).redact);
}

const TAGS: [&str; 12] = [
    "public",
    "confidential",
    "phi",
    "card",
    "nobody",
    "eu",
    "us",
    "here",
    "names",
    "shadow",
    "excepted",
    "dated",
];

fn some_tags() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(TAGS.to_vec(), 0..=TAGS.len())
}

prop_compose! {
    fn some_facts()(
        production in any::<bool>(), offline in any::<bool>(), audit_writable in any::<bool>(),
        tainted in any::<bool>(), taint_unknown in any::<bool>(),
        healthy in proptest::collection::vec(any::<bool>(), 4),
        first_token_ms in proptest::collection::vec(proptest::option::of(0_u64..700_000), 4),
        quality in 0_usize..4, wrong_address in any::<bool>(), day in 0_i64..400,
    ) -> Facts {
        let mut facts = facts();
        facts.mode = if production { Mode::Production } else { Mode::Trial };
        facts.offline = offline.then(|| "declared".to_owned());
        facts.audit_writable = audit_writable;
        facts.tainted = tainted;
        facts.taint_unknown = taint_unknown;
        facts.today = facts.today.saturating_add(jiff::Span::new().days(day));
        for (index, upstream) in facts.upstreams.iter_mut().enumerate() {
            upstream.healthy = healthy[index];
            upstream.first_token_ms = first_token_ms[index];
        }
        facts.upstreams[0].quality =
            [None, Some(Quality::Demo), Some(Quality::General), Some(Quality::Approved)][quality];
        if wrong_address {
            facts.upstreams[1].host = "moved.example".to_owned();
        }
        facts
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_cloud_text_has_no_cloud_among_the_allowed(tags in some_tags(), facts in some_facts()) {
        let decision = SET.decide(&tagged(&tags.join(" ")), &facts);
        if decision.never_cloud || !facts.audit_writable || facts.offline.is_some() {
            for id in &decision.allowed {
                let upstream = facts.upstreams.iter().find(|u| u.id == *id).expect("known");
                let zone = SET.standing(upstream, facts.today).zone;
                prop_assert_ne!(zone, sluice_policies::Zone::Cloud, "{}", decision.reason);
            }
            prop_assert_ne!(decision.route, Route::Cloud);
            prop_assert!(!(decision.never_cloud && decision.redact));
        }
        prop_assert_eq!(decision.route == Route::Refuse, decision.refusal.is_some());
        prop_assert_eq!(decision.route == Route::Refuse, decision.upstream.is_none());
    }

    #[test]
    fn more_matched_rules_never_lower_a_class(
        tags in some_tags(), more in some_tags(), facts in some_facts()
    ) {
        let less = SET.decide(&tagged(&tags.join(" ")), &facts);
        let all = format!("{} {}", tags.join(" "), more.join(" "));
        let decided = SET.decide(&tagged(&all), &facts);
        let rank = |class: &str| SET.class_names().position(|name| name == class);
        prop_assert!(rank(&decided.class) >= rank(&less.class));
        prop_assert!(less.labels.iter().all(|label| decided.labels.contains(label)));
        prop_assert!(!less.never_cloud || decided.never_cloud);
    }

    #[test]
    fn the_order_of_upstreams_does_not_change_what_is_allowed(
        tags in some_tags(), facts in some_facts()
    ) {
        let decision = SET.decide(&tagged(&tags.join(" ")), &facts);
        let mut reversed = facts.clone();
        reversed.upstreams.reverse();
        let other = SET.decide(&tagged(&tags.join(" ")), &reversed);
        let sorted = |ids: &[String]| {
            let mut ids = ids.to_vec();
            ids.sort();
            ids
        };
        prop_assert_eq!(sorted(&decision.allowed), sorted(&other.allowed));
        prop_assert_eq!(decision.refusal, other.refusal);
        prop_assert_eq!(decision.class, other.class);
    }
}

#[test]
fn the_proof_tries_every_turning_day_and_finds_nothing() {
    let proof = SET.prove();
    assert_eq!(proof.counterexamples, Vec::<String>::new());
    assert!(proof.decisions > 5_000, "{} decisions", proof.decisions);
}
