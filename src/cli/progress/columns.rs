//! Text measured in the columns that it takes on a terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::text;

/// The columns that `text` takes, which holds no escape sequences.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `room` columns; what is left out at its end is marked by `…`.
pub fn cut(text: &str, room: usize) -> String {
    match (width(text) <= room, room) {
        (true, _) => text.to_owned(),
        (false, 0) => String::new(),
        (false, _) => format!("{}…", head(text, room - 1)),
    }
}

/// `text` in at most `room` columns; what is left out is in its middle: names often differ at their end.
pub fn elide(text: &str, room: usize) -> String {
    if width(text) <= room || room < 3 {
        return cut(text, room);
    }
    let tail = (room - 1) / 2;
    let start = head(text, room - 1 - tail);
    let mut end = String::new();
    for c in text.chars().rev() {
        if width(&end) + c.width().unwrap_or(0) > tail {
            break;
        }
        end.insert(0, c);
    }
    format!("{start}…{end}")
}

/// `parts` with a blank between them in at most `room` columns; the longest are elided first.
pub fn join(parts: &[String], room: usize) -> String {
    let room_of_parts = room.saturating_sub(parts.len().saturating_sub(1));
    let needed = |cap: usize| parts.iter().map(|part| width(part).min(cap)).sum::<usize>();
    let longest = parts.iter().map(|part| width(part)).max().unwrap_or(0);
    let cap = (0..=longest).rev().find(|&cap| needed(cap) <= room_of_parts).unwrap_or(0);
    let parts: Vec<String> = parts.iter().map(|part| elide(part, cap)).filter(|part| !part.is_empty()).collect();
    cut(&parts.join(" "), room)
}

/// `text` followed by blanks up to `room` columns.
pub fn padded(text: &str, room: usize) -> String {
    format!("{text}{:1$}", "", room.saturating_sub(width(text)))
}

/// `text`, which may hold colours, broken between words into lines of at most `room` columns, and behind commas in
/// longer words such as names of cells. Other longer words, such as paths to be copied, stay whole.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let columns = |text: &str| width(&text::settled(text));
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let pieces: Vec<&str> = if columns(word) > room { word.split_inclusive(',').collect() } else { vec![word] };
        for (i, piece) in pieces.iter().enumerate() {
            let blank = if i == 0 { " " } else { "" };
            match lines.last_mut() {
                Some(line) if line.is_empty() => line.push_str(piece),
                Some(line) if columns(line) + blank.len() + columns(piece) <= room => {
                    line.push_str(blank);
                    line.push_str(piece);
                }
                _ => lines.push((*piece).to_owned()),
            }
        }
    }
    lines
}

fn head(text: &str, room: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > room
    });
    end.map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_out_is_marked() {
        assert_eq!(cut("contrastive", 6), "contr…");
        assert_eq!(elide("mean_field_multi_similarity", 13), "mean_f…larity");
        assert_eq!(cut("損失損失", 6), "損失…");
        assert_eq!(wrap("a bb ccc dddd", 6), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrap("log: /a/long/path", 6), ["log:", "/a/long/path"]);
        assert_eq!(wrap("of m[a=1,b=22] \x1b[2mok\x1b[0m", 7), ["of", "m[a=1,", "b=22]", "\x1b[2mok\x1b[0m"]);
    }

    #[test]
    fn the_longest_part_gives_way_first() {
        let parts = ["glyphs", "mean_field_contrastive", "seed=0"].map(String::from);
        assert_eq!(join(&parts, 40), "glyphs mean_field_contrastive seed=0");
        assert_eq!(join(&parts, 24), "glyphs mean_…tive seed=0");
    }

    proptest! {
        #[test]
        fn nothing_takes_more_than_its_room(texts in prop::collection::vec(".{0,12}", 0..4), room in 0usize..40) {
            // Callers escape control characters, which have no width.
            let texts: Vec<String> = texts.iter().map(|text| crate::text::escaped(text).into_owned()).collect();
            prop_assert!(width(&join(&texts, room)) <= room);
            for text in texts {
                prop_assert!(width(&cut(&text, room)) <= room && width(&elide(&text, room)) <= room);
            }
        }
    }
}
