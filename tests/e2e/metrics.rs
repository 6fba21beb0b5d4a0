//! From vectors to metrics, tables of queries, pictures and files of other tools.

use serde_json::Value;

use crate::space::Space;

const METRICS: &str = r"
name: metrics
stages:
  raw: { uses: download/textures, with: { classes: 8, per_class: 6, size: 16 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 16 } }
  vectors: { uses: embed, in: { images: images } }
  scores:
    uses: evaluate
    in: { vectors: vectors }
    with: { metrics: [p1, rp, map_at_r, mrr, map, r@2, nmi, ami, f1], average: classes, ties: optimistic }
  sheet: { uses: neighbours, in: { vectors: vectors, images: images }, with: { queries: 3, neighbours: 4, choose: worst } }
";

fn scores(space: &Space) -> Value {
    serde_json::from_slice(&std::fs::read(space.blob("scores", "scores")).unwrap()).unwrap()
}

#[test]
fn eval_gives_the_numbers_of_the_pipeline_from_every_exported_format() {
    let space = Space::new(METRICS);
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let expected = scores(&space)["metrics"].clone();
    let options = [
        "--recall",
        "2",
        "--map",
        "--clusters",
        "--average",
        "classes",
        "--ties",
        "optimistic",
        "--json",
        "--overwrite",
        "--queries",
    ];
    for (to, labels) in [("v.safetensors", None), ("v.parquet", None), ("v.npy", Some("l.npy"))] {
        let ran = space.run(&["export", "vectors", "--to", to]);
        assert_eq!((ran.code, ran.out.trim()), (0, to), "{}", ran.err);
        if let Some(labels) = labels {
            assert_eq!(space.run(&["export", "v.safetensors", "--tensor", "labels", "--to", labels]).code, 0);
        }
        let mut words = vec!["eval", to];
        words.extend(labels);
        words.extend(options);
        words.push("queries.parquet");
        let found = space.json(&words);
        let pairs = [
            ("p1", "precision_at_1"),
            ("rp", "r_precision"),
            ("map_at_r", "map_at_r"),
            ("mrr", "mean_reciprocal_rank"),
            ("map", "mean_average_precision"),
            ("nmi", "nmi"),
            ("ami", "ami"),
            ("f1", "f1"),
        ];
        for (ours, name) in pairs {
            assert_eq!(expected[ours], found[name], "{to}: {name}");
        }
        assert_eq!(expected["r@2"], found["recall_at"][0][1]);
        assert!(std::fs::read(space.path("queries.parquet")).unwrap().starts_with(b"PAR1"));
    }
    assert!(std::fs::read(space.blob("scores", "queries")).unwrap().starts_with(b"PAR1"));
    let picture = std::fs::read(space.path("reports/metrics/sheet/neighbours.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let page = space.read("reports/metrics/sheet/neighbours.html");
    assert_eq!((page.matches("<section").count(), page.matches("<figure").count()), (3, 3 * 5));
}

#[test]
fn eval_and_export_report_what_is_wrong_with_their_files() {
    let space = Space::new(METRICS);
    assert_eq!(space.run(&["run", "vectors"]).code, 0);
    let error = |words: &[&str]| {
        let ran = space.run(words);
        assert_ne!(ran.code, 0, "{}", ran.out);
        ran.err
    };
    assert!(error(&["export", "scores", "--to", "s.npy"]).contains("scores is not up to date"));
    assert!(error(&["export", "vectors", "images", "--to", "s.npy"]).contains("2 cells are selected, expected one"));
    assert!(error(&["export", "vectors", "--output", "x", "--to", "s.npy"]).contains("its outputs are vectors"));
    assert!(error(&["export", "images", "--to", "s.npy"]).contains("is a folder, expected a file"));
    assert!(error(&["export", "vectors", "--to", "s.csv"]).contains(".npy, .safetensors or .parquet"));
    assert_eq!(space.run(&["export", "vectors", "--to", "v.npy"]).code, 0);
    space.write("mine.npy", "mine");
    assert!(error(&["export", "vectors", "--to", "mine.npy"]).contains("mine.npy exists; name another file"));
    assert_eq!(space.read("mine.npy"), "mine");
    assert_eq!(space.run(&["export", "vectors", "--to", "mine.npy", "--overwrite"]).code, 0);
    assert_eq!(std::fs::read(space.path("mine.npy")).unwrap(), std::fs::read(space.path("v.npy")).unwrap());
    assert!(error(&["eval", "v.npy"]).contains("v.npy: an .npy file holds one array"));
    space.write("l.txt", "a\nb\n");
    assert!(error(&["eval", "v.npy", "l.txt"]).contains("l.txt: 2 labels, expected 24"));
    space.write("v.safetensors", "no tensors");
    assert!(error(&["eval", "v.safetensors"]).contains("expected a .safetensors file"));
    assert_eq!(space.run(&["export", "vectors", "--to", "v.parquet"]).code, 0);
    assert!(
        error(&["eval", "v.parquet", "--labels-name", "x"])
            .contains("the columns are embeddings, groups, labels, class")
    );
}

/// Files of other tools with the same four vectors: the same metrics or an error; an index column is never read as an
/// element.
#[test]
fn eval_reads_files_of_other_tools_and_lists_what_it_ignores() {
    let space = Space::new(METRICS);
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors");
    let file = |name: &str| data.join(name).display().to_string();
    let metrics = |words: &[&str]| {
        let found = space.json(&[&["eval"], words, &["--json", "--recall", "1"]].concat());
        (found["precision_at_1"].clone(), found["map_at_r"].clone(), found["read"][0].clone())
    };
    let (p1, map, read) = metrics(&[&file("numbers.parquet")]);
    assert_eq!((&p1, read["vectors"].as_str(), read["labels"].as_str()), (&0.5.into(), Some("0 to 1"), Some("label")));
    for (name, options) in [
        ("shuffled.parquet", ""),
        ("named_index.parquet", ""),
        ("dict.pt", ""),
        ("types.parquet", "--vectors-name v_fixed_half --labels-name t_dictionary"),
        ("types.parquet", "--vectors-name v_large --labels-name l_decimal"),
    ] {
        let file = file(name);
        let words: Vec<&str> = std::iter::once(&*file).chain(options.split_whitespace()).collect();
        let found = metrics(&words);
        assert_eq!((&found.0, &found.1), (&p1, &map), "{words:?}");
    }
    let shown = space.run(&["eval", &file("shuffled.parquet")]);
    let left =
        "shuffled.parquet: vectors f0 to f1, labels label; ignored: image_id, score, __index_level_0__ (index)\n";
    assert!(shown.out.ends_with(left), "{}", shown.out);
    let read = metrics(&[&file("shuffled.parquet")]).2;
    assert_eq!(read["ignored"], serde_json::json!(["image_id", "score", "__index_level_0__ (index)"]));
    let error = |words: &[&str]| {
        let ran = space.run(&[&["eval"], words].concat());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{words:?}");
        assert!(!ran.err.contains("panicked") && !ran.err.contains("backtrace"), "{}", ran.err);
        ran.err
    };
    assert!(error(&[&file("types.parquet")]).contains("these may all be vectors: v_list, v_fixed"));
    assert!(error(&[&file("types.parquet"), "--vectors-name", "o_struct"]).contains("column \"o_struct\" is structs"));
    assert!(error(&[&file("bare.pt")]).contains("torch.save({'embeddings': x, 'labels': y}, path)"));
    space.write("l.csv", "\u{feff}id;label\r\n1;cat\r\n2;cat\r\n3;dog\r\n4;dog\r\n");
    assert_eq!(metrics(&[&file("numbers.parquet"), "l.csv"]).0, p1);
    space.write("v.npy", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    assert!(error(&["v.npy", "l.csv"]).contains("a Git-LFS pointer"));
}

#[test]
fn a_sheet_of_other_images_than_the_vectors_is_refused() {
    let space = Space::new(METRICS);
    space.edit("choose: worst", "choose: worst, split: train");
    space.edit("classes: 8", "classes: 7");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("images in the split `train`"), "{}", ran.err);
}

#[test]
fn a_group_that_no_image_has_is_refused_with_where_groups_come_from() {
    let space = Space::new(METRICS);
    space.edit("average: classes", "query: asks, gallery: answers");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no image here has a group, so none has `asks`: `group_by_prefix: true`"), "{}", ran.err);
}
