//! Tables of text, sizes of files, and shortened ids.

/// The gap between two columns.
const GAP: &str = "  ";
/// Minimum length of a shortened id, in characters.
const ID_MIN: usize = 8;

/// A column of a table.
pub(super) struct Column {
    /// The first cell is the heading.
    pub(super) cells: Vec<String>,
    /// The width to which it may be cut.
    pub(super) least: usize,
    /// On a terminal that is too narrow, the column with rank 1 is left out first, then 2 and so on; 0 stays.
    pub(super) rank: u8,
}

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    let power = count.checked_ilog(1024).unwrap_or(0).min(4);
    let size = count as f64 / 1024_f64.powf(power.into());
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"].get(power as usize).unwrap_or(&"");
    format!("{:.*} {unit}", usize::from(power > 0), size)
}

/// The cells of the columns, fitted to the width of a terminal: columns are left out by their rank, then those are cut that
/// are widest in proportion to their least width.
pub(super) fn fit(mut columns: Vec<Column>, width: Option<usize>) -> Vec<Vec<String>> {
    let widest = |column: &Column| column.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let excess = |widths: &[usize]| {
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        (widths.iter().sum::<usize>() + gaps).saturating_sub(width.unwrap_or(usize::MAX))
    };
    let last = columns.iter().map(|column| column.rank).max().unwrap_or(0);
    for rank in 1..=last {
        let least: Vec<_> = columns.iter().map(|column| widest(column).min(column.least)).collect();
        if excess(&least) > 0 {
            columns.retain(|column| column.rank != rank);
        }
    }
    let mut widths: Vec<usize> = columns.iter().map(widest).collect();
    while excess(&widths) > 0 {
        let soft = widths.iter_mut().zip(&columns).filter(|(width, column)| **width > column.least);
        let by_proportion = |(width, column): &(&mut usize, &Column)| **width * 100 / column.least;
        let Some((width, _)) = soft.max_by_key(by_proportion) else { break };
        *width -= 1;
    }
    let cut = |cell: String, width: usize| {
        let is_long = cell.chars().nth(width).is_some();
        if is_long { cell.chars().take(width - 1).chain(['…']).collect() } else { cell }
    };
    let cut_all =
        |(column, width): (Column, usize)| column.cells.into_iter().map(|cell| cut(cell, width)).collect();
    columns.into_iter().zip(widths).map(cut_all).collect()
}

/// The shortest beginning of an id that no other id has, but at least [`ID_MIN`] characters.
pub(super) fn shortest<'a>(id: &str, others: impl Iterator<Item = &'a str>) -> String {
    let common = |other: &str| id.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let common = others.filter(|other| *other != id).map(common).max().unwrap_or(0);
    id.chars().take((common + 1).max(ID_MIN)).collect()
}

/// Columns of equal length, each as wide as its widest cell; the first cell is the heading.
pub(super) fn table(columns: &[Vec<String>]) -> String {
    let mut lines = vec![String::new(); columns.first().map_or(0, Vec::len)];
    for column in columns {
        let width = column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(column) {
            line.push_str(&format!("{cell:<width$}{GAP}"));
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (count, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (100_000, "97.7 KiB"), (10 << 30, "10.0 GiB")]
        {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn an_id_is_as_short_as_it_can_be() {
        let ids = ["0de1c2f3a4", "true.yaml-10", "true.yaml-12", "12"];
        let short = |id| shortest(id, ids.into_iter());
        assert_eq!(ids.map(short), ["0de1c2f3", "true.yaml-10", "true.yaml-12", "12"]);
        assert_eq!(short("true.yaml-200"), "true.yaml-2");
    }

    #[test]
    fn columns_are_as_wide_as_needed() {
        let column = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let columns = [column(&["A", "ää", "x"]), column(&["LONG", "b", ""]), column(&["C", "", ""])];
        assert_eq!(table(&columns), "A   LONG  C\nää  b\nx\n");
        assert_eq!(table(&[]), "");
    }
}
