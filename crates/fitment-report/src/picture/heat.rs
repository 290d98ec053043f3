use super::colour;
use crate::analysis::Analysis;
use crate::modules::{Measure, Module};
use crate::text::{escaped, measured};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// More rows than this, such as single experts, are drawn as one row for each layer.
const MOST_ROWS: usize = 160;
const CELL: [usize; 2] = [44, 18];
const LETTER: usize = 7;

/// Layers down, modules across, one cell for each edit; `analyses` has one entry for each module, `None` where it is not
/// computed. Where several edits fall on one cell, the cell shows the largest.
pub fn heat_map(modules: &[Module], analyses: &[Option<Analysis>], measure: Measure) -> String {
    let grid = Grid::of(modules, analyses, measure);
    let names: Vec<String> = short_rows(&grid.rows);
    let left = LETTER * names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 16;
    // Names of columns stand at an angle of 45°.
    let top = grid.columns.iter().map(|name| name.chars().count()).max().unwrap_or(0) * LETTER * 7 / 10 + 20;
    let (width, height) = (grid.columns.len() * CELL[0], grid.rows.len() * CELL[1]);
    let total = [left + width.max(240) + top + 8, top + height + 48];
    let mut out = String::new();
    let title = format!("{}: {} rows, {} columns", measure.title(), grid.rows.len(), grid.columns.len());
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"heat\" role=\"img\" viewBox=\"0 0 {} {}\" width=\"{}\" \
         height=\"{}\" font-family=\"ui-sans-serif, system-ui, sans-serif\" font-size=\"12\"><title>{}</title>",
        total[0],
        total[1],
        total[0],
        total[1],
        escaped(&title)
    );
    for (index, name) in grid.columns.iter().enumerate() {
        let (x, y) = (left + index * CELL[0] + CELL[0] / 2, top - 6);
        let _ = write!(
            out,
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-45 {x} {y})\" fill=\"currentColor\">{}</text>",
            escaped(name)
        );
    }
    for (index, name) in names.iter().enumerate() {
        let y = top + index * CELL[1] + 13;
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" fill=\"currentColor\">{}</text>",
            left - 8,
            escaped(name)
        );
    }
    cells(&mut out, &grid, [left, top]);
    legend(&mut out, &grid, [left, top + height + 14]);
    out.push_str("</svg>");
    out
}

/// What is drawn: names, and values with the module that they belong to.
struct Grid {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(usize, usize), Cell>,
    largest: f64,
}

struct Cell {
    label: String,
    value: Option<f64>,
    edit: usize,
    count: usize,
}

impl Grid {
    fn of(modules: &[Module], analyses: &[Option<Analysis>], measure: Measure) -> Self {
        let full = |module: &Module| row_name(module, module.row.clone());
        let of_layer = |module: &Module| row_name(module, to_first_number(&module.row));
        let mut rows = names(modules.iter().map(full));
        let shortened = rows.len() > MOST_ROWS;
        let row_of = |module: &Module| if shortened { of_layer(module) } else { full(module) };
        if shortened {
            rows = names(modules.iter().map(of_layer));
        }
        rows.sort_by_key(|name| natural(name));
        let columns = names(modules.iter().map(|module| module.column.clone()));
        let place = |list: &[String]| -> BTreeMap<String, usize> {
            list.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect()
        };
        let (row_places, column_places) = (place(&rows), place(&columns));
        let mut cells: BTreeMap<(usize, usize), Cell> = BTreeMap::new();
        let mut largest = 0.0f64;
        for (index, module) in modules.iter().enumerate() {
            let (Some(row), Some(column)) =
                (row_places.get(&row_of(module)), column_places.get(&module.column))
            else {
                continue;
            };
            let value = measure.of(module, analyses.get(index).and_then(Option::as_ref));
            let value = value.filter(|value| value.is_finite());
            largest = largest.max(value.map_or(0.0, f64::abs));
            let cell = cells.entry((*row, *column)).or_insert_with(|| Cell {
                label: module.label.clone(),
                value,
                edit: module.edit,
                count: 0,
            });
            cell.count += 1;
            if value.map(f64::abs) > cell.value.map(f64::abs) {
                (cell.value, cell.label, cell.edit) = (value, module.label.clone(), module.edit);
            }
        }
        Self { rows, columns, cells, largest }
    }
}

fn row_name(module: &Module, row: String) -> String {
    match &module.component {
        Some(component) => format!("{component}/{row}"),
        None => row,
    }
}

/// Each name once, in the order of their first appearance.
fn names(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    all.filter(|name| seen.insert(name.clone())).collect()
}

fn to_first_number(row: &str) -> String {
    let mut parts = Vec::new();
    for part in row.split('.') {
        parts.push(part);
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
    }
    parts.join(".")
}

/// Numbers in names count as numbers.
fn natural(name: &str) -> Vec<(u64, String)> {
    let part = |part: &str| match part.parse::<u64>() {
        Ok(number) => (number, String::new()),
        Err(_) => (u64::MAX, part.to_owned()),
    };
    name.split('.').map(part).collect()
}

/// Without what all rows begin with, where something is left of each.
fn short_rows(rows: &[String]) -> Vec<String> {
    let named: Vec<&String> = rows.iter().filter(|row| !row.is_empty()).collect();
    let Some(first) = named.first() else { return rows.to_vec() };
    let ends = first.match_indices('.').map(|(at, _)| at + 1);
    let shared =
        ends.filter(|end| named.iter().all(|row| row.starts_with(&first[..*end]))).max().unwrap_or(0);
    rows.iter().map(|row| row.get(shared..).unwrap_or_default().to_owned()).collect()
}

fn cells(out: &mut String, grid: &Grid, [left, top]: [usize; 2]) {
    for ((row, column), cell) in &grid.cells {
        let (x, y) = (left + column * CELL[0], top + row * CELL[1]);
        let (fill, text) = match cell.value {
            Some(value) if grid.largest > 0.0 => (colour(value.abs() / grid.largest), measured(value)),
            Some(value) => (colour(0.0), measured(value)),
            None => ("none".to_owned(), "no value".to_owned()),
        };
        let of = if cell.count > 1 { format!(" (the largest of {})", cell.count) } else { String::new() };
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" stroke=\"currentColor\" \
             stroke-opacity=\"0.15\" data-edit=\"{}\"><title>{}: {text}{of}</title></rect>",
            CELL[0] - 1,
            CELL[1] - 1,
            cell.edit,
            escaped(&cell.label)
        );
    }
}

fn legend(out: &mut String, grid: &Grid, [x, y]: [usize; 2]) {
    const STEPS: usize = 24;
    for step in 0..STEPS {
        let fill = colour(step as f64 / (STEPS - 1) as f64);
        let _ = write!(
            out,
            "<rect x=\"{}\" y=\"{y}\" width=\"6\" height=\"10\" fill=\"{fill}\"/>",
            x + 16 + step * 6
        );
    }
    let texts = [(x, "start", "0".to_owned()), (x + 24 + STEPS * 6, "start", measured(grid.largest))];
    for (x, anchor, text) in texts {
        let _ = write!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{text}</text>",
            y + 9
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{natural, short_rows, to_first_number};

    #[test]
    fn rows_are_sorted_by_number() {
        let mut rows = ["l.10", "l.2", "l.1.e.11", "l.1.e.9"];
        rows.sort_by_key(|row| natural(row));
        assert_eq!(rows, ["l.1.e.9", "l.1.e.11", "l.2", "l.10"]);
    }

    #[test]
    fn what_all_rows_share_is_not_written() {
        let rows = |rows: &[&str]| short_rows(&rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        assert_eq!(rows(&["model.layers.0", "model.layers.1", ""]), ["0", "1", ""]);
        assert_eq!(rows(&["down.0.attn.1", "up.0.attn.1"]), ["down.0.attn.1", "up.0.attn.1"]);
        assert_eq!(to_first_number("model.layers.3.experts.7"), "model.layers.3");
    }
}
