//! The claims' texts, in Markdown: one file a section, one heading a claim, and its fields below it.
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
/// If the file has not this form: with the line and what is wrong there.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Text>, String> {
    let mut claims: Vec<Text> = Vec::new();
    let mut open: Option<Open> = None;
    for (number, line) in text.lines().enumerate() {
        let fail = |what: String| format!("{file}:{}: {what}", number + 1);
        if let Some(id) = line.strip_prefix("## ") {
            claims.extend(open.take().map(Open::close).transpose().map_err(&fail)?);
            if !is_id(id) {
                return Err(fail(format!("{id:?} is no number of a claim, such as C62")));
            }
            open = Some(Open::new(id));
        } else if let Some(open) = &mut open {
            open.take(line).map_err(fail)?;
        } else if !line.is_empty() && !line.starts_with("# ") {
            return Err(fail("text before the first claim".into()));
        }
    }
    let end = |what| format!("{file}: at its end: {what}");
    claims.extend(open.map(Open::close).transpose().map_err(end)?);
    Ok(claims)
}

/// Whether it is a letter and a number.
fn is_id(id: &str) -> bool {
    let digits = id.strip_prefix(['C', 'D', 'E']);
    digits.is_some_and(|digits| digits.parse().is_ok_and(|number: u32| number > 0))
}

/// A claim whose text goes on.
struct Open {
    id: String,
    fields: BTreeMap<String, Vec<String>>,
    /// The field that the next line belongs to.
    current: String,
}

impl Open {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            fields: BTreeMap::new(),
            current: String::new(),
        }
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let named = line
            .strip_prefix("**")
            .and_then(|rest| rest.split_once(":**"));
        if let Some((name, first)) = named {
            if !FIELDS.contains(&name) && !OPTIONAL.contains(&name) {
                return Err(format!("{} has the unknown field {name:?}", self.id));
            }
            if self
                .fields
                .insert(name.into(), vec![first.trim().into()])
                .is_some()
            {
                return Err(format!("{} has {name} twice", self.id));
            }
            self.current = name.into();
        } else if let Some(lines) = self.fields.get_mut(&self.current) {
            lines.push(line.into());
        } else if !line.is_empty() {
            return Err(format!("{}: text before its first field", self.id));
        }
        Ok(())
    }

    fn close(mut self) -> Result<Text, String> {
        let id = self.id;
        let mut field = |name: &str| self.fields.remove(name).map(|lines| lines.join("\n"));
        let mut needed = |name: &str| {
            let text = field(name).map(|lines| running(&lines)).unwrap_or_default();
            let missing = format!("{id} has no text under {name}");
            if text.is_empty() {
                Err(missing)
            } else {
                Ok(text)
            }
        };
        let [says, asks, why, look, exercise] = FIELDS.map(&mut needed);
        let look = look?;
        let command = look
            .strip_prefix('`')
            .and_then(|look| look.strip_suffix('`'));
        let measured = field("Measured").map_or(Ok(Vec::new()), |lines| items(&id, &lines))?;
        let [instead, not_here] =
            ["Instead", "Not here"].map(|name| field(name).map(|lines| running(&lines)));
        if not_here.is_some() && (instead.is_some() || !measured.is_empty()) {
            let rule = "what is not here has neither Measured nor Instead";
            return Err(format!("{id}: {rule}"));
        }
        Ok(Text {
            says: says?,
            asks: asks?,
            why: why?,
            measured,
            look: command
                .ok_or(format!("{id}: Look is no command in backticks"))?
                .into(),
            exercise: exercise?,
            instead,
            not_here,
            id,
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
        if !(escapes && chars.peek().is_some_and(char::is_ascii_punctuation)) {
            text.push(char);
        } else {
            text.extend(chars.next());
        }
    }
    text
}
