//! Image files to RGB pixels, and pixels to other sizes.
//!
//! JPEG is decoded by a port of libjpeg-turbo with bit-identical output, which is also that of Pillow;
//! docs/decisions/0009 says why. Everything else is decoded by the `image` crate. Resizing is the antialiased bilinear
//! filter of Pillow, on the machine's vector instructions. An orientation tag is never applied: the published protocols
//! open images with Pillow, which leaves it.

use std::cell::RefCell;
use std::io::Cursor;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8x3, U8x4};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use libjpeg_turbo_rs::{DecodeWarning, PixelFormat, ScalingFactor};

use super::crop::{Region, Size};
use super::pixels::{Bitmap, Stored, bytes as rgb_len, copy_part};
use crate::contained::contained;
use crate::format::{self, Known};

/// An image that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// Decodes the bytes of a file by their content (PNG, JPEG, the first frame of a GIF, BMP, WebP, PNM), as [`Decoder::decode`].
///
/// # Errors
/// As [`Decoder::decode`].
pub fn rgb(bytes: &[u8], max_pixels: u64) -> Result<Rgb, String> {
    decoder(|decoder| {
        let size = decoder.decode(bytes, max_pixels, None)?.size;
        let mut pixels = vec![0; rgb_len(size)];
        decoder.resize(Region::whole(size), size, &mut pixels)?;
        Ok(Rgb { width: size[1], height: size[0], pixels })
    })
}

/// Refuses an image without pixels or with too many.
pub(super) fn check_pixels(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    if (1..=max_pixels).contains(&(u64::from(width) * u64::from(height))) {
        return Ok(());
    }
    Err(format!("it has {width} x {height} pixels, expected 1 to max_pixels = {max_pixels}"))
}

/// Lends a thread's own decoder.
pub fn decoder<R>(with: impl FnOnce(&mut Decoder) -> R) -> R {
    thread_local! {
        static OWN: RefCell<Decoder> = RefCell::default();
    }
    OWN.with_borrow_mut(with)
}

/// Decodes and resizes images, one after another, reusing its buffers.
#[derive(Default)]
pub struct Decoder {
    resizer: Resizer,
    /// The current image.
    pixels: Vec<u8>,
    size: Size,
    /// Rows and columns that the image fills: fewer than it has where the transform rounded them up.
    filled: [f64; 2],
    /// A resized one with four channels.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Decodes a file by its content.
    ///
    /// Transparency is composited on white, 16-bit values are rounded to 8, grey and CMYK become RGB as in Pillow.
    ///
    /// With `target`, the size that an image of a given size is to be resized to, a JPEG may be decoded at a half, a quarter
    /// or an eighth of its size, in the discrete cosine transform: the smallest that still has twice as many rows and columns
    /// as the target.
    ///
    /// # Errors
    /// Why the image is broken, or that it has more than `max_pixels`, by its header.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        max_pixels: u64,
        target: Option<&dyn Fn(Size) -> Size>,
    ) -> Result<Bitmap<'_>, String> {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        match reader.format() {
            None => return Err(not_read(bytes)),
            Some(format) if !format.reading_enabled() => return Err(not_read(bytes)),
            Some(ImageFormat::Jpeg) => contained(|| self.decode_jpeg(bytes, max_pixels, target))?,
            Some(_) => {
                // A 16-bit RGBA image takes 8 bytes per pixel; the decoder may use as much again.
                let mut limits = Limits::default();
                limits.max_alloc = Some(max_pixels.saturating_mul(16).max(1 << 20));
                reader.limits(limits);
                let (pixels, size) = contained(|| {
                    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
                    let (width, height) = decoder.dimensions();
                    check_pixels(width, height, max_pixels)?;
                    let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
                    Ok((on_white(image), [height, width]))
                })?;
                self.pixels = pixels;
                self.hold(size);
            }
        }
        Ok(self.bitmap())
    }

    fn decode_jpeg(
        &mut self,
        bytes: &[u8],
        max_pixels: u64,
        target: Option<&dyn Fn(Size) -> Size>,
    ) -> Result<(), String> {
        if !jpeg_is_whole(bytes) {
            return Err("it is cut: no end mark follows its last scan".to_owned());
        }
        let mut jpeg = libjpeg_turbo_rs::Decoder::new(bytes).map_err(|e| e.to_string())?;
        let (height, width) = (u32::from(jpeg.header().height), u32::from(jpeg.header().width));
        check_pixels(width, height, max_pixels)?;
        jpeg.set_max_pixels(max_pixels.try_into().unwrap_or(usize::MAX));
        let mut size = [height, width];
        let part = target.map(|target| dct_part(size, target(size)));
        if let Some(part) = part {
            jpeg.set_scale(ScalingFactor::try_new(1, part).map_err(|e| e.to_string())?);
            size = [height.div_ceil(part), width.div_ceil(part)];
        }
        let inks = jpeg.header().components.len() == 4;
        jpeg.set_output_format(if inks { PixelFormat::Cmyk } else { PixelFormat::Rgbx });
        self.pixels.resize(size[0] as usize * size[1] as usize * 4, 0);
        let decoded = jpeg.decode_image_into(&mut self.pixels).map_err(|e| e.to_string())?;
        if [decoded.height, decoded.width] != size.map(|side| side as usize) {
            return Err(format!(
                "it decodes to {} x {} pixels, not {} x {}",
                decoded.width, decoded.height, size[1], size[0]
            ));
        }
        if decoded.warnings.iter().any(|warning| matches!(warning, DecodeWarning::TruncatedData { .. })) {
            return Err("it is cut: its last scan has too few blocks".to_owned());
        }
        if inks {
            inks_to_rgb(&mut self.pixels);
        }
        self.hold(size);
        if let Some(part) = part {
            self.filled = [height, width].map(|side| f64::from(side) / f64::from(part));
        }
        Ok(())
    }

    /// Sets the size of the current image.
    fn hold(&mut self, size: Size) {
        self.size = size;
        self.filled = size.map(f64::from);
    }

    /// Takes over an image of a set, decoding it if needed.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn stored(&mut self, stored: Stored<'_>) -> Result<Bitmap<'_>, String> {
        if stored.encoded {
            return self.decode(stored.bytes, u64::MAX, None);
        }
        self.load(stored.size, stored.bytes);
        Ok(self.bitmap())
    }

    /// Takes over RGB pixels.
    ///
    /// # Panics
    /// If they are not of that size.
    pub fn load(&mut self, size: Size, pixels: &[u8]) {
        assert_eq!(pixels.len(), rgb_len(size), "the pixels are of the size");
        self.pixels.clear();
        self.pixels.extend_from_slice(pixels);
        self.hold(size);
    }

    /// The current image.
    pub fn bitmap(&self) -> Bitmap<'_> {
        Bitmap { size: self.size, bytes: &self.pixels }
    }

    /// Writes a part of the current image to `out`, resized to `size`, RGB. Pixels outside the part have no influence, as
    /// if it had been cut out first.
    ///
    /// # Errors
    /// If the part is not within the image, or has no pixel.
    ///
    /// # Panics
    /// If `out` is not of the size.
    pub fn resize(&mut self, part: Region, size: Size, out: &mut [u8]) -> Result<(), String> {
        assert_eq!(out.len(), rgb_len(size), "the output is of the size");
        let bitmap = Bitmap { size: self.size, bytes: &self.pixels };
        let filled = (part == Region::whole(self.size)).then_some(self.filled);
        if [part.rows, part.columns] == size {
            copy_part(bitmap, part, out);
        } else if bitmap.channels() == 3 {
            resized_into(&mut self.resizer, bitmap, part, filled, size, out)?;
        } else {
            self.scratch.resize(out.len() / 3 * 4, 0);
            resized_into(&mut self.resizer, bitmap, part, filled, size, &mut self.scratch)?;
            copy_part(Bitmap { size, bytes: &self.scratch }, Region::whole(size), out);
        }
        Ok(())
    }

    /// Writes a part of RGB pixels of a size to `out`, as [`Decoder::resize`] does for the current image.
    ///
    /// # Errors
    /// As [`Decoder::resize`]; and if the pixels are not of that size.
    pub fn resize_pixels(
        &mut self,
        of: Size,
        pixels: &[u8],
        part: Region,
        size: Size,
        out: &mut [u8],
    ) -> Result<(), String> {
        let bitmap = Bitmap { size: of, bytes: pixels };
        if [part.rows, part.columns] == size {
            copy_part(bitmap, part, out);
            Ok(())
        } else {
            resized_into(&mut self.resizer, bitmap, part, None, size, out)
        }
    }

    /// Resizes the current image to `size` and writes a part of that to `out`, RGB.
    ///
    /// # Errors
    /// As [`Decoder::rescale`].
    ///
    /// # Panics
    /// If the part is not within `size`, or `out` is not of the size of the part.
    pub fn resize_part(&mut self, size: Size, part: Region, out: &mut [u8]) -> Result<(), String> {
        assert_eq!(out.len(), rgb_len([part.rows, part.columns]), "the output is of the part's size");
        self.rescale(size)?;
        copy_part(self.bitmap(), part, out);
        Ok(())
    }

    /// Resizes the current image.
    ///
    /// # Errors
    /// If there is none.
    pub fn rescale(&mut self, size: Size) -> Result<(), String> {
        if size == self.size {
            return Ok(());
        }
        let bitmap = Bitmap { size: self.size, bytes: &self.pixels };
        self.scratch.resize(size[0] as usize * size[1] as usize * bitmap.channels(), 0);
        resized_into(&mut self.resizer, bitmap, Region::whole(self.size), Some(self.filled), size, &mut self.scratch)?;
        std::mem::swap(&mut self.pixels, &mut self.scratch);
        self.hold(size);
        Ok(())
    }
}

/// Resizes a part of `from`, of which the rows and columns `filled` count if not all do, to `size`, with as many channels.
fn resized_into(
    resizer: &mut Resizer,
    from: Bitmap<'_>,
    part: Region,
    filled: Option<[f64; 2]>,
    size: Size,
    out: &mut [u8],
) -> Result<(), String> {
    match from.channels() {
        3 => resized_as::<U8x3>(resizer, from, part, filled, size, out),
        _ => resized_as::<U8x4>(resizer, from, part, filled, size, out),
    }
}

/// `resized_into` for one kind of pixel: the library's own choice by a value would compile every kind.
fn resized_as<P: PixelTrait + InnerPixel>(
    resizer: &mut Resizer,
    from: Bitmap<'_>,
    part: Region,
    filled: Option<[f64; 2]>,
    size: Size,
    out: &mut [u8],
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("it cannot be resized: {error}");
    let [rows, columns] = filled.unwrap_or([part.rows, part.columns].map(f64::from));
    // The fourth channel is not transparency.
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
    let options = options.crop(0.0, 0.0, columns, rows);
    let source = TypedImageRef::<P>::from_buffer(from.size[1], from.size[0], from.bytes).map_err(|e| failed(&e))?;
    let source = TypedCroppedImage::new(source, part.left, part.top, part.columns, part.rows);
    let source = source.map_err(|e| failed(&e))?;
    let mut target = TypedImage::<P>::from_buffer(size[1], size[0], out).map_err(|e| failed(&e))?;
    resizer.resize_typed(&source, &mut target, &options).map_err(|e| failed(&e))
}

/// The largest of 8, 4 and 2 that an image may be divided by and still have twice the rows and columns of `target`; else 1.
fn dct_part(size: Size, target: Size) -> u32 {
    let fits = |part: &u32| (0..2).all(|side| u64::from(size[side].div_ceil(*part)) >= 2 * u64::from(target[side]));
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// The formats that are read, for messages.
pub(super) const FORMATS: &str = "JPEG, PNG, GIF, BMP, WebP or PNM";

/// Whether an image of that format is decoded.
pub(super) fn is_read(known: Known) -> bool {
    matches!(known, Known::Jpeg | Known::Png | Known::Gif | Known::Bmp | Known::WebP | Known::Pnm)
}

/// What the bytes are instead of an image.
fn not_read(bytes: &[u8]) -> String {
    match format::recognise(bytes) {
        Some(known) if known.is_image() => format!("it is {known}, which is not read; convert it to {FORMATS}"),
        Some(known) => format!("it is {known}, not an image{}", known.advice()),
        None => format!("its content is not a {FORMATS} image"),
    }
}

/// Whether an end mark (FF D9) follows the last start of a scan (FF DA); neither occurs within a scan.
///
/// The decoder would silently fill what is missing with grey.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // Backwards from the end, where the mark of a whole file is.
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    let Some(end) = last([0xff, 0xd9]) else { return false };
    !bytes[end..].windows(2).any(|pair| pair == [0xff, 0xda]) || jpeg_ends(bytes)
}

/// Whether the image reaches its end mark, going from mark to mark: what follows it may look like the start of a scan.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    let mut scans = 0;
    loop {
        match bytes.get(at..) {
            // Data of a scan, or fill bytes: search for the next mark.
            Some([0xff, 0 | 0x01 | 0xd0..=0xd7, ..]) => at += 2,
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xd9, ..]) => return scans > 0,
            Some([0xff, mark, high, low, ..]) => {
                scans += usize::from(*mark == 0xda);
                at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
            }
            Some([_, _, ..]) => at += 1,
            _ => return false,
        }
    }
}

/// Cyan, magenta, yellow and black in place to RGB and a fourth byte, as Pillow converts them: the inks of every JPEG
/// are assumed to be inverted, as Adobe's programs store them.
fn inks_to_rgb(pixels: &mut [u8]) {
    for pixel in pixels.as_chunks_mut::<4>().0 {
        let inks = pixel.map(|ink| u32::from(255 - ink));
        let white = 255 - inks[3];
        for (to, ink) in pixel.iter_mut().zip(inks) {
            // Rounded product over 255.
            let product = ink * white + 128;
            *to = (white - (((product >> 8) + product) >> 8)) as u8;
        }
    }
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

#[cfg(test)]
mod tests;
