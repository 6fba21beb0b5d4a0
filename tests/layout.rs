//! The architecture, enforced on the syntax trees of the sources: which room may use which, and who may print.
//!
//! A room is a folder or a file right below `src`. Rooms are layered in floors: a room uses rooms of lower floors only.
//! Two halves are independent of each other: the engine half contains no machine learning, the learning half no YAML,
//! cells or store. Inside a room, files do not use each other in cycles; a file may use what its own folder's head
//! (`mod.rs`, or the file of the folder's name) declares, since the two are one module. Tests are not checked: they may
//! use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemUse, Macro, UseTree};

/// The rooms, from the ground up.
const FLOORS: &[&[&str]] = &[
    &["contained", "format", "math", "regular", "settings"],
    &["text"],
    &["array", "store"],
    &["pipeline", "table"],
    &["data", "engine", "loss", "search"],
    &["nn"],
    &["eval"],
    &["report", "train"],
    &["stage"],
    &["cli"],
];

/// YAML, cells, keys and the store.
const ENGINE: Half = Half { rooms: &["engine", "pipeline", "store"], foreign: &["dfdx", "gemm", "polars"] };
/// Machine learning.
const LEARNING: Half = Half {
    rooms: &["array", "data", "eval", "loss", "math", "nn", "report", "search", "table", "train"],
    foreign: &["petgraph", "saphyr_parser", "serde_yaml"],
};

struct Half {
    rooms: &'static [&'static str],
    /// Libraries of the other half.
    foreign: &'static [&'static str],
}

/// Files that use each other, and why they may.
const CIRCLES: &[(&[&str], &str)] = &[
    (&["loss/cross_batch_memory", "loss/registry"], "a loss that wraps a loss is built by the registry that lists it"),
    (&["nn/weights/callable", "nn/weights/machine"], "the pickle machine calls built-ins, which make values on it"),
];

/// Macros and functions that print or exit, or mark code that is missing.
const LOUD: [&str; 9] =
    ["print", "println", "eprint", "eprintln", "dbg", "todo", "unimplemented", "process::exit", "process::abort"];

/// A module by its path: `["nn", "model"]`; the crate itself is empty.
type Module = Vec<String>;

/// What one file says, its tests left out.
#[derive(Default)]
struct Source {
    /// Paths of the code and of `use` trees, each with the module in whose scope it is.
    paths: Vec<(Module, Vec<String>)>,
    /// Names that `use` brings in, and the paths behind them.
    imports: BTreeMap<String, Vec<String>>,
    /// Names of the macros that are called.
    macros: BTreeSet<String>,
    /// Files below it that are tests.
    tests: BTreeSet<Module>,
}

/// Reads one file.
struct Reader {
    scope: Module,
    source: Source,
}

impl Reader {
    fn read(module: &Module, text: &str) -> Source {
        let mut reader = Reader { scope: module.clone(), source: Source::default() };
        reader.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", module.join("/"))));
        reader.source
    }

    fn path(&mut self, names: Vec<String>) {
        self.source.paths.push((self.scope.clone(), names));
    }

    fn use_tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| {
            let name = name.to_string();
            if name == "self" { before.to_vec() } else { [before, &[name]].concat() }
        };
        match tree {
            UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                self.use_tree(&path.tree, &before);
            }
            UseTree::Name(name) => {
                let path = with(&name.ident);
                self.source.imports.extend(path.last().map(|name| (name.clone(), path.clone())));
                self.path(path);
            }
            UseTree::Rename(name) => {
                let path = with(&name.ident);
                self.source.imports.insert(name.rename.to_string(), path.clone());
                self.path(path);
            }
            UseTree::Glob(_) => self.path(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(tree, before)),
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            if let Item::Mod(module) = item {
                self.source.tests.insert([self.scope.clone(), vec![module.ident.to_string()]].concat());
            }
            return;
        }
        match item {
            Item::Mod(module) => {
                self.scope.push(module.ident.to_string());
                visit::visit_item(self, item);
                self.scope.pop();
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(function) if is_test(&function.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// The arguments of a macro are tokens: each `a::b::c` among them counts as a path.
    fn visit_macro(&mut self, call: &'ast Macro) {
        self.source.macros.extend(call.path.segments.last().map(|segment| segment.ident.to_string()));
        let tokens = call.tokens.to_string();
        let mut words = tokens.split_whitespace().flat_map(split_word).peekable();
        while let Some(word) = words.next() {
            let mut names = vec![word.to_owned()];
            while words.next_if_eq(&"::").is_some() {
                names.extend(words.next().map(str::to_owned));
            }
            if words.peek() == Some(&"!") {
                self.source.macros.insert(names[names.len() - 1].clone());
            }
            if names.len() > 1 {
                self.path(names);
            }
        }
        visit::visit_macro(self, call);
    }
}

/// Names, `::` and other characters of a stretch of tokens.
fn split_word(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (mut words, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let len = match first {
            _ if is_name(first) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (word, after) = rest.split_at(len);
        words.push(word);
        rest = after;
    }
    words
}

/// All files of the crate.
struct House {
    sources: BTreeMap<Module, Source>,
}

impl House {
    /// The house of files below `src`, as (path without `src/`, text).
    fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> House {
        let mut sources: BTreeMap<Module, Source> = files
            .into_iter()
            .filter(|(path, _)| *path != "main.rs")
            .map(|(path, text)| {
                let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
                let module: Module = path.split('/').filter(|name| *name != "lib").map(str::to_owned).collect();
                let source = Reader::read(&module, text);
                (module, source)
            })
            .collect();
        let tests: BTreeSet<Module> = sources.values().flat_map(|source| source.tests.clone()).collect();
        sources.retain(|module, _| !(1..=module.len()).any(|len| tests.contains(&module[..len])));
        House { sources }
    }

    /// The sources of this crate.
    fn ours() -> House {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter().map(Result::unwrap);
        let files: Vec<(String, String)> = files
            .map(|file| file.into_path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| {
                let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                (below, std::fs::read_to_string(&path).unwrap())
            })
            .collect();
        House::new(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    /// The file that a path leads to from `scope`, through names that other files re-export; none outside the crate.
    fn target(&self, scope: &[String], path: &[String], depth: usize) -> Option<Module> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => scope.to_vec(),
            "super" => scope.split_last()?.1.to_vec(),
            _ => {
                rest = path;
                scope.to_vec()
            }
        };
        let relative = rest.len() == path.len();
        while let Some((name, after)) = rest.split_first() {
            let below = [at.clone(), vec![name.clone()]].concat();
            let import = self.sources.get(&at).and_then(|source| source.imports.get(name));
            if self.sources.contains_key(&below) {
                (at, rest) = (below, after);
            } else if name == "super" {
                (at, rest) = (at.split_last()?.1.to_vec(), after);
            } else if let Some(import) = import.filter(|import| depth < 8 && import[..] != *path) {
                return self.target(&at, &[&import[..], after].concat(), depth + 1);
            } else if relative && at == scope {
                return None;
            } else {
                break;
            }
        }
        (1..=at.len()).rev().map(|len| at[..len].to_vec()).find(|module| self.sources.contains_key(module))
    }

    /// Which file uses which, in the order of their names.
    fn arrows(&self) -> BTreeSet<(&Module, Module)> {
        let mut arrows = BTreeSet::new();
        for (module, source) in &self.sources {
            for (scope, path) in &source.paths {
                arrows.extend(self.target(scope, path, 0).filter(|target| target != module).map(|to| (module, to)));
            }
        }
        arrows
    }

    /// Which room uses which.
    fn rooms(&self) -> BTreeSet<(String, String)> {
        let rooms = self.arrows().into_iter().filter_map(|(from, to)| Some((from.first()?.clone(), to[0].clone())));
        rooms.filter(|(from, to)| from != to).collect()
    }

    /// Rooms that use another of their own floor or of a higher one, and rooms that are on no floor.
    fn arrows_up(&self, floors: &[&[&str]]) -> Vec<String> {
        let floor = |room: &str| floors.iter().position(|floor| floor.contains(&room));
        let rooms: BTreeSet<&String> = self.sources.keys().filter_map(|module| module.first()).collect();
        let mut found: Vec<String> = rooms
            .into_iter()
            .filter(|room| floor(room).is_none())
            .map(|room| format!("{room} is on no floor"))
            .collect();
        for (from, to) in self.arrows() {
            let Some(room) = from.first().filter(|room| **room != to[0]) else { continue };
            if floor(room).zip(floor(&to[0])).is_some_and(|(from, to)| from <= to) {
                found.push(format!("{} uses {}, which is not on a lower floor", from.join("/"), to.join("/")));
            }
        }
        found
    }

    /// Files of a half that use the other half, the two that join them, or a library of the other half.
    fn strangers(&self, half: &Half, other: &Half) -> Vec<String> {
        let mut found = Vec::new();
        for (module, source) in &self.sources {
            if !module.first().is_some_and(|room| half.rooms.contains(&room.as_str())) {
                continue;
            }
            for (scope, path) in &source.paths {
                let target = self.target(scope, path, 0);
                let room = target.as_ref().map(|target| target[0].as_str());
                let stranger = room.is_some_and(|room| other.rooms.contains(&room) || ["stage", "cli"].contains(&room));
                if stranger || target.is_none() && half.foreign.contains(&path[0].as_str()) {
                    found.push(format!("{} uses {}", module.join("/"), path.join("::")));
                }
            }
        }
        found
    }

    /// Sets of files that use each other in a cycle, arrows from a file to the head of its own folder left out.
    fn circles(&self) -> Vec<Vec<String>> {
        let arrows: Vec<(&Module, Module)> =
            self.arrows().into_iter().filter(|(from, to)| !from.starts_with(to)).collect();
        let mut next: BTreeMap<&Module, Vec<&Module>> = BTreeMap::new();
        for (from, to) in &arrows {
            next.entry(*from).or_default().push(to);
        }
        let mut reach: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for from in next.keys() {
            let (mut seen, mut open) = (BTreeSet::new(), vec![*from]);
            while let Some(at) = open.pop() {
                open.extend(next.get(at).into_iter().flatten().filter(|to| seen.insert(**to)));
            }
            reach.insert(*from, seen);
        }
        let both = |a: &Module, b: &Module| reach[a].contains(b) && reach.get(b).is_some_and(|to| to.contains(a));
        let circles: BTreeSet<Vec<String>> = reach
            .keys()
            .filter(|module| reach[**module].contains(**module))
            .map(|module| reach.keys().filter(|other| both(module, other)).map(|other| other.join("/")).collect())
            .collect();
        circles.into_iter().collect()
    }

    /// Files outside of `cli` that print or exit.
    fn loud(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (module, source) in self.sources.iter().filter(|(module, _)| module.first().is_none_or(|m| m != "cli")) {
            let calls = source.paths.iter().filter_map(|(_, path)| Some(path.last_chunk::<2>()?.join("::")));
            let names: BTreeSet<String> = source.macros.iter().cloned().chain(calls).collect();
            let loud = LOUD.iter().filter(|word| names.contains(**word));
            found.extend(loud.map(|word| format!("{}: {word}", module.join("/"))));
        }
        found
    }
}

const NONE: [String; 0] = [];

#[test]
fn a_room_uses_rooms_of_lower_floors_only() {
    let house = House::ours();
    assert!(house.sources.len() > 250, "{} files are read", house.sources.len());
    assert_eq!(house.arrows_up(FLOORS), NONE);
}

#[test]
fn the_engine_half_knows_no_machine_learning() {
    assert_eq!(House::ours().strangers(&ENGINE, &LEARNING), NONE);
}

#[test]
fn the_learning_half_knows_no_yaml_cells_or_store() {
    assert_eq!(House::ours().strangers(&LEARNING, &ENGINE), NONE);
}

#[test]
fn nothing_but_the_command_line_prints_or_exits() {
    assert_eq!(House::ours().loud(), NONE);
}

#[test]
fn files_use_each_other_in_a_circle_only_for_a_reason() {
    let allowed: Vec<Vec<String>> =
        CIRCLES.iter().map(|(files, _)| files.iter().map(|file| (*file).to_owned()).collect()).collect();
    assert_eq!(House::ours().circles(), allowed);
}

/// `cargo test --test layout rooms -- --nocapture --ignored` prints which room uses which.
#[test]
#[ignore = "prints the drawing of the rooms"]
fn rooms() {
    let arrows = House::ours().rooms();
    for (height, floor) in FLOORS.iter().enumerate().rev() {
        for room in *floor {
            let to: Vec<&str> = arrows.iter().filter(|(from, _)| from == room).map(|(_, to)| to.as_str()).collect();
            println!("floor {height}  {room:10} -> {}", to.join(", "));
        }
    }
    println!("{} rooms, {} arrows", FLOORS.concat().len(), arrows.len());
}

/// A house of three floors in which `train` is above `data` and `loss`, with `text` as the file that is tried.
fn tried(path: &str, text: &str) -> House {
    let files = [
        ("lib.rs", "pub mod data; pub mod loss; pub mod train; pub mod store;"),
        ("data/mod.rs", "pub mod shard; pub use self::shard::Shard; #[cfg(test)] mod tests;"),
        ("data/shard.rs", "pub struct Shard;"),
        ("data/tests.rs", "use crate::train::run;"),
        ("loss.rs", "pub fn value() {}"),
        ("store.rs", "pub fn open() {}"),
        ("train/mod.rs", "pub mod run; pub mod log; pub use run::step;"),
        ("train/run.rs", "use crate::{data::{self, Shard}, loss}; pub fn step() { loss::value() }"),
        ("train/log.rs", ""),
        ("cli.rs", "fn main() { println!(\"{}\", crate::train::step()) }"),
    ];
    House::new(files.into_iter().filter(|(known, _)| *known != path).chain([(path, text)]))
}

const TRIED: &[&[&str]] = &[&["data", "loss", "store"], &["train"], &["cli"]];

#[test]
fn an_arrow_up_is_found_however_it_is_written() {
    assert_eq!(tried("train/log.rs", "").arrows_up(TRIED), NONE);
    for text in [
        "use crate::{loss_is_not_a_room, train::{run, log}};",
        "use crate::{train, other};",
        "use crate::train as t;",
        "use crate::train::*;",
        "pub use super::super::train::step;",
        "fn f() { crate::train::step() }",
        "fn f(x: Vec<crate::train::run::Step>) {}",
        "impl crate::train::T for () {}",
        "fn f() { vec![crate::train::step()]; }",
        "fn f() { assert!(matches!(x, Some(crate::train::run::A { .. }))); }",
        "mod inner { fn f() { super::super::super::train::step() } }",
        "macro_rules! m { () => { $crate::train::step() } }",
    ] {
        let found = tried("data/shard.rs", text).arrows_up(TRIED);
        assert!(found.iter().any(|found| found.starts_with("data/shard uses train")), "{text}: {found:?}");
    }
    for text in [
        "//! See [`crate::train`].",
        "#[cfg(test)] mod tests { use crate::train::run; }",
        "#[cfg(test)] fn f() { crate::train::step() }",
        "fn f() -> &'static str { \"crate::train::step\" }",
        "use std::sync::mpsc; fn train() {} fn f() { train() }",
    ] {
        assert_eq!(tried("data/shard.rs", text).arrows_up(TRIED), NONE, "{text}");
    }
    assert_eq!(tried("loss.rs", "use crate::data;").arrows_up(TRIED).len(), 1, "rooms of one floor are apart");
    assert_eq!(tried("new.rs", "").arrows_up(TRIED), ["new is on no floor"]);
}

#[test]
fn a_circle_is_found_and_a_head_may_be_used() {
    assert_eq!(tried("train/log.rs", "").circles(), Vec::<Vec<String>>::new());
    for text in ["use super::step;", "use super::run::step;", "use crate::train::step; ", "fn f() { super::step() }"] {
        let run = "use super::log; pub fn step() { log::line() }";
        let mut house = tried("train/log.rs", text);
        house
            .sources
            .insert(vec!["train".into(), "run".into()], Reader::read(&vec!["train".into(), "run".into()], run));
        assert_eq!(house.circles(), [["train/log", "train/run"]], "{text}");
    }
    let mut house = tried("train/mod.rs", "pub mod run; pub use run::step; pub struct Error;");
    let run = Reader::read(&vec!["train".into(), "run".into()], "use super::Error; pub fn step() {}");
    house.sources.insert(vec!["train".into(), "run".into()], run);
    assert_eq!(house.circles(), Vec::<Vec<String>>::new());
}

#[test]
fn strangers_and_noise_are_found() {
    let (engine, learning) =
        (Half { rooms: &["store"], foreign: &["gemm"] }, Half { rooms: &["data", "train"], foreign: &["serde_yaml"] });
    for text in ["use crate::data::Shard;", "use gemm::gemm;", "fn f() { crate::cli::main() }", "fn f() { gemm::f() }"]
    {
        assert_eq!(tried("store.rs", text).strangers(&engine, &learning).len(), 1, "{text}");
    }
    assert_eq!(tried("train/log.rs", "use serde_yaml::Value;").strangers(&learning, &engine).len(), 1);
    for text in [
        "fn f() { println!() }",
        "fn f() { vec![dbg!(1)]; }",
        "use std::process; fn f() { process::exit(1) }",
        "fn f() { std::process::exit(1) }",
        "fn f() { todo!() }",
    ] {
        assert_eq!(tried("train/log.rs", text).loud().len(), 1, "{text}");
    }
    assert_eq!(tried("train/log.rs", "fn println() {} #[cfg(test)] mod tests { fn f() { println!() } }").loud(), NONE);
}
