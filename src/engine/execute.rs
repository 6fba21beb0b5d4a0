//! One cell, from its inputs laid out to its outputs published.
//!
//! A cell works in a staging folder of its own: `in/` holds its inputs, `out/` takes its outputs, `log` what it says.
//! It starts with `out/` empty and leaves nothing anywhere else. Its outputs enter the store only after the program has
//! ended well, every declared output is there, and the user's files that it read are still what they were.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::disturbed::{altered, disturbed};
use super::ending::{self, Room};
use super::event::{Completion, Failure};
use super::executor::{Executor, Exit, Job, Sign, Usage};
use super::plan::{self, Context};
use super::secrets;
use crate::pipeline::model::{Cell, CellId, Filled, Source, Task};
use crate::store::blobs::Placement;
use crate::store::digest::Digest;
use crate::store::index::{Action, Origin, Record};
use crate::store::staging::{JOB, Staging};
use crate::store::{Artifact, Form, IoContext, StoreError};

/// What a built-in kind's process is told, as JSON in a file whose path is its argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KindJob {
    /// The kind.
    pub kind: String,
    /// Its resolved parameters.
    pub parameters: Map<String, Value>,
    /// Its inputs, in the order of the pipeline.
    pub inputs: Vec<KindInput>,
    /// Where each output goes, by name.
    pub outputs: BTreeMap<String, PathBuf>,
    /// A folder that survives a failed or killed attempt, for work that can go on; and that a cell which goes further than
    /// this one finds again, for kinds that say so.
    pub resume: PathBuf,
    /// How many threads it may compute with.
    pub threads: usize,
    /// The names of its secrets, whose values are in its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

/// One input of a built-in kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KindInput {
    /// Its name.
    pub name: String,
    /// One path without a label, or the gathered ones, each with its axis values.
    pub items: Vec<(Vec<(String, String)>, PathBuf)>,
}

/// The environment variables of this process that every cell sees. They say where things are, not what to do, and do
/// not enter keys; everything else must be declared.
const PASSED_ON: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// What executing cells needs beside the decisions.
pub struct Workshop<'a, E: Executor> {
    /// Pipeline, store, sources.
    pub context: &'a Context<'a>,
    /// Where programs run.
    pub executor: &'a E,
    /// Scratch folders.
    pub staging: &'a Staging,
    /// The program that runs built-in kinds, and the arguments before the job's path.
    pub kind_program: (PathBuf, Vec<OsString>),
    /// The name of this run.
    pub run: &'a str,
    /// The room on the disk of the store.
    pub(super) room: Room,
}

/// A cell to execute.
#[derive(Debug)]
pub struct Order {
    /// The cell.
    pub cell: CellId,
    /// Its key.
    pub key: Digest,
    /// The key less the parameters in which it may differ from a cell whose work it goes on from.
    pub lineage: Digest,
    /// The artifact of every input that is not the user's, in order; gathered ones one after the other.
    pub inputs: Vec<Artifact>,
    /// The fields of its key, for the index.
    pub fields: Vec<(String, String)>,
    /// Run it even if the index has its key by now.
    pub forced: bool,
    /// Which attempt of this run at it, from 1.
    pub attempt: u32,
    /// The GPUs it was given.
    pub gpus: Vec<u64>,
    /// How many threads it may compute with.
    pub threads: usize,
}

/// A cell that has its result.
#[derive(Debug)]
pub struct Done {
    /// Its outputs.
    pub outputs: Vec<Artifact>,
    /// How it came to have them.
    pub how: Completion,
    /// What it used.
    pub usage: Usage,
    /// Wall time.
    pub wall: Duration,
    /// Whether it gave other bytes than the first result of its key, which stays.
    pub replicate: bool,
}

/// Why an attempt has no result.
#[derive(Debug)]
pub enum Fault {
    /// The cell's own failure.
    Failed(Failure, Usage),
    /// The store's; no other cell will fare better.
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

impl<E: Executor> Workshop<'_, E> {
    /// Executes `order` unless another process does so first. `waiting` is told once if one is at it, `started` gets the ticket
    /// of the running program, `sign` what it shows of itself; `stop` ends a wait for another process.
    pub fn execute(
        &self,
        order: &Order,
        waiting: &mut dyn FnMut(),
        started: &mut dyn FnMut(Arc<E::Ticket>),
        sign: &mut dyn FnMut(Sign),
        stop: &dyn Fn() -> bool,
    ) -> Result<Done, Fault> {
        let store = self.context.store;
        let _held = {
            let mut told = false;
            loop {
                if let Some(lock) = store.locks.try_lock(&order.key)? {
                    break lock;
                }
                if !std::mem::replace(&mut told, true) {
                    waiting();
                }
                if stop() {
                    return Err(Fault::Failed(
                        Failure::plain("interrupted while waiting for another run"),
                        Usage::default(),
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        store.index.refresh()?;
        let before = store.index.outputs(&order.key).filter(|outputs| outputs.iter().all(|a| store.verify(a).is_ok()));
        if let Some(outputs) = &before
            && !order.forced
        {
            let (usage, wall) = (Usage::default(), Duration::ZERO);
            return Ok(Done { outputs: outputs.clone(), how: Completion::Shared, usage, wall, replicate: false });
        }
        let start = Instant::now();
        let folder = self.staging.cell()?;
        let attempt = self.attempt(order, &folder, started, sign).map_err(|fault| match fault {
            // What it reads was whole when the plan was made; other cells may read other objects.
            Fault::Store(error @ StoreError::Damaged { .. }) => {
                let message = format!("cannot be given what it reads: {error}; run again, and that is made again");
                Fault::Failed(self.failure(message, None, order, &folder), Usage::default())
            }
            other => other,
        });
        let outputs = attempt.map(|(outputs, usage)| (outputs, usage, start.elapsed()));
        self.staging.release(folder, outputs.is_ok());
        let (outputs, usage, wall) = outputs?;

        let action = Action {
            key: order.key,
            outputs: outputs.clone(),
            origin: Origin {
                run: self.run.to_owned(),
                cell: self.context.pipeline.cell_name(order.cell),
                seconds: wall.as_secs_f64(),
                peak_memory: Some(usage.peak_memory),
                fields: order.fields.clone(),
            },
        };
        let done = |outputs, replicate| Done { outputs, how: Completion::Executed, usage, wall, replicate };
        match before {
            Some(first) if first != outputs => {
                store.index.add(Record::Replicate, &action)?;
                Ok(done(first, true))
            }
            Some(first) => Ok(done(first, false)),
            None => {
                store.index.add(Record::Result, &action)?;
                Ok(done(outputs, false))
            }
        }
    }

    fn attempt(
        &self,
        order: &Order,
        folder: &Path,
        started: &mut dyn FnMut(Arc<E::Ticket>),
        sign: &mut dyn FnMut(Sign),
    ) -> Result<(Vec<Artifact>, Usage), Fault> {
        let store = self.context.store;
        let cell = &self.context.pipeline.cells[order.cell];
        let inputs = self.lay_out(order, cell, folder)?;
        let out = folder.join("out");
        fs::create_dir(&out).at("create", &out)?;
        for output in &cell.outputs {
            if let Some((parent, _)) = output.path.rsplit_once('/') {
                fs::create_dir_all(out.join(parent)).at("create", &out)?;
            }
        }
        // Another cell of the lineage may be at work in its folder; this one then begins anew in one of its own.
        let lineage = match order.lineage == order.key {
            true => None,
            false => store.locks.try_lock(&order.lineage)?,
        };
        let name = if lineage.is_some() { order.lineage } else { order.key };
        let resume = store.staging().with_file_name("resume").join(name.to_string());
        if order.forced && order.attempt == 1 {
            match fs::remove_dir_all(&resume) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("empty", &resume)?,
                _ => {}
            }
        }
        let job = self.job(order, cell, folder, inputs, &resume)?;

        let start = Instant::now();
        let fail = |message: String, usage: Usage, full: Option<String>| {
            Fault::Failed(self.failure(message, full, order, folder), usage)
        };
        // Asked before any folder is removed, which makes room.
        let full = || self.room.lack(start);
        // Hours of work are not begun for a result that would be refused.
        if let Some(words) = altered(self.context, cell) {
            return Err(fail(format!("{words} since the run began; run again"), Usage::default(), None));
        }
        let ticket = match self.executor.submit(&job) {
            Ok(ticket) => Arc::new(ticket),
            Err(error) => {
                return Err(fail(format!("cannot start {}: {error}", job.program.display()), Usage::default(), full()));
            }
        };
        started(ticket.clone());
        let exit = self.executor.wait(&ticket, sign);
        let usage = self.executor.collect(&ticket);
        // What a command did to the user's files is seen however it ended.
        let disturbed = disturbed(self.context, cell, folder);
        let also = disturbed.as_ref().map_or_else(String::new, |words| format!("; {words}"));
        match exit {
            Ok(Exit::Code(0)) => {}
            Ok(exit) => {
                let message = ending::describe(exit, usage, &ending::tail(&job.log));
                return Err(fail(format!("{message}{also}"), usage, full()));
            }
            Err(error) => return Err(fail(format!("could not be watched: {error}{also}"), usage, full())),
        }
        if let Some(words) = disturbed {
            // What it left was made of the other content.
            let _ = fs::remove_dir_all(&resume);
            return Err(fail(format!("{words}; what its outputs were made of is not known: run again"), usage, full()));
        }
        let paths = cell.inputs.iter().filter_map(|input| match &input.source {
            Source::Path(path) => Some(path.clone()),
            _ => None,
        });
        let inputs: Vec<PathBuf> = paths.chain([folder.join("in")]).collect();
        let mut outputs = Vec::with_capacity(cell.outputs.len());
        for output in &cell.outputs {
            let path = out.join(&output.path);
            if fs::symlink_metadata(&path).is_err() {
                let message = format!("ended well but did not write its output `{}` ({})", output.name, output.path);
                return Err(fail(message, usage, full()));
            }
            if let Some(message) = led_outside(&path, folder) {
                return Err(fail(format!("its output `{}` {message}", output.name), usage, full()));
            }
            outputs.push(match store.blobs.adopt(&path, &inputs, &store.stat) {
                Ok(artifact) => artifact,
                Err(StoreError::Unsupported { path, what }) => {
                    // The cell's folder is gone when this is read.
                    let path = path.strip_prefix(folder).unwrap_or(&path).display();
                    let message = format!(
                        "its output `{}` cannot be stored: {path} is {what}; an output may hold files, folders, and links to files and to the folders of its inputs",
                        output.name
                    );
                    return Err(fail(message, usage, full()));
                }
                Err(error) => return Err(error.into()),
            });
        }
        self.keep_log(order, folder);
        // What goes on with the lineage stays; a folder of this key alone is of no more use.
        let _ = fs::remove_dir_all(resume.with_file_name(order.key.to_string()));
        Ok((outputs, usage))
    }

    /// Puts the inputs below `in/` and tells where each is. Built-in kinds, which never write to an input, get links
    /// into the store; commands get read-only copies.
    fn lay_out(&self, order: &Order, cell: &Cell, folder: &Path) -> Result<Vec<KindInput>, StoreError> {
        let store = self.context.store;
        let how = if matches!(cell.task, Task::Kind { .. }) { Placement::Link } else { Placement::ReadOnly };
        let base = folder.join("in");
        if !cell.inputs.is_empty() {
            fs::create_dir(&base).at("create", &base)?;
        }
        let mut artifacts = order.inputs.iter();
        let mut place = |target: PathBuf| -> Result<PathBuf, StoreError> {
            if let Some(artifact) = artifacts.next() {
                store.blobs.place(artifact, &target, how)?;
                if how == Placement::ReadOnly && artifact.form == Form::Tree {
                    self.staging.note_copy(artifact.digest, &target);
                }
            }
            Ok(target)
        };
        let mut inputs = Vec::with_capacity(cell.inputs.len());
        for input in &cell.inputs {
            let extension = plan::extension(self.context.pipeline, &input.source);
            let target = base.join(format!("{}{extension}", input.name));
            let items = match &input.source {
                Source::Path(path) => {
                    self.link(path, &target, how)?;
                    vec![(Vec::new(), target)]
                }
                Source::Cell { .. } => vec![(Vec::new(), place(target)?)],
                Source::Gathered { members, .. } => {
                    let target = base.join(&*input.name);
                    fs::create_dir(&target).at("create", &target)?;
                    let item = |(label, _): &(Arc<str>, CellId)| {
                        let name = if label.is_empty() { "all" } else { label };
                        Ok((labels(label), place(target.join(format!("{name}{extension}")))?))
                    };
                    members.iter().map(item).collect::<Result<_, StoreError>>()?
                }
            };
            inputs.push(KindInput { name: input.name.to_string(), items });
        }
        Ok(inputs)
    }

    /// Gives the user's file or folder at `path` to a cell. Kinds get a folder without what is no part of the input.
    fn link(&self, path: &Path, target: &Path, how: Placement) -> Result<(), StoreError> {
        let full = std::path::absolute(path).at("find", path)?;
        let symlink = |to: &Path, link: &Path| std::os::unix::fs::symlink(to, link).at("link", link);
        let whole = how != Placement::Link || !self.context.sources.get(path).is_ok_and(|found| found.leaves_out);
        if whole {
            return symlink(&full, target);
        }
        fs::create_dir(target).at("create", target)?;
        for (name, empty) in self.context.sources.names(path)? {
            let link = target.join(&name);
            let parent = if empty { &*link } else { link.parent().unwrap_or(target) };
            fs::create_dir_all(parent).at("create", parent)?;
            if !empty {
                symlink(&full.join(&name), &link)?;
            }
        }
        Ok(())
    }

    fn job(
        &self,
        order: &Order,
        cell: &Cell,
        folder: &Path,
        inputs: Vec<KindInput>,
        resume: &Path,
    ) -> Result<Job, Fault> {
        let mut reports = false;
        let mut environment = self.environment(order, cell);
        let fail = |message: String, usage: Usage| Fault::Failed(Failure::plain(message), usage);
        let (program, arguments) = match &cell.task {
            Task::Kind { name, parameters, .. } => {
                reports = true;
                let out = folder.join("out");
                let outputs = cell.outputs.iter().map(|o| (o.name.to_string(), out.join(&o.path))).collect();
                let job = KindJob {
                    kind: name.to_string(),
                    parameters: Map::clone(parameters),
                    inputs,
                    outputs,
                    resume: resume.to_owned(),
                    threads: order.threads,
                    secrets: cell.secrets.iter().map(|name| name.to_string()).collect(),
                };
                let path = folder.join(JOB);
                let text = serde_json::to_vec(&job).map_err(std::io::Error::from).at("write", &path)?;
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                file.and_then(|mut file| file.write_all(&text)).at("write", &path)?;
                let (program, first) = &self.kind_program;
                let mut arguments = first.clone();
                arguments.push(path.into());
                (program.clone(), arguments)
            }
            Task::Shell(script) => {
                let Filled { text, variables } =
                    script.fill(|name| self.path_of(cell, name)).map_err(|message| fail(message, Usage::default()))?;
                environment.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
                let mut words = script.shell.iter();
                let program = self.program(words.next().map_or("sh", String::as_str));
                (program, words.map(OsString::from).chain([text.into()]).collect())
            }
            Task::Program(words) => {
                let mut words = words.iter().map(|word| self.fill_in(word, cell));
                let first = words.next().unwrap_or_default();
                (self.program(&first), words.map(OsString::from).collect())
            }
        };
        let mut secrets = Vec::with_capacity(cell.secrets.len());
        for name in &cell.secrets {
            let secret = secrets::find(name);
            let secret = secret.ok_or_else(|| fail(format!("its secret {name} is not set"), Usage::default()))?;
            secrets.push((OsString::from(&**name), secret));
        }
        let log = folder.join("log");
        Ok(Job { program, arguments, environment, secrets, folder: folder.to_owned(), log, reports })
    }

    /// The file behind the word that starts a command.
    fn program(&self, word: &str) -> PathBuf {
        self.context.sources.program_path(word).map_or(PathBuf::from(word), Path::to_owned)
    }

    /// The path of `in.NAME` or `out.NAME`, relative to the cell's folder, so that no command line and no output depends
    /// on where the store lies.
    fn path_of(&self, cell: &Cell, reference: &str) -> Option<String> {
        let (side, name) = reference.split_once('.')?;
        match side {
            "in" => {
                let input = cell.inputs.iter().find(|input| *input.name == *name)?;
                let gathered = matches!(input.source, Source::Gathered { .. });
                let extension =
                    if gathered { String::new() } else { plan::extension(self.context.pipeline, &input.source) };
                Some(format!("in/{name}{extension}"))
            }
            "out" => {
                let output = cell.outputs.iter().find(|output| *output.name == *name)?;
                Some(format!("out/{}", output.path))
            }
            _ => None,
        }
    }

    /// Replaces `${in.NAME}` and `${out.NAME}` by their paths.
    fn fill_in(&self, text: &str, cell: &Cell) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let inside = &rest[at + 2..];
            let end = inside.find('}').unwrap_or(inside.len());
            filled.push_str(&rest[..at]);
            match self.path_of(cell, &inside[..end]) {
                Some(path) if end < inside.len() => {
                    filled.push_str(&path);
                    rest = &inside[end + 1..];
                }
                _ => {
                    filled.push_str("${");
                    rest = inside;
                }
            }
        }
        filled.push_str(rest);
        filled
    }

    fn environment(&self, order: &Order, cell: &Cell) -> Vec<(OsString, OsString)> {
        let mut environment: Vec<(OsString, OsString)> =
            PASSED_ON.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect();
        let gpus: Vec<String> = order.gpus.iter().map(u64::to_string).collect();
        let threads = order.threads.to_string();
        // A fixed locale and time zone: sorting and dates are part of results.
        for (name, value) in [
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("CUDA_VISIBLE_DEVICES", &gpus.join(",")),
            ("MEANFIELD_THREADS", &threads),
            ("RAYON_NUM_THREADS", &threads),
            ("OMP_NUM_THREADS", &threads),
            ("POLARS_MAX_THREADS", &threads),
        ] {
            environment.push((name.into(), value.into()));
        }
        environment.extend(cell.env.iter().map(|(name, value)| (name.into(), value.into())));
        environment
    }

    fn failure(&self, message: String, full: Option<String>, order: &Order, folder: &Path) -> Failure {
        let log_tail = ending::tail(&folder.join("log"));
        let log = self.keep_log(order, folder);
        let help = full.as_ref().map(|_| ending::ROOM.to_owned());
        let message = full.map_or(message.clone(), |full| format!("{message}; {full}"));
        Failure { message, help, log_tail, log }
    }

    /// Moves the log out of the staging folder; an empty one is not worth a file.
    fn keep_log(&self, order: &Order, folder: &Path) -> Option<PathBuf> {
        let log = folder.join("log");
        if fs::metadata(&log).map_or(0, |metadata| metadata.len()) == 0 {
            return None;
        }
        let logs = self.context.store.logs();
        let kept = log_path(&logs, &order.key);
        // The staging folder may lie on another file system.
        let moved = || fs::rename(&log, &kept).or_else(|_| fs::copy(&log, &kept).map(drop));
        fs::create_dir_all(&logs).and_then(|()| moved()).ok().map(|()| kept)
    }
}

/// What is wrong with an output that is reached through a link to a folder elsewhere, whose files are not the cell's own.
fn led_outside(path: &Path, folder: &Path) -> Option<String> {
    let mut at = folder.to_owned();
    let mut parts = path.strip_prefix(folder).ok()?.parent()?.components();
    let linked = parts.any(|part| {
        at.push(part);
        at.is_symlink()
    });
    if !linked {
        return None;
    }
    let (above, own) = (path.parent()?.canonicalize().ok()?, folder.canonicalize().ok()?);
    (!above.starts_with(&own)).then(|| {
        let (above, name) = (above.display(), path.strip_prefix(folder).unwrap_or(path).display());
        format!("cannot be stored: {name} is reached through a link, and lies in {above}; copy it to {name}")
    })
}

/// Where the log of the last execution of `key` is kept.
pub fn log_path(logs: &Path, key: &Digest) -> PathBuf {
    logs.join(format!("{key}.log"))
}

/// `dataset=glyphs,seed=0` as pairs. Axis names and value names hold neither `,` nor `=`.
fn labels(label: &str) -> Vec<(String, String)> {
    label.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, v)| (a.to_owned(), v.to_owned())).collect()
}
