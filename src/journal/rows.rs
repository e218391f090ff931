//! Rows of the tables as messages of a compacted topic, and back.
//!
//! The key of a row is `TABLE/NUMBER`, its value the row in JSON with the version of the tables:
//! `{"version":3,"row":{"key":7,…}}`. A value longer than [`PART`] continues under `TABLE/NUMBER/1` and so on. A key
//! without a value means that the row, or this part of it, was deleted. SQLite knows the tables and columns, so that new
//! ones need no new code.

use std::collections::BTreeMap;

use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value as Json, json};

use super::Limits;
use super::error::Fault;
use super::open::{set_limit, set_options};
use super::schema::{self, Steps};

/// The longest value of one message, in bytes: brokers take 1 MiB by default.
pub(super) const PART: usize = 256 << 10;

/// The key of a message that is no row: its value is the number of the last run that has ended and writes nothing more.
pub(super) const CLOSED: &str = "closed/1";

/// The table with one row, which says which instance owns the journal.
const IDENTITY: &str = "journal";

/// Tables about the rows: which rows have changed since [`Tables::changed`], and which take several messages.
const NOTES: &str = "
    PRAGMA recursive_triggers = ON; -- else a row that another replaces is not noticed
    CREATE TEMP TABLE changed (name TEXT, number INTEGER, PRIMARY KEY (name, number)) WITHOUT ROWID;
    CREATE TEMP TABLE parts (name TEXT, number INTEGER, count INTEGER, PRIMARY KEY (name, number)) WITHOUT ROWID;";

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The name of a row, or of a part of one.
    pub key: String,
    /// The value of the row; none: the key is deleted.
    pub value: Option<Vec<u8>>,
}

/// The tables of a database in memory whose rows are kept as messages.
#[derive(Debug)]
pub(super) struct Tables {
    version: usize,
    /// The columns of each table, in double quotes.
    columns: BTreeMap<String, Vec<String>>,
}

/// The value of a row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    version: usize,
    #[serde(borrow)]
    row: BTreeMap<String, &'a RawValue>,
}

impl Tables {
    fn of(connection: &Connection) -> Result<Self, Fault> {
        let mut statement = connection.prepare(
            "SELECT tables.name, columns.name
             FROM main.sqlite_schema AS tables, pragma_table_xinfo(tables.name) AS columns
             WHERE tables.type = 'table' AND columns.hidden = 0",
        )?;
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))? {
            let (table, column) = pair?;
            columns.entry(table).or_default().push(format!("\"{column}\""));
        }
        Ok(Self { version: schema::version(connection)?, columns })
    }

    /// From now on, changed rows are noted.
    fn track(&self, connection: &Connection) -> rusqlite::Result<()> {
        let changes = [("INSERT", &["new"][..]), ("UPDATE", &["old", "new"]), ("DELETE", &["old"])];
        for (table, (change, rows)) in self.columns.keys().flat_map(|table| changes.map(|how| (table, how))) {
            let rows: Vec<String> = rows.iter().map(|row| format!("('{table}', {row}.rowid)")).collect();
            connection.execute_batch(&format!(
                "CREATE TEMP TRIGGER {table}_{change} AFTER {change} ON main.{table}
                 BEGIN INSERT OR IGNORE INTO changed VALUES {}; END",
                rows.join(", ")
            ))?;
        }
        Ok(())
    }

    /// The messages with all changes since the last call, in the open transaction.
    pub(super) fn changed(&self, connection: &Connection) -> Result<Vec<Message>, Fault> {
        let mut statement = connection.prepare_cached("SELECT name, number FROM temp.changed")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut messages = Vec::new();
        for (table, number) in rows.collect::<rusqlite::Result<Vec<(String, i64)>>>()? {
            let value = self.value(connection, &table, number)?;
            let parts: Vec<&[u8]> = value.iter().flat_map(|value| value.as_bytes().chunks(PART)).collect();
            let known = "SELECT count FROM temp.parts WHERE name = ? AND number = ?";
            let known = connection.prepare_cached(known)?.query_row(params![table, number], |row| row.get(0));
            let before = known.optional()?.unwrap_or(1);
            messages.extend((0..parts.len().max(before)).map(|part| Message {
                key: if part == 0 { format!("{table}/{number}") } else { format!("{table}/{number}/{part}") },
                value: parts.get(part).map(|bytes| bytes.to_vec()),
            }));
            note_parts(connection, &table, number, parts.len())?;
        }
        connection.execute("DELETE FROM temp.changed", [])?;
        Ok(messages)
    }

    /// A row in JSON, if it is there.
    fn value(&self, connection: &Connection, table: &str, number: i64) -> Result<Option<String>, Fault> {
        let columns = self.columns.get(table).map(Vec::as_slice).unwrap_or_default();
        let query = format!("SELECT {} FROM main.{table} WHERE rowid = ?", columns.join(", "));
        let mut statement = connection.prepare_cached(&query)?;
        let mut rows = statement.query([number])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut object = Map::new();
        for (index, column) in columns.iter().enumerate() {
            object.insert(column.trim_matches('"').to_owned(), to_json(row.get_ref(index)?)?);
        }
        Ok(Some(json!({ "version": self.version, "row": object }).to_string()))
    }

    fn insert(
        &self,
        connection: &Connection,
        table: &str,
        number: i64,
        form: &Form<'_>,
    ) -> Result<(), Fault> {
        let known = self.columns.get(table).ok_or("there is no such table")?;
        let mut columns = vec!["rowid".to_owned()];
        let mut values = vec![Sql::Integer(number)];
        for (name, value) in &form.row {
            let column = known.iter().find(|column| column.trim_matches('"') == name);
            columns.push(column.ok_or("it has a column that is not of its table")?.clone());
            values.push(from_json(value.get())?);
        }
        let marks = vec!["?"; columns.len()].join(", ");
        let insert = format!("INSERT INTO main.{table} ({}) VALUES ({marks})", columns.join(", "));
        connection.prepare_cached(&insert)?.execute(params_from_iter(values))?;
        Ok(())
    }
}

/// Notes how many messages a row takes, unless it is one and was never more.
fn note_parts(connection: &Connection, table: &str, number: i64, count: usize) -> rusqlite::Result<()> {
    let note = "INSERT INTO temp.parts SELECT ?1, ?2, ?3
                WHERE ?3 > 1 OR EXISTS (SELECT 1 FROM temp.parts WHERE name = ?1 AND number = ?2)
                ON CONFLICT (name, number) DO UPDATE SET count = max(1, ?3)";
    connection.prepare_cached(note)?.execute(params![table, number, count]).map(drop)
}

fn to_json(value: ValueRef<'_>) -> Result<Json, Fault> {
    Ok(match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => Json::Number(Number::from_f64(number).ok_or("a number is not finite")?),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(_) => return Err("a row holds bytes, which have no place in JSON".into()),
    })
}

/// Numbers are exact to the last bit, which serde_json alone does not promise.
fn from_json(text: &str) -> Result<Sql, Fault> {
    let wrong = || format!("{text} is no value of a row");
    Ok(match text {
        "null" => Sql::Null,
        _ if text.starts_with('"') => Sql::Text(serde_json::from_str(text).map_err(|_| wrong())?),
        _ if text.contains(['.', 'e', 'E']) => Sql::Real(text.parse().map_err(|_| wrong())?),
        _ => Sql::Integer(text.parse().map_err(|_| wrong())?),
    })
}

/// The parts of a row, with their offsets.
type Parts = BTreeMap<usize, (i64, Vec<u8>)>;

/// The content of a topic.
#[derive(Debug, Default)]
pub(super) struct Content {
    rows: BTreeMap<(String, i64), Parts>,
    /// The size of all values together, in bytes.
    pub(super) bytes: usize,
}

impl Content {
    /// Takes the next message; it replaces an earlier one with its key.
    ///
    /// # Errors
    /// The message is not one of a journal.
    pub(super) fn take(
        &mut self,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let key = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let (row, part) = parse_key(key).ok_or_else(|| {
            format!(
                "the message at offset {offset} is not of a journal: its key is {:?}",
                crate::text::quote(key)
            )
        })?;
        let parts = self.rows.entry(row.clone()).or_default();
        let old = match value {
            Some(value) => {
                self.bytes += value.len();
                parts.insert(part, (offset, value.to_vec()))
            }
            None => parts.remove(&part),
        };
        self.bytes -= old.map_or(0, |(_, value)| value.len());
        if parts.is_empty() {
            self.rows.remove(&row);
        }
        Ok(())
    }

    /// The number of the last run that has ended in order, if there is one.
    pub(super) fn take_closed(&mut self) -> Option<i64> {
        let parts = self.rows.remove(&parse_key(CLOSED)?.0)?;
        let value = whole(&parts).ok()?;
        self.bytes -= value.len();
        std::str::from_utf8(&value).ok()?.parse().ok()
    }

    /// A database in memory with all rows, brought to our version, and whether there were any. Rows of an older version
    /// count as changed.
    ///
    /// # Errors
    /// The rows make no sense, or are of a newer version.
    pub(super) fn restore(self, steps: Steps, limits: Limits) -> Result<(Connection, Tables, bool), Fault> {
        let connection = Connection::open_in_memory()?;
        // Rows that were once taken are read also where they need more room now.
        set_options(&connection, Limits { file_bytes: limits.file_bytes.saturating_mul(2), ..limits })?;
        connection.execute_batch(NOTES)?;
        let transaction = connection.unchecked_transaction()?;
        let has_content = !self.rows.is_empty();
        let version = if has_content { self.version(steps)? } else { steps.len() };
        schema::migrate(&transaction, steps.get(..version).unwrap_or(steps))?;
        let tables = Tables::of(&transaction)?;
        for ((table, number), parts) in self.rows {
            let at = parts.values().next().map_or(0, |(offset, _)| *offset);
            let insert = || {
                let value = whole(&parts)?;
                let form = parse(&value, version)?;
                tables.insert(&transaction, &table, number, &form)?;
                note_parts(&transaction, &table, number, parts.len()).map_err(Fault::from)
            };
            insert().map_err(|fault| format!("{table}/{number} at offset {at}: {fault}"))?;
        }
        schema::migrate(&transaction, steps)?;
        let tables = Tables::of(&transaction)?;
        if version < steps.len() {
            for table in tables.columns.keys() {
                let all = format!("INSERT INTO temp.changed SELECT '{table}', rowid FROM main.{table}");
                transaction.execute(&all, [])?;
            }
        }
        tables.track(&transaction)?;
        transaction.commit()?;
        set_limit(&connection, limits)?;
        Ok((connection, tables, has_content))
    }

    /// The version of the tables, from the row of the table `journal`.
    fn version(&self, steps: Steps) -> Result<usize, Fault> {
        let parts =
            self.rows.get(&(IDENTITY.to_owned(), 1)).ok_or("the row that names its instance is missing")?;
        let value = whole(parts)?;
        let known = steps.len();
        match serde_json::from_slice::<Form<'_>>(&value)
            .map_err(|error| format!("{IDENTITY}/1: {error}"))?
            .version
        {
            found if (1..=known).contains(&found) => Ok(found),
            0 => Err("its version is 0".into()),
            found => Err(Fault::Refused(format!(
                "is of version {found}, which is newer than what this ocps knows ({known}): install a newer ocps"
            ))),
        }
    }
}

/// The name of a row, and the number of its part.
fn parse_key(key: &str) -> Option<((String, i64), usize)> {
    let mut words = key.split('/');
    let (table, number) = (words.next()?, words.next()?.parse().ok()?);
    let part = words.next().map_or(Ok(0), str::parse).ok()?;
    words.next().is_none().then(|| ((table.to_owned(), number), part))
}

/// The value of a row from its parts.
fn whole(parts: &Parts) -> Result<Vec<u8>, Fault> {
    let is_whole = parts.keys().copied().eq(0..parts.len());
    let value = parts.values().flat_map(|(_, bytes)| bytes).copied();
    is_whole.then(|| value.collect()).ok_or_else(|| "a part of it is missing".into())
}

fn parse(value: &[u8], version: usize) -> Result<Form<'_>, Fault> {
    let form: Form<'_> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if form.version == version { Ok(form) } else { Err(format!("it is of version {}", form.version).into()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schema::STEPS;
    use super::*;

    fn limits() -> Limits {
        Limits::new(Duration::from_secs(1))
    }

    fn restore(content: Content) -> (Connection, Tables, bool) {
        content.restore(STEPS, limits()).unwrap()
    }

    fn take(content: &mut Content, messages: &[Message]) {
        for (message, offset) in messages.iter().zip(100..) {
            content.take(offset, Some(message.key.as_bytes()), message.value.as_deref()).unwrap();
        }
    }

    const OURS: &str =
        "INSERT INTO journal (only, sal_index, simulated, lives, last_key) VALUES (1, 1, 0, 0, 0)";

    fn keys(messages: &[Message]) -> Vec<(&str, bool)> {
        messages.iter().map(|message| (message.key.as_str(), message.value.is_some())).collect()
    }

    #[test]
    fn each_changed_row_is_one_message_also_one_that_another_replaces() {
        let (connection, tables, _) = restore(Content::default());
        connection.execute(OURS, []).unwrap();
        connection.execute("UPDATE journal SET last_key = 7", []).unwrap();
        let messages = tables.changed(&connection).unwrap();
        let row = r#"{"only":1,"sal_index":1,"simulated":0,"lives":0,"last_key":7,"searched":1}"#;
        let value = format!(r#"{{"version":3,"row":{row}}}"#);
        assert_eq!(messages, [Message { key: "journal/1".to_owned(), value: Some(value.into_bytes()) }]);
        let see =
            "INSERT OR REPLACE INTO seen (at, identity, origin, seq_num, sent) VALUES (0.1, 'x', 1, 2, 3)";
        connection.execute(see, []).unwrap();
        assert_eq!(keys(&tables.changed(&connection).unwrap()), [("seen/1", true)]);
        connection.execute(see, []).unwrap();
        assert_eq!(keys(&tables.changed(&connection).unwrap()), [("seen/1", false), ("seen/2", true)]);
        assert_eq!(tables.changed(&connection).unwrap(), []);
    }

    #[test]
    fn a_large_row_takes_several_messages_and_none_is_left_when_it_shrinks() {
        let (connection, tables, _) = restore(Content::default());
        connection.execute(OURS, []).unwrap();
        let mut content = Content::default();
        let insert = "INSERT INTO commands (key, kind, accepted, document) VALUES (5, 'execute', 0.1, ?)";
        connection.execute(insert, ["ä\"".repeat(2 * PART / 3)]).unwrap();
        take(&mut content, &tables.changed(&connection).unwrap());
        connection.execute("UPDATE commands SET accepted = 5e-324", []).unwrap();
        let messages = tables.changed(&connection).unwrap();
        assert_eq!(keys(&messages), [("commands/5", true), ("commands/5/1", true), ("commands/5/2", true)]);
        take(&mut content, &messages);
        let read = |connection: &Connection| -> (f64, usize) {
            let query = "SELECT accepted, octet_length(document) FROM commands WHERE key = 5";
            connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
        };
        let before = read(&connection);
        let (connection, tables, has_content) = restore(content);
        assert!(has_content);
        assert_eq!(read(&connection), before);
        connection.execute("UPDATE commands SET document = ''", []).unwrap();
        let messages = tables.changed(&connection).unwrap();
        assert_eq!(keys(&messages), [("commands/5", true), ("commands/5/1", false), ("commands/5/2", false)]);
        connection.execute("INSERT INTO history VALUES (507, 7, 0.1, 'phase', 'queued')", []).unwrap();
        assert_eq!(keys(&tables.changed(&connection).unwrap()), [("history/507", true)]);
        connection.execute("DELETE FROM commands", []).unwrap();
        let gone = [("commands/5", false), ("history/507", false)];
        assert_eq!(keys(&tables.changed(&connection).unwrap()), gone);
    }

    #[test]
    fn an_older_journal_is_brought_to_our_version_and_a_newer_one_is_refused() {
        const LATER: Steps = &[STEPS[0], STEPS[1], STEPS[2], "ALTER TABLE seen ADD COLUMN cost REAL"];
        let (connection, tables, _) = restore(Content::default());
        connection.execute(OURS, []).unwrap();
        connection.execute("INSERT INTO seen VALUES (9, 0.1, 'x', 1, 2, 3)", []).unwrap();
        let mut content = Content::default();
        take(&mut content, &tables.changed(&connection).unwrap());
        let (connection, tables, _) = content.restore(LATER, limits()).unwrap();
        let messages = tables.changed(&connection).unwrap();
        assert_eq!(keys(&messages), [("journal/1", true), ("seen/9", true)]);
        let mut content = Content::default();
        take(&mut content, &messages);
        let error = content.restore(STEPS, limits()).unwrap_err().to_string();
        assert_eq!(
            error,
            "it is of version 4, which is newer than what this ocps knows (3): install a newer ocps"
        );
    }

    #[test]
    fn what_is_not_of_a_journal_is_refused_with_its_offset() {
        for key in [&b""[..], b"x", b"x/y", b"x/1/2/3", b"\xff/1"] {
            let error = Content::default().take(17, Some(key), None).unwrap_err().to_string();
            assert!(error.starts_with("the message at offset 17 is not of a journal"), "{error}");
        }
        let refused = |key: &str, value: &str| {
            let mut content = Content::default();
            let identity =
                r#"{"version":3,"row":{"only":1,"sal_index":1,"simulated":0,"lives":0,"last_key":7}}"#;
            content.take(1, Some(b"journal/1"), Some(identity.as_bytes())).unwrap();
            content.take(17, Some(key.as_bytes()), Some(value.as_bytes())).unwrap();
            content.restore(STEPS, limits()).unwrap_err().to_string()
        };
        for (key, value, reason) in [
            ("x/1", r#"{"version":3,"row":{}}"#, "x/1 at offset 17: there is no such table"),
            ("seen/1", "{", "seen/1 at offset 17: EOF"),
            ("seen/1", r#"{"version":1,"row":{}}"#, "seen/1 at offset 17: it is of version 1"),
            ("seen/1", r#"{"version":3,"row":{"y":1}}"#, "seen/1 at offset 17: it has a column"),
            ("seen/1", r#"{"version":3,"row":{"at":[1]}}"#, "seen/1 at offset 17: [1] is no value"),
            ("seen/1", r#"{"version":3,"row":{"at":"x"}}"#, "seen/1 at offset 17: "),
            ("commands/7/1", "}", "commands/7 at offset 17: a part of it is missing"),
        ] {
            let error = refused(key, value);
            assert!(error.starts_with(reason), "{error}");
        }
        let error = {
            let mut content = Content::default();
            content.take(17, Some(b"seen/1"), Some(b"{}")).unwrap();
            content.restore(STEPS, limits()).unwrap_err().to_string()
        };
        assert_eq!(error, "the row that names its instance is missing");
    }
}
