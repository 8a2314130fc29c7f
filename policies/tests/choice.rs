//! Who of the allowed answers: what a client wishes for, what upstreams can do, how hard the work looks.
//! None of it may add an upstream.

use sluice_policies::{
    Capability, Complexity, Decision, Facts, PolicySet, Prompt, Quality, RefusalCode, RequestFacts,
    Route, Source, UpstreamFacts,
};

const BY_WORK: &str = "\ncomplexity: {simple: [edge, cloud], complex: [cloud, edge]}\n";
const CARD: &str = "Refund the card 4539 5787 6362 1486";
const HARD: &str = "Prove the theorem";

/// The shipped site and more lines, with two vouches: an approved server on the premises and a cloud.
fn set(more: &str) -> PolicySet {
    let vouches = "vouches:\n\
        \x20 - {upstream: ward, address: \"https://ward.internal\", zone: on_prem, does_not_forward: true,\n\
        \x20    quality: approved, contract: c, owner: o, expires: \"2030-01-01\"}\n";
    let text = include_str!("../site.yaml").replace("vouches: []\n", vouches) + more;
    let source = Source { name: "site.yaml".to_owned(), text };
    PolicySet::from_sources_untested(vec![source]).unwrap_or_else(|error| panic!("{error}"))
}

/// An edge, a server on the premises and a cloud that is claimed to be good, all healthy.
fn facts() -> Facts {
    let edge = UpstreamFacts { quality: Some(Quality::Demo), ..UpstreamFacts::edge("edge") };
    let ward = UpstreamFacts::server("ward", "https", "ward.internal", 443);
    let cloud = UpstreamFacts::server("cloud", "https", "cloud.example", 443);
    let cloud = UpstreamFacts { quality: Some(Quality::General), ..cloud };
    Facts::ordinary(jiff::civil::date(2026, 12, 1), vec![edge, ward, cloud])
}

fn decide(set: &PolicySet, model: &str, text: &str, change: impl FnOnce(&mut Facts)) -> Decision {
    let mut prompt = Prompt::from_user_text(text);
    prompt.context.model = model.to_owned();
    let mut facts = Facts { request: RequestFacts::of(&prompt), ..facts() };
    change(&mut facts);
    set.decide(&set.classify(&prompt), &facts)
}

fn speed(facts: &mut Facts, first_token_ms: [u64; 3]) {
    for (upstream, ms) in facts.upstreams.iter_mut().zip(first_token_ms) {
        let known = Some(ms);
        (upstream.first_token_ms, upstream.begins_ms) =
            if upstream.edge { (known, None) } else { (None, known) };
    }
}

#[test]
fn a_virtual_model_orders_what_policy_allows_and_adds_nothing() {
    let set = set("");
    for (model, text, allowed) in [
        ("auto", "Hello", ["cloud", "ward", "edge"].as_slice()),
        ("any-other", "Hello", &["cloud", "ward", "edge"]),
        ("fast", "Hello", &["ward", "edge", "cloud"]),
        ("best", "Hello", &["ward", "cloud", "edge"]),
        ("private", "Hello", &["ward", "edge"]),
        ("auto", CARD, &["ward", "edge"]),
        ("fast", CARD, &["ward", "edge"]),
        ("best", CARD, &["ward", "edge"]),
        ("private", CARD, &["ward", "edge"]),
    ] {
        let decision = decide(&set, model, text, |facts| speed(facts, [40, 20, 300]));
        assert_eq!(decision.allowed, allowed, "{model}: {text}");
        let class = if text == CARD { "regulated" } else { "internal" };
        assert_eq!(decision.class, class, "{model} raises nothing");
    }
    let asked = decide(&set, "best", "Hello", |_| ());
    assert!(asked.reason.contains("asked for best"), "{}", asked.reason);
}

#[test]
fn who_was_never_measured_is_tried_by_a_wish_for_speed() {
    let decision = decide(&set(""), "fast", "Hello", |facts| {
        speed(facts, [40, 20, 300]);
        facts.upstreams[2].begins_ms = None;
    });
    assert_eq!(decision.upstream.as_deref(), Some("cloud"));
}

#[test]
fn no_wish_puts_first_who_is_down_or_too_slow() {
    let set = set("");
    let down = decide(&set, "fast", "Hello", |facts| {
        speed(facts, [40, 20, 300]);
        facts.upstreams[1].healthy = false;
    });
    assert_eq!(down.allowed, ["edge", "cloud", "ward"]);
    let slow =
        decide(&set, "best", "Hello", |facts| facts.upstreams[1].first_token_ms = Some(60_000));
    assert_eq!(slow.allowed, ["cloud", "edge", "ward"]);
}

#[test]
fn private_without_anyone_at_home_is_refused() {
    let decision = decide(&set(""), "private", "Hello", |facts| drop(facts.upstreams.drain(..2)));
    assert_eq!(decision.refusal.unwrap().code, RefusalCode::PolicyBlocked);
    assert!(decision.allowed.is_empty());
}

fn lack(lacks: [&'static [Capability]; 3]) -> impl Fn(&mut Facts) {
    move |facts| {
        for (upstream, lacks) in facts.upstreams.iter_mut().zip(lacks) {
            upstream.lacks = lacks.to_vec();
        }
    }
}

#[test]
fn an_upstream_that_lacks_something_is_not_asked() {
    use Capability::{Tools, Vision};
    let set = set("");
    for (text, lacks, allowed) in [
        ("Hello", [&[Tools][..], &[], &[]], ["cloud", "ward"].as_slice()),
        ("Hello", [&[], &[], &[Vision]], &["ward", "edge"]),
        (CARD, [&[], &[Tools], &[]], &["edge"]),
        (CARD, [&[Vision], &[Tools, Vision], &[]], &[]),
        ("Hello", [&[Vision], &[Vision], &[Vision]], &[]),
    ] {
        let decision = decide(&set, "auto", text, lack(lacks));
        assert_eq!(decision.allowed, allowed, "{text} {lacks:?}");
        assert_eq!(decision.route == Route::Refuse, allowed.is_empty(), "{text} {lacks:?}");
    }
    let refusal = decide(&set, "auto", CARD, lack([&[Vision], &[Tools, Vision], &[]])).refusal;
    let refusal = refusal.unwrap();
    assert_eq!(refusal.code, RefusalCode::LacksCapability);
    assert!(refusal.message.ends_with("needs: tools, vision"), "{}", refusal.message);
    // The network being off is a matter of this moment; that nobody can do it is not.
    let offline = decide(&set, "auto", "Hello", |facts| {
        lack([&[Vision], &[Vision], &[]])(facts);
        facts.offline = Some("declared".to_owned());
    });
    assert_eq!(offline.refusal.unwrap().code, RefusalCode::UpstreamUnavailable);
}

#[test]
fn complexity_orders_only_what_may_go_to_a_cloud() {
    let (by_work, plain) = (set(BY_WORK), set(""));
    for (set, text, first) in [
        (&plain, "Hello", "cloud"),
        (&plain, HARD, "cloud"),
        (&by_work, "Hello", "edge"),
        (&by_work, HARD, "cloud"),
        (&by_work, CARD, "ward"),
    ] {
        let decision = decide(set, "auto", text, |_| ());
        assert_eq!(decision.upstream.as_deref(), Some(first), "{text}: {}", decision.reason);
    }
    let simple = decide(&by_work, "auto", "Hello", |_| ());
    assert!(simple.reason.contains("simple work"), "{}", simple.reason);
    let wished = decide(&by_work, "best", "Hello", |_| ());
    assert_eq!(wished.upstream.as_deref(), Some("ward"), "a wish comes first");
    let unknown = decide(&by_work, "auto", "Hello", |facts| facts.request.complexity = None);
    assert_eq!(unknown.upstream.as_deref(), Some("cloud"));
}

#[test]
fn a_site_says_and_tests_its_order_by_complexity() {
    let test =
        "  - {say: \"Hello\", expect: edge}\n  - {say: \"Prove the theorem\", expect: cloud}\n";
    let text = include_str!("../site.yaml")
        .replace(
            "  - {say: \"Hello\", given: {class: public}, expect: cloud, class: internal}\n",
            "",
        )
        .replace(
            "  - say: \"Write a haiku about the sea\"\n    expect: cloud\n",
            "  - say: \"Write a haiku about the sea\"\n    expect: edge\n",
        )
        .replace("  - {say: \"Charge 4242 4242 4242 4241 5\", expect: cloud}\n", "")
        .replace("  - {say: \"Hello\", given: {content: unknown_field}, expect: cloud}\n", test)
        + BY_WORK;
    let source = Source { name: "site.yaml".to_owned(), text };
    let set = PolicySet::from_sources(vec![source]).unwrap_or_else(|error| panic!("{error}"));
    assert!(set.read().contains("Work that looks simple prefers edge, then cloud."));
    let changes = set.changes_since(&PolicySet::shipped().unwrap());
    assert!(changes.iter().all(|change| !change.loosens()), "{changes:?}");
    assert!(changes.iter().any(|c| c.what.contains("simple or for complex work")), "{changes:?}");
}

#[test]
fn what_a_request_says_of_itself_is_recorded_without_its_text() {
    let facts = RequestFacts::of(&Prompt::from_user_text(HARD));
    assert_eq!(facts.complexity, Some(Complexity::Complex));
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(json, r#"{"wish":null,"complexity":"complex","signs":["mathematics"]}"#);
}
