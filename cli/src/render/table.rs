//! Tables: a header, aligned columns, no frames.

use comfy_table::{ContentArrangement, Table, presets};

/// Renders rows under their header; no line ends in blanks.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    // A line feed from elsewhere must not break a row.
    let flat = rows.into_iter().map(|row| {
        row.into_iter()
            .map(|cell| cell.replace('\n', " "))
            .collect::<Vec<_>>()
    });
    table.add_rows(flat);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
