//! Image sets of every kind, from download to training, and what is refused.

use crate::space::Space;

const CROPS: &str = r"
axes: { store: [short_side, original] }
stages:
  raw: { uses: download/textures, with: { classes: 8, per_class: 4, size: 30 } }
  images: { uses: preprocess, in: { raw: raw }, with: { store: '${store}', size: 24 } }
  model:
    uses: train
    in: { images: images }
    with:
      loss: contrastive
      epochs: 2
      steps_per_epoch: 2
      dim: 8
      batch: { classes: 4, per_class: 2 }
      augment: { kind: crop, size: 16, scale: [0.3, 1], short_side: 24 }
      evaluation_short_side: 24
      validate: { on: test }
";

#[test]
fn crops_of_pixels_and_files_train_bit_identically_on_any_thread_count() {
    let (one, two) = (Space::new(CROPS), Space::new(CROPS));
    two.edit("    uses: train", "    uses: train\n    resources: { cpu: 2 }");
    for (space, more) in [(&one, ["--resource", "cpu=1"]), (&two, ["--resource", "cpu=2"])] {
        let ran = space.run(&["run", more[0], more[1]]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let outputs = |space: &Space, store: &str| {
        let cell = format!("model[store={store}]");
        ["model", "epochs"].map(|output| std::fs::read(space.blob(&cell, output)).unwrap())
    };
    for store in ["short_side", "original"] {
        assert!(outputs(&one, store) == outputs(&two, store), "{store}");
    }
    // Resizing at use gives the same pixels as resizing in advance.
    assert!(outputs(&one, "short_side") == outputs(&one, "original"));
}

#[test]
fn augmentations_that_do_not_fit_the_images_are_refused_with_a_hint() {
    let space = Space::new(CROPS);
    space.edit("axes: { store: [short_side, original] }", "axes: { store: [original] }");
    space.edit("kind: crop, size: 16, scale: [0.3, 1], short_side: 24", "kind: roll");
    let ran = space.run(&["run"]);
    assert!(ran.code != 0 && ran.err.contains("images of different sizes need augment: { kind: crop }"), "{}", ran.err);
    space.edit("kind: roll", "kind: crop, size: 32");
    let ran = space.run(&["run"]);
    assert!(ran.code == 2 && ran.err.contains("evaluation_short_side"), "{}", ran.err);
}

const LARGE: &str = r"
stages:
  raw: { uses: download/textures, with: { classes: 40, per_class: 50, size: 48 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 128 } }
";

#[test]
fn a_killed_preprocess_resumes_with_the_same_bytes() {
    let (whole, killed) = (Space::new(LARGE), Space::new(LARGE));
    // The digests of its files.
    let made = |space: &Space| std::fs::read(space.blob("images", "images")).unwrap();
    whole.executed();
    assert_eq!(killed.run(&["run", "raw"]).code, 0);
    killed.kill_a_run(|| {
        let mut folders = std::fs::read_dir(killed.path("cache/v1/resume")).into_iter().flatten();
        folders.any(|folder| folder.unwrap().path().join("set/progress.json").exists())
    });
    let ran = killed.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(made(&killed) == made(&whole), "an image set that was stopped has other bytes");
}
