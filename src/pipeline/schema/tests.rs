use std::path::Path;

use super::super::problem::Problems;
use super::super::yaml;
use super::*;

const SCHEMA: &str = "
epochs: { type: int, default: 12, range: [1, null], doc: passes over the images }
rate: { type: float, default: 1, range: [0, 2] }
name: { type: string, required: false, one_of: [adam, sgd] }
memory: { type: size, default: 1KiB }
patience: { type: duration, default: 2m }
seed: { type: seed, required: false }
sizes: { type: list, of: int, default: [] }
batch: { type: map, default: {}, fields: { classes: { type: int, default: 3 }, free: { type: any, default: [x] } } }
loss:
  type: union
  doc: what is minimised
  variants:
    contrastive: { pos_margin: { type: float, default: 0, range: [0, 2] } }
    plain: {}
";

fn check(value: &str) -> Result<String, Vec<(&'static str, String)>> {
    let mut report = Report::default();
    let source = report.source(Path::new("s.yaml"), SCHEMA.into());
    let fields = yaml::parse(&mut report, source).unwrap();
    let fields = Fields::read(&fields, &mut report);
    let source = report.source(Path::new("v.yaml"), value.into());
    let node = yaml::parse(&mut report, source).unwrap();
    let checked = fields.resolve(&node, node.span, &mut report);
    let json = checked.map(|checked| checked.to_json().to_string());
    assert_eq!(json.is_some(), report.count() == 0, "a value with problems is no value");
    let listed = |problems: Problems| problems.iter().map(|p| (p.code, p.title.clone())).collect();
    report.finish(json).map_err(listed)
}

#[test]
fn defaults_are_filled_in_and_values_made_canonical() {
    let full = r#"{"epochs":12,"rate":1.0,"memory":1024,"patience":120.0,"sizes":[],"batch":{"classes":3,"free":["x"]},"loss":{"kind":"contrastive","pos_margin":0.0}}"#;
    assert_eq!(check("{ loss: contrastive }").as_deref(), Ok(full));
    assert_eq!(check("{ name: , loss: { pos_margin: 0, kind: contrastive }, rate: 1.0 }").as_deref(), Ok(full));
    let given =
        check("{ batch: { free: { a: 1 } }, loss: plain, memory: 5, patience: 500ms, sizes: [2, 1], name: sgd }");
    let expected = r#"{"epochs":12,"rate":1.0,"name":"sgd","memory":5,"patience":0.5,"sizes":[2,1],"batch":{"classes":3,"free":{"a":1}},"loss":{"kind":"plain"}}"#;
    assert_eq!(given.as_deref(), Ok(expected));
}

#[test]
fn every_kind_of_wrong_value_is_refused() {
    for (value, code, word) in [
        ("{ epochs: 1.5, loss: plain }", "wrong_type", "`epochs` must be a whole number"),
        ("{ epochs: 0, loss: plain }", "out_of_range", "`epochs` is 0"),
        ("{ epochs: , loss: plain }", "", ""),
        ("{ rate: 2.5, loss: plain }", "out_of_range", "`rate` is 2.5"),
        ("{ name: adm, loss: plain }", "not_one_of", "`name` cannot be the text `adm`"),
        ("{ name: 3, loss: plain }", "wrong_type", "`name` must be a text"),
        ("{ memory: 8GX, loss: plain }", "wrong_type", "a size such as"),
        ("{ patience: soon, loss: plain }", "wrong_type", "a duration such as"),
        ("{ seed: 7, loss: plain }", "", ""),
        ("{ seed: [7, 0], loss: plain }", "", ""),
        ("{ seed: -1, loss: plain }", "wrong_type", "`seed` must be a whole number from 0 upwards, or a list"),
        ("{ seed: [], loss: plain }", "wrong_type", "`seed` must be a whole number"),
        ("{ seed: [1, 0.5], loss: plain }", "wrong_type", "`seed.1` must be a whole number"),
        ("{ seed: [1, [2]], loss: plain }", "wrong_type", "`seed.1` must be a whole number"),
        ("{ sizes: [1, a], loss: plain }", "wrong_type", "`sizes.1`"),
        ("{ batch: { clases: 1 }, loss: plain }", "unknown_parameter", "`batch.clases`"),
        ("{ loss: { pos_margin: 1 } }", "missing_parameter", "does not say its `kind`"),
        ("{ loss: { kind: triplet } }", "not_one_of", "no kind `triplet`"),
        ("{ loss: { kind: contrastive, pos_margin: 3.0 } }", "out_of_range", "`loss.pos_margin` is 3.0"),
        ("{ loss: { kind: contrastive, posmargin: 1 } }", "unknown_parameter", "`loss.posmargin`"),
        ("{ }", "missing_parameter", "`loss` is missing"),
    ] {
        match check(value) {
            Ok(_) => assert_eq!(code, "", "{value} was accepted"),
            Err(problems) => {
                assert_eq!(problems.len(), 1, "{value}: {problems:?}");
                assert_eq!(problems[0].0, code, "{value}");
                assert!(problems[0].1.contains(word), "{value}: {problems:?}");
            }
        }
    }
}

#[test]
fn a_schema_that_says_nothing_sensible_is_refused() {
    for (schema, word) in [
        ("a: { type: integer }", "there is no type `integer`"),
        ("a: { default: 1 }", "needs its `type`"),
        ("a: { type: int, default: x }", "`a` must be a whole number"),
        ("a: { type: int, default: 5, range: [0, 2] }", "`a` is 5"),
        ("a: { type: list }", "needs its `of`"),
        ("a: { type: string, range: [0, 1] }", "no key `range`"),
        ("a: { type: int, range: 3 }", "a list of two numbers"),
        ("a: { type: int, defualt: 3 }", "did you mean `default`?"),
        ("a: [int]", "must be its type"),
    ] {
        let mut report = Report::default();
        let source = report.source(Path::new("s.yaml"), schema.into());
        let node = yaml::parse(&mut report, source).unwrap();
        Fields::read(&node, &mut report);
        let message = report.finish(Some(())).unwrap_err().to_string();
        assert!(message.contains(word), "{schema} gave\n{message}");
    }
}
