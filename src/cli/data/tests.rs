use std::fs;

use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::cli::failure::in_words;
use crate::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// The verdict and what is printed, with the folder as ROOM.
fn call(room: &Path, words: &[&str]) -> Result<(bool, String), String> {
    let mut out = Vec::new();
    let folder = room.display().to_string();
    let words = words.iter().map(|word| word.replace("ROOM", &folder));
    let line = ["data".to_owned(), "inspect".to_owned(), folder.clone()].into_iter().chain(words);
    let args = Line::try_parse_from(line).map_err(|e| e.to_string())?.args;
    let sound = in_words(run(&args, &mut out)).map_err(|message| message.replace(&folder, "ROOM"))?;
    Ok((sound, String::from_utf8(out).unwrap().replace(&folder, "ROOM")))
}

fn miniature(layout: GeneratedLayout) -> TempDir {
    let room = tempfile::tempdir().unwrap();
    let spec = GeneratorSpec { family: Family::Textures, classes: 8, per_class: 4, size: 16, seed: 1, layout };
    generate(&spec, room.path()).unwrap();
    room
}

#[test]
fn a_sound_set_is_described_and_its_sheet_drawn() {
    let room = miniature(GeneratedLayout::Inshop);
    fs::create_dir(room.path().join("out")).unwrap();
    let (sound, text) =
        call(room.path(), &["--layout", "inshop", "--any-counts", "--contact-sheet", "ROOM/out/sheet.png"]).unwrap();
    assert!(sound);
    insta::assert_snapshot!(text);
    let sheet = image::open(room.path().join("out/sheet.png")).unwrap();
    // Eight classes of four images, in cells of 96 pixels with 4 between.
    assert_eq!((sheet.width(), sheet.height()), (404, 804));
}

#[test]
fn a_leak_comes_first_and_the_document_says_the_same() {
    let room = miniature(GeneratedLayout::Folder);
    let path = |path: &str| room.path().join(path);
    fs::copy(path("000/00.png"), path("007/copy.png")).unwrap();
    fs::copy(path("000/01.png"), path("000/copy.png")).unwrap();
    fs::write(path("005/00.png"), b"no image").unwrap();
    let (sound, text) = call(room.path(), &[]).unwrap();
    assert!(!sound);
    insta::assert_snapshot!(text);
    let (sound, text) = call(room.path(), &["--json"]).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert!(!sound && document["sound"] == false);
    assert_eq!(document["parts"][1], json!({ "split": "test", "group": null, "images": 17, "classes": 4 }));
    assert_eq!(document["repeated"][0]["leak"], true);
    assert_eq!(document["repeated"][0]["images"][1]["path"], "007/copy.png");
    assert_eq!(document["broken"][0]["path"], "005/00.png");
    // All images are in the test split: the copy is not a leak.
    let (_, text) = call(room.path(), &["--split", "none"]).unwrap();
    assert!(!text.contains("LEAK") && text.contains("its classes differ"), "{text}");
}

#[test]
fn layouts_and_splits_are_written_as_words() {
    assert_eq!(parse_layout("cars196"), Ok(Layout::Cars196));
    assert_eq!(parse_layout("list:a.csv"), Ok(Layout::List { file: "a.csv".into() }));
    assert_eq!(parse_layout("list"), Ok(Layout::List { file: "list.csv".into() }));
    assert_eq!(
        parse_layout("arrays:x.npy,y.npy"),
        Ok(Layout::Arrays { images: "x.npy".into(), labels: "y.npy".into() })
    );
    assert!(parse_layout("cub:x").unwrap_err().contains("list:FILE"));
    assert!(parse_layout("birds").unwrap_err().contains("cub"));
    assert_eq!(parse_split("mlrc:2"), Ok(SplitRule::Mlrc(MlrcFold { fold: 2 })));
    assert_eq!(parse_split("list:s.txt"), Ok(SplitRule::List("s.txt".into())));
    assert_eq!(parse_split("none"), Ok(SplitRule::None));
    let expected = "expected official, first_half_of_classes, none, mlrc:FOLD or list:FILE";
    assert_eq!(parse_split("half").unwrap_err(), expected);
    assert_eq!(parse_split("mlrc:x").unwrap_err(), "the fold is \"x\", expected 0, 1, 2 or 3");
}

#[test]
fn a_set_of_another_size_is_an_error_unless_any_is_taken() {
    let room = miniature(GeneratedLayout::Cub);
    let message = call(room.path(), &["--layout", "cub"]).unwrap_err();
    assert!(message.contains("CUB-200-2011") && message.contains("expected 5864 of 100"), "{message}");
    let (sound, text) = call(room.path(), &["--layout", "cub", "--any-counts", "--split", "mlrc:0"]).unwrap();
    assert!(sound && text.contains("validation   -                 4        1"), "{text}");
}
