use std::path::Path;

use super::super::yaml;
use super::*;

/// Knows `${with...}` and an axis `a` with the values 1 and 2.
struct Names(Node);

impl Scope for Names {
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found> {
        if reference.path == ["a"] {
            let nodes: Arc<[Node]> = [1, 2].map(|n| Node::new(Span::default(), Data::Number(n.into()))).to_vec().into();
            let texts = Some(["1", "2"].map(Arc::from).to_vec().into());
            return Some(Found::Axis(AxisField { axis: 0, nodes, texts }));
        }
        if reference.path[0] == "in" {
            return Some(Found::Kept);
        }
        descend(&self.0, &reference.path, reference, report).cloned().map(Found::Value)
    }
}

/// Fills a YAML text for the second value of the axis.
fn fill(text: &str) -> Result<String, String> {
    let mut report = Report::default();
    let known = report.source(Path::new("k.yaml"), "{ x: 1, t: b, m: { k: [5, true] } }".into());
    let known = yaml::parse(&mut report, known).unwrap();
    let source = report.source(Path::new("t.yaml"), text.into());
    let node = yaml::parse(&mut report, source).unwrap();
    let template = bind(&node, &mut Names(known), &mut report);
    let filled = template.fill(&[1]).to_json().to_string();
    report.finish(Some(filled)).map_err(|problems| problems.to_string())
}

#[test]
fn a_single_reference_keeps_its_type_and_text_joins_scalars() {
    for (text, value) in [
        ("${x}", "1"),
        ("'${m}'", r#"{"k":[5,true]}"#),
        ("${m.k.1}", "true"),
        ("p${x}${t}q", r#""p1bq""#),
        ("${a}", "2"),
        ("n${a}", r#""n2""#),
        ("[ ${a}, { z: ${m.k} } ]", r#"[2,{"z":[5,true]}]"#),
        ("$${x}", r#""${x}""#),
        ("$${x} ${x}", r#""${x} 1""#),
        ("$$${x}", r#""$${x}""#),
        ("$ {x} $x", r#""$ {x} $x""#),
        ("${in.y}", r#""${in.y}""#),
        ("a ${in.y}", r#""a ${in.y}""#),
    ] {
        assert_eq!(fill(text).as_deref(), Ok(value), "{text}");
    }
}

#[test]
fn what_the_grammar_does_not_have_is_refused() {
    for (text, word) in [
        ("'${x'", "is not a valid reference"),
        ("${}", "is not a valid reference"),
        ("${x:-1}", "write `$${`"),
        ("${x.}", "is not a valid reference"),
        ("'${ x }'", "is not a valid reference"),
        ("a${m}", "cannot be used inside text"),
        ("${m.q}", "unknown name `q`"),
        ("${tt}", "did you mean `t`?"),
        ("{ '${x}': 1 }", "a key cannot hold"),
    ] {
        let message = fill(text).unwrap_err();
        assert!(message.contains(word), "{text} gave\n{message}");
    }
}
