//! One image file to square RGB pixels.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// An image that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Below the root of the image folder, `/` between components.
    pub path: String,
    pub reason: String,
}

/// An image in its own size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    /// `height * width * 3` bytes, row by row.
    pub pixels: Vec<u8>,
}

/// Decodes the bytes of a file by their content (PNG, JPEG, the first frame of a GIF, BMP, WebP).
///
/// Transparency is composited on white, 16-bit values are rounded to 8, grey becomes RGB; an orientation tag is not
/// applied.
///
/// # Errors
/// Why the image is broken, or that it has more than `max_pixels`, which its header already tells.
pub fn rgb(bytes: &[u8], max_pixels: u64) -> Result<Rgb, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.format() {
        None => return Err("its content is no PNG, JPEG, GIF, BMP or WebP image".to_owned()),
        Some(ImageFormat::Jpeg) if !jpeg_is_whole(bytes) => {
            return Err("it is cut: no end mark follows its last scan".to_owned());
        }
        Some(_) => {}
    }
    // A 16-bit RGBA image takes 8 bytes a pixel; as much again is left to the decoder.
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_pixels.saturating_mul(16).max(1 << 20));
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, max_pixels)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    Ok(Rgb { width, height, pixels: on_white(image) })
}

/// Refuses an image without pixels or with too many.
pub(super) fn check_pixels(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    if (1..=max_pixels).contains(&(u64::from(width) * u64::from(height))) {
        return Ok(());
    }
    Err(format!("it has {width} x {height} pixels, expected 1 to max_pixels = {max_pixels}"))
}

/// Decodes `path` as [`rgb`] does, and resizes it to `size * size * 3` bytes, row by row. The resize is the antialiased
/// bilinear one of Pillow (`resize((size, size), BILINEAR)`), to within 1.
///
/// # Errors
/// As [`rgb`].
pub fn decode(path: &Path, size: u32, max_pixels: u64) -> Result<Vec<u8>, String> {
    let image = rgb(&fs::read(path).map_err(|e| e.to_string())?, max_pixels)?;
    resized(&image.pixels, image.width, image.height, size)
}

/// Whether an end mark (FF D9) follows the last start of a scan (FF DA); neither occurs within a scan.
///
/// The decoder would fill what is missing with grey and say nothing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    last([0xff, 0xd9]) > last([0xff, 0xda])
}

/// RGB bytes over a white page.
fn on_white(image: DynamicImage) -> Vec<u8> {
    if !image.color().has_alpha() {
        return image.into_rgb8().into_raw();
    }
    let over = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    image.into_rgba8().pixels().flat_map(|&image::Rgba([r, g, b, a])| [r, g, b].map(|v| over(v, a))).collect()
}

/// Resized pixels, `size * size * 3` bytes.
pub(super) fn resized(rgb: &[u8], width: u32, height: u32, size: u32) -> Result<Vec<u8>, String> {
    let source = ImageRef::new(width, height, rgb, PixelType::U8x3).map_err(|e| e.to_string())?;
    let mut target = Image::new(size, size, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    Ok(target.into_vec())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Images of every format and mode, and what Pillow makes of them at 8 x 8; `make.py` beside them made both.
    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images")
    }

    #[test]
    fn every_format_and_mode_equals_pillow_to_within_one() {
        let expected = fs::read_to_string(fixtures().join("expected.txt")).unwrap();
        assert_eq!(expected.lines().count(), 13);
        for line in expected.lines() {
            let (name, values) = line.split_once(' ').unwrap();
            let values: Vec<u8> = values.split(' ').map(|v| v.parse().unwrap()).collect();
            let found = decode(&fixtures().join(name), 8, 1000).unwrap();
            assert_eq!(found.len(), values.len());
            // JPEG decoders may differ by one before the resize.
            let off = found.iter().zip(&values).map(|(&a, &b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 1, "{name}: off by {off}");
        }
    }

    #[test]
    fn an_image_of_the_right_size_keeps_its_pixels() {
        let rgb: Vec<u8> = (0..8 * 8 * 3).map(|i| (i * 37 % 251) as u8).collect();
        assert_eq!(resized(&rgb, 8, 8, 8).unwrap(), rgb);
    }

    #[test]
    fn the_content_decides_not_the_name() {
        let room = tempfile::tempdir().unwrap();
        let lying = room.path().join("jpeg.png");
        fs::copy(fixtures().join("photo.jpg"), &lying).unwrap();
        assert_eq!(decode(&lying, 8, 1000), decode(&fixtures().join("photo.jpg"), 8, 1000));
        fs::write(&lying, "no image at all").unwrap();
        assert!(decode(&lying, 8, 1000).unwrap_err().contains("content"));
    }

    #[test]
    fn a_cut_file_is_broken_unless_nothing_of_the_image_is_missing() {
        let room = tempfile::tempdir().unwrap();
        for name in ["rgba.png", "photo.jpg", "progressive.jpg", "rgb.bmp", "two_frames.gif", "lossless.webp"] {
            let whole = decode(&fixtures().join(name), 8, 1000).unwrap();
            let bytes = fs::read(fixtures().join(name)).unwrap();
            let path = room.path().join(name);
            let mut broken = 0;
            for cut in 0..bytes.len() {
                fs::write(&path, &bytes[..cut]).unwrap();
                match decode(&path, 8, 1000) {
                    Ok(pixels) => assert!(pixels == whole, "{name} cut at {cut} gives another image"),
                    Err(_) => broken += 1,
                }
            }
            assert!(broken > 400, "{name}: only {broken} of {} cuts noticed", bytes.len());
        }
    }

    #[test]
    fn a_header_that_promises_too_many_pixels_is_refused_without_decoding() {
        let mut png = fs::read(fixtures().join("rgb.png")).unwrap();
        // Width of the IHDR chunk, and its checksum: CRC-32 over type and data.
        png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("bomb.png");
        fs::write(&path, png).unwrap();
        let reason = decode(&path, 8, 178_956_970).unwrap_err();
        assert!(reason.contains("60000 x 60000"), "{reason}");
        let (small, limit) = (fixtures().join("upscaled.png"), 30);
        assert!(decode(&small, 8, limit).is_ok() && decode(&small, 8, limit - 1).unwrap_err().contains("5 x 6"));
    }
}
