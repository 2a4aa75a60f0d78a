//! The `p` rows of a snapshot, kept small: each text once, a row as the numbers of its columns' texts and its place.
//!
//! Made by `snapshot`, read by `index` (columns) and by everything that shows a row ([`Table::row`]).

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use super::source::Row;
use crate::model::RuleRef;

/// The number of a text.
pub type Symbol = u32;

/// Texts, each kept once and found by its number or itself.
#[derive(Debug, Default)]
pub struct Texts {
    all: String,
    ends: Vec<u32>,
    known: HashTable<Symbol>,
    hasher: RandomState,
}

impl Texts {
    /// The text of a number; empty for one that was never given.
    pub fn text(&self, symbol: Symbol) -> &str {
        text(&self.all, &self.ends, symbol)
    }

    /// The number of a text, when it is known.
    pub fn find(&self, wanted: &str) -> Option<Symbol> {
        let hash = self.hasher.hash_one(wanted);
        self.known.find(hash, |symbol| self.text(*symbol) == wanted).copied()
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The number of a text, a new one when it was not known; `None` when there are too many of them.
    fn number(&mut self, wanted: &str) -> Option<Symbol> {
        let Self { all, ends, known, hasher } = self;
        let hash = hasher.hash_one(wanted);
        if let Some(symbol) = known.find(hash, |symbol| text(all, ends, *symbol) == wanted) {
            return Some(*symbol);
        }
        let symbol = Symbol::try_from(ends.len()).ok()?;
        all.push_str(wanted);
        ends.push(u32::try_from(all.len()).ok()?);
        known.insert_unique(hash, symbol, |symbol| hasher.hash_one(text(all, ends, *symbol)));
        Some(symbol)
    }

    fn shrink(&mut self) {
        let Self { all, ends, known, hasher } = self;
        all.shrink_to_fit();
        ends.shrink_to_fit();
        known.shrink_to_fit(|symbol| hasher.hash_one(text(all, ends, *symbol)));
    }
}

fn text<'a>(all: &'a str, ends: &[u32], symbol: Symbol) -> &'a str {
    let at = symbol as usize;
    let start = at.checked_sub(1).and_then(|before| ends.get(before)).map_or(0, |end| *end as usize);
    let end = ends.get(at).map_or(start, |end| *end as usize);
    all.get(start..end).unwrap_or_default()
}

/// Where a row stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: u16,
    line: u32,
}

/// The rows, in evaluation order.
#[derive(Debug, Default)]
pub struct Table {
    texts: Texts,
    /// Columns of a row.
    width: usize,
    columns: Vec<Symbol>,
    places: Vec<Place>,
    files: Vec<Arc<str>>,
    /// Rows whose line is not simply the kind and the columns, each after a comma and a space.
    odd: HashMap<u32, Box<str>>,
}

impl Table {
    /// Keeps rows of `width` columns.
    ///
    /// # Errors
    /// When there are more rows, files or texts than can be numbered.
    pub fn new(rows: &[Row], width: usize) -> Result<Self, String> {
        let many = || "the policy has more rows, files or text than one node evaluates".to_owned();
        let mut table = Self { width, ..Self::default() };
        table.columns.reserve_exact(rows.len() * width);
        table.places.reserve_exact(rows.len());
        let mut files: HashMap<Arc<str>, u16> = HashMap::new();
        for (at, row) in (0_u32..).zip(rows) {
            for value in row.values.iter().take(width) {
                table.columns.push(table.texts.number(value).ok_or_else(many)?);
            }
            let file = match files.get(&row.file) {
                Some(file) => *file,
                None => {
                    let file = u16::try_from(table.files.len()).map_err(|_| many())?;
                    table.files.push(Arc::clone(&row.file));
                    files.insert(Arc::clone(&row.file), file);
                    file
                }
            };
            table.places.push(Place { file, line: row.line });
            if row.text != plain(&row.kind, row.values.iter().map(String::as_str)) {
                table.odd.insert(at, row.text.as_str().into());
            }
        }
        if table.columns.len() != rows.len() * width || u32::try_from(rows.len()).is_err() {
            return Err(many());
        }
        table.texts.shrink();
        table.odd.shrink_to_fit();
        Ok(table)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The texts of all columns.
    pub fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The number of a column's text.
    pub fn symbol(&self, row: usize, column: usize) -> Option<Symbol> {
        if column < self.width { self.columns.get(row * self.width + column).copied() } else { None }
    }

    /// A column's text.
    pub fn value(&self, row: usize, column: usize) -> Option<&str> {
        self.symbol(row, column).map(|symbol| self.texts.text(symbol))
    }

    /// The texts of a row's columns.
    pub fn values(&self, row: usize) -> impl Iterator<Item = &str> {
        let symbols = self.columns.get(row * self.width..(row + 1) * self.width).unwrap_or_default();
        symbols.iter().map(|symbol| self.texts.text(*symbol))
    }

    /// The place of a row.
    pub fn rule(&self, row: usize) -> Option<RuleRef> {
        let place = self.places.get(row)?;
        Some(RuleRef { file: Arc::clone(self.files.get(usize::from(place.file))?), line: place.line })
    }

    /// A row as it was read.
    pub fn row(&self, row: usize) -> Option<Row> {
        let RuleRef { file, line } = self.rule(row)?;
        let odd = u32::try_from(row).ok().and_then(|row| self.odd.get(&row));
        let text = odd.map_or_else(|| plain("p", self.values(row)), |text| text.to_string());
        let values = self.values(row).map(str::to_owned).collect();
        Some(Row { kind: "p".to_owned(), values, file, line, text })
    }

    /// All rows as they were read.
    pub fn iter(&self) -> impl Iterator<Item = Row> {
        (0..self.len()).filter_map(|row| self.row(row))
    }
}

fn plain<'a>(kind: &str, values: impl Iterator<Item = &'a str>) -> String {
    let mut text = kind.to_owned();
    for value in values {
        text.push_str(", ");
        text.push_str(value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u32, text: &str) -> Row {
        let mut columns = text.split(',').map(|column| column.trim().to_owned());
        let kind = columns.next().unwrap();
        Row { kind, values: columns.collect(), file: Arc::from("x.csv"), line, text: text.to_owned() }
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let rows = [row(1, "p, bob, /a, GET"), row(4, "p,bob,/é,"), row(9, "p, , /a, GET")];
        let table = Table::new(&rows, 3).unwrap();
        assert_eq!(format!("{:?}", table.iter().collect::<Vec<_>>()), format!("{rows:?}"));
        assert_eq!(table.value(1, 1), Some("/é"));
        assert_eq!((table.value(1, 3), table.value(3, 0), table.texts().len()), (None, None, 5));
        assert_eq!(table.texts().find("/é"), table.symbol(1, 1));
        assert_eq!(table.texts().find("/x"), None);
        assert!(Table::new(&[row(1, "p, a")], 2).is_err());
    }
}
