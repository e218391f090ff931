//! The daemon's documents, status and jobs, as text for people: on a terminal and on the page over HTTP.

pub(crate) mod job;
pub(crate) mod status;
pub(crate) mod text;

/// The meaning of a colour; the number is its code among the ANSI escape sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Green: as it should be.
    Good = 32,
    /// Red: needs attention.
    Bad = 31,
    /// Yellow: on the way, or not ready.
    Middling = 33,
    /// Dim: less important.
    Quiet = 2,
}

/// The text in a colour, as ANSI escape sequences. Where there are no colours, `Output` removes them.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    format!("\x1b[{}m{text}\x1b[0m", tone as u8)
}

/// The parts of a text with their colours.
pub(crate) fn spans(text: &str) -> impl Iterator<Item = (Option<Tone>, &str)> {
    let code = |tone: Tone| format!("{}m", tone as u8);
    text.split("\x1b[").enumerate().map(move |(at, part)| {
        let tones = [Tone::Good, Tone::Bad, Tone::Middling, Tone::Quiet].into_iter();
        let mut painted = tones.filter_map(|tone| Some((Some(tone), part.strip_prefix(&*code(tone))?)));
        let unpainted = if at == 0 { part } else { part.strip_prefix("0m").unwrap_or(part) };
        painted.next().unwrap_or((None, unpainted))
    })
}

/// The text without colours.
pub(crate) fn plain(text: &str) -> String {
    spans(text).map(|(_, part)| part).collect()
}
