//! From the arguments of a command to a loaded pipeline, an open store and selected cells.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Global;
use super::failure::Failure;
use crate::engine::leftovers::{Leftovers, resolved};
use crate::engine::plan::{self, Context, Decision, Plan};
use crate::engine::sources::Sources;
use crate::pipeline::model::{CellId, Pipeline, Source};
use crate::pipeline::{select, trust};
use crate::stage;
use crate::store::Store;

/// The arguments that name a pipeline and cells of it.
#[derive(Debug, Args)]
pub struct Target {
    /// Pipeline (a .yaml file, or the name of one in `pipelines/`), then selectors of cells such as
    /// `model[loss=mean_field*,seed=0..2]` [default: the only pipeline; all cells]
    #[arg(value_name = "PIPELINE|SELECTOR")]
    words: Vec<String>,
    /// Override a value of the pipeline, such as params.epochs=5 or axes.seed=[0] (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Target {
    /// The file of tensors named instead of a pipeline.
    pub fn file_of_tensors(&self) -> Option<&Path> {
        let [word] = &self.words[..] else { return None };
        let file = Path::new(word);
        let is = |known: &[&str]| file.extension().is_some_and(|found| known.iter().any(|known| found == *known));
        (is(&["safetensors", "pt", "pth"]) || file.is_file() && !is(&["yaml", "yml"])).then_some(file)
    }
}

/// A pipeline with everything needed to plan it.
pub struct Project {
    /// The checked pipeline.
    pub pipeline: Pipeline,
    /// The results of earlier runs.
    pub store: Store,
    /// The user's files.
    pub sources: Sources,
    /// Where published outputs go.
    pub reports: PathBuf,
    /// The cells that were selected.
    pub selected: Vec<CellId>,
}

impl Project {
    /// Loads what `target` names.
    pub fn open(target: &Target, global: &Global) -> Result<Project, Failure> {
        let (file, selectors, named) = split(&target.words)?;
        if let Some(trust::Refusal { path, why, .. }) = trust::refusal_of(&file).filter(|_| !named) {
            return Err(Failure::usage(
                format!("{} {why}, and runs commands as you", path.display()),
                "read it; if you trust it, name it as the first argument",
            ));
        }
        let overrides = target.set.iter().map(|word| assignment(word)).collect::<Result<Vec<_>, _>>()?;
        let pipeline = crate::pipeline::load(&file, &overrides, &stage::kinds(), &stage::definitions())?;
        let selected =
            if selectors.is_empty() { pipeline.cells.ids().collect() } else { select::select(&pipeline, selectors)? };
        let root = root(&file);
        let cache = utf8("--cache", global.cache.clone().unwrap_or_else(|| root.join("cache")))?;
        let reports = utf8("--reports", global.reports.clone().unwrap_or_else(|| root.join("reports")))?;
        check_places(&pipeline, &cache, &reports)?;
        let store = Store::open(&cache)?;
        let home = file.parent().unwrap_or(Path::new("."));
        let leftovers = Leftovers::of_project(&root)?.without(&[&cache, store.root(), &reports]);
        let sources = Sources::read(&pipeline, &plan::needed(&pipeline, &selected), home, leftovers, &store.stat);
        Ok(Project { pipeline, store, sources, reports, selected })
    }

    /// The input of every decision.
    pub fn context(&self) -> Context<'_> {
        Context { pipeline: &self.pipeline, store: &self.store, sources: &self.sources }
    }

    /// The plan of the selected cells and of the cells they need; with `force`, the selected ones run even if they are
    /// up to date. A cell whose weight file belongs to another network is blocked.
    pub fn plan(&self, force: bool) -> Result<Plan, Failure> {
        let forced = if force { self.selected.iter().copied().collect() } else { Default::default() };
        let mut plan = plan::plan(&self.context(), &self.selected, forced)?;
        let mut files = stage::FileChecks::default();
        for (cell, decision) in plan.decisions.entries_mut() {
            if let Some(Decision::Run { .. } | Decision::May { .. }) = decision
                && let Some(message) = files.refusal(&self.pipeline, cell)
            {
                *decision = Some(Decision::Blocked { message });
            }
        }
        Ok(plan)
    }

    /// Writes the digests of the user's files, so that the next command does not need to read them.
    pub fn close(&self) -> Result<(), Failure> {
        Ok(self.store.stat.flush()?)
    }
}

/// Refuses inputs inside the store's folder, and outputs published into it.
fn check_places(pipeline: &Pipeline, cache: &Path, reports: &Path) -> Result<(), Failure> {
    let (store, reports) = (resolved(&Store::folder(cache)?), resolved(reports));
    let refused = |what: String, help| Err(Failure::usage(format!("{what} the store {}", store.display()), help));
    if reports.starts_with(&store) {
        let what = format!("the folder of reports {} is inside", reports.display());
        return refused(what, "name another folder with --reports");
    }
    let nested = store.starts_with(&reports);
    for cell in &pipeline.cells {
        for path in cell.outputs.iter().filter(|_| nested).filter_map(|output| output.publish.as_ref()) {
            let target = reports.join(path);
            if target.starts_with(&store) || store.starts_with(&target) {
                let what = format!("{} would be published into", target.display());
                return refused(what, "name another folder with --reports or --cache");
            }
        }
        for input in &cell.inputs {
            if let Source::Path(path) = &input.source
                && std::path::absolute(path)?.starts_with(&store)
            {
                let what = format!("the input {} is inside", path.display());
                return refused(what, "read the output of a stage by its name, or a published one below the reports");
            }
        }
    }
    Ok(())
}

/// The default parent of `cache` and `reports`: the folder above `pipelines/`, else the pipeline's own.
pub fn root(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if full.file_name().is_some_and(|name| name == "pipelines") {
        return match folder.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ if folder == Path::new(".") => PathBuf::from(".."),
            _ => PathBuf::from("."),
        };
    }
    folder.to_owned()
}

/// The pipeline's file, the selectors among `words`, and whether they name the pipeline.
fn split(words: &[String]) -> Result<(PathBuf, &[String], bool), Failure> {
    if let Some((first, rest)) = words.split_first() {
        if first.ends_with(".yaml") || first.ends_with(".yml") {
            return Ok((PathBuf::from(first), rest, true));
        }
        let named = Path::new("pipelines").join(format!("{first}.yaml"));
        if named.is_file() {
            return Ok((named, rest, true));
        }
    }
    let only = Path::new("pipeline.yaml");
    if only.is_file() {
        return Ok((only.to_owned(), words, false));
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("pipelines")
        .map(|items| items.filter_map(|item| Some(item.ok()?.path())).collect())
        .unwrap_or_default();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    found.sort_unstable();
    match &found[..] {
        [] => Err(Failure::usage(
            "no pipeline here: neither pipeline.yaml nor a .yaml file in pipelines/",
            "name one, as in: meanfield run path/to/pipeline.yaml",
        )),
        [one] => Ok((one.clone(), words, false)),
        many => {
            let names: Vec<_> = many.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
            let message = match words.first() {
                Some(word) => format!("`{word}` is not a pipeline, and there are {} in pipelines/", many.len()),
                None => format!("there are {} pipelines in pipelines/", many.len()),
            };
            Err(Failure::usage(message, format!("name one: {}", names.join(", "))))
        }
    }
}

fn assignment(word: &str) -> Result<(String, String), Failure> {
    match word.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(Failure::usage(
            format!("--set {word}: expected KEY=VALUE"),
            "for example: --set epochs=5 --set axes.seed=[0]",
        )),
    }
}

/// Refuses a folder whose name is not UTF-8: job files and journals, which are JSON, could not name it.
fn utf8(option: &str, folder: PathBuf) -> Result<PathBuf, Failure> {
    let full = std::path::absolute(&folder).unwrap_or_else(|_| folder.clone());
    match full.to_str() {
        Some(_) => Ok(folder),
        None => Err(Failure::usage(
            format!("the folder {} is not named in UTF-8", full.to_string_lossy()),
            format!("name another with {option}"),
        )),
    }
}

/// A path as the user would write it from here.
pub fn from_here(path: &Path) -> &Path {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).or_else(|_| path.strip_prefix("./")).unwrap_or(path)
}
