//! A stage definition that builds on another: it sets defaults for the other's parameters, and every one of them can
//! still be given.
//!
//! ```yaml
//! uses: train
//! params: { faithful: { type: bool, default: true, doc: as the released code does it } }
//! with: { epochs: 60, optimiser: adamw }
//! cases:
//!   loss: { proxy_anchor: { loss_rate_ratio: 100 } }
//!   faithful: { true: { batch_norm: frozen_statistics }, false: { batch_norm: frozen } }
//! ```
//!
//! `cases` are defaults that depend on the value of a parameter: its text, the `kind` of a union, a number or a boolean.
//! They override `with`, later ones override earlier ones, and what a pipeline gives overrides all. Mappings merge
//! field by field, unless both are unions of different kinds. `null` removes a default. `params` of the definition's
//! own are for its `cases` and for `${with...}` in it; the definition that it builds on does not see them.

use super::problem::{Problem, Report, suggest};
use super::schema::{TAG, mismatch};
use super::yaml::{Data, Entry, Node};

/// The defaults that a definition sets.
#[derive(Debug)]
pub(super) struct Presets {
    with: Node,
    /// Parameter, and defaults by its value.
    cases: Vec<(String, Vec<(String, Node)>)>,
}

impl Presets {
    /// Reads `with` and `cases` of a definition; `names` are the parameters that there are.
    pub(super) fn read(node: &Node, names: &[&str], report: &mut Report) -> Presets {
        let mut mapping = |node: Option<&Node>, what: &str, expected: &str| match node {
            Some(node) if matches!(node.data, Data::Map(_)) => node.entries().to_vec(),
            Some(other) => {
                report.add(mismatch(other, what, expected));
                Vec::new()
            }
            None => Vec::new(),
        };
        let with = mapping(node.get("with"), "with", "a mapping from parameters to their defaults");
        let cases = mapping(node.get("cases"), "cases", "a mapping from parameters to defaults by their values");
        let mut read = Vec::with_capacity(cases.len());
        for Entry { key, value, key_span } in cases {
            let by_value = mapping(Some(&value), &key, "a mapping from values to defaults");
            let defaults = by_value.into_iter().map(|entry| {
                mapping(Some(&entry.value), &entry.key, "a mapping from parameters to their defaults");
                (entry.key, entry.value)
            });
            read.push((key, key_span, defaults.collect()));
        }
        for (key, key_span, _) in &read {
            if !names.contains(&key.as_str()) {
                let problem = Problem::new("unknown_parameter", *key_span, format!("there is no parameter `{key}`"));
                report.add(problem.help(suggest(key, names.iter().copied())));
            }
        }
        let span = node.get("with").map_or(node.span, |with| with.span);
        let cases = read.into_iter().map(|(key, _, defaults)| (key, defaults)).collect();
        Presets { with: Node::new(span, Data::Map(with)), cases }
    }

    /// What the definition sets by default, whatever is given.
    pub(super) fn default_of(&self, name: &str) -> Option<&Node> {
        self.with.get(name)
    }

    /// `given` with the defaults under it. `resolve` looks up what they refer to, and `value` finds the value of a parameter
    /// that neither is given nor has a default here.
    pub(super) fn fill(
        &self,
        given: &Node,
        mut resolve: impl FnMut(&Node) -> Node,
        value: impl Fn(&str) -> Option<Node>,
    ) -> Node {
        let mut defaults = resolve(&self.with);
        for (name, by_value) in &self.cases {
            let found = given.get(name).or_else(|| defaults.get(name)).cloned().or_else(|| value(name));
            let case = found.as_ref().and_then(case_of);
            if let Some((_, more)) = by_value.iter().find(|(of, _)| Some(of) == case.as_ref()) {
                defaults = join(defaults, &resolve(more));
            }
        }
        join(defaults, given)
    }
}

/// What `cases` calls a value.
fn case_of(value: &Node) -> Option<String> {
    value.scalar().or_else(|| value.get(TAG)?.scalar())
}

/// `over` on top of `under`, in the place of `over`. The bare name of a union's kind leaves the fields of that kind.
fn join(under: Node, over: &Node) -> Node {
    if let (Some(kind), Data::Text(name)) = (under.get(TAG), &over.data)
        && kind.scalar().as_ref() == Some(name)
    {
        return Node::new(over.span, under.data);
    }
    let differ = |a: Option<&Node>, b: Option<&Node>| matches!((a, b), (Some(a), Some(b)) if a.scalar() != b.scalar());
    let unions_differ = differ(under.get(TAG), over.get(TAG));
    match (under.data, &over.data) {
        (Data::Map(mut entries), Data::Map(more)) if !unions_differ => {
            for entry in more {
                match entries.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => {
                        let under = std::mem::replace(&mut known.value, Node::new(entry.key_span, Data::Null));
                        *known = Entry { value: join(under, &entry.value), ..entry.clone() };
                    }
                    None => entries.push(entry.clone()),
                }
            }
            Node::new(over.span, Data::Map(entries))
        }
        _ => over.clone(),
    }
}

#[cfg(test)]
mod tests;
