//! A whole small paper: generated images, training, metrics, table.

use crate::space::{Space, set, text};

const PAPER: &str = r"
name: paper
axes:
  dataset: [glyphs, textures]
  loss:
    contrastive: { kind: contrastive, neg_margin: 0.5 }
    proxy_anchor: { kind: proxy_anchor, margin: 0.1 }
  seed: 0..2
stages:
  raw: { uses: download/${dataset}, with: { classes: 8, per_class: 6, size: 16 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 16 } }
  model:
    uses: train
    in: { images: images }
    with: { loss: ${loss}, epochs: 2, steps_per_epoch: 3, dim: 8, batch: { classes: 4, per_class: 3 }, seed: ${seed} }
  vectors: { uses: embed, in: { model: model, images: images } }
  scores: { uses: evaluate, in: { vectors: vectors }, with: { metrics: [map_at_r, p1, r@2] } }
  pixels: { uses: embed, in: { images: images } }
  pixel_scores: { uses: evaluate, in: { vectors: pixels }, with: { metrics: [map_at_r, p1, r@2] } }
  table:
    uses: report
    in: { scores: scores, raw_pixels: pixel_scores }
    with: { rows: loss, columns: [dataset, metric], over: seed }
";

#[test]
fn the_numbers_are_the_same_bits_for_any_jobs_and_threads() {
    let (one, two) = (Space::new(PAPER), Space::new(PAPER));
    two.edit("    uses: train", "    uses: train\n    resources: { cpu: 2 }");
    let ran = one.run(&["run", "-j", "1"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("raw pixels") && ran.out.contains("proxy_anchor"), "{}", ran.out);
    let ran = two.run(&["run", "-j", "2", "--resource", "cpu=2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for file in ["table.json", "scores.csv", "index.html"] {
        let name = format!("reports/paper/table/{file}");
        assert_eq!(one.read(&name), two.read(&name), "{file}");
    }
    assert_eq!(one.executed(), set(&[]));
    let again = one.run(&["table", "--format", "md"]);
    assert!(again.out.contains("| proxy\\_anchor"), "{}", again.out);
}

#[test]
fn a_changed_loss_retrains_its_cells_and_no_others() {
    let space = Space::new(PAPER);
    space.edit("seed: 0..2", "seed: 0..1");
    assert_eq!(space.executed().len(), 2 + 2 + 4 + 4 + 4 + 2 + 2 + 1);
    space.edit("margin: 0.1", "margin: 0.2");
    let why = space.run(&["why", "model[dataset=glyphs,loss=proxy_anchor]"]).out;
    assert!(why.contains("with.loss.margin: 0.1 -> 0.2"), "{why}");
    let cells = |stage: &str| ["glyphs", "textures"].map(|d| format!("{stage}[dataset={d},loss=proxy_anchor,seed=0]"));
    let executed = space.executed();
    for cell in ["model", "vectors"].into_iter().flat_map(cells) {
        assert!(executed.contains(&cell), "{cell}: {executed:?}");
    }
    assert!(executed.iter().all(|cell| cell.contains("loss=proxy_anchor") || cell == "table"), "{executed:?}");
}

#[test]
fn a_parameter_of_a_loss_is_checked_before_anything_runs() {
    let space = Space::new(PAPER);
    space.edit("neg_margin: 0.5", "neg_marginn: 0.5");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("neg_marginn") && ran.err.contains("pipeline.yaml:6:"), "{}", ran.err);
}

#[test]
fn a_mode_that_a_loss_has_no_vectors_for_is_refused_before_anything_runs() {
    let space = Space::new(PAPER);
    space.edit("seed: ${seed} }", "seed: ${seed}, mean_fields: frozen }");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("`mean_fields` needs a loss with one vector for each class"), "{}", ran.err);
    space.edit("    contrastive: { kind: contrastive, neg_margin: 0.5 }", "    mf: { kind: mean_field_triplet }");
    space.edit("epochs: 2,", "epochs: 2, measure: { every: 2, batches: 2 },");
    space.edit("    in: { scores: scores, raw_pixels: pixel_scores }", "    in: { training: model.epochs }");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("parent gap"), "{}", ran.out);
}

/// One training.
const TRAINING: &str = r"
stages:
  raw: { uses: download/glyphs, with: { classes: 8, per_class: 6, size: 16 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 16 } }
  model:
    uses: train
    in: { images: images }
    with: { loss: contrastive, epochs: 6, steps_per_epoch: 3, dim: 8, batch: { classes: 4, per_class: 3 } }
";

/// The outputs of the training: the weights and the lines of its epochs.
fn outputs(space: &Space) -> (Vec<u8>, String) {
    let weights = std::fs::read(space.blob("model", "model")).unwrap();
    (weights, std::fs::read_to_string(space.blob("model", "epochs")).unwrap())
}

/// The checkpoints in the store.
fn checkpoints(space: &Space) -> Vec<std::path::PathBuf> {
    let Ok(folders) = std::fs::read_dir(space.path("cache/v1/resume")) else { return Vec::new() };
    let files = folders.map(|folder| folder.unwrap().path().join("checkpoint.safetensors"));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn the_log_of_a_cell_reports_its_results() {
    let space = Space::new(TRAINING);
    space.executed();
    let log = |cell: &str| std::fs::read_to_string(text(&space.json(&["show", cell, "--json"])[cell]["log"])).unwrap();
    assert!(log("images").contains("24 images of 4 classes train"), "{}", log("images"));
    let training = log("model");
    assert_eq!(training.matches("% waiting for images").count(), 6, "{training}");
    assert!(training.contains("epoch 6/6: loss ") && training.contains(" MiB per step"), "{training}");
}

#[test]
fn a_killed_training_resumes_and_a_longer_one_continues_a_shorter_one() {
    let whole = Space::new(TRAINING);
    whole.executed();
    // Killed once it has a checkpoint, with so many epochs that it cannot have finished.
    let killed = Space::new(TRAINING);
    killed.edit("epochs: 6, steps_per_epoch: 3", "epochs: 6, steps_per_epoch: 300");
    let long = Space::new(&killed.read("pipeline.yaml"));
    killed.kill_a_run(|| !checkpoints(&killed).is_empty());
    let ran = killed.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    long.executed();
    assert!(outputs(&killed) == outputs(&long), "a training that was killed has other outputs");

    let shorter = Space::new(TRAINING);
    shorter.edit("epochs: 6", "epochs: 2");
    shorter.executed();
    shorter.edit("epochs: 2", "epochs: 6");
    shorter.executed();
    assert!(outputs(&shorter) == outputs(&whole), "a training that went on has other outputs");
    assert!(shorter.run(&["why", "model"]).out.contains("up to date"));
    shorter.edit("epochs: 6", "epochs: 8");
    let why = shorter.run(&["why", "model"]).out;
    assert!(why.contains("with.epochs: 6 -> 8"), "{why}");
}

#[test]
fn a_forced_training_restarts_and_a_corrupt_checkpoint_is_ignored() {
    let space = Space::new(TRAINING);
    space.executed();
    let before = outputs(&space);
    let [checkpoint] = &checkpoints(&space)[..] else { panic!("one checkpoint") };
    // Resuming from a damaged checkpoint would change the outputs.
    std::fs::write(checkpoint, b"torn").unwrap();
    space.edit("epochs: 6", "epochs: 7");
    space.executed();
    let first: String = before.1.lines().map(|line| format!("{line}\n")).collect();
    assert!(outputs(&space).1.starts_with(&first));
    let ran = space.run(&["run", "--force"]);
    assert!(ran.code == 0 && !ran.err.contains("came out different"), "{}", ran.err);
}

#[test]
fn weights_of_a_file_are_an_input_of_a_training() {
    let space = Space::new(TRAINING);
    space.edit("size: 16", "size: 32");
    space.executed();
    std::fs::copy(space.blob("model", "model"), space.path("pretrained.safetensors")).unwrap();
    space.edit("in: { images: images }\n    with: {", "in: { images: images, weights: ./pretrained.safetensors }\n    with: { freeze_backbone_epochs: 6, batch_norm: frozen,");
    assert_eq!(space.executed(), set(&["model"]));
    let listed = space.run(&["weights", "inspect", "pretrained.safetensors"]).out;
    assert!(listed.contains("blocks.0.conv.weight") && listed.contains("head.bias"), "{listed}");
    space.edit("loss: contrastive", "backbone: resnet18, loss: contrastive");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("conv1.weight"), "{}", ran.err);
}
