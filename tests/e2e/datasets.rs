//! Data sets in their own layouts, from the archive to the score.

use std::fs;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::space::Space;

const LAYOUTS: &str = r"
name: layouts
axes:
  dataset: [cub, cars196, sop, inshop]
  split:
    official: { rule: official }
    fold: { rule: { mlrc: { fold: 2 } } }
stages:
  raw: { uses: download/miniature, with: { layout: ${dataset}, classes: 8, per_class: 4, size: 16 } }
  images: { uses: preprocess, in: { raw: raw }, with: { layout: ${dataset}, counts: any, size: 16, split: ${split.rule} } }
  pixels: { uses: embed, in: { images: images } }
  scores: { uses: evaluate, in: { vectors: pixels }, with: { metrics: [map_at_r, p1] } }
  table: { uses: report, in: { scores: scores }, with: { rows: dataset, columns: [split, metric] } }
";

#[test]
fn miniatures_of_the_published_sets_run_to_a_table() {
    let space = Space::new(LAYOUTS);
    let ran = space.run(&["run", "-j", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for dataset in ["cub", "cars196", "sop", "inshop"] {
        assert!(ran.out.contains(dataset), "{}", ran.out);
    }
}

/// A tar.gz of one folder, as bytes.
fn tar_gz(folder: &Path, name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.append_dir_all(name, folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A miniature of Cars-196 in `made`, below the space; its annotations and its archive in `published`.
fn publish_cars() -> Space {
    let space = Space::new(
        r#"
name: made
stages:
  raw: { uses: download/miniature, with: { layout: cars196, classes: 8, per_class: 4, size: 16 } }
  copy: { run: "cp -rL --no-preserve=mode ${in.raw} $HOME/made && touch ${out.done}", in: { raw: raw }, out: { done: done } }
"#,
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    space.write("published/car_ims.tgz", tar_gz(&space.path("made/car_ims"), "car_ims"));
    space.write("published/cars_annos.mat", fs::read(space.path("made/cars_annos.mat")).unwrap());
    space
}

/// A pipeline of one download and its image set.
fn pipeline(space: &Space, raw: &str, layout: &str) {
    let raw = raw.replace("PLACE", &space.path("published").display().to_string());
    let images = format!("uses: preprocess, in: {{ raw: raw }}, with: {{ layout: {layout}, counts: any, size: 16 }}");
    space.write("pipeline.yaml", format!("name: sets\nstages:\n  raw: {raw}\n  images: {{ {images} }}\n"));
}

const CARS: &str = "{ uses: download, with: { urls: [file://PLACE/cars_annos.mat], unpack: false, \
                    more: [{ urls: [file://PLACE/car_ims.tgz] }] } }";

#[test]
fn a_data_set_of_two_files_is_unpacked_into_one_folder() {
    let space = publish_cars();
    pipeline(&space, CARS, "cars196");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let inspected = space.run(&["data", "inspect", "made", "--layout", "cars196", "--any-counts"]);
    assert_eq!(inspected.code, 0, "{}", inspected.err);
    assert!(inspected.out.contains("train        -                16        4"), "{}", inspected.out);
}

#[test]
fn wrong_short_and_manually_downloaded_archives_are_reported() {
    let space = publish_cars();
    let failure = |raw: &str, layout: &str| {
        pipeline(&space, raw, layout);
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        ran.err
    };
    // Its MD5 is not that of the published file.
    let err = failure("{ uses: download/cars196, with: { annotations: [file://PLACE/cars_annos.mat] } }", "cars196");
    assert!(err.contains("md5 is") && err.contains("expected b407c6086d669747186bd1d764ff9dbc"), "{err}");
    assert!(err.contains("by hand") && err.contains("jutrera/stanford-car-dataset-by-classes-folder"), "{err}");

    let whole = fs::read(space.path("published/car_ims.tgz")).unwrap();
    space.write("published/car_ims.tgz", &whole[..whole.len() / 2]);
    let err = failure(CARS, "cars196");
    assert!(err.contains("damaged"), "{err}");

    let err = failure("{ uses: download/inshop, with: { folder: PLACE } }", "inshop");
    assert!(err.contains("mmlab.ie.cuhk.edu.hk") && err.contains("published/Img/img.zip"), "{err}");
}

#[test]
fn a_leak_is_a_warning_in_the_log_and_fails_the_inspection() {
    let space = publish_cars();
    fs::copy(space.path("made/car_ims/000001.jpg"), space.path("made/car_ims/000032.jpg")).unwrap();
    space.write(
        "pipeline.yaml",
        "name: sets\nstages:\n  images: { uses: preprocess, in: { raw: ./made }, with: { layout: cars196, counts: any } }\n",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown = space.json(&["show", "images", "--json"]).to_string();
    let log = shown.split('"').find(|text| text.contains("/logs/")).unwrap_or_else(|| panic!("{shown}"));
    let log = fs::read_to_string(space.path(log)).unwrap();
    let expected = "the same image is in two splits: car_ims/000001.jpg (train), car_ims/000032.jpg (test)";
    assert!(log.contains(expected), "{log}");
    let inspected = space.run(&["data", "inspect", "made", "--layout", "cars196", "--any-counts"]);
    assert_eq!(inspected.code, 1, "{}", inspected.err);
    assert!(inspected.out.starts_with("LEAK: 1 image"), "{}", inspected.out);
}

/// What servers send instead of an archive; errors name its URL.
#[test]
fn a_download_that_is_not_an_archive_is_reported_with_its_url() {
    let space = Space::new("");
    for (name, bytes, part) in [
        ("page.zip", &b"<!DOCTYPE html><html>Virus scan warning</html>"[..], "it is a web page"),
        ("set.tar.xz", b"\xfd7zXZ\0\0\0", "compressed with xz; unpack it with a command stage"),
        ("pointer.zip", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ] {
        space.write(&format!("place with space/{name}"), bytes);
        for url in ["file://PLACE/NAME", "PLACE/NAME"] {
            let place = space.path("place with space").display().to_string();
            let url = url.replace("PLACE", &place).replace("NAME", name);
            space.write(
                "pipeline.yaml",
                format!("stages:\n  raw: {{ uses: download, with: {{ urls: [\"{url}\"] }} }}\n"),
            );
            let ran = space.run(&["run"]);
            assert_eq!(ran.code, 1, "{}", ran.err);
            assert!(ran.err.contains(part) && ran.err.contains(&url), "{}", ran.err);
            assert!(!ran.err.contains("staging"), "{}", ran.err);
        }
    }
}

/// Images with all usual extensions and in unsupported formats, in a realistic folder.
#[test]
fn a_folder_is_read_by_content_and_unread_files_are_named() {
    let space = Space::new(
        "stages:\n  raw: { uses: download/miniature, with: { layout: cub, classes: 2, per_class: 4, size: 16 } }\n  \
         copy: { run: \"cp -rL --no-preserve=mode ${in.raw} $HOME/made && touch ${out.done}\", in: { raw: raw }, out: { done: done } }\n",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut images = Vec::new();
    for folder in ["001.Generated_0", "002.Generated_1"] {
        let all = fs::read_dir(space.path(&format!("made/CUB_200_2011/images/{folder}"))).unwrap();
        images.extend(all.map(|image| fs::read(image.unwrap().path()).unwrap()));
    }
    let names = ["a/x.jfif", "a/x", "a/x.jpg ", "a/x.JPE", "b/x.png", "b/y.jpg", "b/z.dat", "b/w.jpeg"];
    names.iter().zip(&images).for_each(|(name, image)| space.write(&format!("set/{name}"), image));
    space.write("set/a/scan.tif", b"II*\0");
    space.write("set/@eaDir/x.jpg", &images[0]);
    space.write("set/b/Thumbs.db", b"x");
    let inspected = space.run(&["data", "inspect", "set"]);
    assert_eq!(inspected.code, 0, "{}{}", inspected.out, inspected.err);
    assert!(inspected.out.contains("train        -                 4        1"), "{}", inspected.out);
    assert!(inspected.out.contains("test         -                 4        1"), "{}", inspected.out);
    assert!(inspected.out.contains("1 file .tif: a TIFF image, which is not read; convert it"), "{}", inspected.out);
}
