//! Columns as wide as they need. SOURCE: Go text/tabwriter, without tabs.

/// The last cell of a row is as wide as it is.
pub(super) fn table(gap: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(wide).collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            text += cell;
            if at + 1 < row.len() {
                // a column of nothing takes no room
                let width = if widths[at] == 0 { 0 } else { widths[at] + gap };
                text += &" ".repeat(width - cell.chars().count());
            }
        }
        text.push('\n');
    }
    text
}
