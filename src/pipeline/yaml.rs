//! YAML to a tree whose nodes have spans.
//!
//! One walk: serde_yaml deserialises the values, and each of them takes the next event of saphyr-parser, which has its position.
//! In the text that both read, the braces of every `${...}` are replaced by two private-use characters, one for one, because a
//! flow mapping such as `{ loss: ${loss} }` would otherwise end at the first closing brace.

use std::fmt;
use std::iter::Peekable;

use saphyr_parser::{Event, Parser, StrInput};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::{Problem, Report, Span};
use super::quoting::look_alike;

/// Texts above this many bytes are not pipelines; spans count in `u32`.
const MAX_BYTES: usize = 64 << 20;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) value: Node,
}

impl Node {
    pub(super) fn new(span: Span, data: Data) -> Node {
        Node { span, data }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The keys of a mapping; empty for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key of a mapping or of an index of a list.
    pub(super) fn child(&self, name: &str) -> Option<&Node> {
        match &self.data {
            Data::List(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => self.get(name),
        }
    }

    /// The names that [`Node::child`] knows.
    pub(super) fn child_names(&self) -> Vec<String> {
        match &self.data {
            Data::List(items) => (0..items.len()).map(|index| index.to_string()).collect(),
            _ => self.entries().iter().map(|entry| entry.key.clone()).collect(),
        }
    }

    /// The text of a scalar inside other text; nothing for null, lists and mappings.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.data {
            Data::Bool(value) => Some(value.to_string()),
            Data::Number(number) => Some(number.to_string()),
            Data::Text(text) => Some(text.clone()),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    /// What it is, for messages: "the number 3", "a list".
    pub(super) fn described(&self) -> String {
        match &self.data {
            Data::Null => "nothing".into(),
            Data::Bool(value) => format!("the boolean {value}"),
            Data::Number(number) => format!("the number {number}"),
            Data::Text(text) if text.chars().count() > 40 => "a text".into(),
            Data::Text(text) => format!("the text `{text}`"),
            Data::List(_) => "a list".into(),
            Data::Map(_) => "a mapping".into(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Map(_) => Value::Object(self.to_map()),
        }
    }

    /// The keys of a mapping as a JSON object; empty for anything else.
    pub(super) fn to_map(&self) -> Map<String, Value> {
        self.entries().iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
    }
}

/// Reads one YAML document. What is wrong with it goes to the report; returns nothing if it has no tree.
pub(super) fn parse(report: &mut Report, source: u32) -> Option<Node> {
    parse_from(report, source, 0)
}

/// Reads one YAML document that starts at a byte of a text.
pub(super) fn parse_from(report: &mut Report, source: u32, start: usize) -> Option<Node> {
    let whole = report.text(source);
    let text = &whole[start..];
    if text.len() > MAX_BYTES {
        let title = format!("{} bytes are too many for a pipeline", text.len());
        report.add(Problem::new("too_large", Span { source, start: 0, end: 1 }, title));
        return None;
    }
    // The two parsers do not agree on whether these end a line.
    if let Some((at, c)) = text.char_indices().find(|(_, c)| matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}')) {
        let place = Span { source, start: (start + at) as u32, end: (start + at + c.len_utf8()) as u32 };
        let title = format!("the character U+{:04X} ends a line for some programs only", c as u32);
        let problem = Problem::new("look_alike", place, title).label("end the line as others do");
        let escape = format!("write `\"\\u{:04X}\"` if it is meant", c as u32);
        report.add(problem.help(escape));
        return None;
    }
    let shield = Shield::new(text);
    let shielded = shield.close(text);
    let places = Places::new(text, source, start);
    let mut walk = Walk::new(&shielded, &shield, &places);
    if walk.is_empty() {
        return Some(Node::new(places.span(0, 0), Data::Null));
    }
    let found = NodeSeed { walk: &mut walk, alias: None }.deserialize(serde_yaml::Deserializer::from_str(&shielded));
    let problem = match found {
        Ok(mut node) => match walk.finish() {
            None => {
                let before = report.count();
                refuse_look_alikes(&node, &whole, report);
                refuse_repeated_keys(&mut node, report);
                // Whatever else seems wrong with it follows from that.
                return (report.count() == before || !report.has("look_alike")).then_some(node);
            }
            Some((place, message)) => syntax(&whole, place, &message),
        },
        Err(error) => {
            let byte = error.location().map_or(0, |location| location.index());
            let at = shielded.get(..byte).unwrap_or(&shielded).chars().count();
            let message = without_place(&error);
            match known_limit(&message, &shielded) {
                Some((place, message, help)) => {
                    let place = place.map_or(places.span(at, at), |place| places.span(place, place + 1));
                    syntax(&whole, place, message).help(help.to_owned())
                }
                None => syntax(&whole, places.span(at, at), &message),
            }
        }
    };
    report.add(problem);
    None
}

/// The message of an error of serde_yaml without the place, which it appends.
fn without_place(error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    let Some(location) = error.location() else { return message };
    let place = format!(" at line {} column {}", location.line(), location.column());
    message.find(&place).map_or(message.clone(), |end| message[..end].to_owned())
}

/// What the parser cannot do, in our words: the place, in characters, what it is, and what to do.
fn known_limit<'a>(message: &'a str, text: &str) -> Option<(Option<usize>, &'a str, &'static str)> {
    let find = |wanted: fn(&Event<'_>) -> bool, skip: usize| {
        let events = Parser::new_from_str(text).map_while(Result::ok);
        events.filter(|(event, _)| wanted(event)).nth(skip).map(|(_, span)| span.start.index())
    };
    let alias = || find(|event| matches!(event, Event::Alias(_)), 0);
    if message.contains("more than one document") {
        let place = find(|event| matches!(event, Event::DocumentStart(_)), 1);
        return Some((place, "a second document begins here", "write one document a file, without `---` between"));
    }
    if message.contains("repetition limit") {
        return Some((alias(), "aliases repeat themselves without end", "write out what `*name` refers to"));
    }
    if message.contains("recursion limit") {
        return Some(match alias() {
            Some(place) => (Some(place), "nested too deep, by an alias inside its own anchor", "write it out"),
            None => (None, "nested too deep", "a pipeline is nested a few levels deep"),
        });
    }
    if message.contains("as u128") || message.contains("as i128") {
        return Some((None, "a whole number of more than 64 bits", "put it in quotes if it is a name"));
    }
    None
}

/// Reports characters that only look like blanks or quotes: anywhere in a key, and at the ends of a value without quotes.
fn refuse_look_alikes(node: &Node, text: &str, report: &mut Report) {
    let mut refuse = |span: Span, found: Option<char>| {
        let Some((c, (what, instead))) = found.and_then(|c| Some((c, look_alike(c)?))) else { return };
        let (start, end) = (span.start as usize, span.end as usize);
        let at = text.get(start..end).and_then(|inside| inside.find(c)).map_or(start, |at| start + at);
        let place = Span { start: at as u32, end: (at + c.len_utf8()) as u32, ..span };
        let problem = Problem::new("look_alike", place, format!("this is {what} (U+{:04X})", c as u32));
        let help = "put the whole text in quotes if it is meant".to_owned();
        report.add(problem.label(format!("write {instead} instead")).help(help));
    };
    match &node.data {
        Data::Text(value) => {
            let written = text.get(node.span.start as usize..).unwrap_or_default();
            if !written.starts_with(['"', '\'', '|', '>']) {
                let ends = [value.chars().next(), value.chars().next_back()];
                refuse(node.span, ends.into_iter().flatten().find(|&c| look_alike(c).is_some()));
            }
        }
        Data::List(items) => items.iter().for_each(|item| refuse_look_alikes(item, text, report)),
        Data::Map(entries) => {
            for entry in entries {
                refuse(entry.key_span, entry.key.chars().find(|&c| look_alike(c).is_some()));
            }
            entries.iter().for_each(|entry| refuse_look_alikes(&entry.value, text, report));
        }
        _ => {}
    }
}

fn syntax(text: &str, span: Span, message: &str) -> Problem {
    let line_start = text[..span.start as usize].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let blank = &line[..line.len() - line.trim_start().len()];
    let odd = line.chars().find(|&c| look_alike(c).is_some());
    let help = if let Some((c, (what, instead))) = odd.and_then(|c| Some((c, look_alike(c)?))) {
        Some(format!("the line holds {what} (U+{:04X}): write {instead} instead", c as u32))
    } else if blank.contains('\t') {
        Some("indent with spaces: YAML takes no tabs there".to_owned())
    } else if line.contains("${") && !line.contains('}') {
        Some("a `${` on this line has no `}`".to_owned())
    } else {
        None
    };
    Problem::new("syntax", span, "invalid YAML").label(message).help(help)
}

/// Reports every key that its mapping has twice and keeps the first.
fn refuse_repeated_keys(node: &mut Node, report: &mut Report) {
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| refuse_repeated_keys(item, report)),
        Data::Map(entries) => {
            let mut first: rustc_hash::FxHashMap<String, Span> = Default::default();
            entries.retain(|entry| {
                if entry.key == "<<" {
                    let problem = Problem::new("merge_key", entry.key_span, "`<<` merges nothing here");
                    report.add(problem.help("write the keys out, or use a definition below stages/".to_owned()));
                    return false;
                }
                let Some(&earlier) = first.get(&entry.key) else {
                    first.insert(entry.key.clone(), entry.key_span);
                    return true;
                };
                let title = format!("duplicate key `{}`", entry.key);
                let problem = Problem::new("duplicate_key", entry.key_span, title).label("again here");
                report.add(problem.related(earlier, "first here"));
                false
            });
            entries.iter_mut().for_each(|entry| refuse_repeated_keys(&mut entry.value, report));
        }
        _ => {}
    }
}

/// Stands in for the braces of `${...}` while YAML is parsed.
struct Shield {
    open: char,
    close: char,
}

impl Shield {
    /// Takes two private-use characters that the text does not have.
    fn new(text: &str) -> Shield {
        let mut free = ('\u{e000}'..='\u{f8ff}').filter(|&c| text.is_ascii() || !text.contains(c));
        let open = free.next().unwrap_or('\u{e000}');
        Shield { open, close: free.next().unwrap_or('\u{e001}') }
    }

    /// Replaces the braces of every `${...}` that closes on its line and has no quotes inside.
    fn close(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let inside = &rest[at + 2..];
            let end = inside.find(['{', '}', '\n', '\'', '"']).filter(|&end| inside[end..].starts_with('}'));
            match end {
                Some(end) => {
                    out.push_str(&rest[..=at]);
                    out.push(self.open);
                    out.push_str(&inside[..end]);
                    out.push(self.close);
                    rest = &inside[end + 1..];
                }
                None => {
                    out.push_str(&rest[..at + 2]);
                    rest = inside;
                }
            }
        }
        out.push_str(rest);
        out
    }

    /// The text with its braces.
    fn open(&self, text: &str) -> String {
        match text.contains(self.open) {
            true => text.replace(self.open, "{").replace(self.close, "}"),
            false => text.to_owned(),
        }
    }
}

/// From character counts, in which parsers give positions, to bytes.
struct Places<'a> {
    text: &'a str,
    bytes: Option<Vec<u32>>,
    source: u32,
    /// The byte that the text starts at in its source.
    offset: u32,
}

impl<'a> Places<'a> {
    fn new(text: &'a str, source: u32, offset: usize) -> Places<'a> {
        let bytes = (!text.is_ascii()).then(|| text.char_indices().map(|(byte, _)| byte as u32).collect());
        Places { text, bytes, source, offset: offset as u32 }
    }

    fn byte(&self, index: usize) -> u32 {
        match &self.bytes {
            Some(bytes) => bytes.get(index).copied().unwrap_or(self.text.len() as u32),
            None => (index as u32).min(self.text.len() as u32),
        }
    }

    /// The bytes of a range of characters, without the blanks that a parser may count to it.
    fn span(&self, start: usize, end: usize) -> Span {
        let (start, end) = (self.byte(start), self.byte(end));
        let inside = self.text.get(start as usize..end as usize).unwrap_or_default();
        let start = start + self.offset;
        Span { source: self.source, start, end: start + inside.trim_end().len() as u32 }
    }
}

/// The positions of a walk through a document: the events of its text, one after the other.
struct Walk<'a> {
    events: Peekable<Parser<'a, StrInput<'a>>>,
    shield: &'a Shield,
    places: &'a Places<'a>,
    /// Where the event parser failed, and why.
    failure: Option<(Span, String)>,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str, shield: &'a Shield, places: &'a Places<'a>) -> Walk<'a> {
        Walk { events: Parser::new_from_str(text).peekable(), shield, places, failure: None }
    }

    /// Whether the text has no document.
    fn is_empty(&mut self) -> bool {
        while let Some(Ok((Event::StreamStart, _))) = self.events.peek() {
            self.events.next();
        }
        matches!(self.events.peek(), Some(Ok((Event::StreamEnd, _))))
    }

    /// The next event of a node or of its end, and its span; none at the end of the stream or at a failure.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        loop {
            match self.events.next()? {
                Ok((Event::Nothing | Event::StreamStart | Event::StreamEnd, _)) => {}
                Ok((Event::DocumentStart(_) | Event::DocumentEnd, _)) => {}
                Ok((event, span)) => return Some((event, self.places.span(span.start.index(), span.end.index()))),
                Err(error) => {
                    let at = error.marker().index();
                    self.failure = Some((self.places.span(at, at), error.info().to_owned()));
                    return None;
                }
            }
        }
    }

    /// Reads the remaining events. Returns where the event parser failed, and why, if it did.
    fn finish(mut self) -> Option<(Span, String)> {
        while self.failure.is_none() && self.next().is_some() {}
        self.failure
    }
}

/// Deserialises a value with its span.
struct NodeSeed<'w, 'a> {
    walk: &'w mut Walk<'a>,
    /// The span of the alias that stands for the value, which all of its parts have.
    alias: Option<Span>,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_, '_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor(self))
    }
}

/// Spans are empty once the event parser has failed: an error of the values has precedence.
struct NodeVisitor<'w, 'a>(NodeSeed<'w, 'a>);

impl<'a> NodeVisitor<'_, 'a> {
    /// The span of the next event, or of the alias.
    fn next(&mut self) -> Span {
        self.0.alias.unwrap_or_else(|| self.0.walk.next().map_or(Span::default(), |(_, span)| span))
    }

    /// The span of the first event of the value. If it is an alias, its span is that of the whole value.
    fn first(&mut self) -> Span {
        if self.0.alias.is_some() {
            return self.next();
        }
        let Some((event, span)) = self.0.walk.next() else { return Span::default() };
        self.0.alias = matches!(event, Event::Alias(_)).then_some(span);
        span
    }

    fn scalar<E>(mut self, data: Data) -> Result<Node, E> {
        Ok(Node::new(self.first(), data))
    }

    fn child(&mut self) -> NodeSeed<'_, 'a> {
        NodeSeed { walk: self.0.walk, alias: self.0.alias }
    }
}

impl<'de> Visitor<'de> for NodeVisitor<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a YAML tag, numbers within 64 bits")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        self.scalar(Data::Null)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        self.scalar(Data::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        self.scalar(Data::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        self.scalar(Data::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        self.scalar(Data::Number(value.into()))
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Self::Value, E> {
        Err(E::custom("a whole number of more than 64 bits as u128"))
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<Self::Value, E> {
        Err(E::custom("a whole number of more than 64 bits as i128"))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.scalar(Data::Number(number)),
            None => Err(E::custom("neither `.nan` nor `.inf` is a number that a parameter can be")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        let text = self.0.walk.shield.open(value);
        self.scalar(Data::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Node, A::Error> {
        let mut span = self.first();
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.child())? {
            items.push(item);
        }
        span.end = self.next().end;
        Ok(Node::new(span, Data::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Node, A::Error> {
        let mut span = self.first();
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(KeySeed(self.0.walk.shield))? {
            let key_span = self.next();
            entries.push(Entry { key, key_span, value: access.next_value_seed(self.child())? });
        }
        span.end = self.next().end;
        Ok(Node::new(span, Data::Map(entries)))
    }
}

/// Deserialises a key as it is written: `0` and `true` are names too.
struct KeySeed<'s>(&'s Shield);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let key = String::deserialize(deserializer).map_err(|_| D::Error::custom("a key must be a plain name"))?;
        Ok(self.0.open(&key))
    }
}

#[cfg(test)]
mod tests;
