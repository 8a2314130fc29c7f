//! What a conversation's history gives away, and what it does not.

use std::collections::BTreeSet;

use sluice_policies::Text;

use super::*;

const LONG: &str =
    "Please look at the whole course of the illness and tell me what you think of it.";

fn caller(id: &str, tenant: &str) -> Caller {
    Caller { id: Some(id.to_owned()), tenant: tenant.into(), tags: BTreeSet::new() }
}

fn prompt(turns: &[(Role, &str)]) -> Prompt {
    let text = |(message, (role, text)): (usize, &(Role, &str))| Text {
        place: format!("messages[{message}].content"),
        message: Some(message),
        role: *role,
        text: (*text).to_owned(),
    };
    Prompt { texts: turns.iter().enumerate().map(text).collect(), ..Prompt::default() }
}

#[tokio::test]
async fn a_turn_with_a_finding_taints_later_requests_of_the_same_caller_only() {
    let store = TaintStore::new().unwrap();
    let first = prompt(&[(Role::User, "card 4539"), (Role::User, LONG), (Role::User, "thanks")]);
    let _ = store.remember(&caller("a", "t"), None, &first, &[0]);
    for (who, turn, expected) in [
        (caller("a", "t"), "card 4539", Taint::Tainted),
        (caller("a", "t"), "  card\n4539 ", Taint::Tainted),
        (caller("a", "t"), LONG, Taint::Tainted),
        (caller("a", "t"), "thanks", Taint::Clean),
        (caller("a", "t"), "card4539", Taint::Clean),
        (caller("b", "t"), "card 4539", Taint::Clean),
        (caller("a", "other"), "card 4539", Taint::Clean),
    ] {
        let later = prompt(&[(Role::User, turn), (Role::User, "go on")]);
        assert_eq!(store.look_up(&who, None, &later).await, expected, "{turn}");
    }
}

#[tokio::test]
async fn a_session_stays_tainted_and_is_scoped() {
    let store = TaintStore::new().unwrap();
    let private = prompt(&[(Role::User, "short")]);
    let _ = store.remember(&caller("a", "t"), Some("s"), &private, &[]);
    let hello = prompt(&[(Role::User, "hello")]);
    assert_eq!(store.look_up(&caller("a", "t"), Some("s"), &hello).await, Taint::Tainted);
    assert_eq!(store.look_up(&caller("a", "t"), Some("s2"), &hello).await, Taint::Clean);
    assert_eq!(store.look_up(&caller("b", "t"), Some("s"), &hello).await, Taint::Clean);
}

#[tokio::test]
async fn a_system_prompt_that_all_conversations_share_taints_none() {
    let store = TaintStore::new().unwrap();
    let private = prompt(&[(Role::System, LONG), (Role::User, "card 4539")]);
    let _ = store.remember(&caller("a", "t"), None, &private, &[1]);
    let other = prompt(&[(Role::System, LONG), (Role::User, "hello")]);
    assert_eq!(store.look_up(&caller("a", "t"), None, &other).await, Taint::Clean);
}

#[tokio::test]
async fn a_reply_is_known_again_however_it_was_cut_into_pieces_and_trimmed() {
    let text = " The card ends in 1486.\n\nAnything else?\n";
    for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
        let store = TaintStore::new().unwrap();
        let mut reply = store.reply(&caller("a", "t"));
        reply.feed(0, &text[..cut]);
        reply.feed(0, &text[cut..]);
        store.remember_reply(reply, None).wait().await;
        let later = prompt(&[(Role::Assistant, text.trim()), (Role::User, "no")]);
        assert_eq!(
            store.look_up(&caller("a", "t"), None, &later).await,
            Taint::Tainted,
            "cut at {cut}"
        );
    }
}

#[tokio::test]
async fn every_choice_of_a_reply_and_its_calls_are_known_again() {
    let store = TaintStore::new().unwrap();
    let mut reply = store.reply(&caller("a", "t"));
    reply.feed(0, "The card ends in 1486.");
    reply.feed(2, "It is 4539 and so on.");
    reply.call("call_0");
    reply.call("call_8f31_0_0");
    store.remember_reply(reply, None).wait().await;
    for (role, text, expected) in [
        (Role::Assistant, "It is 4539 and so on.", Taint::Tainted),
        (Role::Tool, "call_8f31_0_0", Taint::Tainted),
        (Role::Tool, "call_0", Taint::Clean),
        (Role::Assistant, "It is", Taint::Clean),
    ] {
        let later = prompt(&[(role, text), (Role::User, "go on")]);
        assert_eq!(store.look_up(&caller("a", "t"), None, &later).await, expected, "{text}");
    }
}

#[tokio::test]
async fn a_long_reply_is_known_again_whatever_its_pieces_are() {
    let text = "The card ends in 1486, and so on. ".repeat(WAITING_BYTES_MAX / 10);
    for piece_bytes in [7, 1000, WAITING_BYTES_MAX, WAITING_BYTES_MAX + 1, text.len()] {
        let store = TaintStore::new().unwrap();
        let mut reply = store.reply(&caller("a", "t"));
        for piece in text.as_bytes().chunks(piece_bytes) {
            reply.feed(0, std::str::from_utf8(piece).unwrap());
        }
        store.remember_reply(reply, None).wait().await;
        let later = prompt(&[(Role::Assistant, &text), (Role::User, "no")]);
        let known = store.look_up(&caller("a", "t"), None, &later).await;
        assert_eq!(known, Taint::Tainted, "{piece_bytes}");
    }
}

#[tokio::test]
async fn after_forgetting_a_history_that_is_not_found_is_unknown() {
    let store = TaintStore::with_room(2).unwrap();
    for session in ["1", "2", "3"] {
        let _ = store.remember(&caller("a", "t"), Some(session), &prompt(&[]), &[]);
    }
    let hello = prompt(&[(Role::User, "hello")]);
    let history = prompt(&[(Role::Assistant, "hi"), (Role::User, "hello")]);
    let look_up = async |session, prompt| store.look_up(&caller("a", "t"), session, prompt).await;
    assert_eq!(look_up(Some("3"), &hello).await, Taint::Tainted);
    assert_eq!(look_up(Some("1"), &hello).await, Taint::Unknown);
    assert_eq!(look_up(None, &history).await, Taint::Unknown);
    assert_eq!(look_up(None, &hello).await, Taint::Clean);
    assert!(store.keeper.len() <= 2);
}
