//! Tables, and what stands in them: sizes, and ids as short as they can be.

/// What is between two columns.
const GAP: &str = "  ";
/// No column is cut to less.
const CELL_MIN: usize = 8;
/// So many times as wide as the others may the last column stay.
const LAST_SHARE: usize = 3;
/// The last column has at least so much if others can be left out.
const LAST_MIN: usize = 24;

/// A number of bytes.
pub(super) fn bytes(count: u64) -> String {
    let power = count.checked_ilog(1024).unwrap_or(0).min(4);
    let size = count as f64 / 1024_f64.powf(power.into());
    let unit = ["B", "KiB", "MiB", "GiB", "TiB"].get(power as usize).unwrap_or(&"");
    format!("{:.*} {unit}", usize::from(power > 0), size)
}

/// The columns, which have names, as they fit the width of a terminal: without as many of the dispensable ones as it takes to
/// leave the others some room, then with the widest cut that are not rigid, the last less than the others.
pub(super) fn fit(
    mut columns: Vec<(&str, Vec<String>)>,
    (dispensable, rigid): (&[&str], &[&str]),
    width: Option<usize>,
) -> Vec<Vec<String>> {
    let max = width.unwrap_or(usize::MAX);
    let widest = |cells: &[String]| cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let excess = |widths: &[usize]| {
        (widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)).saturating_sub(max)
    };
    let needed = |columns: &[(&str, Vec<String>)]| {
        let least = |(at, (name, cells)): (usize, &(&str, Vec<String>))| match widest(cells) {
            width if rigid.contains(name) => width,
            width if at + 1 == columns.len() => width.min(LAST_MIN),
            width => width.min(CELL_MIN),
        };
        columns.iter().enumerate().map(least).collect::<Vec<usize>>()
    };
    for name in dispensable {
        if excess(&needed(&columns)) > 0 {
            columns.retain(|(other, _)| other != name);
        }
    }
    let mut widths: Vec<usize> = columns.iter().map(|(_, cells)| widest(cells)).collect();
    let last = widths.len().saturating_sub(1);
    while excess(&widths) > 0 {
        let soft =
            widths.iter_mut().zip(&columns).enumerate().filter(|(_, (_, (name, _)))| !rigid.contains(name));
        let wide = soft.map(|(at, (width, _))| (at, width)).filter(|(_, width)| **width > CELL_MIN);
        let share = |at: usize, width: usize| if at == last { width / LAST_SHARE } else { width };
        let Some((_, width)) = wide.max_by_key(|(at, width)| share(*at, **width)) else { break };
        *width -= 1;
    }
    let cut = |cell: String, width: usize| {
        let is_long = cell.chars().nth(width).is_some();
        if is_long { cell.chars().take(width - 1).chain(['…']).collect() } else { cell }
    };
    let cut_all = |((_, cells), width): ((&str, Vec<String>), usize)| {
        cells.into_iter().map(|cell| cut(cell, width)).collect()
    };
    columns.into_iter().zip(widths).map(cut_all).collect()
}

/// The beginning of an id that none of the others has, of a few characters at least.
pub(super) fn shortest<'a>(id: &str, others: impl Iterator<Item = &'a str>) -> String {
    let common = |other: &str| id.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let common = others.filter(|other| *other != id).map(common).max().unwrap_or(0);
    id.chars().take((common + 1).max(CELL_MIN)).collect()
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
