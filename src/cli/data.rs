//! `meanfield data`: inspects data sets.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure::{Failure, verdict};
use super::output::{Overwrite, is_one, is_read};
use crate::data::inspect::{Inspection, Repeated, Same, Sheet, contact_sheet, inspect};
use crate::data::layout::{self, Counts, Layout, Source};
use crate::data::listing::Listing;
use crate::data::preprocess::PreprocessConfig;
use crate::data::split::{MlrcFold, SplitRule};
use crate::text::escaped;

/// Inspect data sets
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield data inspect photos --layout folder --split first_half_of_classes")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count and decode the images of a data set; find broken and repeated ones
    ///
    /// Decodes every image and prints the images and classes of each split, image sizes, a histogram of class sizes,
    /// broken images and images that occur more than once. Exit code 1 if an image is broken or in two splits.
    #[command(
        after_help = "Examples:\n  meanfield data inspect photos --layout folder --split first_half_of_classes\n  meanfield data inspect CUB_200_2011 --layout cub --contact-sheet classes.png"
    )]
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// Folder of the data set
    folder: PathBuf,
    /// Layout: folder, cub, cars196, sop, inshop, list:FILE (a .csv or .parquet table) or arrays:IMAGES,LABELS (.npy files)
    #[arg(long, default_value = "folder", value_parser = parse_layout)]
    layout: Layout,
    /// Split rule: official, first_half_of_classes, none, mlrc:FOLD or list:FILE
    #[arg(long, default_value = "official", value_parser = parse_split)]
    split: SplitRule,
    /// Accept cub, cars196, sop and inshop with other image counts than the published ones
    #[arg(long)]
    any_counts: bool,
    /// Allow classes shared between test and other splits
    #[arg(long)]
    shared_classes: bool,
    /// Draw sample images, one class per row, into this PNG file
    #[arg(long, value_name = "FILE")]
    contact_sheet: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Rows and columns of a contact sheet.
const SHEET: (usize, usize) = (12, 10);
/// Number of findings of one kind that are listed; the JSON document has all of them.
const SHOWN: usize = 10;

fn parse_layout(text: &str) -> Result<Layout, String> {
    let (name, files) = text.split_once(':').unwrap_or((text, ""));
    let value = match (name, files.split_once(',')) {
        ("list", None) if !files.is_empty() => json!({ "kind": name, "file": files }),
        ("arrays", Some((images, labels))) => json!({ "kind": name, "images": images, "labels": labels }),
        _ if files.is_empty() => json!({ "kind": name }),
        _ => return Err("expected a layout, list:FILE or arrays:IMAGES,LABELS".to_owned()),
    };
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn parse_split(text: &str) -> Result<SplitRule, String> {
    match text.split_once(':') {
        Some(("list", file)) => Ok(SplitRule::List(file.to_owned())),
        Some(("mlrc", fold)) => {
            let fold = fold.parse().map_err(|_| format!("the fold is {fold:?}, expected 0, 1, 2 or 3"))?;
            Ok(SplitRule::Mlrc(MlrcFold { fold }))
        }
        _ => serde_json::from_value(Value::from(text))
            .map_err(|_| "expected official, first_half_of_classes, none, mlrc:FOLD or list:FILE".to_owned()),
    }
}

/// Runs the command; its check fails if an image is broken or in two splits.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let Command::Inspect(args) = &args.command;
    args.contact_sheet.iter().try_for_each(|path| check_sheet(args, path))?;
    let source = Source {
        layout: args.layout.clone(),
        root: String::new(),
        split: args.split.clone(),
        counts: if args.any_counts { Counts::Any } else { Counts::Published },
        shared_classes: args.shared_classes,
    };
    if let Some((field, message)) = source.check().into_iter().next() {
        return Err(Failure::bad_argument(format!("{field} {message}")));
    }
    let listing = layout::read(&source, &args.folder)?;
    args.contact_sheet.iter().try_for_each(|path| check_apart(&listing, path))?;
    let max_pixels = PreprocessConfig::default().max_pixels;
    let found = inspect(&listing, max_pixels, &mut |done, total| tracing::debug!(done, total, "decoding"));
    let sheet = args.contact_sheet.as_ref().map(|path| {
        let sheet = contact_sheet(&listing, SHEET.0, SHEET.1, max_pixels);
        save(&sheet, path).map(|()| (path, sheet))
    });
    let sheet = sheet.transpose()?;
    if args.json {
        let mut document = serde_json::to_value(&found)?;
        document["sound"] = found.is_sound().into();
        if let Some((_, sheet)) = &sheet {
            document["contact_sheet"] = json!(sheet.rows);
        }
        writeln!(out, "{document:#}")?;
    } else {
        print(&found, out)?;
        if let Some((path, sheet)) = &sheet {
            print_sheet(path, sheet, out)?;
        }
    }
    verdict(found.is_sound())
}

/// Refuses a path for the contact sheet that exists or does not end in `.png`.
fn check_sheet(args: &Inspect, path: &Path) -> Result<(), Failure> {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        let what = "--contact-sheet writes a picture, expected a name that ends in .png";
        return Err(Failure::bad_argument(format!("{}: {what}", path.display())));
    }
    args.overwrite.check(path, &[]).map_err(Failure::bad_argument)
}

/// Refuses a path for the contact sheet that is an image of the data set.
fn check_apart(listing: &Listing, path: &Path) -> Result<(), Failure> {
    let mut images = listing.entries.iter().map(|entry| listing.root.join(entry.location.file()));
    match path.exists() && images.any(|image| is_one(path, &image)) {
        true => Err(Failure::bad_argument(is_read(path))),
        false => Ok(()),
    }
}

fn save(sheet: &Sheet, path: &Path) -> Result<(), Failure> {
    let (width, height) = (sheet.width, sheet.height);
    image::save_buffer_with_format(path, &sheet.pixels, width, height, image::ColorType::Rgb8, image::ImageFormat::Png)
        .map_err(|error| Failure::broken(format!("cannot write {}: {error}", path.display())))
}

fn print(found: &Inspection, out: &mut dyn Write) -> io::Result<()> {
    let leaks: Vec<&Repeated> = found.leaks().collect();
    if !leaks.is_empty() {
        writeln!(out, "LEAK: {} in more than one split", count(leaks.len(), "image"))?;
        repeated(&leaks, out)?;
        writeln!(out)?;
    }
    writeln!(out, "{:<12} {:<10} {:>8} {:>8}", "split", "group", "images", "classes")?;
    for part in &found.parts {
        let group = escaped(part.group.as_deref().unwrap_or("-"));
        writeln!(out, "{:<12} {group:<10} {:>8} {:>8}", part.split.name(), part.images, part.classes)?;
    }
    if let Some(size) = found.dimensions {
        let words = |[low, middle, high]: [u32; 3]| format!("{low} to {high}, median {middle}");
        writeln!(out, "\nwidth {}; height {} pixels", words(size.width), words(size.height))?;
    }
    for (split, sizes) in &found.class_sizes {
        writeln!(out, "\nimages per class, {}", split.name())?;
        histogram(sizes, out)?;
    }
    if found.ignored > 0 {
        writeln!(out, "\n{} that are not images", count(found.ignored, "file"))?;
        for unread in &found.unread {
            writeln!(out, "  {}", escaped(&unread.to_string()))?;
        }
    }
    if found.unlisted > 0 {
        writeln!(out, "\n{} in no list or split", count(found.unlisted, "image"))?;
    }
    if !found.broken.is_empty() {
        writeln!(out, "\n{} broken", count(found.broken.len(), "image"))?;
        for broken in found.broken.iter().take(SHOWN) {
            writeln!(out, "  {}: {}", escaped(&broken.path), escaped(&broken.reason.to_string()))?;
        }
        more(found.broken.len(), out)?;
    }
    for same in [Same::Path, Same::Bytes, Same::Pixels] {
        let within: Vec<&Repeated> = found.repeated.iter().filter(|r| !r.leak && r.same == same).collect();
        if !within.is_empty() {
            let what = match same {
                Same::Path => "listed several times in one split",
                Same::Bytes => "in one split several times, byte for byte",
                Same::Pixels => "in one split several times, in other bytes",
            };
            writeln!(out, "\n{} {what}", count(within.len(), "image"))?;
            repeated(&within, out)?;
        }
    }
    if found.is_sound() {
        writeln!(out, "\nevery image decodes, and none is in two splits")?;
    }
    Ok(())
}

/// `1 image`, `2 images`.
fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn more(count: usize, out: &mut dyn Write) -> io::Result<()> {
    if count > SHOWN { writeln!(out, "  and {} more", count - SHOWN) } else { Ok(()) }
}

fn repeated(all: &[&Repeated], out: &mut dyn Write) -> io::Result<()> {
    for repeated in all.iter().take(SHOWN) {
        let places: Vec<String> = repeated
            .images
            .iter()
            .map(|image| format!("{} ({}, {})", image.path, image.split.name(), image.class))
            .collect();
        let note = match (repeated.same, repeated.leak, repeated.contradiction) {
            (_, false, true) => "; its classes differ",
            (Same::Pixels, true, true) => "; equal pixels in other bytes, its classes differ",
            (Same::Pixels, true, false) => "; equal pixels in other bytes",
            (_, true, true) => "; its classes differ",
            _ => "",
        };
        writeln!(out, "  {}{note}", escaped(&places.join(" = ")))?;
    }
    more(all.len(), out)
}

/// At most ten bars, each of the same number of class sizes.
fn histogram(sizes: &BTreeMap<usize, usize>, out: &mut dyn Write) -> io::Result<()> {
    const BARS: usize = 10;
    const WIDTH: usize = 40;
    let (Some((&low, _)), Some((&high, _))) = (sizes.first_key_value(), sizes.last_key_value()) else { return Ok(()) };
    let step = (high - low + 1).div_ceil(BARS);
    let bars: Vec<(usize, usize, usize)> = (low..=high)
        .step_by(step)
        .map(|from| (from, from + step - 1, sizes.range(from..from + step).map(|(_, classes)| classes).sum()))
        .collect();
    let most = bars.iter().map(|bar| bar.2).max().unwrap_or(1).max(1);
    for (from, to, classes) in bars {
        let range = if from == to { from.to_string() } else { format!("{from}-{to}") };
        // Rounded up: a bar of few classes must be visible.
        let bar = "#".repeat((classes * WIDTH).div_ceil(most));
        writeln!(out, "{range:>11} {classes:>7} {bar}")?;
    }
    Ok(())
}

fn print_sheet(path: &Path, sheet: &Sheet, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{} shows, from the top:", path.display())?;
    for (split, class) in &sheet.rows {
        writeln!(out, "  {} ({})", escaped(class), split.name())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
