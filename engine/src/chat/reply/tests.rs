//! Replies as models write them, cut into tokens at every place.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::chat::CallForm;
use crate::tokenizer::tests::toy_tokenizer;

/// A model whose marks are all text.
const TEXT_MARKS: &str = "{{ tools }}<think></think><tool_call></tool_call>";

fn tools() -> Arc<[Tool]> {
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "kind": {"$ref": "#/$defs/kind"}},
        "$defs": {"kind": {"enum": ["a", "b"]}}});
    let tool = |name: &str, parameters| Tool {
        name: name.to_owned(),
        description: None,
        parameters,
        strict: false,
    };
    Arc::new([tool("weather", Some(weather)), tool("clock", None)])
}

/// What a client has in the end.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

impl Heard {
    fn add(&mut self, delta: Delta) {
        self.reasoning += &delta.reasoning;
        self.content += &delta.content;
        for piece in delta.calls {
            match piece.name {
                Some(name) => {
                    assert_eq!(
                        piece.index,
                        self.calls.len(),
                        "calls come in order, each named once"
                    );
                    self.calls.push((name, piece.arguments));
                }
                None => self.calls[piece.index].1 += &piece.arguments,
            }
        }
    }
}

fn reader(with_tools: bool, thinks: bool) -> ReplyReader {
    // The toy vocabulary has a token for the opening of thoughts only.
    let mut markup = Markup::new(toy_tokenizer(), Some(TEXT_MARKS));
    assert_eq!(markup.call_form, Some(CallForm::Json));
    markup.texts_for_tests(&Marker::ALL);
    let tools = if with_tools { tools() } else { Arc::new([]) };
    ReplyReader::new(Vec::new()).unwrap().in_chat(&markup, tools, false, thinks)
}

fn heard(mut reader: ReplyReader, pieces: &[&str]) -> (Heard, usize) {
    let mut heard = Heard::default();
    for piece in pieces {
        let mut out = Delta::default();
        let flow = reader.push(piece.as_bytes(), None, &mut out);
        heard.add(out);
        if flow == Flow::Stop {
            return (heard, reader.calls());
        }
    }
    let mut out = Delta::default();
    reader.finish(&mut out);
    heard.add(out);
    (heard, reader.calls())
}

/// Every character by itself, the whole at once, and cut in two at every place: always the same.
fn check(thinks: bool, reply: &str, expected: Heard) {
    let all: Vec<String> = reply.chars().map(String::from).collect();
    let letters: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(heard(reader(true, thinks), &letters).0, expected, "{reply:?} in letters");
    assert_eq!(heard(reader(true, thinks), &[reply]).0, expected, "{reply:?} at once");
    for at in (1..reply.len()).filter(|&at| reply.is_char_boundary(at)) {
        let cut = [&reply[..at], &reply[at..]];
        assert_eq!(heard(reader(true, thinks), &cut).0, expected, "{cut:?}");
    }
}

fn said(content: &str) -> Heard {
    Heard { content: content.to_owned(), ..Heard::default() }
}

fn called(calls: &[(&str, &str)]) -> Heard {
    let calls = calls.iter().map(|(name, json)| (name.to_string(), json.to_string())).collect();
    Heard { calls, ..Heard::default() }
}

#[test]
fn a_call_in_json_form() {
    let reply = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Kiel}\\\"\", \
                 \"days\": [1, {\"a\": 2}]}}\n</tool_call>";
    check(
        false,
        reply,
        called(&[("weather", "{\"city\": \"Kiel}\\\"\", \"days\": [1, {\"a\": 2}]}")]),
    );
    let backwards = "<tool_call>{\"arguments\": {\"days\": 1} , \"name\": \"weather\"}</tool_call>";
    check(false, backwards, called(&[("weather", "{\"days\": 1}")]));
    let text = r#"<tool_call>{"name": "weather", "arguments": "{\"days\": 1}"}</tool_call>"#;
    check(false, text, called(&[("weather", "{\"days\": 1}")]));
    check(false, "<tool_call>{\"name\": \"clock\"}</tool_call>", called(&[("clock", "{}")]));
}

#[test]
fn a_call_in_xml_form_is_typed_by_the_schema() {
    let reply = "<tool_call>\n<function=weather>\n<parameter=city>\nKiel \"Nord\"\n12\n</parameter>\n\
                 <parameter=days>\n3\n</parameter>\n<parameter=metric>\nTrue\n</parameter>\n\
                 <parameter=note>\nnull\n</parameter>\n<parameter=kind>\na\n</parameter>\n\
                 <parameter=other>\nfree text\n</parameter>\n</function>\n</tool_call>";
    let json = r#"{"city": "Kiel \"Nord\"\n12", "days": 3, "metric": true, "note": null, "kind": "a", "other": "free text"}"#;
    check(false, reply, called(&[("weather", json)]));
    assert!(serde_json::from_str::<Json>(json).is_ok());
    let empty = "<tool_call><function=clock></function></tool_call>";
    check(false, empty, called(&[("clock", "{}")]));
    let twice = "<tool_call><function=weather><parameter=city>a</parameter><parameter=city>b\
                 </parameter></function></tool_call>";
    check(false, twice, called(&[("weather", r#"{"city": "a"}"#)]));
}

#[test]
fn text_before_thoughts_before_and_several_calls() {
    let reply = "Let me think.\n</think>\n\nI will look.\n\n<tool_call>\n{\"name\": \"clock\", \
                 \"arguments\": {}}\n</tool_call>\n<tool_call>\n<function=weather>\n</function>\n\
                 </tool_call>";
    let expected = Heard {
        reasoning: "Let me think.".into(),
        content: "I will look.".into(),
        calls: vec![("clock".into(), "{}".into()), ("weather".into(), "{}".into())],
    };
    check(true, reply, expected);
    assert_eq!(heard(reader(true, true), &[reply]).1, 2);
}

#[test]
fn a_call_inside_thoughts_ends_them() {
    let reply = "hm \n<tool_call>{\"name\": \"clock\"}</tool_call>";
    let expected = Heard { reasoning: "hm".into(), ..called(&[("clock", "{}")]) };
    check(true, reply, expected);
}

#[test]
fn thoughts_that_the_model_opens_itself() {
    let thoughts = Heard { reasoning: "a b".into(), content: "c".into(), calls: Vec::new() };
    check(false, "<think>\na b\n</think>\n\nc", thoughts);
    check(false, "c <think> d", said("c <think> d"));
    check(false, "a </think> b", said("a </think> b"));
}

#[test]
fn what_only_looks_like_a_call_stays_text() {
    for text in [
        "<tool_call>",
        "<tool_call> is a tag",
        "Use <tool_call>{\"name\": \"weather\"} like this",
        "<tool_call>{\"name\": \"nuke\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 7}</tool_call>",
        "<tool_call><function=nuke></function></tool_call>",
        "<tool_call><b>bold</b>",
        "<tool_call>{\"name\": \"weather",
        "a </tool_call> b <tool_cal",
        "blanks at the end \n",
    ] {
        let expected = match text {
            // A call without arguments, and text after it.
            t if t.starts_with("Use") => {
                Heard { content: "Use like this".into(), ..called(&[("weather", "{}")]) }
            }
            t => said(t),
        };
        if text.starts_with("Use") {
            let (got, calls) = heard(reader(true, false), &[text]);
            assert_eq!((got.calls.len(), calls), (expected.calls.len(), 1));
            continue;
        }
        check(false, text, expected);
    }
}

#[test]
fn without_tools_nothing_is_a_call_and_blanks_stay() {
    let text = " \n<tool_call>{\"name\": \"weather\"}</tool_call> \n";
    assert_eq!(heard(reader(false, false), &[text]).0, said(text));
}

#[test]
fn tokens_of_marks_decide_where_there_are_such_tokens() {
    let mut markup = Markup::new(toy_tokenizer(), Some(TEXT_MARKS));
    markup.texts_for_tests(&[]);
    let fresh = || ReplyReader::new(Vec::new()).unwrap().in_chat(&markup, tools(), false, false);
    let lookalike = "<tool_call>{\"name\": \"clock\"}</tool_call>";
    assert_eq!(heard(fresh(), &[lookalike]).0, said(lookalike));
    let mut reader = fresh();
    let mut out = Delta::default();
    reader.push(b"", Some(Marker::CallOpen), &mut out);
    assert_eq!(reader.phase(), Phase::Call);
    reader.push(b"{\"name\": \"clock\", \"arguments\": {\"a\": \"</tool_call>", None, &mut out);
    reader.push(b"\"}}", None, &mut out);
    reader.push(b"", Some(Marker::CallClose), &mut out);
    reader.finish(&mut out);
    let mut got = Heard::default();
    got.add(out);
    assert_eq!(got, called(&[("clock", "{\"a\": \"</tool_call>\"}")]));
}

#[test]
fn a_call_that_is_cut_off_is_closed_where_it_can_be() {
    let cases = [
        ("<tool_call><function=weather><parameter=city>Ki", r#"{"city": "Ki"}"#),
        ("<tool_call><function=weather><parameter=city>Kiel</para", r#"{"city": "Kiel"}"#),
        ("<tool_call><function=weather><parameter=days>1", r#"{"days": 1}"#),
        ("<tool_call><function=weather><parameter=ci", "{}"),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"K", "{\"city\": \"K"),
    ];
    for (reply, arguments) in cases {
        check(false, reply, called(&[("weather", arguments)]));
    }
}

#[test]
fn one_call_ends_the_reply() {
    let markup = Markup::new(toy_tokenizer(), Some(TEXT_MARKS));
    let mut markup = markup;
    markup.texts_for_tests(&Marker::ALL);
    let reader = ReplyReader::new(Vec::new()).unwrap().in_chat(&markup, tools(), true, false);
    let call = "<tool_call>{\"name\": \"clock\"}</tool_call>";
    assert_eq!(heard(reader, &[call, call]).0, called(&[("clock", "{}")]));
}

#[test]
fn stop_texts_end_what_is_said_and_not_what_is_thought() {
    let mut markup = Markup::new(toy_tokenizer(), Some(TEXT_MARKS));
    markup.texts_for_tests(&Marker::ALL);
    let reader =
        ReplyReader::new(vec!["END".into()]).unwrap().in_chat(&markup, tools(), false, true);
    let (got, _) = heard(reader, &["the EN", "D is near</think>go E", "ND on"]);
    assert_eq!((&*got.reasoning, &*got.content), ("the END is near", "go "));
}

proptest! {
    #[test]
    fn any_reply_is_heard_the_same_in_any_pieces(
        parts in prop::collection::vec(
            "<think>|</think>|<tool_call>|</tool_call>|\\{\"name\": \"clock\"\\}|\\{\"name\": \"weather\", \
             \"arguments\": |\\{\"city\": \"x\"\\}|\\}|<function=clock>|</function>|<parameter=city>|\
             </parameter>|\n| |a|é", 0..14),
        cuts in prop::collection::vec(1usize..6, 0..60),
        thinks in any::<bool>(),
    ) {
        let reply = parts.concat();
        let whole = heard(reader(true, thinks), &[&reply]);
        let (mut pieces, mut rest) = (Vec::new(), reply.as_str());
        for cut in cuts {
            let mut at = cut.min(rest.len());
            while !rest.is_char_boundary(at) { at += 1; }
            let (piece, after) = rest.split_at(at);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        prop_assert_eq!(heard(reader(true, thinks), &pieces), whole);
    }
}
