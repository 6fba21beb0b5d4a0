use std::fs;

use polars::prelude::{Column, DataFrame, ParquetWriter};
use tempfile::TempDir;

use super::found::{Found, Image};
use super::*;
use crate::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};
use crate::data::listing::{Location, bytes, pixels};
use crate::data::mat;
use crate::data::split::MlrcFold;

/// A set of 8 classes with 4 images each, in a folder of its own.
fn miniature(layout: GeneratedLayout) -> TempDir {
    let room = tempfile::tempdir().unwrap();
    let spec = GeneratorSpec { family: Family::Textures, classes: 8, per_class: 4, size: 16, seed: 3, layout };
    generate(&spec, room.path()).unwrap();
    room
}

fn source(layout: Layout) -> Source {
    Source { layout, counts: Counts::Any, ..Source::default() }
}

const PUBLISHED: [(GeneratedLayout, Layout); 4] = [
    (GeneratedLayout::Cub, Layout::Cub),
    (GeneratedLayout::Cars196, Layout::Cars196),
    (GeneratedLayout::Sop, Layout::Sop),
    (GeneratedLayout::Inshop, Layout::Inshop),
];

/// Split, class, group and path of each entry.
fn lines(listing: &Listing) -> String {
    let line = |entry: &Entry| {
        let group = entry.group.as_deref().unwrap_or("-");
        format!("{:10} {:20} {group:7} {}", entry.split.name(), entry.class, entry.location)
    };
    listing.entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn miniatures_of_the_published_sets_load_to_their_splits() {
    let mut all = String::new();
    for (generated, layout) in PUBLISHED {
        let room = miniature(generated);
        let listing = read(&source(layout.clone()), room.path()).unwrap();
        assert_eq!((listing.entries.len(), listing.unlisted), (32, 0));
        for entry in &listing.entries {
            let image = pixels(&listing, entry, 1000).unwrap();
            assert_eq!((image.width, image.height), (16, 16));
        }
        all.push_str(&format!("{layout:?}\n{}\n", lines(&listing)));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn folds_pool_the_images_of_every_layout() {
    for (generated, layout) in PUBLISHED {
        let room = miniature(generated);
        let split = SplitRule::Mlrc(MlrcFold { fold: 1 });
        let listing = read(&Source { split, ..source(layout) }, room.path()).unwrap();
        let count = |split| listing.entries.iter().filter(|entry| entry.split == split).count();
        assert_eq!(Split::ALL.map(count), [12, 4, 16]);
        // Fold 1 of 4 classes begins to train at class 1, so class 0 validates.
        let classes: Vec<&str> = listing.entries.iter().map(|entry| entry.class.as_str()).collect();
        let mut sorted = classes.clone();
        sorted.sort_unstable();
        assert_eq!(classes[12], sorted[0]);
        assert!(listing.entries.iter().all(|entry| entry.group.is_none()));
    }
}

/// Classes with a number in their names come by it, not by the bytes of the name: 2 before 10.
#[test]
fn classes_of_products_come_by_number() {
    let room = tempfile::tempdir().unwrap();
    let spec = GeneratorSpec {
        family: Family::Textures,
        classes: 12,
        per_class: 1,
        size: 8,
        seed: 0,
        layout: GeneratedLayout::Sop,
    };
    generate(&spec, room.path()).unwrap();
    let listing = read(&source(Layout::Sop), room.path()).unwrap();
    let classes: Vec<&str> = listing.entries.iter().map(|entry| entry.class.as_str()).collect();
    assert_eq!(classes, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]);
}

#[test]
fn the_published_sizes_are_met_and_one_image_less_is_not() {
    let class = |name: usize, images: usize, split: Option<Split>, group: Option<&str>| Class {
        name: name.to_string(),
        images: (0..images)
            .map(|i| Image { location: Location::File(format!("{name}/{i}")), split, group: group.map(str::to_owned) })
            .collect(),
    };
    // `images` over `classes` as evenly as they go.
    let spread = |images: usize, classes: usize, split: Option<Split>, group: Option<&str>| -> Vec<Class> {
        (0..classes).map(|i| class(i, (i + 1) * images / classes - i * images / classes, split, group)).collect()
    };
    let (train, test) = (Some(Split::Train), Some(Split::Test));
    let mut inshop = spread(25_882, 3_997, train, None);
    let gallery = spread(12_612, 3_985, test, Some("gallery"));
    inshop.extend(spread(14_218, 3_985, test, Some("query")).into_iter().zip(gallery).map(|(mut query, gallery)| {
        query.images.extend(gallery.images);
        query
    }));
    for (layout, classes) in [
        (Layout::Cub, [spread(5_864, 100, None, None), spread(5_924, 100, None, None)].concat()),
        (Layout::Cars196, [spread(8_054, 98, None, None), spread(8_131, 98, None, None)].concat()),
        (Layout::Sop, [spread(59_551, 11_318, train, None), spread(60_502, 11_316, test, None)].concat()),
        (Layout::Inshop, inshop),
    ] {
        let lists_splits = matches!(layout, Layout::Sop | Layout::Inshop);
        let mut found = Found { classes, lists_splits, ..Found::default() };
        published::check(&layout, &found).unwrap();
        found.classes[0].images.pop();
        let message = published::check(&layout, &found).unwrap_err().to_string();
        assert!(message.contains("train has") && !message.contains("test has"), "{message}");
    }
}

/// The message of reading `layout` after `spoil` was done to its miniature, with the folder as ROOM.
fn message(source: &Source, generated: GeneratedLayout, spoil: impl FnOnce(&Path)) -> String {
    let room = miniature(generated);
    spoil(room.path());
    let message = read(source, room.path()).unwrap_err().to_string();
    message.replace(&room.path().display().to_string(), "ROOM")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn each_wrong_thing_of_cub_has_its_message() {
    let cub = |spoil: &dyn Fn(&Path)| message(&source(Layout::Cub), GeneratedLayout::Cub, spoil);
    let published = Source { counts: Counts::Published, ..source(Layout::Cub) };
    let messages = [
        cub(&|room| fs::rename(room.join("CUB_200_2011"), room.join("birds")).unwrap()),
        cub(&|room| fs::remove_dir_all(room.join("CUB_200_2011/images/002.Generated_1")).unwrap()),
        cub(&|room| edit(&room.join("CUB_200_2011/images.txt"), "\n3 001", "\n3")),
        cub(&|room| edit(&room.join("CUB_200_2011/images.txt"), "3 001", "3 ../001")),
        message(&published, GeneratedLayout::Cub, |room| {
            let images = room.join("CUB_200_2011/images");
            fs::write(images.join("002.Generated_1/extra.jpg"), b"").unwrap();
            fs::write(images.join("002.Generated_1/._extra.jpg"), b"").unwrap();
        }),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn each_wrong_thing_of_cars_has_its_message() {
    let cars = |spoil: &dyn Fn(&Path)| message(&source(Layout::Cars196), GeneratedLayout::Cars196, spoil);
    let annotate = |room: &Path, path: &str, class: f64| {
        let fields = vec![
            (
                "relative_im_path".to_owned(),
                ["car_ims/000001.jpg", path].map(|p| MatValue::Text(p.to_owned())).to_vec(),
            ),
            ("class".to_owned(), [1.0, class].map(|c| MatValue::Numbers(vec![c])).to_vec()),
        ];
        let names = MatValue::Cells(["a", "b"].map(|name| MatValue::Text(name.to_owned())).to_vec());
        let file = mat::write(&[("annotations", MatValue::Struct(fields)), ("class_names", names)]).unwrap();
        fs::write(room.join("cars_annos.mat"), file).unwrap();
    };
    use crate::data::mat::MatValue;
    let messages = [
        cars(&|room| fs::remove_file(room.join("cars_annos.mat")).unwrap()),
        cars(&|room| fs::write(room.join("cars_annos.mat"), b"no annotations").unwrap()),
        cars(&|room| {
            let file = mat::write(&[("notes", MatValue::Text("x".to_owned()))]).unwrap();
            fs::write(room.join("cars_annos.mat"), file).unwrap();
        }),
        cars(&|room| annotate(room, "car_ims/000002.jpg", 3.0)),
        cars(&|room| annotate(room, "car_ims/000002.jpg", 1.5)),
        cars(&|room| annotate(room, "/etc/passwd", 2.0)),
        cars(&|room| annotate(room, "car_ims/000001.jpg", 2.0)),
        cars(&|room| annotate(room, "car_ims/999999.jpg", 2.0)),
        message(&Source { counts: Counts::Published, ..source(Layout::Cars196) }, GeneratedLayout::Cars196, |room| {
            annotate(room, "car_ims/000002.jpg", 2.0);
        }),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn each_wrong_thing_of_products_has_its_message() {
    let home = "Stanford_Online_Products";
    let sop = |spoil: &dyn Fn(&Path)| message(&source(Layout::Sop), GeneratedLayout::Sop, spoil);
    let train = |from: &'static str, to: &'static str| {
        sop(&|room: &Path| edit(&room.join(home).join("Ebay_train.txt"), from, to))
    };
    let messages = [
        sop(&|room| fs::remove_dir_all(room.join(home)).unwrap()),
        sop(&|room| fs::remove_file(room.join(home).join("Ebay_test.txt")).unwrap()),
        train("\n3 1 1 ", "\n3 1 "),
        train("\n3 1 1 ", "\n3 0 1 "),
        train("\n3 1 1 ", "\n3 22635 1 "),
        train("\n3 1 1 bicycle", "\n3 1 1 /bicycle"),
        train("\n3 1 1 bicycle", "\n3 1 1 ../bicycle"),
        train("110000_2.JPG", "110000_1.JPG"),
        train("\n3 1 1 ", "\n3 5 1 "),
        sop(&|room| fs::remove_dir_all(room.join(home).join("chair_final")).unwrap()),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn each_wrong_thing_of_in_shop_has_its_message() {
    let inshop = |spoil: &dyn Fn(&Path)| message(&source(Layout::Inshop), GeneratedLayout::Inshop, spoil);
    let list = |from: &'static str, to: &'static str| {
        inshop(&|room: &Path| edit(&room.join("Inshop_Clothes/Eval/list_eval_partition.txt"), from, to))
    };
    let messages = [
        inshop(&|room| fs::remove_dir_all(room.join("Inshop_Clothes")).unwrap()),
        list("32\n", "many\n"),
        list("32\n", "33\n"),
        list(" id_00000001 ", " 1 "),
        list(" train", " training"),
        list(" id_00000001 train", " train"),
        list("img/WOMEN/Dresses/id_00000001/00", "img/../../x"),
        list(" id_00000005 query", " id_00000001 query"),
        inshop(&|room| fs::remove_dir_all(room.join("Inshop_Clothes/Img/img/WOMEN")).unwrap()),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

/// The two files of In-Shop as they are fetched, the images unpacked next to the list.
#[test]
fn in_shop_is_read_as_its_files_unpack() {
    let room = miniature(GeneratedLayout::Inshop);
    let (home, flat) = (room.path().join("Inshop_Clothes"), room.path().join("flat"));
    fs::create_dir(&flat).unwrap();
    let expected = read(&source(Layout::Inshop), room.path()).unwrap();
    fs::rename(home.join("Img/img"), flat.join("img")).unwrap();
    fs::rename(home.join("Eval/list_eval_partition.txt"), flat.join("list_eval_partition.txt")).unwrap();
    let found = read(&source(Layout::Inshop), &flat).unwrap();
    assert_eq!((found.entries, found.root), (expected.entries, flat));
}

/// The same images in the folders and lists of the mirror.
#[test]
fn the_mirror_of_cars_is_read_with_its_two_lists() {
    let room = tempfile::tempdir().unwrap();
    let mirror = |list: &str| {
        fs::write(room.path().join("anno_train.csv"), list).unwrap();
        read(&source(Layout::Cars196), room.path())
    };
    for path in ["train/Ram C-V 2012/00001.jpg", "train/Audi TT/00002.jpg", "test/Audi TT/00001.jpg"] {
        let path = room.path().join("car_data/car_data").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    fs::write(room.path().join("anno_test.csv"), "00001.jpg,1,2,3,4,7\n").unwrap();
    let listing = mirror("00001.jpg,1,2,3,4,150\n00002.jpg,1,2,3,4,7\n").unwrap();
    let expected = "train      007.Audi TT          -       car_data/car_data/train/Audi TT/00002.jpg\n\
                    train      007.Audi TT          -       car_data/car_data/test/Audi TT/00001.jpg\n\
                    test       150.Ram C-V 2012     -       car_data/car_data/train/Ram C-V 2012/00001.jpg";
    assert_eq!(lines(&listing), expected);
    assert_eq!(mirror("00001.jpg,1,2,3,4,150\n").unwrap().unlisted, 1);
    let message =
        |list: &str| mirror(list).unwrap_err().to_string().replace(&room.path().display().to_string(), "ROOM");
    insta::assert_snapshot!(
        [message("00001.jpg,1,2,3,4\n"), message("00001.jpg,1,2,3,4,197\n"), message("00003.jpg,1,2,3,4,7\n"),]
            .join("\n")
    );
}

/// The lists of a set, each rewritten by `change`.
fn rewrite(room: &Path, lists: &[&str], change: &dyn Fn(&str) -> Vec<u8>) {
    for list in lists {
        let path = room.join(list);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&text)).unwrap();
    }
}

#[test]
fn lists_that_went_through_windows_and_a_spreadsheet_say_the_same() {
    const SOP: [&str; 2] = ["Stanford_Online_Products/Ebay_train.txt", "Stanford_Online_Products/Ebay_test.txt"];
    let utf16 =
        |text: &str| [&[0xff, 0xfe][..], &text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()].concat();
    type Change<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    let changes: [Change<'_>; 8] = [
        &|text| format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes(),
        &|text| utf16(&text.replace('\n', "\r\n")),
        &|text| text.replace('/', "\\").into_bytes(),
        &|text| text.replace(' ', "\t").into_bytes(),
        &|text| text.replace(' ', ";").replace('\n', ";\n").into_bytes(),
        &|text| format!("\n{}\n   \n", text.replace('\n', "  \n\n")).into_bytes(),
        &|text| text.replace(".jpg", ".JPEG").replace(".JPG", ".jpg").replace(".JPEG", ".JPG").into_bytes(),
        &|text| text.replace(" bicycle", " ./bicycle").replace("img/", "./img//").into_bytes(),
    ];
    for (generated, layout, lists) in [
        (GeneratedLayout::Cub, Layout::Cub, &["CUB_200_2011/images.txt"][..]),
        (GeneratedLayout::Sop, Layout::Sop, &SOP),
        (GeneratedLayout::Inshop, Layout::Inshop, &["Inshop_Clothes/Eval/list_eval_partition.txt"]),
    ] {
        let room = miniature(generated);
        let expected = read(&source(layout.clone()), room.path()).unwrap();
        for (i, change) in changes.iter().enumerate() {
            let room = miniature(generated);
            rewrite(room.path(), lists, change);
            let found = read(&source(layout.clone()), room.path()).unwrap_or_else(|e| panic!("{layout:?} {i}: {e}"));
            assert_eq!(found.entries, expected.entries, "{layout:?} {i}");
        }
        // The names of the columns are lost: no image is.
        let room = miniature(generated);
        let heads = |line: &&str| !line.contains("class_id") && !line.contains("item_id");
        rewrite(room.path(), lists, &|text| text.lines().filter(heads).collect::<Vec<_>>().join("\n").into_bytes());
        assert_eq!(read(&source(layout.clone()), room.path()).unwrap().entries, expected.entries, "{layout:?}");
        // Another encoding is refused.
        rewrite(room.path(), lists, &|text| [text.as_bytes(), b"\n1 1 1 caf\xe9"].concat());
        let message = read(&source(layout.clone()), room.path()).unwrap_err().to_string();
        assert!(message.contains("0xe9") && message.contains(lists[0].rsplit_once('/').unwrap().1), "{message}");
    }
}

#[test]
fn images_of_cub_that_the_list_does_not_name_are_left_out_and_counted() {
    let room = miniature(GeneratedLayout::Cub);
    let expected = read(&source(Layout::Cub), room.path()).unwrap();
    let home = room.path().join("CUB_200_2011");
    fs::write(home.join("images/001.Generated_0/Generated_0_0000 (1).jpg"), b"").unwrap();
    fs::create_dir_all(home.join("images/@eaDir")).unwrap();
    fs::write(home.join("images/@eaDir/x.jpg"), b"").unwrap();
    fs::create_dir_all(home.join("images/009.Mine")).unwrap();
    fs::write(home.join("images/009.Mine/x.jpg"), b"").unwrap();
    let found = read(&source(Layout::Cub), room.path()).unwrap();
    assert_eq!((found.entries, found.unlisted), (expected.entries.clone(), 2));
    // Without the list they are images, but what a file server left is none.
    fs::remove_file(home.join("images.txt")).unwrap();
    assert_eq!(read(&source(Layout::Cub), room.path()).unwrap().entries.len(), expected.entries.len() + 2);
    fs::write(home.join("images.txt"), "\n").unwrap();
    let message = read(&source(Layout::Cub), room.path()).unwrap_err().to_string();
    assert!(message.contains("names no image"), "{message}");
}

#[test]
fn a_set_that_lies_deeper_is_named() {
    for (generated, layout) in PUBLISHED {
        let room = miniature(generated);
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir_all(outer.path().join("x")).unwrap();
        fs::rename(room.path(), outer.path().join("x/y")).unwrap();
        fs::create_dir(room.path()).unwrap();
        let message = read(&source(layout.clone()), outer.path()).unwrap_err().to_string();
        assert!(message.contains("x/y") && message.contains("set root to that folder"), "{layout:?}: {message}");
        // That folder is then read.
        let folder = message.split_once("; ").unwrap().1.split_once(" looks like it").unwrap().0;
        assert_eq!(read(&source(layout), Path::new(folder)).unwrap().entries.len(), 32);
    }
}

#[test]
fn in_shop_is_read_from_the_folders_of_its_authors_only() {
    let official = "In-shop Clothes Retrieval Benchmark";
    let room = miniature(GeneratedLayout::Inshop);
    let expected = read(&source(Layout::Inshop), room.path()).unwrap().entries;
    let moved = |from: &str, to: &str| {
        fs::create_dir_all(room.path().join(to).parent().unwrap()).unwrap();
        fs::rename(room.path().join(from), room.path().join(to)).unwrap();
    };
    moved("Inshop_Clothes", official);
    assert_eq!(read(&source(Layout::Inshop), room.path()).unwrap().entries, expected);
    moved(&format!("{official}/Eval"), &format!("{official}/Anno"));
    assert_eq!(read(&source(Layout::Inshop), room.path()).unwrap().entries, expected);
    moved(&format!("{official}/Img/img"), &format!("{official}/inner"));
    moved(&format!("{official}/inner"), &format!("{official}/Img/img/img"));
    assert_eq!(read(&source(Layout::Inshop), room.path()).unwrap().entries, expected);
    moved(&format!("{official}/Img/img/img"), &format!("{official}/Img/img_highres"));
    fs::remove_dir(room.path().join(official).join("Img/img")).unwrap();
    let message = read(&source(Layout::Inshop), room.path()).unwrap_err().to_string();
    assert!(message.contains("img_highres") && message.contains("unpack img.zip"), "{message}");
}

/// The two halves of the authors' own form: lists in the devkit, images in folders, one of them within another.
#[test]
fn the_halves_of_cars_are_read_with_their_devkit() {
    use crate::data::mat::MatValue;
    let room = tempfile::tempdir().unwrap();
    let root = room.path().join("stanford_cars");
    fs::create_dir_all(root.join("devkit")).unwrap();
    for image in ["cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/cars_test/00001.jpg", "cars_train/x.jpg"] {
        fs::create_dir_all(root.join(image).parent().unwrap()).unwrap();
        fs::write(root.join(image), b"").unwrap();
    }
    let texts = |texts: &[&str]| texts.iter().map(|text| MatValue::Text((*text).to_owned())).collect::<Vec<_>>();
    let annotate = |file: &str, images: &[&str], classes: &[f64]| {
        let classes = classes.iter().map(|class| MatValue::Numbers(vec![*class])).collect();
        let fields = vec![("class".to_owned(), classes), ("fname".to_owned(), texts(images))];
        fs::write(root.join(file), mat::write(&[("annotations", MatValue::Struct(fields))]).unwrap()).unwrap();
    };
    annotate("devkit/cars_train_annos.mat", &["00001.jpg", "00002.jpg"], &[2.0, 1.0]);
    let message = read(&source(Layout::Cars196), room.path()).unwrap_err().to_string();
    assert!(message.contains("cars_test_annos_withlabels.mat"), "{message}");
    annotate("cars_test_annos_withlabels.mat", &["00001.jpg"], &[1.0]);
    let names = mat::write(&[("class_names", MatValue::Cells(texts(&["A", "B"])))]).unwrap();
    fs::write(root.join("devkit/cars_meta.mat"), names).unwrap();
    let listing = read(&source(Layout::Cars196), room.path()).unwrap();
    let expected = "train      001.A                -       cars_train/00002.jpg\n\
                    train      001.A                -       cars_test/cars_test/00001.jpg\n\
                    test       002.B                -       cars_train/00001.jpg";
    assert_eq!((lines(&listing).as_str(), listing.unlisted), (expected, 1));
}

fn table(text: &str) -> TempDir {
    let room = tempfile::tempdir().unwrap();
    for image in ["a/1.png", "a/2.png", "b/3.png", "b/4.png"] {
        let path = room.path().join(image);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }
    fs::write(room.path().join("list.csv"), text).unwrap();
    room
}

fn listed(text: &str, shared_classes: bool) -> Result<Listing, String> {
    let room = table(text);
    let layout = Layout::List { file: "list.csv".to_owned() };
    let read = read(&Source { shared_classes, ..source(layout) }, room.path());
    read.map_err(|error| error.to_string().replace(&room.path().display().to_string(), "ROOM"))
}

#[test]
fn a_table_gives_labels_splits_and_groups() {
    let listing = listed(
        "path,label,split,group\na/1.png,10,train,\na/2.png,10,validation,\nb/3.png,9,test,query\n\"b/4.png\",9,,x\n",
        false,
    );
    let listing = listing.unwrap();
    let expected = "train      10                   -       a/1.png\n\
                    validation 10                   -       a/2.png\n\
                    test       9                    query   b/3.png";
    assert_eq!((lines(&listing).as_str(), listing.unlisted), (expected, 1));
    // Without splits, the first half of the classes trains, by number: 9 before 10.
    let listing = listed("label,path\n10,a/1.png\n9,b/3.png\n", false).unwrap();
    let expected = "train      9                    -       b/3.png\ntest       10                   -       a/1.png";
    assert_eq!((lines(&listing).as_str(), listing.unlisted), (expected, 2));
    // Labels that are not numbers come by their bytes; 007 is not 7.
    let listing = listed("label,path\nb,a/1.png\n007,b/3.png\n7,b/4.png\n", false).unwrap();
    let classes: Vec<&str> = listing.entries.iter().map(|entry| entry.class.as_str()).collect();
    assert_eq!(classes, ["007", "7", "b"]);
}

#[test]
fn a_table_that_a_spreadsheet_saved_says_the_same() {
    let expected = lines(&listed("path,label,split\na/1.png,10,train\nb/3.png,9,test\n", false).unwrap());
    for text in [
        "\u{feff}path;label;split\r\na/1.png;10;train\r\nb/3.png;9;test\r\n;;\r\n",
        "path\tlabel\tsplit\na/1.png\t10\ttrain\nb/3.png\t9\ttest\n\n",
        " Path , LABEL , Split \n\"a/1.png\" , 10 , train\n\nb/3.png , 9 , test\n",
        "path,label,split,caption\na/1.png,10,train,\"two\nlines\"\nb/3.png,9,test\n",
    ] {
        assert_eq!(listed(text, false).map(|listing| lines(&listing)).as_ref(), Ok(&expected), "{text:?}");
    }
    for (text, part) in [
        ("a/1.png,10\nb/3.png,9\n", "expected a first line with the columns path and label; found a/1.png, 10"),
        ("path,label,label\na/1.png,10,9\n", "2 columns are called \"label\""),
        ("path,label\n\na/1.png,10\nb,/3.png,9\n", "line 4 has 3 fields, the header 2"),
        ("path;label\na/1.png;10\nb/3.png\n", "ROOM/list.csv:3: \"b/3.png\" has no label"),
    ] {
        let error = listed(text, false).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_table_in_parquet_says_the_same() {
    let room = table("");
    let columns = vec![
        Column::new("path".into(), ["a/1.png", "b/3.png", "b/4.png"]),
        Column::new("label".into(), [10i64, 9, 9]),
        Column::new("split".into(), [Some("test"), Some("train"), None]),
    ];
    let mut table = DataFrame::new(3, columns).unwrap();
    ParquetWriter::new(fs::File::create(room.path().join("list.parquet")).unwrap()).finish(&mut table).unwrap();
    let listing = read(&source(Layout::List { file: "list.parquet".to_owned() }), room.path()).unwrap();
    let expected = "train      9                    -       b/3.png\ntest       10                   -       a/1.png";
    assert_eq!((lines(&listing).as_str(), listing.unlisted), (expected, 2));
    // A label that pandas made a float for the sake of a missing one elsewhere; next to an empty column.
    let nothing = Column::new("group".into(), [None::<&str>; 3]);
    table.replace("label", Column::new("label".into(), [10.0f64, 9.0, 9.0])).unwrap();
    table.with_column(nothing).unwrap();
    ParquetWriter::new(fs::File::create(room.path().join("list.parquet")).unwrap()).finish(&mut table).unwrap();
    let listing = read(&source(Layout::List { file: "list.parquet".to_owned() }), room.path()).unwrap();
    assert_eq!(lines(&listing), expected);
}

#[test]
fn each_wrong_thing_of_a_table_has_its_message() {
    let closed = "path,label,split\na/1.png,x,train\na/2.png,x,test\nb/3.png,y,validation\nb/4.png,y,test\n";
    assert_eq!(listed(closed, true).unwrap().entries.len(), 4);
    let wrong = |text: &str| listed(text, false).unwrap_err();
    let messages = [
        wrong("file,label\na/1.png,x\n"),
        wrong("path,label\na/1.png,\n"),
        wrong("path,label\n../a/1.png,x\n"),
        wrong("path,label\n/a/1.png,x\n"),
        wrong("path,label\n,x\n"),
        wrong("path,label,split\na/1.png,x,valid\n"),
        wrong("path,label\na/1.png,x\na/7.png,x\n"),
        wrong(closed),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

/// Writes an array of unsigned bytes.
fn npy(path: &Path, shape: &[u64], values: &[u8]) {
    use npyz::WriterBuilder;
    let mut file = fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut file).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn arrays_give_the_pixels_of_each_image() {
    let room = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..3 * 2 * 4 * 3).collect();
    npy(&room.path().join("images.npy"), &[3, 2, 4, 3], &values);
    npy(&room.path().join("labels.npy"), &[3], &[10, 2, 10]);
    let layout = || serde_json::from_str::<Layout>(r#"{"kind": "arrays"}"#).unwrap();
    let listing = read(&source(layout()), room.path()).unwrap();
    let expected = "train      2                    -       images.npy[1]\n\
                    test       10                   -       images.npy[0]\n\
                    test       10                   -       images.npy[2]";
    assert_eq!(lines(&listing), expected);
    let image = pixels(&listing, &listing.entries[0], 8).unwrap();
    assert_eq!((image.width, image.height, image.pixels.as_slice()), (4, 2, &values[24..48]));
    assert_eq!(bytes(&listing, &listing.entries[2]).unwrap(), &values[48..]);
    assert!(pixels(&listing, &listing.entries[0], 7).unwrap_err().contains("4 x 2 pixels"));

    // Labels that are texts, one of the usual ways to save them.
    let text =
        |text: &str| text.chars().chain(['\0'; 3]).take(3).flat_map(|c| (c as u32).to_le_bytes()).collect::<Vec<u8>>();
    let header = "{'descr': '<U3', 'fortran_order': False, 'shape': (3,), }";
    let start = [b"\x93NUMPY\x01\x00".to_vec(), (header.len() as u16).to_le_bytes().to_vec(), header.into()].concat();
    fs::write(room.path().join("labels.npy"), [start, text("dog"), text("cat"), text("dog")].concat()).unwrap();
    let listing = read(&source(layout()), room.path()).unwrap();
    assert_eq!(listing.entries.iter().map(|entry| entry.class.as_str()).collect::<Vec<_>>(), ["cat", "dog", "dog"]);

    let wrong = |spoil: &dyn Fn(&Path)| {
        spoil(room.path());
        let message = read(&source(layout()), room.path()).unwrap_err().to_string();
        message.replace(&room.path().display().to_string(), "ROOM")
    };
    let messages = [
        wrong(&|room| npy(&room.join("labels.npy"), &[2], &[1, 2])),
        wrong(&|room| npy(&room.join("labels.npy"), &[1, 3], &[1, 2, 3])),
        wrong(&|room| npy(&room.join("images.npy"), &[3, 2, 4], &values[..24])),
        wrong(&|room| {
            npy(&room.join("images.npy"), &[3, 2, 4, 3], &values);
            let bytes = fs::read(room.join("images.npy")).unwrap();
            fs::write(room.join("images.npy"), &bytes[..bytes.len() - 1]).unwrap();
        }),
        wrong(&|room| fs::write(room.join("images.npy"), b"no array").unwrap()),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn sources_are_checked_before_anything_is_read() {
    let source = Source {
        layout: Layout::List { file: "../list.csv".to_owned() },
        root: "/other".to_owned(),
        split: SplitRule::Mlrc(MlrcFold { fold: 4 }),
        ..Source::default()
    };
    let fields: Vec<_> = source.check().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["root", "layout.file", "split.mlrc.fold"]);
    assert!(matches!(read(&source, Path::new("")), Err(DataError::Parameter { .. })));
    let arrays = Layout::Arrays { images: String::new(), labels: "x/../y".to_owned() };
    let fields: Vec<_> =
        Source { layout: arrays, ..Source::default() }.check().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["layout.images", "layout.labels"]);
}
