//! Exact ranks of the matches of every query, by counting.
//!
//! Every metric of retrieval follows from the ranks of the few rows of a query's own class, its *matches*. So no list of
//! neighbours is kept: the similarities of the matches are computed first, in 64 bits, and one pass over all similarities
//! counts, for each match, the rows of other classes that rank above it. The pass goes tile by tile over 32-bit products; where
//! the queries are searched themselves, each tile above the diagonal serves its rows and its columns. A similarity too near to a
//! match's to decide in 32 bits is computed in 64: pair by pair, or for a whole tile where there are many, as in
//! vectors that have collapsed onto one point. Counts are integers, so neither the tiles nor the threads can change them.
//!
//! A match whose rank has passed R no longer counts in any metric, except for the first one; it is dropped, and what is
//! below the last match still of interest is skipped by a loop of plain comparisons.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::index::Index;
use crate::math::product::{Onto, View, serial_product};
use crate::math::real::Real;

/// Which of two rows of equal similarity comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ties {
    /// The one with the lower index.
    #[default]
    Index,
    /// The one of the query's class, as in the official evaluation of In-Shop.
    Optimistic,
}

/// A search: queries, and the rows to rank for them.
pub(super) struct Search<'a, 'b, T> {
    pub queries: &'a Index<'b, T>,
    pub query_labels: &'a [u32],
    /// None: the queries search one another, and never find themselves.
    pub gallery: Option<(&'a Index<'b, T>, &'a [u32])>,
    pub ties: Ties,
    /// Rank every match, not only the first one and those among the R nearest.
    pub all: bool,
    /// Rows and columns of a tile.
    pub tile: usize,
    /// Matches in memory at a time, except the last query's.
    pub most_matches: usize,
}

/// Rows and columns of a tile: products of this size run near the machine's peak rate, and their result is 4 MiB.
pub(super) const TILE: usize = 1024;
/// 400 MiB of matches. Beyond, the queries are processed in bands, which search one another twice.
pub(super) const MOST_MATCHES: usize = 1 << 24;

/// One row of the query's class.
struct Match {
    similarity: f64,
    row: u32,
    /// Rows of other classes that rank above it and not above the match before it, except those in `Block::above`.
    passed: u32,
}

/// Some queries and what has been counted for them.
#[derive(Default)]
struct Block {
    /// Of each query: a 32-bit similarity below `cut` is above no match, one beyond `top` above all. Both are infinite
    /// where nothing is to be counted.
    cut: Vec<f32>,
    top: Vec<f32>,
    /// Rows above all matches, as found by comparison with `top`.
    above: Vec<u32>,
    /// Each query's matches, nearest first.
    matches: Vec<Match>,
    starts: Vec<usize>,
    /// Of each query: how many matches are still of interest, and the sum of their `passed`.
    live: Vec<u32>,
    passed: Vec<u32>,
}

impl<T: Real> Search<'_, '_, T> {
    /// Maps the ranks, from 1, of each query's matches with `visit(query, ranks)`: ascending, and
    /// without those beyond R unless `all` is set; empty if the query has no match.
    pub fn ranks<V: Send>(&self, visit: impl Fn(usize, &[usize]) -> V + Sync) -> Vec<V> {
        let (_, gallery_labels) = self.searched();
        let mut members = FxHashMap::<u32, Vec<u32>>::default();
        for (row, &label) in gallery_labels.iter().enumerate() {
            members.entry(label).or_default().push(row as u32);
        }
        let blocks = self.queries.len().div_ceil(self.tile);
        let mut found = Vec::with_capacity(self.queries.len());
        let mut first = 0;
        while first < blocks {
            // As many blocks as the memory allows for.
            let mut matches = 0;
            let fits = (first..blocks).take_while(|&block| {
                let size = |query: usize| members.get(&self.query_labels[query]).map_or(0, Vec::len);
                matches += self.rows(block).map(size).sum::<usize>();
                matches <= self.most_matches
            });
            let band = first..first + fits.count().max(1);
            first = band.end;
            found.extend(self.band(band, &members, &visit));
        }
        found
    }

    fn searched(&self) -> (&Index<'_, T>, &[u32]) {
        self.gallery.unwrap_or((self.queries, self.query_labels))
    }

    /// The queries of a block.
    fn rows(&self, block: usize) -> Range<usize> {
        block * self.tile..((block + 1) * self.tile).min(self.queries.len())
    }

    fn band<V: Send>(
        &self,
        band: Range<usize>,
        members: &FxHashMap<u32, Vec<u32>>,
        visit: &(impl Fn(usize, &[usize]) -> V + Sync),
    ) -> Vec<V> {
        let columns = self.searched().0.len().div_ceil(self.tile);
        let blocks: Vec<Mutex<Block>> =
            band.clone().into_par_iter().map(|block| Mutex::new(self.block(block, members))).collect();
        // Within the band each pair of blocks is visited once.
        let mirrored = |column: usize| self.gallery.is_none() && band.contains(&column);
        let tiles: Vec<(usize, usize)> = band
            .clone()
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .filter(|&(row, column)| !(mirrored(column) && column < row))
            .collect();
        tiles.into_par_iter().for_each_init(Tile::default, |tile, (row, column)| {
            self.fill(tile, row, column);
            let block = |block: usize| lock(&blocks[block - band.start]);
            // The lower block is always locked first.
            let mut rows = block(row);
            let mut columns = (mirrored(column) && column > row).then(|| block(column));
            tile.count(&mut rows, columns.as_deref_mut());
            tile.settle(self, &mut rows, columns.as_deref_mut());
        });
        let finished = blocks.into_par_iter().zip(band).flat_map_iter(|(block, at)| {
            let block = block.into_inner().unwrap_or_else(PoisonError::into_inner);
            let first = self.rows(at).start;
            (0..block.cut.len()).map(move |row| visit(first + row, &block.ranks(row))).collect::<Vec<V>>()
        });
        finished.collect()
    }

    /// A block of queries with the similarities of their matches.
    fn block(&self, block: usize, members: &FxHashMap<u32, Vec<u32>>) -> Block {
        let (gallery, _) = self.searched();
        let mut found = Block { starts: vec![0], ..Block::default() };
        for query in self.rows(block) {
            let own = |row: &&u32| !(self.gallery.is_none() && **row as usize == query);
            let rows = members.get(&self.query_labels[query]).map_or(&[][..], Vec::as_slice).iter().filter(own);
            let similarity = |row: &u32| self.queries.similarity(query, gallery, *row as usize);
            let start = found.matches.len();
            found.matches.extend(rows.map(|row| Match { similarity: similarity(row), row: *row, passed: 0 }));
            found.matches[start..]
                .sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.row.cmp(&b.row)));
            found.starts.push(found.matches.len());
            let top = found.matches.get(start).map(|first| ((first.similarity + gallery.slack()) as f32).next_up());
            found.top.push(top.unwrap_or(f32::INFINITY));
            found.cut.push(f32::INFINITY);
            found.above.push(0);
            found.passed.push(0);
            found.live.push((found.matches.len() - start) as u32);
            found.lower(found.cut.len() - 1, gallery.slack());
        }
        found
    }

    /// Computes the similarities of a tile.
    fn fill(&self, tile: &mut Tile, row: usize, column: usize) {
        let (gallery, _) = self.searched();
        let rows = self.rows(row);
        let first = column * self.tile;
        let width = self.tile.min(gallery.len() - first);
        tile.place = Place { rows: rows.clone(), columns: first..first + width };
        (tile.width, tile.asked) = (width, 0);
        tile.products.clear();
        tile.similarities.resize(rows.len() * width, 0.0);
        serial_product(
            self.queries.block(rows.start, rows.len()),
            gallery.block(first, width).transposed(),
            Onto::Replace,
            &mut tile.similarities,
        );
        if self.gallery.is_none() && row == column {
            tile.similarities.iter_mut().step_by(width + 1).for_each(|own| *own = f32::NEG_INFINITY);
        }
    }

    /// Counts row `found` of what is searched, whose similarity in 32 bits is `near`, for one query of a block.
    fn meet(&self, block: &mut Block, at: usize, [query, found]: [usize; 2], near: f32, doubt: Doubt<'_>) {
        let (gallery, labels) = self.searched();
        if labels[found] == self.query_labels[query] {
            return;
        }
        let live = &block.matches[block.starts[at]..][..block.live[at] as usize];
        let mut place = between(live, f64::from(near), gallery.slack());
        if place.start < place.end
            && let Some(near) = self.wide_product(doubt)
        {
            place = between(live, near, gallery.wide_slack());
        }
        if place.start < place.end {
            let similarity = self.queries.similarity(query, gallery, found);
            let below = |m: &Match| match self.ties {
                _ if similarity != m.similarity => similarity < m.similarity,
                Ties::Index => found as u32 > m.row,
                Ties::Optimistic => true,
            };
            place.start += live[place.clone()].partition_point(below);
        }
        if place.start < live.len() {
            block.matches[block.starts[at] + place.start].passed += 1;
            block.passed[at] += 1;
            self.give_up(block, at);
        }
    }

    /// The 64-bit product of a pair of the tile; once enough are requested, all of the tile are computed.
    fn wide_product(&self, Doubt { tile, pair, asked, products }: Doubt<'_>) -> Option<f64> {
        *asked += 1;
        if products.is_empty() && *asked > tile.rows.len() * tile.columns.len() / 64 {
            let (gallery, _) = self.searched();
            let [rows, columns] =
                [self.queries.wide_block(tile.rows.clone()), gallery.wide_block(tile.columns.clone())];
            let dim = self.queries.dim();
            products.resize(tile.rows.len() * tile.columns.len(), 0.0);
            let columns = View::new(&columns, tile.columns.len(), dim).transposed();
            serial_product(View::new(&rows, tile.rows.len(), dim), columns, Onto::Replace, products);
        }
        products.get(pair).copied()
    }

    /// Drops the matches whose rank has passed R.
    fn give_up(&self, block: &mut Block, at: usize) {
        let matches = &block.matches[block.starts[at]..block.starts[at + 1]];
        let mut live = block.live[at];
        while !self.all && live > 1 && (live + block.passed[at] + block.above[at]) as usize > matches.len() {
            live -= 1;
            block.passed[at] -= matches[live as usize].passed;
        }
        if live != block.live[at] {
            block.live[at] = live;
            block.lower(at, self.queries.slack());
        }
    }
}

impl Block {
    /// Sets `cut` by the last match still of interest.
    fn lower(&mut self, at: usize, slack: f64) {
        let last = (self.starts[at] + self.live[at] as usize).checked_sub(1);
        if let Some(last) = last.filter(|_| self.live[at] > 0) {
            self.cut[at] = ((self.matches[last].similarity - slack) as f32).next_down();
        }
    }

    fn ranks(&self, at: usize) -> Vec<usize> {
        let mut above = self.above[at] as usize;
        let live = &self.matches[self.starts[at]..][..self.live[at] as usize];
        let ranks = live.iter().enumerate().map(|(before, m)| {
            above += m.passed as usize;
            before + above + 1
        });
        ranks.collect()
    }
}

/// The matches that a row may rank above and the next one, given its similarity up to `slack`: a range of places, of which
/// the row has one; the only one, if it is empty.
fn between(live: &[Match], near: f64, slack: f64) -> Range<usize> {
    let first = live.partition_point(|m| near < m.similarity - slack);
    first..first + live[first..].partition_point(|m| near <= m.similarity + slack)
}

/// The rows and columns of a tile.
#[derive(Default, Clone)]
struct Place {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// A pair whose similarity 32 bits cannot place, and the 64-bit products of its tile.
struct Doubt<'a> {
    tile: &'a Place,
    /// Where its similarity is in the tile.
    pair: usize,
    /// How many pairs have been in doubt.
    asked: &'a mut usize,
    /// The products of the tile in 64 bits; empty until enough pairs are in doubt.
    products: &'a mut Vec<f64>,
}

/// The similarities of two blocks.
#[derive(Default)]
struct Tile {
    place: Place,
    /// How many columns there are.
    width: usize,
    similarities: Vec<f32>,
    /// See [`Doubt`].
    asked: usize,
    products: Vec<f64>,
    /// For each stretch of `STRETCH` columns of a row: whether a similarity is between `cut` and `top`, of its row's query
    /// (bit 0) and of its column's (bit 1).
    between: Vec<u8>,
}

/// Columns that are compared at once.
const STRETCH: usize = 64;

impl Tile {
    /// Counts what is certain by comparison alone, and marks where that does not suffice.
    fn count(&mut self, rows: &mut Block, columns: Option<&mut Block>) {
        Arch::new().dispatch(Count { tile: self, rows, columns });
    }

    /// Counts those between, one by one.
    fn settle<T: Real>(&mut self, search: &Search<'_, '_, T>, rows: &mut Block, mut columns: Option<&mut Block>) {
        let Self { place: tile, width, similarities, between, asked, products } = self;
        let stretches = width.div_ceil(STRETCH);
        for (row, line) in similarities.chunks_exact(*width).enumerate() {
            search.give_up(rows, row);
            let noted = &between[row * stretches..(row + 1) * stretches];
            for (at, _) in noted.iter().enumerate().filter(|(_, noted)| **noted > 0) {
                for (lane, &near) in line[at * STRETCH..].iter().take(STRETCH).enumerate() {
                    let column = at * STRETCH + lane;
                    let (query, found) = (tile.rows.start + row, tile.columns.start + column);
                    let pair = row * *width + column;
                    if near >= rows.cut[row] && near <= rows.top[row] {
                        search.meet(rows, row, [query, found], near, Doubt { tile, pair, asked, products });
                    }
                    if let Some(columns) = columns.as_deref_mut()
                        && near >= columns.cut[column]
                        && near <= columns.top[column]
                    {
                        search.meet(columns, column, [found, query], near, Doubt { tile, pair, asked, products });
                    }
                }
            }
        }
        if let Some(columns) = columns {
            (0..*width).for_each(|column| search.give_up(columns, column));
        }
    }
}

/// The loop over a tile that every pair of rows passes through, in SIMD: the compiler does not vectorise it.
struct Count<'a> {
    tile: &'a mut Tile,
    rows: &'a mut Block,
    columns: Option<&'a mut Block>,
}

impl WithSimd for Count<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tile: Tile { width, similarities, between, .. }, rows, mut columns } = self;
        between.clear();
        for (row, line) in similarities.chunks_exact(*width).enumerate() {
            let (cut, top) = (rows.cut[row], rows.top[row]);
            for (at, stretch) in line.chunks(STRETCH).enumerate() {
                let (above, open) = compare(simd, stretch, cut, top);
                rows.above[row] += above;
                let mut noted = u8::from(open);
                if let Some(Block { cut, top, above, .. }) = columns.as_deref_mut() {
                    let range = at * STRETCH..at * STRETCH + stretch.len();
                    let bounds = [&cut[range.clone()], &top[range.clone()]];
                    noted |= u8::from(compare_each(simd, stretch, bounds, &mut above[range])) << 1;
                }
                between.push(noted);
            }
        }
    }
}

/// How many of `stretch` are above `top`, and whether one is from `cut` to there.
#[inline(always)]
fn compare<S: Simd>(simd: S, stretch: &[f32], cut: f32, top: f32) -> (u32, bool) {
    let [one, zero] = [1.0, 0.0].map(|x| simd.splat_f32s(x));
    let (cuts, tops) = (simd.splat_f32s(cut), simd.splat_f32s(top));
    let (vectors, rest) = S::as_simd_f32s(stretch);
    let (mut above, mut reached) = (zero, zero);
    for &near in vectors {
        above = simd.add_f32s(above, simd.select_f32s(simd.less_than_f32s(tops, near), one, zero));
        reached = simd.add_f32s(reached, simd.select_f32s(simd.less_than_or_equal_f32s(cuts, near), one, zero));
    }
    let [mut above, mut reached] = [above, reached].map(|counts| simd.reduce_sum_f32s(counts) as u32);
    for &near in rest {
        above += u32::from(near > top);
        reached += u32::from(near >= cut);
    }
    (above, reached > above)
}

/// The same with bounds of each element's own: adds to `above`, and says whether one is from its `cut` to its `top`.
#[inline(always)]
fn compare_each<S: Simd>(simd: S, stretch: &[f32], [cut, top]: [&[f32]; 2], above: &mut [u32]) -> bool {
    let [one, zero] = [1, 0].map(|x| simd.splat_u32s(x));
    let (vectors, rest) = S::as_simd_f32s(stretch);
    let ((cuts, last_cut), (tops, last_top)) = (S::as_simd_f32s(cut), S::as_simd_f32s(top));
    let (counts, last_count) = S::as_mut_simd_u32s(above);
    let mut open = zero;
    for (((&near, &cut), &top), above) in vectors.iter().zip(cuts).zip(tops).zip(counts) {
        let over = simd.select_u32s(simd.less_than_f32s(top, near), one, zero);
        let reached = simd.select_u32s(simd.less_than_or_equal_f32s(cut, near), one, zero);
        *above = simd.add_u32s(*above, over);
        open = simd.or_u32s(open, simd.xor_u32s(reached, over));
    }
    let mut between = false;
    for (((near, cut), top), above) in rest.iter().zip(last_cut).zip(last_top).zip(last_count) {
        *above += u32::from(near > top);
        between |= near >= cut && near <= top;
    }
    between || simd.first_true_m32s(simd.less_than_u32s(zero, open)) < S::U32_LANES
}

fn lock(block: &Mutex<Block>) -> MutexGuard<'_, Block> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
