//! What each command says about a file that is missing, damaged or not what it should be, and with which exit code.

use std::collections::BTreeMap;

use meanfield::nn::weights::write_safetensors;

use crate::space::Space;

const PIPELINE: &str = r"
stages:
  images: { uses: preprocess, in: { raw: ./images }, with: { size: 16 } }
  model:
    uses: train
    in: { images: images, weights: ./torn.safetensors }
    with: { loss: contrastive, epochs: 1, steps_per_epoch: 1, dim: 8, batch: { classes: 2, per_class: 2 } }
  small: { run: 'echo 1 > ${out.x}', out: [x] }
";

fn space() -> Space {
    let space = Space::new(PIPELINE);
    let values = [1.0, 2.0, 3.0, 4.0];
    let tensors = [("embeddings", &[2, 2][..], &values[..]), ("labels", &[2], &values[..2])];
    space.write("whole.safetensors", write_safetensors(tensors, &BTreeMap::new()).unwrap());
    space.write("torn.safetensors", "{");
    space.write("torn.npy", "\x00");
    space.write("torn.parquet", "PAR1");
    space.write("torn.json", "{");
    space.write("torn.yaml", "stages: [");
    let copy = "run: 'cp ${in.a} ${out.b}', in: { a: FILE }, out: [b]";
    for (name, file) in [("literal", "./missing.txt"), ("axis", "'./${i}.txt'")] {
        let copy = copy.replace("FILE", file);
        space.write(&format!("{name}.yaml"), format!("axes: {{ i: [missing] }}\nstages: {{ copy: {{ {copy} }} }}"));
    }
    space.write("labels.txt", "a\na\n");
    space.write("three.txt", "a\na\na\n");
    space.write("images/a/1.png", "not a picture");
    space.write("images/b/1.png", "not a picture");
    space
}

/// Exit code 2 for what is wrong with the command line or the pipeline whatever the files hold, else 1; the message names
/// the file, and names it once.
#[test]
fn each_command_that_reads_a_file_says_which_one_and_why() {
    let space = space();
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/losses.json");
    let cases: &[(&str, i32, &str, &str)] = &[
        ("eval missing.npy labels.txt", 1, "missing.npy", "No such file or directory"),
        ("eval images labels.txt", 1, "images", "it is a folder, expected a file"),
        ("eval torn.npy labels.txt", 1, "torn.npy", "it does not begin as an .npy array does"),
        ("eval torn.parquet", 1, "torn.parquet", "it"),
        ("eval whole.safetensors missing.txt", 1, "missing.txt", "No such file or directory"),
        ("eval whole.safetensors three.txt", 1, "three.txt", "3 labels, expected 2"),
        ("eval whole.safetensors --vectors-name x", 1, "whole.safetensors", "\"x\""),
        ("eval torn.npy", 2, "torn.npy", "an .npy file holds one array"),
        ("eval whole.safetensors --recall 0", 2, "", "Recall@0"),
        ("eval whole.safetensors --queries q.npy", 2, "q.npy", "a name that ends in .parquet"),
        ("eval whole.safetensors --queries torn.parquet", 2, "torn.parquet", "replace it with --overwrite"),
        ("data inspect missing", 1, "missing", "No such file or directory"),
        ("data inspect images --layout list:missing.csv", 1, "missing.csv", "No such file or directory"),
        ("data inspect images --layout cub", 1, "images holds", "CUB-200-2011"),
        ("data inspect images --contact-sheet s.jpg", 2, "s.jpg", "a name that ends in .png"),
        ("data inspect images --split mlrc:x", 2, "", "expected 0, 1, 2 or 3"),
        ("data inspect images --split mlrc:9", 2, "", "split.mlrc.fold is 9, expected an integer in 0..=3"),
        ("weights inspect missing.pth", 1, "missing.pth", "No such file or directory"),
        ("weights inspect torn.safetensors", 1, "torn.safetensors", "not a weight file"),
        ("weights inspect whole.safetensors --key x", 1, "whole.safetensors", "no tensors under the key \"x\""),
        ("export missing.safetensors --to v.npy", 1, "missing.safetensors", "No such file or directory"),
        ("export torn.safetensors --to v.npy", 1, "torn.safetensors", "not a weight file"),
        ("export whole.safetensors --tensor x --to v.npy", 1, "whole.safetensors", "there is no tensor \"x\""),
        ("export whole.safetensors --to none/v.npy", 1, "none/v.npy", "No such file or directory"),
        ("export whole.safetensors --to v.csv", 2, "v.csv", ".npy, .safetensors or .parquet"),
        ("export whole.safetensors --to torn.npy", 2, "torn.npy", "replace it with --overwrite"),
        ("loss check missing.json", 1, "missing.json", "No such file or directory"),
        ("loss check torn.json", 1, "torn.json", "not a file of reference losses: EOF while parsing"),
        ("loss check REFERENCE --loss contrastiv", 1, reference, "no case of the loss \"contrastiv\""),
        ("loss bench contrastiv", 2, "", "no loss \"contrastiv\""),
        ("loss bench {kind:", 2, "", "loss {kind:"),
        ("network bench resnet17", 2, "", "no backbone \"resnet17\""),
        ("run images", 1, "a/1.png", "2 of 2 images are broken"),
        ("run model", 1, "torn.safetensors", "not a weight file"),
        ("run literal.yaml", 2, "missing.txt", "there is no file or folder"),
        ("run axis.yaml", 2, "missing.txt", "No such file or directory"),
        ("run small --cache torn.npy", 1, "torn.npy", "cannot create"),
        ("run small --nonsense", 2, "", "unexpected argument '--nonsense'"),
        ("run missing.yaml", 2, "missing.yaml", "there is no file"),
        ("plan torn.yaml", 2, "torn.yaml", "error"),
        ("table small", 2, "", "no report stage among the selected cells"),
        ("show smal", 2, "", "there is no stage `smal`"),
        ("why missing.yaml", 2, "missing.yaml", "there is no file"),
        ("history --cache torn.npy", 1, "torn.npy", "cannot"),
        ("cache check --cache torn.npy", 1, "torn.npy", "Not a directory"),
        ("stage missing.json", 1, "missing.json", "No such file or directory"),
        ("stage torn.json", 1, "torn.json", "torn.json is not a job: EOF while parsing"),
    ];
    let mut wrong = Vec::new();
    for (line, code, path, part) in cases {
        let words: Vec<&str> = line.split(' ').map(|word| if word == "REFERENCE" { reference } else { word }).collect();
        let ran = space.run(&words);
        let first = ran.err.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        // What a cell says is in its log, and the pipeline's own messages name a file in the title and in the excerpt.
        let once = *code == 2 || line.starts_with("run") || path.is_empty() || first.matches(path).count() == 1;
        let named = if line.starts_with("run") || *code == 2 { ran.err.contains(path) } else { first.contains(path) };
        if ran.code != *code || !named || !once || !ran.err.contains(part) {
            wrong.push(format!(
                "{line}: code {}, expected {code}, {path:?}, {part:?}\n{}{}",
                ran.code, ran.out, ran.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_broken_image_fails_the_inspection_with_its_path() {
    let ran = space().run(&["data", "inspect", "images"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("2 images broken\n  a/1.png: "), "{}", ran.out);
    assert_eq!(ran.err, "");
}
