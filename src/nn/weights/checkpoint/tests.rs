//! Checkpoints in the forms that occur in practice, made by `tests/data/weights/checkpoints.py`.

use std::path::{Path, PathBuf};

use crate::nn::backbone::no_alias;
use crate::nn::weights::{Choice, Fit, WeightError, WeightFile, fit};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights/checkpoints").join(name)
}

fn open(name: &str) -> WeightFile {
    WeightFile::open(path(name)).unwrap()
}

fn choice(key: Option<&str>, prefix: Option<&str>) -> Choice {
    Choice { key: key.map(str::to_owned), prefix: prefix.map(str::to_owned) }
}

/// The network to which all of them belong.
fn fits<'f>(file: &'f WeightFile, choice: &Choice) -> Result<Fit<'f>, WeightError> {
    fit(file, &[("conv1.weight", vec![2, 2]), ("bn1.bias", vec![2])], &["fc.", "n_averaged"], no_alias, choice)
}

fn first(file: &WeightFile, fit: &Fit<'_>) -> f32 {
    file.values(fit.tensors[0]).unwrap()[0]
}

#[test]
fn the_weights_are_found_in_all_wrappers_and_the_rest_is_passed_over() {
    for (name, place, others) in [
        ("module.pth", "weights: { prefix: module. }", 0),
        ("compiled.pth", "weights: { prefix: \"\" }", 0),
        ("compiled_ddp.pth", "weights: { prefix: module. }", 0),
        ("ddp_compiled.pth", "weights: { prefix: module. }", 0),
        ("averaged.pth", "weights: { prefix: module. }", 1),
        ("lightning.ckpt", "weights: { key: state_dict, prefix: model. }", 1),
        ("oml.ckpt", "weights: { key: state_dict, prefix: extractor.model. }", 0),
        ("namespace.pth", "weights: { key: model, prefix: \"\" }", 0),
        ("namespace_legacy.pth", "weights: { key: model, prefix: \"\" }", 0),
        ("numpy.pth", "weights: { key: model, prefix: \"\" }", 0),
        ("model_state.pth", "weights: { key: model_state, prefix: \"\" }", 0),
        ("params.pth", "weights: { key: params, prefix: \"\" }", 0),
        ("backbone_head.pth", "weights: { key: backbone, prefix: \"\" }", 1),
        ("deep.pth", "weights: { key: a.b.c, prefix: \"\" }", 0),
        ("extras.pth", "weights: { key: net, prefix: \"\" }", 1),
        ("protocol_4.pth", "weights: { key: model, prefix: \"\" }", 0),
        ("aliases.pth", "weights: { key: state_dict, prefix: \"\" }", 2),
    ] {
        let file = open(name);
        let fit = fits(&file, &Choice::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((fit.choice.to_string().as_str(), fit.others, first(&file, &fit)), (place, others, 1.0), "{name}");
        // Every listed choice may be requested.
        assert_eq!(first(&file, &fits(&file, &fit.choice).unwrap()), 1.0, "{name}");
    }
    // One dict under two keys: either may be requested.
    let file = open("twice.pth");
    assert_eq!(file.main().and_then(|set| set.key.as_deref()), Some("state_dict"));
    for key in ["state_dict", "ema"] {
        assert!(fits(&file, &choice(Some(key), None)).is_ok(), "{key}");
    }
    let file = open("inner.pth");
    let inner = [("layer1.conv1.weight", vec![2, 2]), ("layer1.bn1.bias", vec![2])];
    assert!(fit(&file, &inner, &[], no_alias, &Choice::default()).is_ok());
}

#[test]
fn what_lies_beside_the_weights_is_told_by_its_type() {
    let beside = |name: &str| -> String {
        open(name).skipped().iter().map(|s| format!("{}:{}", s.name, s.kind)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(beside("namespace.pth"), "args:argparse.Namespace");
    assert_eq!(
        beside("numpy.pth"),
        "best:numpy._core.multiarray.scalar history:numpy._core.multiarray._reconstruct epoch:numpy._core.multiarray.scalar"
    );
    assert!(beside("extras.pth").contains("time:datetime.datetime"), "{}", beside("extras.pth"));
    assert!(beside("extras.pth").contains("defaults:dict counts:collections.Counter"), "{}", beside("extras.pth"));
}

#[test]
fn of_several_weights_one_must_be_named() {
    for (name, choices, [a, b]) in [
        (
            "student_teacher.pth",
            ["weights: { key: student, prefix: module.backbone. }", "weights: { key: teacher, prefix: backbone. }"],
            [choice(Some("student"), None), choice(Some("teacher"), Some("backbone."))],
        ),
        (
            "ema.pth.tar",
            ["weights: { key: state_dict, prefix: \"\" }", "weights: { key: state_dict_ema, prefix: \"\" }"],
            [choice(Some("state_dict"), None), choice(Some("state_dict_ema"), Some(""))],
        ),
        (
            "query_key.pth",
            ["weights: { prefix: module.encoder_q. }", "weights: { prefix: module.encoder_k. }"],
            [choice(None, Some("module.encoder_q.")), choice(Some("state_dict"), Some("module.encoder_k."))],
        ),
    ] {
        let file = open(name);
        let error = fits(&file, &Choice::default()).unwrap_err().to_string();
        let expected = format!(
            "{}: 2 sets of weights in it fit this network; say which with one of\n  {}\n  {}",
            path(name).display(),
            choices[0],
            choices[1]
        );
        assert_eq!(error, expected);
        assert_eq!(first(&file, &fits(&file, &a).unwrap()), 1.0, "{name}");
        assert_eq!(first(&file, &fits(&file, &b).unwrap()), 2.0, "{name}");
    }
}

#[test]
fn a_place_where_they_are_not_is_refused_with_the_place_where_they_are() {
    let file = open("student_teacher.pth");
    let error = |key, prefix| fits(&file, &choice(key, prefix)).unwrap_err().to_string();
    assert!(
        error(Some("techer"), None)
            .ends_with("no tensors under the key \"techer\"; there are some under student, teacher")
    );
    assert_eq!(
        error(Some("teacher"), Some("")),
        format!(
            "{}: not the weights of this network of 2 tensors, looked for with `weights: {{ key: teacher, prefix: \"\" }}`\n  \
             2 missing: conv1.weight, bn1.bias\n  \
             2 unexpected: backbone.conv1.weight, backbone.bn1.bias\n\
             all 2 names fit with `weights: {{ key: student, prefix: module.backbone. }}`\n\
             all 2 names fit with `weights: {{ key: teacher, prefix: backbone. }}`",
            path("student_teacher.pth").display()
        )
    );
    let file = open("ddp_compiled.pth");
    assert!(fits(&file, &choice(None, Some("module._orig_mod."))).is_ok());
    let error = fits(&file, &choice(None, Some("backbone."))).unwrap_err().to_string();
    assert!(error.ends_with("all 2 names fit with `weights: { prefix: module. }`"), "{error}");
}

#[test]
fn what_is_no_weights_is_refused_with_the_call_that_helps() {
    for (name, what) in [
        ("list.pth", "it holds a list of 2 things, the first a tensor; save model.state_dict() with torch.save"),
        ("tensor.pt", "it holds one tensor without a name; save model.state_dict()"),
        ("int_keys.pth", "the keys of its 2 tensors are no names (0, ...)"),
        (
            "arrays.pth",
            "\"conv1.weight\" under \"state_dict\" is a NumPy array (numpy._core.multiarray._reconstruct), as are 1 more; save {name: torch.from_numpy(array)",
        ),
        ("arrays.npz", "an archive of NumPy arrays (.npz); save {name: torch.from_numpy(array)"),
        ("complex.pth", "\"a\" is a tensor of complex numbers (torch.ComplexFloatStorage); save torch.view_as_real"),
        ("complex_legacy.pth", "elements of torch.ComplexFloatStorage, which are not read, among the others"),
        (
            "float8.pth",
            "a tensor of 8-bit floats or another new type (torch._utils._rebuild_tensor_v3); save it with .float()",
        ),
        (
            "quantised.pth",
            "a quantised tensor (torch._utils._rebuild_qtensor); save the network before it is quantised",
        ),
        ("sparse.pth", "a sparse tensor (torch._utils._rebuild_sparse_tensor); save it with .to_dense()"),
        ("meta.pth", "a tensor of the meta device, which has no elements"),
    ] {
        let error = WeightFile::open(path(name)).unwrap_err().to_string();
        assert!(error.contains(what), "{name}: {error}");
    }
    // A sparse tensor next to others is an error only if it is needed.
    let file = open("one_sparse.pth");
    assert!(fit(&file, &[("conv1.weight", vec![2, 2])], &[], no_alias, &Choice::default()).is_ok());
    let error = fits(&file, &Choice::default()).unwrap_err().to_string();
    assert!(
        error.contains("1 missing: bn1.bias (in the file it is a sparse tensor; save it with .to_dense()"),
        "{error}"
    );
}

#[test]
fn a_file_that_mentions_what_runs_code_is_refused_wherever_it_does() {
    for (name, what) in [
        ("hostile_beside.pth", "subprocess.Popen at byte "),
        ("hostile_state.pth", "builtins.exec at byte "),
        ("hostile_attribute.pth", "torch.serialization.os.system at byte "),
        ("hostile_argument.pth", "os.system at byte "),
        ("hostile_newobj.pth", "types.FunctionType at byte "),
        ("hostile_default.pth", "webbrowser.open at byte "),
        ("hostile_import.pth", "builtins.__import__ at byte "),
        ("hostile_numpy.pth", "numpy.testing._private.utils.runstring at byte "),
    ] {
        let error = WeightFile::open(path(name)).unwrap_err().to_string();
        let place = format!("{}: hostile/data.pkl: {what}", path(name).display());
        assert!(error.starts_with(&place) && error.contains(" runs code in whoever loads this file"), "{error}");
    }
}
