//! Weight files of others: found, refused before anything runs, and given the pixels that they were made with.

use std::collections::BTreeMap;

use meanfield::nn::weights::{WeightFile, write_safetensors};
use meanfield::nn::{Architecture, Backbone, Head, Model, Native};

use crate::space::{Space, set};

/// One training from a file.
const TRAINING: &str = r"
stages:
  raw: { uses: download/glyphs, with: { classes: 4, per_class: 3, size: 32 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 32 } }
  model:
    uses: train
    in: { images: images, weights: ./others.safetensors }
    with: { loss: contrastive, epochs: 1, steps_per_epoch: 1, dim: 8, batch: { classes: 2, per_class: 2 } }
  vectors: { uses: embed, in: { model: model, images: images } }
";

/// The weights of convnet4 once for each prefix, and each time other values, as a safetensors file.
fn weights(prefixes: &[&str]) -> Vec<u8> {
    let architecture = Architecture {
        backbone: Backbone::named("convnet4").unwrap(),
        pooling: None,
        head: Head::Identity,
        dim: 128,
        height: 32,
        width: 32,
    };
    let device = Native::default();
    let mut tensors = Vec::new();
    for (seed, prefix) in (0..).zip(prefixes) {
        let model = Model::new(&device, architecture, seed).unwrap();
        tensors
            .extend(model.tensors().map(|t| (format!("{prefix}{}", t.name), t.shape.clone(), t.file_order(&device))));
    }
    let named = tensors.iter().map(|(name, shape, values)| (name.as_str(), &shape[..], &values[..]));
    write_safetensors(named, &BTreeMap::new()).unwrap()
}

#[test]
fn weights_of_another_network_are_refused_before_anything_runs() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&["module.backbone."]));
    space.edit("loss: contrastive", "backbone: resnet18, loss: contrastive");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("not the weights of this network of 100 tensors"), "{}", ran.err);
    assert!(ran.err.contains("missing: conv1.weight") && ran.err.contains("nothing has been run"), "{}", ran.err);
    assert!(space.run(&["plan"]).out.contains("no   model"));
    space.write("others.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a Git-LFS pointer; fetch the file itself with `git lfs pull`"), "{}", ran.err);
    // Of the right network, whatever prefix the names have.
    space.write("others.safetensors", weights(&["module.backbone."]));
    space.edit("backbone: resnet18, loss", "loss");
    assert_eq!(space.executed(), set(&["raw", "images", "model", "vectors"]));
}

#[test]
fn of_two_sets_of_weights_the_pipeline_names_one() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&["student.", "teacher."]));
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("2 sets of weights in it fit this network"), "{}", ran.err);
    assert!(ran.err.contains("weights: { prefix: teacher. }"), "{}", ran.err);
    let listed = space.run(&["weights", "inspect", "others.safetensors"]).out;
    assert!(listed.contains("fits convnet4, but: weights: { prefix: student. } or"), "{listed}");
    space.edit("loss: contrastive", "weights: { prefix: techer. }, loss: contrastive");
    let ran = space.run(&["run"]);
    assert!(ran.code == 1 && ran.err.contains("names fit with `weights: { prefix: teacher. }`"), "{}", ran.err);
    space.edit("techer.", "teacher.");
    assert_eq!(space.executed(), set(&["raw", "images", "model", "vectors"]));
    space.edit("teacher.", "student.");
    assert_eq!(space.executed(), set(&["model", "vectors"]));
}

#[test]
fn a_vision_transformer_refuses_a_file_of_unknown_pixel_normalisation() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&[""]));
    space.edit("loss: contrastive", "backbone: vit_small_16, loss: contrastive");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("its tensors do not say how it wants pixels"), "{}", ran.err);
    assert!(ran.err.contains("`pixels: imagenet` for DINO, DeiT"), "{}", ran.err);
    space.edit("backbone: vit_small_16,", "backbone: vit_small_16, pixels: imagenet,");
    let ran = space.run(&["run"]);
    assert!(ran.code == 1 && ran.err.contains("missing: cls_token"), "{}", ran.err);
}

#[test]
fn pixels_enter_the_key_and_pass_to_the_model_and_to_what_starts_from_it() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&[""]));
    space.executed();
    let plain = std::fs::read(space.blob("vectors", "vectors")).unwrap();
    space.edit("loss: contrastive", "pixels: imagenet, loss: contrastive");
    let why = space.run(&["why", "model"]).out;
    assert!(why.contains("with.pixels"), "{why}");
    assert_eq!(space.executed(), set(&["model", "vectors"]));
    assert_ne!(std::fs::read(space.blob("vectors", "vectors")).unwrap(), plain);
    // A training that starts from this one has its pixels, and cannot have others.
    std::fs::copy(space.blob("model", "model"), space.path("others.safetensors")).unwrap();
    space.edit("pixels: imagenet, loss", "pixels: half, loss");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("`pixels: half` is asked for, and the file itself says `imagenet`"), "{}", ran.err);
    space.edit("pixels: half, loss", "loss");
    assert_eq!(space.executed(), set(&["model", "vectors"]));
    let file = WeightFile::open(space.blob("model", "model")).unwrap();
    assert_eq!(meanfield::nn::normalisation_of(&file).unwrap().map(|pixels| pixels.name()), Some("imagenet"));
}

#[test]
fn what_fetches_weights_says_how_their_pixels_are() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&[""]));
    let url = format!("file://{}", space.path("others.safetensors").display());
    space.edit(
        "  vectors:",
        &format!("  fetched: {{ uses: weights/vit_small_16_dino, with: {{ urls: ['{url}'] }} }}\n  vectors:"),
    );
    space.edit("weights: ./others.safetensors", "weights: fetched");
    assert_eq!(space.executed(), set(&["raw", "images", "fetched", "model", "vectors"]));
    let file = WeightFile::open(space.blob("model", "model")).unwrap();
    assert_eq!(meanfield::nn::normalisation_of(&file).unwrap().map(|pixels| pixels.name()), Some("imagenet"));
    // Of another network: before the images are read.
    space.edit("loss: contrastive", "backbone: resnet18, loss: contrastive");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("missing: conv1.weight"), "{}", ran.err);
}

#[test]
fn a_model_of_another_program_is_no_input_of_embed_and_the_plan_says_so() {
    let space = Space::new(TRAINING);
    space.write("others.safetensors", weights(&[""]));
    space.edit("embed, in: { model: model,", "embed, in: { model: ./others.safetensors,");
    let ran = space.run(&["run", "vectors"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("its metadata has no key \"meanfield\""), "{}", ran.err);
}
