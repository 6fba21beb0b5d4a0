//! Queries and what was found for them, as a picture and as one HTML page.
//!
//! Right and wrong differ in three ways, so that no reader depends on colour: the colour of the frame (bluish green and
//! vermilion, which colour-blind readers can distinguish), its line (whole, broken), and a mark.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError};

/// Side of a picture in pixels.
pub const SIDE: u32 = 96;

/// An image and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// `SIDE x SIDE x 3`, RGB.
    pub pixels: Vec<u8>,
    /// Its class.
    pub class: String,
    /// Where it comes from.
    pub path: String,
}

/// A query and its neighbours, nearest first, each with whether it is of the query's class and with its cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub query: Picture,
    pub found: Vec<(Picture, bool, f64)>,
}

/// Okabe and Ito's bluish green, vermilion and grey-blue ink, which stay apart for the colour-blind.
const RIGHT: [u8; 3] = [0x00, 0x9e, 0x73];
const WRONG: [u8; 3] = [0xd5, 0x5e, 0x00];
const INK: [u8; 3] = [0x16, 0x19, 0x1d];
const PAPER: [u8; 3] = [0xff; 3];

/// Pixels of a frame and of the padding around a picture, and of a line of text.
const FRAME: usize = 4;
const GAP: usize = 6;
const TEXT: usize = 14;
/// Pixels between the query and the first neighbour.
const AFTER_QUERY: usize = 18;
/// Side of the mark in a corner.
const MARK: usize = 16;
/// Of a letter, both ways.
const LETTER: usize = 8;

const INNER: usize = SIDE as usize;
const CELL: usize = INNER + 2 * FRAME + GAP;

/// The sheet as a PNG file: a line per query, the query first.
///
/// # Errors
/// [`ImageError`] where it would be too large for the format.
pub fn png(lines: &[Line]) -> Result<Vec<u8>, ImageError> {
    let most = lines.iter().map(|line| line.found.len()).max().unwrap_or(0);
    let mut canvas = Canvas::new(GAP + CELL * (1 + most) + AFTER_QUERY, GAP + (CELL + TEXT) * lines.len());
    for (at, line) in lines.iter().enumerate() {
        let top = GAP + (CELL + TEXT) * at;
        canvas.picture([GAP, top], &line.query, None);
        for (place, (picture, right, _)) in line.found.iter().enumerate() {
            canvas.picture([GAP + AFTER_QUERY + CELL * (1 + place), top], picture, Some(*right));
        }
    }
    encode(&canvas.pixels, canvas.width, canvas.height)
}

fn encode(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file).write_image(pixels, width as u32, height as u32, ExtendedColorType::Rgb8)?;
    Ok(file)
}

struct Canvas {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Canvas {
        Canvas { pixels: PAPER.repeat(width * height), width, height }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.pixels[3 * (y * self.width + x)..][..3].copy_from_slice(&colour);
        }
    }

    /// A picture in its frame, the class below it; a query's frame is thin and has no mark.
    fn picture(&mut self, [left, top]: [usize; 2], picture: &Picture, right: Option<bool>) {
        let side = INNER + 2 * FRAME;
        let (colour, width) = match right {
            Some(true) => (RIGHT, FRAME),
            Some(false) => (WRONG, FRAME),
            None => (INK, 1),
        };
        for y in 0..side {
            for x in 0..side {
                let (near, along) = if x.min(side - 1 - x) < y.min(side - 1 - y) {
                    (x.min(side - 1 - x), y)
                } else {
                    (y.min(side - 1 - y), x)
                };
                let broken = right == Some(false) && along % 12 >= 8;
                // The thin frame is next to its picture.
                if near < FRAME && near >= FRAME - width && !broken {
                    self.set(left + x, top + y, colour);
                }
            }
        }
        for (at, pixel) in picture.pixels.as_chunks().0.iter().enumerate().take(INNER * INNER) {
            self.set(left + FRAME + at % INNER, top + FRAME + at / INNER, *pixel);
        }
        if let Some(right) = right {
            self.mark([left + FRAME + INNER - MARK, top + FRAME], right, colour);
        }
        self.text([left + FRAME, top + side + 3], &picture.class, INNER / LETTER);
    }

    /// A tick or a cross in a box.
    fn mark(&mut self, [left, top]: [usize; 2], right: bool, colour: [u8; 3]) {
        for y in 0..MARK {
            for x in 0..MARK {
                let [a, b] = [x, y].map(|v| v as f32 + 0.5 - MARK as f32 / 2.0);
                let on = if right {
                    let short = (b - a - 4.0).abs() < 1.5 && (-5.0..-0.8).contains(&a);
                    let long = (a + b - 2.0).abs() < 1.5 && (-1.6..5.2).contains(&a);
                    short || long
                } else {
                    ((a - b).abs() < 1.5 || (a + b).abs() < 1.5) && a.abs().max(b.abs()) < 4.6
                };
                self.set(left + x, top + y, if on { PAPER } else { colour });
            }
        }
    }

    /// As many letters of `text` as fit, the last a period doubled where some are missing.
    fn text(&mut self, [left, top]: [usize; 2], text: &str, room: usize) {
        let mut letters: Vec<char> = text.chars().collect();
        if letters.len() > room {
            letters.truncate(room.saturating_sub(2));
            letters.extend(['.', '.']);
        }
        for (at, letter) in letters.into_iter().enumerate() {
            let rows = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).unwrap_or([0x7e; LETTER]);
            for (y, row) in rows.into_iter().enumerate() {
                (0..LETTER)
                    .filter(|x| (row >> x) & 1 == 1)
                    .for_each(|x| self.set(left + LETTER * at + x, top + y, INK));
            }
        }
    }
}

/// The sheet as a self-contained HTML page.
///
/// # Errors
/// [`ImageError`], should a picture not be of its size.
pub fn html(lines: &[Line]) -> Result<String, ImageError> {
    let mut page = String::from(concat!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Nearest neighbours</title>\n<style>\n",
        include_str!("sheet.css"),
        "</style>\n</head>\n<body>\n<main>\n<h1>Nearest neighbours</h1>\n",
        "<p>Each line begins with a query; then come the images nearest to it, by cosine. ",
        "<b class=\"right\">\u{2713}</b> of the query's class, <b class=\"wrong\">\u{2717}</b> of another.</p>\n"
    ));
    for Line { query, found } in lines {
        page.push_str("<section>\n");
        figure(&mut page, query, "query", "query")?;
        for (picture, right, cosine) in found {
            let (kind, mark) = if *right { ("right", '\u{2713}') } else { ("wrong", '\u{2717}') };
            figure(&mut page, picture, kind, &format!("{mark} {cosine:.3}"))?;
        }
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn figure(page: &mut String, picture: &Picture, kind: &str, note: &str) -> Result<(), ImageError> {
    let data = STANDARD.encode(encode(&picture.pixels, INNER, INNER)?);
    let [class, path] = [&picture.class, &picture.path].map(|text| escape(text));
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "<figure class=\"{kind}\"><img src=\"data:image/png;base64,{data}\" width=\"{SIDE}\" height=\"{SIDE}\" alt=\"{class}\" \
         title=\"{path}\"><figcaption><span>{note}</span>{class}</figcaption></figure>"
    );
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(colour: [u8; 3], class: &str) -> Picture {
        Picture { pixels: colour.repeat(INNER * INNER), class: class.to_owned(), path: format!("{class}/1.png") }
    }

    fn lines() -> Vec<Line> {
        let found =
            vec![(picture([10, 20, 30], "cat"), true, 0.9876), (picture([40, 50, 60], "<dog> & \"co\""), false, 0.5)];
        vec![Line { query: picture([1, 2, 3], "cat"), found }]
    }

    #[test]
    fn frames_and_marks_tell_right_from_wrong() {
        let file = png(&lines()).unwrap();
        assert_eq!(file, png(&lines()).unwrap());
        let sheet = image::load_from_memory(&file).unwrap().into_rgb8();
        assert_eq!(sheet.dimensions(), ((GAP + 3 * CELL + AFTER_QUERY) as u32, (GAP + CELL + TEXT) as u32));
        let at = |x: usize, y: usize| sheet.get_pixel(x as u32, y as u32).0;
        let left = |place: usize| GAP + place * CELL + if place > 0 { AFTER_QUERY } else { 0 };
        let inside = |place: usize| at(left(place) + FRAME + 30, GAP + FRAME + 50);
        assert_eq!([inside(0), inside(1), inside(2)], [[1, 2, 3], [10, 20, 30], [40, 50, 60]]);
        let frame = |place: usize| at(left(place), GAP + 24);
        assert_eq!([frame(0), frame(1), frame(2)], [PAPER, RIGHT, WRONG]);
        // The wrong one's frame is broken.
        assert_eq!([at(left(1), GAP + 33), at(left(2), GAP + 33)], [RIGHT, PAPER]);
        // A cross has an arm at the upper left, a tick has none.
        let mark = |place: usize| at(left(place) + FRAME + INNER - MARK + 4, GAP + FRAME + 4);
        assert_eq!(mark(2), PAPER);
        assert_eq!(mark(1), RIGHT);
    }

    #[test]
    fn the_page_stands_alone_and_keeps_names_apart_from_markup() {
        let page = html(&lines()).unwrap();
        assert_eq!(page.matches("<figure").count(), 3);
        assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 3);
        assert!(page.contains("&lt;dog&gt; &amp; &quot;co&quot;") && !page.contains("<dog>"));
        assert!(page.contains("\u{2713} 0.988") && page.contains("\u{2717} 0.500"));
        assert!(!page.contains("http"));
    }
}
