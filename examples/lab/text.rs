//! The claims' texts, in Markdown: one file a section, one heading a claim, and its fields below
//! it.
//!
//! ```text
//! # Closing: C62 to C65
//!
//! ## C63
//!
//! **Says:** what the lesson says
//!
//! **Measured:**
//!
//! - **three reads**: {ends}
//!
//! **Look:** `a command`
//! ```
//!
//! The guide shows the same files as they are: so they are Markdown first, and a backslash before
//! punctuation means that punctuation.

use std::collections::BTreeMap;

/// What each claim has. `Measured`, `Instead` and `Not here` depend on whether it runs.
const FIELDS: [&str; 5] = ["Says", "Asks", "Why", "Look", "Exercise"];
/// What a claim may have besides.
const OPTIONAL: [&str; 3] = ["Measured", "Instead", "Not here"];

/// The text of one claim.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    /// C for the lesson on the models and on the socket's calls, D for the protocol, E for speed.
    pub(crate) id: String,
    /// What the lesson says: in its own words where they are short, and in English.
    pub(crate) says: String,
    /// What to guess before it runs: a question with a short answer.
    pub(crate) asks: String,
    /// Why it comes out as it does here, for readers who learn Go or Rust.
    pub(crate) why: String,
    /// Templates of what a run prints: a name and a value, both with `{placeholders}`.
    pub(crate) measured: Vec<(String, String)>,
    /// A command that shows it, usually with strace.
    pub(crate) look: String,
    /// What to write to try it yourself.
    pub(crate) exercise: String,
    /// What runs in its place, and why.
    pub(crate) instead: Option<String>,
    /// Why nothing runs.
    pub(crate) not_here: Option<String>,
}

/// The claims of one section, in their order.
///
/// # Errors
/// If the file does not have this form: with the line and what is wrong there.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Text>, String> {
    let entries = entries(file, text, &[&FIELDS[..], &OPTIONAL].concat())?;
    let claims = entries.into_iter().map(Entry::claim);
    claims
        .map(|claim| claim.map_err(|error| format!("{file}: {error}")))
        .collect()
}

/// What stands below one heading: its fields, by their names.
pub(crate) struct Entry {
    pub(crate) id: String,
    fields: BTreeMap<String, Vec<String>>,
}

/// All entries of a file, in their order.
///
/// # Errors
/// If a heading is no letter with a number, or a field is unknown or there twice.
pub(crate) fn entries(file: &str, text: &str, names: &[&str]) -> Result<Vec<Entry>, String> {
    let (mut entries, mut current) = (Vec::<Entry>::new(), "");
    for (number, line) in text.lines().enumerate() {
        let fail = |what: &str| Err(format!("{file}:{}: {what}", number + 1));
        if let Some(id) = line.strip_prefix("## ") {
            if !is_id(id) {
                return fail(&format!("{id:?} is no number such as C62"));
            }
            let (id, fields) = (id.into(), BTreeMap::new());
            entries.push(Entry { id, fields });
            current = "";
            continue;
        }
        let field = line
            .strip_prefix("**")
            .and_then(|rest| rest.split_once(":**"));
        match (entries.last_mut(), field) {
            (Some(Entry { id, .. }), Some((name, _))) if !names.contains(&name) => {
                return fail(&format!("{id} has the unknown field {name:?}"));
            }
            (Some(Entry { id, fields }), Some((name, first))) => {
                current = name;
                if fields.insert(name.into(), vec![first.into()]).is_some() {
                    return fail(&format!("{id} has {name} twice"));
                }
            }
            (Some(entry), None) if !current.is_empty() => {
                entry
                    .fields
                    .get_mut(current)
                    .expect("it was inserted")
                    .push(line.into());
            }
            (None, _) => {}
            _ if line.is_empty() => {}
            _ => return fail("text before the first field"),
        }
    }
    Ok(entries)
}

/// Whether it is a letter and a number.
fn is_id(id: &str) -> bool {
    let digits = id.strip_prefix(|char: char| char.is_ascii_alphabetic());
    digits.is_some_and(|digits| digits.parse().is_ok_and(|number: u32| number > 0))
}

impl Entry {
    fn lines(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(|lines| lines.join("\n"))
    }

    /// The running text of a field.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn text(&self, name: &str) -> Result<String, String> {
        let text = self.lines(name).map(|lines| running(&lines));
        let text = text.filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("{} has no text under {name}", self.id))
    }

    fn claim(self) -> Result<Text, String> {
        let [says, asks, why, look, exercise] = FIELDS.map(|name| self.text(name));
        let look = look?;
        let command = look
            .strip_prefix('`')
            .and_then(|look| look.strip_suffix('`'));
        let measured = self.lines("Measured");
        let measured = measured.map_or(Ok(Vec::new()), |lines| items(&self.id, &lines))?;
        let [instead, not_here] = ["Instead", "Not here"].map(|name| self.text(name).ok());
        if not_here.is_some() && (instead.is_some() || !measured.is_empty()) {
            let rule = "what is not here has neither Measured nor Instead";
            return Err(format!("{}: {rule}", self.id));
        }
        Ok(Text {
            says: says?,
            asks: asks?,
            why: why?,
            measured,
            look: command
                .ok_or(format!("{}: Look is no command in backticks", self.id))?
                .into(),
            exercise: exercise?,
            instead,
            not_here,
            id: self.id,
        })
    }
}

/// The items of a list: `- **name**: value`, with further lines indented.
fn items(id: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    let items = text.split("\n- ").skip(1).map(running);
    let pairs = items.map(|item| {
        let pair = item
            .strip_prefix("**")
            .and_then(|item| item.split_once("**: "));
        let pair = pair.map(|(name, value)| (name.to_string(), value.to_string()));
        pair.ok_or(format!("{id}: {item:?} is not like `- **name**: value`"))
    });
    pairs.collect()
}

/// Lines as one, without the backslashes that Markdown needs outside of code.
fn running(lines: &str) -> String {
    let line = lines.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut text, mut in_code, mut chars) = (String::new(), false, line.chars().peekable());
    while let Some(char) = chars.next() {
        in_code ^= char == '`';
        let escapes = char == '\\' && !in_code;
        if escapes && chars.peek().is_some_and(char::is_ascii_punctuation) {
            text.extend(chars.next());
        } else {
            text.push(char);
        }
    }
    text
}
