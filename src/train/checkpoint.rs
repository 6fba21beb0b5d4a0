//! The state of a training between two epochs, in one file from which it resumes with the same bits.
//!
//! The file is a safetensors file: every tensor is a vector of f32 under a name such as `model/layer1.0.conv1.weight`,
//! `optimiser/layer1.0.conv1.weight/square` or `loss/fields`, so any safetensors tool opens it. The rest is JSON under
//! one key of its metadata, with a digest over all of it: a truncated or altered file is not a checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};

use fs_err::{self as fs, File};
use safetensors::tensor::{Dtype, SafeTensors, View, serialize_to_file};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// The one key of the file's metadata: a single one keeps the bytes of a file independent of any map's order.
const KEY: &str = "meanfield";
/// The only setting that may differ.
const EPOCHS: &str = "epochs";

/// A training after an epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// Number of finished epochs.
    pub epoch: u32,
    /// Integers by name, such as numbers of steps.
    pub counters: BTreeMap<String, u64>,
    /// Everything else that the next epoch depends on, by name.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// The record of each finished epoch.
    pub log: Vec<Value>,
    /// The settings of the training, and whatever else must be equal for it to resume, such as a digest of its images.
    /// `epochs` is the length of the run.
    pub settings: Map<String, Value>,
}

/// A setting that has changed. A value is none if the setting is absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its path: `optimiser.momentum`.
    pub path: String,
    /// In the checkpoint.
    pub old: Option<Value>,
    /// Now.
    pub new: Option<Value>,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("absent".to_string(), Value::to_string);
        write!(f, "{}: {} -> {}", self.path, shown(&self.old), shown(&self.new))
    }
}

/// Why a checkpoint could not be written, or a training cannot resume from it.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// An operation of the file system failed; the error names the operation and the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The tensors could not be written.
    #[error("cannot write {}", path.display())]
    Unwritten { path: PathBuf, source: safetensors::SafeTensorError },
    /// A truncated or altered file.
    #[error("{} is not a whole checkpoint: {reason}", path.display())]
    Torn { path: PathBuf, reason: String },
    /// A checkpoint of a training with other settings.
    #[error("the checkpoint is of another training: {}", list(.0))]
    Settings(Vec<Difference>),
    /// A run of another length, under a schedule that spans the whole run.
    #[error("{0}, but the schedule depends on the number of epochs: restart, or keep `epochs` unchanged")]
    Total(Box<Difference>),
    /// The checkpoint is beyond the end of the run.
    #[error("the checkpoint is after epoch {epoch}, beyond the {epochs} of the run")]
    Beyond { epoch: u32, epochs: u32 },
    /// A tensor of the wrong length; 0 if it is missing.
    #[error("the checkpoint's tensor {name} has {found} elements, expected {expected}")]
    Tensor { name: String, found: usize, expected: usize },
    /// Not one record per finished epoch.
    #[error("the checkpoint is after epoch {epoch}, but its log has another number of epochs")]
    Log { epoch: u32 },
    /// Tensors that the training does not have.
    #[error("the checkpoint has tensors that the training lacks: {}", list(.0))]
    Unexpected(Vec<String>),
}

impl CheckpointError {
    /// Whether no training can use the checkpoint, so that this one may replace it.
    pub fn is_useless(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Total(_) | Self::Beyond { .. })
    }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The metadata, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// Version of this layout.
    version: u32,
    epoch: u32,
    counters: BTreeMap<String, u64>,
    log: Vec<Value>,
    settings: Map<String, Value>,
    /// Over all of the above and the tensors, in hexadecimal.
    digest: String,
}

impl Description {
    fn of(checkpoint: &Checkpoint) -> Result<Self, serde_json::Error> {
        let Checkpoint { epoch, counters, tensors, log, settings } = checkpoint;
        let mut description = Self {
            version: 1,
            epoch: *epoch,
            counters: counters.clone(),
            log: log.clone(),
            settings: settings.clone(),
            digest: String::new(),
        };
        let mut hasher = blake3::Hasher::new();
        // Length prefixes make the concatenation unambiguous.
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        add(&serde_json::to_vec(&description)?);
        for (name, values) in tensors {
            add(name.as_bytes());
            add(&to_bytes(values));
        }
        description.digest = hasher.finalize().to_hex().to_string();
        Ok(description)
    }
}

/// A tensor to write; its bytes are made only when they are written, one tensor at a time.
struct Vector<'a> {
    shape: [usize; 1],
    values: &'a [f32],
}

impl View for Vector<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        to_bytes(self.values).into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
    bytes
}

impl Checkpoint {
    /// Writes it to `path`, replacing the previous one. After a kill or a crash the file is the previous one or this
    /// one, never a part: it is written to `<path>.partial`, synced, and renamed. There must be one writer at a time.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let description = Description::of(self).and_then(|description| serde_json::to_string(&description));
        let description = description.map_err(io::Error::from)?;
        let tensors = self.tensors.iter().map(|(name, values)| (name, Vector { shape: [values.len()], values }));
        serialize_to_file(tensors, Some(HashMap::from([(KEY.to_string(), description)])), &partial)
            .map_err(|source| CheckpointError::Unwritten { path: partial.clone(), source })?;
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, path)?;
        // The rename is durable once the folder is synced.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(File::open(folder)?.sync_all()?)
    }

    /// The checkpoint at `path` for a training with `settings` to resume from; none if there is no file.
    ///
    /// The settings must be those of the checkpoint except for `epochs`: a run may be longer than the one that stopped
    /// there, unless its schedule depends on the total (`depends_on_total`).
    pub fn read(
        path: &Path,
        settings: &Map<String, Value>,
        depends_on_total: bool,
    ) -> Result<Option<Self>, CheckpointError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let checkpoint =
            Self::parse(&bytes).map_err(|reason| CheckpointError::Torn { path: path.to_owned(), reason })?;
        checkpoint.fits(settings, depends_on_total)?;
        Ok(Some(checkpoint))
    }

    /// Parses the bytes of a file; fails with the reason.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let entry = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let entry = entry.ok_or_else(|| format!("its metadata has no key {KEY:?}"))?;
        let found: Description = serde_json::from_str(entry).map_err(|error| error.to_string())?;
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?.iter() {
            if view.dtype() != Dtype::F32 || view.shape().len() != 1 {
                return Err(format!("its tensor {name} is {:?} {:?}", view.dtype(), view.shape()));
            }
            let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            tensors.insert(name.to_owned(), values);
        }
        let Description { version, epoch, counters, log, settings, digest } = found;
        let checkpoint = Self { epoch, counters, tensors, log, settings };
        let expected = Description::of(&checkpoint).map_err(|error| error.to_string())?;
        if version != expected.version {
            return Err(format!("its layout has version {version}, expected {}", expected.version));
        }
        if digest != expected.digest {
            return Err("its digest does not match its content".to_string());
        }
        Ok(checkpoint)
    }

    /// Whether a training with `settings` may resume from it.
    fn fits(&self, settings: &Map<String, Value>, depends_on_total: bool) -> Result<(), CheckpointError> {
        let mut differences = differences(&self.settings, settings);
        let total = differences.iter().position(|difference| difference.path == EPOCHS);
        let total = total.map(|index| differences.remove(index));
        if !differences.is_empty() {
            return Err(CheckpointError::Settings(differences));
        }
        if let Some(difference) = total
            && depends_on_total
        {
            return Err(CheckpointError::Total(Box::new(difference)));
        }
        let epochs = settings.get(EPOCHS).and_then(Value::as_u64).and_then(|epochs| u32::try_from(epochs).ok());
        match epochs {
            Some(epochs) if epochs < self.epoch => Err(CheckpointError::Beyond { epoch: self.epoch, epochs }),
            _ => Ok(()),
        }
    }

    /// Removes and returns the tensor `name`, which must have `expected` elements.
    pub fn take(&mut self, name: &str, expected: usize) -> Result<Vec<f32>, CheckpointError> {
        let values = self.tensors.remove(name).unwrap_or_default();
        if values.len() != expected {
            return Err(CheckpointError::Tensor { name: name.to_owned(), found: values.len(), expected });
        }
        Ok(values)
    }

    /// To be called after the last [`Checkpoint::take`]: remaining tensors belong to another training.
    pub fn finish(self) -> Result<(), CheckpointError> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::Unexpected(self.tensors.into_keys().collect()))
    }
}

/// The settings that differ between old and new, by path.
fn differences(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Difference> {
    let [old, new] = [old, new].map(|settings| {
        let mut leaves = BTreeMap::new();
        flatten("", settings, &mut leaves);
        leaves
    });
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let difference = |path: &String| {
        let [old, new] = [&old, &new].map(|leaves| leaves.get(path).copied().cloned());
        (old != new).then(|| Difference { path: path.clone(), old, new })
    };
    paths.into_iter().filter_map(difference).collect()
}

fn flatten<'a>(prefix: &str, map: &'a Map<String, Value>, leaves: &mut BTreeMap<String, &'a Value>) {
    for (key, value) in map {
        let path = format!("{prefix}{key}");
        match value {
            Value::Object(inner) if !inner.is_empty() => flatten(&format!("{path}."), inner, leaves),
            _ => {
                leaves.insert(path, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn settings() -> Map<String, Value> {
        map(json!({
            "epochs": 10, "learning_rate": 0.1, "optimiser": {"kind": "sgd", "momentum": 0.9}, "clip": null,
            "schedule": {"kind": "multi_step", "at": [3, 7]}, "images": "0f",
        }))
    }

    /// A checkpoint with bit patterns that a comparison of numbers would not distinguish.
    fn checkpoint() -> Checkpoint {
        let odd = [0x8000_0000, 0x7fc0_1234, 0xffa0_0001, 0x7f80_0000, 0x0000_0001, 0x3f80_0001].map(f32::from_bits);
        let tensors = [
            ("model/head.weight", odd.to_vec()),
            ("optimiser/head.weight/square", vec![1e-38, 0.1, 3.0]),
            ("loss/fields", vec![]),
        ];
        Checkpoint {
            epoch: 3,
            counters: [("network_steps".to_string(), u64::MAX), ("loss_steps".to_string(), 7)].into(),
            tensors: tensors.map(|(name, values)| (name.to_string(), values)).into(),
            log: vec![serde_json::json!({ "epoch": 3, "mean_loss": 0.1 })],
            settings: settings(),
        }
    }

    fn bits(checkpoint: &Checkpoint) -> Vec<(&String, Vec<u32>)> {
        let bits = |(name, values): (_, &Vec<f32>)| (name, values.iter().map(|x| x.to_bits()).collect());
        checkpoint.tensors.iter().map(bits).collect()
    }

    fn same(a: &Checkpoint, b: &Checkpoint) -> bool {
        let rest = |c: &Checkpoint| (c.epoch, c.counters.clone(), c.settings.clone());
        bits(a) == bits(b) && rest(a) == rest(b)
    }

    #[test]
    fn a_checkpoint_survives_writing_and_reading_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        assert!(Checkpoint::read(&path, &settings(), true).unwrap().is_none());
        let mut first = checkpoint();
        first.write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = Checkpoint::read(&path, &settings(), true).unwrap().unwrap();
        assert!(same(&read, &first) && !same(&read, &Checkpoint::default()));
        // It replaces the previous one and leaves no other file.
        first.epoch = 4;
        first.write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path, &settings(), true).unwrap().unwrap().epoch, 4);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // The bytes are a function of the checkpoint.
        checkpoint().write(&path).unwrap();
        assert!(fs::read(&path).unwrap() == bytes);
    }

    #[test]
    fn a_killed_write_leaves_the_checkpoint_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        checkpoint().write(&path).unwrap();
        fs::write(folder.path().join("state.safetensors.partial"), b"torn").unwrap();
        assert!(same(&Checkpoint::read(&path, &settings(), true).unwrap().unwrap(), &checkpoint()));
        checkpoint().write(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn truncated_and_altered_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        checkpoint().write(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let error = Checkpoint::read(&path, &settings(), true).unwrap_err();
            assert!(matches!(error, CheckpointError::Torn { .. }), "{len} bytes: {error}");
        }
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            // JSON has several ways to write spaces and escapes.
            match Checkpoint::parse(&altered) {
                Ok(found) => assert!(same(&found, &checkpoint()), "byte {at}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused + 16 >= whole.len(), "{refused} of {}", whole.len());
        let longer: Vec<u8> = whole.iter().copied().chain([0]).collect();
        assert_eq!(Checkpoint::parse(&longer).unwrap_err(), "incomplete metadata, file not fully covered");
    }

    #[test]
    fn settings_that_differ_are_named_with_both_values() {
        let message = |new: Value, depends: bool| checkpoint().fits(&map(new), depends).map_err(|e| e.to_string());
        let mut new = Value::Object(settings());
        assert_eq!(message(new.clone(), true), Ok(()));
        new["learning_rate"] = json!(0.2);
        new["optimiser"] = json!({"kind": "adamw", "eps": 1e-8});
        new["schedule"]["at"] = json!([3]);
        let expected = "the checkpoint is of another training: learning_rate: 0.1 -> 0.2, optimiser.eps: absent -> 1e-8, \
                        optimiser.kind: \"sgd\" -> \"adamw\", optimiser.momentum: 0.9 -> absent, schedule.at: [3,7] -> [3]";
        assert_eq!(message(new.clone(), false), Err(expected.to_string()));
        // Listed with the others, a longer run hides none of them.
        new["epochs"] = json!(20);
        assert_eq!(message(new, true), Err(expected.to_string()));
    }

    #[test]
    fn a_longer_run_resumes_unless_its_schedule_depends_on_the_total() {
        let fits = |epochs: u32, depends| {
            let mut new = settings();
            new["epochs"] = json!(epochs);
            checkpoint().fits(&new, depends)
        };
        assert!(fits(20, false).is_ok() && fits(3, false).is_ok() && fits(10, true).is_ok());
        let error = fits(20, true).unwrap_err();
        assert!(matches!(error, CheckpointError::Total(_)));
        assert!(error.to_string().starts_with("epochs: 10 -> 20, but the schedule depends"), "{error}");
        assert!(matches!(fits(2, false), Err(CheckpointError::Beyond { epoch: 3, epochs: 2 })));
    }

    #[test]
    fn tensors_are_taken_by_name_and_length_until_none_is_left() {
        let mut found = checkpoint();
        assert_eq!(found.take("optimiser/head.weight/square", 3).unwrap(), [1e-38, 0.1, 3.0]);
        let message = |result: Result<Vec<f32>, CheckpointError>| result.unwrap_err().to_string();
        assert!(message(found.take("optimiser/head.weight/square", 3)).contains("0 elements, expected 3"));
        assert!(message(found.take("model/head.weight", 5)).contains("head.weight has 6 elements, expected 5"));
        let error = found.finish().unwrap_err().to_string();
        assert_eq!(error, "the checkpoint has tensors that the training lacks: loss/fields");
        assert!(Checkpoint::default().finish().is_ok());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = checkpoint().write(&folder.path().join("none/state.safetensors")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.ends_with("none/state.safetensors.partial"), "{error}");
        let error = Checkpoint::read(folder.path(), &settings(), true).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("failed to read from file `{}`: Is a directory (os error 21)", folder.path().display())
        );
    }
}
