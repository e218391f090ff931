//! Records in the tables: how they are applied, which of them are deleted in time, and what a new run is given.
//!
//! The same for every journal, wherever its tables are. Callers have begun a transaction.

use rusqlite::types::Null;
use rusqlite::{Connection, Row, ToSql, named_params, params};

use super::Limits;
use super::error::Fault;
use super::format::{self, AcceptedForm, CompletionForm, Plain, ResultForm, column, get, kind, text};
use super::store::Upkeep;
use crate::csc::command::Sender;
use crate::csc::history::{NOTES_MAX, Note};
use crate::csc::id::EntryKey;
use crate::csc::record::{Deliverable, HISTORY_MAX, Receipt, Record, Recovered, SEEN_MAX};
use crate::csc::time::Tai;

/// Most bytes of settled commands that are read at the start: large results must not fill the memory.
const HISTORY_BYTES: i64 = 64 << 20;
/// Most commands that are pruned in one turn of upkeep.
const PRUNED_AT_ONCE: usize = 200;

/// Applies records, in this order; doing so again changes nothing.
pub(super) fn apply(connection: &Connection, records: &[&Record]) -> Result<(), Fault> {
    records.iter().try_for_each(|record| apply_record(connection, record))
}

/// Applies a record; doing so again changes nothing. The record of an unknown command is dropped.
fn apply_record(connection: &Connection, record: &Record) -> Result<(), Fault> {
    let execute = |sql: &str, parameters: &[&dyn ToSql]| -> Result<(), Fault> {
        connection.prepare_cached(sql)?.execute(parameters)?;
        Ok(())
    };
    let set = |key: &EntryKey, column: &str, value: &dyn ToSql| {
        execute(&format!("UPDATE commands SET {column} = ? WHERE key = ?"), params![value, key.plain()])
    };
    match record {
        Record::Accepted(entry) => {
            let (key, document) = (entry.key.plain(), text(|json| AcceptedForm::serialize(entry, json))?);
            let (boot, uptime) =
                entry.uptime.map(|uptime| (uptime.boot.plain(), uptime.since.plain())).unzip();
            execute(
                "INSERT INTO commands (key, kind, accepted, boot, uptime, document) VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (key) DO NOTHING",
                params![key, kind(&entry.work), column(entry.accepted), boot, uptime, document],
            )
        }
        Record::Created { key, job_id } => set(key, "job_id", &job_id.as_str()),
        Record::Suspected { key, until } => set(key, "suspected", &column(*until)),
        Record::Cleared { key } => set(key, "suspected", &Null),
        Record::Ended { key, end } => {
            let result = end.result.as_ref().map(|result| text(|json| ResultForm::serialize(result, json)));
            let (result, ending) = (result.transpose()?, text(|json| CompletionForm::serialize(end, json))?);
            execute(
                "UPDATE commands SET result = ?, ending = ?, ended = ? WHERE key = ?",
                params![result, ending, column(end.at), key.plain()],
            )
        }
        Record::Delivered(Receipt { key, what: Deliverable::Result }) => set(key, "said_result", &true),
        Record::Delivered(Receipt { key, what: Deliverable::Ack }) => set(key, "said_ack", &true),
        Record::Noted { key, note } => execute(
            "INSERT OR REPLACE INTO history (place, number, at, kind, about)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM commands WHERE key = ?6)",
            params![
                first_place(*key) + i64::from(note.place()),
                note.number,
                column(note.at),
                note.kind.as_str(),
                note.about,
                key.plain()
            ],
        ),
        Record::Seen { sender: Sender { via: _, identity, origin, seq_num, sent }, at } => execute(
            "INSERT OR REPLACE INTO seen (at, identity, origin, seq_num, sent) VALUES (?, ?, ?, ?, ?)",
            params![column(*at), identity, origin, seq_num.plain(), sent.plain().cast_signed()],
        ),
        Record::Searched => execute("UPDATE journal SET searched = 1", params![]),
        Record::State { state, override_name } => execute(
            "INSERT OR REPLACE INTO summary_state (only, state, override) VALUES (1, ?, ?)",
            params![state.plain(), override_name],
        ),
    }
}

/// Deletes a bounded number of commands that need not be kept any more, the oldest first.
///
/// The clock may be wrong: the last commands are kept whatever their age.
pub(super) fn prune(connection: &Connection, limits: Limits, now: Tai) -> Result<Upkeep, Fault> {
    // A key is not given again, also where the last command is deleted.
    let last = "(SELECT max(key) FROM commands)";
    connection.execute(&format!("UPDATE journal SET last_key = {last} WHERE last_key < {last}"), [])?;
    connection.execute("DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", [SEEN_MAX])?;
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let used = (number("page_count")? - number("freelist_count")?).saturating_mul(number("page_size")?);
    let mut statement = connection.prepare_cached(include_str!("prune.sql"))?;
    let pruned = statement.execute(named_params! {
        ":rows": if used > limits.history_bytes { 0 } else { limits.history_rows },
        ":least": limits.history_least,
        ":expired": now.0 - limits.history.as_secs_f64(),
        ":most": PRUNED_AT_ONCE,
    })?;
    Ok(if pruned < PRUNED_AT_ONCE { Upkeep::Done } else { Upkeep::More })
}

/// What a new run is given.
pub(super) fn recover(connection: &Connection) -> Result<Recovered, Fault> {
    let seen = "SELECT * FROM (SELECT * FROM seen ORDER BY number DESC LIMIT :most) ORDER BY number";
    let state = "SELECT state, override FROM summary_state";
    let state = read(connection, state, &[], |row| Ok((get(row, "state")?, row.get("override")?)))?;
    let most = named_params! { ":most": HISTORY_MAX, ":bytes": HISTORY_BYTES };
    let mut entries = read(connection, include_str!("recover.sql"), most, format::command)?;
    for kept in &mut entries {
        kept.notes = notes(connection, kept.entry.key)?;
    }
    let keys = "SELECT nullif(last_key, 0) AS key FROM journal UNION ALL SELECT max(key) FROM commands";
    let keys = read(connection, keys, &[], |row| get::<Option<EntryKey>>(row, "key"))?;
    Ok(Recovered {
        entries,
        seen: read(connection, seen, named_params! { ":most": SEEN_MAX }, format::seen)?,
        state: state.into_iter().next(),
        last_key: keys.into_iter().flatten().max().map_or(0, |key| key.0),
        unsearched: connection.query_row("SELECT searched = 0 FROM journal", [], |row| row.get(0))?,
    })
}

/// The first of the places in `history` for notes about the job of an execute.
fn first_place(key: EntryKey) -> i64 {
    key.plain().saturating_mul(NOTES_MAX as i64)
}

/// The notes about the job of an execute, in their order.
fn notes(connection: &Connection, key: EntryKey) -> Result<Vec<Note>, Fault> {
    let query =
        "SELECT number, at, kind, about FROM history WHERE place >= :first AND place < :end ORDER BY number";
    let first = first_place(key);
    let places = named_params! { ":first": first, ":end": first.saturating_add(NOTES_MAX as i64) };
    read(connection, query, places, format::note)
}

/// The rows that a query finds.
fn read<T>(
    connection: &Connection,
    query: &str,
    parameters: &[(&str, &dyn ToSql)],
    parse: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    connection.prepare_cached(query)?.query_and_then(parameters, parse)?.collect()
}
