use std::collections::BTreeMap;

use super::*;
use crate::data::generate::{Family, generate};

fn files(layout: GeneratedLayout, classes: u32, threads: usize) -> BTreeMap<String, Vec<u8>> {
    let room = tempfile::tempdir().unwrap();
    let spec = GeneratorSpec { family: Family::Glyphs, classes, per_class: 2, size: 16, seed: 5, layout };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    assert_eq!(pool.install(|| generate(&spec, room.path())).unwrap(), u64::from(classes) * 2);
    let files = walkdir::WalkDir::new(room.path()).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    files
        .map(|file| {
            let name = file.path().strip_prefix(room.path()).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(file.path()).unwrap())
        })
        .collect()
}

/// How the files and the text lists of each layout look; the readers of the layouts are tested on the same sets.
#[test]
fn each_layout_has_the_files_of_the_real_archive() {
    let mut all = String::new();
    for layout in [GeneratedLayout::Cub, GeneratedLayout::Cars196, GeneratedLayout::Sop, GeneratedLayout::Inshop] {
        let found = files(layout, 3, 2);
        assert!(found == files(layout, 3, 1));
        let _ = writeln!(all, "{layout:?}");
        for (name, bytes) in &found {
            let _ = writeln!(all, "  {name}");
            if name.ends_with(".txt") {
                for line in String::from_utf8_lossy(bytes).lines() {
                    let _ = writeln!(all, "    {line}");
                }
            }
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_thousand_classes_of_birds_stay_in_order() {
    let found = files(GeneratedLayout::Cub, 1000, 2);
    let folders: Vec<&str> = found.keys().filter_map(|name| name.split('/').nth(2)).collect();
    assert_eq!((folders[0], *folders.last().unwrap()), ("0001.Generated_0", "1000.Generated_999"));
}

#[test]
fn more_images_than_a_small_set_has_are_refused() {
    let spec: GeneratorSpec =
        serde_json::from_str(r#"{"family": "glyphs", "classes": 2000, "per_class": 501, "layout": "sop"}"#).unwrap();
    let problems = spec.check();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].1.contains("1002000 images"), "{problems:?}");
}
