//! A contact sheet: some classes of a data set, one per row.

use image::{RgbImage, imageops};
use rayon::prelude::*;

use crate::data::listing::{Entry, Listing, pixels};
use crate::data::split::Split;

/// Side of a cell, and the white between two, in pixels.
const CELL: u32 = 96;
const GAP: u32 = 4;

/// A picture of some images, and what its rows show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    pub width: u32,
    pub height: u32,
    /// RGB, row by row.
    pub pixels: Vec<u8>,
    /// Split and class of each row, from the top.
    pub rows: Vec<(Split, String)>,
}

/// Draws up to `rows` classes, taken evenly from all of the listing, and up to `columns` images of each, taken evenly from
/// the class. An image keeps its shape within its cell; a broken one leaves it white.
pub fn contact_sheet(listing: &Listing, rows: usize, columns: usize, max_pixels: u64) -> Sheet {
    let classes: Vec<&[Entry]> = listing.entries.chunk_by(|a, b| (a.split, &a.class) == (b.split, &b.class)).collect();
    let chosen: Vec<&[Entry]> = evenly(&classes, rows).copied().collect();
    let width = (CELL + GAP) * chosen.iter().map(|class| class.len().min(columns)).max().unwrap_or(0) as u32 + GAP;
    let height = (CELL + GAP) * chosen.len() as u32 + GAP;
    let mut sheet = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    let cells = chosen.iter().enumerate().flat_map(|(row, class)| {
        evenly(class, columns).enumerate().map(move |(column, entry)| (row as u32, column as u32, entry))
    });
    let thumbnails: Vec<_> = cells
        .collect::<Vec<_>>()
        .into_par_iter()
        .filter_map(|(row, column, entry)| {
            let image = pixels(listing, entry, max_pixels).ok()?;
            let (width, height) = (image.width, image.height);
            let scale = |side: u32| (u64::from(side) * u64::from(CELL) / u64::from(width.max(height))).max(1) as u32;
            let image = RgbImage::from_raw(width, height, image.pixels)?;
            Some((row, column, imageops::thumbnail(&image, scale(width), scale(height))))
        })
        .collect();
    for (row, column, image) in thumbnails {
        let at = |index: u32, side: u32| i64::from(GAP + index * (CELL + GAP) + (CELL - side) / 2);
        imageops::replace(&mut sheet, &image, at(column, image.width()), at(row, image.height()));
    }
    let rows = chosen.iter().map(|class| (class[0].split, class[0].class.clone())).collect();
    Sheet { width, height, pixels: sheet.into_raw(), rows }
}

/// Up to `count` of `all`, from the first on, evenly spread.
fn evenly<T>(all: &[T], count: usize) -> impl Iterator<Item = &T> {
    let count = count.min(all.len());
    (0..count).map(move |i| &all[i * all.len() / count])
}
