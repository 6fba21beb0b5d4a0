use std::path::Path;
use std::sync::Arc;

use super::*;

fn read(text: &str) -> Result<(Node, Arc<str>), String> {
    let mut report = Report::default();
    let source = report.source(Path::new("t.yaml"), text.into());
    let node = parse(&mut report, source);
    report.finish(node).map(|node| (node, text.into())).map_err(|problems| problems.to_string())
}

/// The text under a node's span.
fn at(text: &str, span: Span) -> &str {
    &text[span.start as usize..span.end as usize]
}

#[test]
fn references_survive_flow_mappings_and_positions_stay_right() {
    let (node, text) = read("é: ü\na: { loss: ${loss}, n: [1, '${params.x}', $${y}], t: 'ab' } # ${c}\n").unwrap();
    let a = node.get("a").unwrap();
    assert_eq!(a.get("loss").unwrap().data, Data::Text("${loss}".into()));
    assert_eq!(at(&text, a.get("loss").unwrap().span), "${loss}");
    assert_eq!(at(&text, a.entries()[1].key_span), "n");
    assert_eq!(at(&text, a.get("n").unwrap().child("1").unwrap().span), "'${params.x}'");
    assert_eq!(a.get("n").unwrap().child("2").unwrap().data, Data::Text("$${y}".into()));
    assert_eq!(at(&text, a.get("t").unwrap().span), "'ab'");
    assert_eq!(at(&text, node.entries()[0].key_span), "é");
}

#[test]
fn aliases_keep_their_own_place() {
    let (node, text) = read("a: &x { k: 1 }\nb: *x\nc: 2\n").unwrap();
    assert_eq!(at(&text, node.get("b").unwrap().get("k").unwrap().span), "*x");
    assert_eq!(at(&text, node.get("c").unwrap().span), "2");
    assert_eq!(node.get("b").unwrap().to_json(), serde_json::json!({"k": 1}));
}

#[test]
fn carriage_returns_count_as_characters() {
    let (node, text) = read("a: 1\r\nb:\r\n  - x\r\n  - y\r\n").unwrap();
    assert_eq!(at(&text, node.get("b").unwrap().child("1").unwrap().span), "y");
}

#[test]
fn keys_are_names_however_they_are_written() {
    let (node, _) = read("0: a\ntrue: b\n1.50: c\n").unwrap();
    assert_eq!(node.child_names(), ["0", "true", "1.50"]);
}

#[test]
fn both_characters_of_the_shield_may_stand_in_the_text() {
    let (node, _) = read("a: \"\u{e000}\u{e001}${x}\"\n").unwrap();
    assert_eq!(node.get("a").unwrap().data, Data::Text("\u{e000}\u{e001}${x}".into()));
}

#[test]
fn what_is_not_a_tree_is_refused_with_its_place() {
    for (text, place, word) in [
        ("a: [1, 2\n", "t.yaml:1:10", "expected ',' or ']'"),
        ("a:\n\tb: 1\n", "t.yaml:2:1", "no tabs"),
        ("a: 1\nb: .nan\n", "t.yaml:2:4", "`.nan`"),
        ("a: 1\nb: !x 3\n", "t.yaml:2:4", "YAML tag"),
        ("a: 1\n---\nb: 2\n", "t.yaml:2:1", "a second document begins here"),
        ("a: *x\n", "t.yaml:1:4", "unknown anchor"),
        ("? [a]\n: 1\n", "t.yaml:1:1", "plain name"),
        ("a: 1\nb: 2\na: 3\n", "t.yaml:3:1", "first here"),
        ("<<: {a: 1}\n", "t.yaml:1:1", "merges nothing"),
    ] {
        let message = read(text).map(|_| ()).unwrap_err();
        assert!(message.contains(place) && message.contains(word), "{text:?} gave\n{message}");
    }
}
