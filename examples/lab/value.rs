//! What an experiment measured, and how the claims' texts show it.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use glassloop::submit::Id;

use super::service::hex;
use super::tools::{name_of, result, thousands};

/// A thing that was measured.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Whole(i128),
    Float(f64),
    Time(Duration),
    Flag(bool),
    /// Shown whole, with commas, or one by one: `{list.0}`.
    List(Vec<Value>),
    /// Not known in this run: the line that names it is left out.
    Nothing,
}

/// Lines of a report: a name and a value each.
pub(crate) type Lines = Vec<(String, String)>;

/// Named values: `values![count, read = result(&read)]`.
pub(crate) type Values = Vec<(&'static str, Value)>;

macro_rules! values {
    ($($name:ident $(= $value:expr)?),* $(,)?) => {
        vec![$((stringify!($name), $crate::linux::value::values!(@ $name $($value)?))),*]
    };
    (@ $name:ident) => { $crate::linux::value::ToValue::to_value(&$name) };
    (@ $name:ident $value:expr) => { $crate::linux::value::ToValue::to_value(&$value) };
}
pub(crate) use values;

/// What can be shown.
pub(crate) trait ToValue {
    fn to_value(&self) -> Value;
}

macro_rules! to_value {
    ($($type:ty: $value:ident => $to:expr;)*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                let $value = self;
                $to
            }
        }
    )*};
}

to_value! {
    str: text => Value::Text(text.into());
    String: text => Value::Text(text.clone());
    char: char => Value::Text(char.to_string());
    u8: count => Value::Whole((*count).into());
    i32: count => Value::Whole((*count).into());
    u32: count => Value::Whole((*count).into());
    u64: count => Value::Whole((*count).into());
    usize: count => Value::Whole(*count as i128);
    f64: number => Value::Float(*number);
    SocketAddr: addr => Value::Text(addr.to_string());
    Id: id => Value::Text(id.to_string());
    bool: flag => Value::Flag(*flag);
    Duration: time => Value::Time(*time);
    io::Result<()>: done => Value::Text(match done {
        Ok(()) => "0".into(),
        Err(error) => format!("-1 {}", name_of(error)),
    });
    io::Result<usize>: read => Value::Text(result(read));
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Nothing, ToValue::to_value)
    }
}

impl<T: ToValue> ToValue for [T] {
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(ToValue::to_value).collect())
    }
}

impl<T: ToValue, const N: usize> ToValue for [T; N] {
    fn to_value(&self) -> Value {
        self[..].to_value()
    }
}

impl<T: ToValue> ToValue for Vec<T> {
    fn to_value(&self) -> Value {
        self[..].to_value()
    }
}

impl<A: ToValue, B: ToValue> ToValue for (A, B) {
    fn to_value(&self) -> Value {
        Value::List(vec![self.0.to_value(), self.1.to_value()])
    }
}

impl Value {
    /// The bytes that it is a list of.
    fn bytes(&self) -> Option<Vec<u8>> {
        let Self::List(items) = self else {
            return None;
        };
        let byte = |item: &Self| match item {
            Self::Whole(byte) => u8::try_from(*byte).ok(),
            _ => None,
        };
        items.iter().map(byte).collect()
    }

    /// In the form after the colon of `{name:form}`: `,` groups digits, `.2` sets decimal places,
    /// `.1ms` shows a time in a unit, `hex` and `ascii` show bytes, and `yes|no` chooses by a flag.
    fn show(&self, form: &str) -> Result<String, String> {
        let unknown = || format!("{self:?} cannot be shown as {form:?}");
        let digits = form
            .strip_prefix('.')
            .and_then(|form| form.get(..1)?.parse().ok());
        let unit = form.trim_start_matches(|char: char| char == '.' || char.is_ascii_digit());
        Ok(match (self, form) {
            (Self::Text(text), "") => text.clone(),
            (Self::Whole(count), "") => count.to_string(),
            (Self::Whole(count), ",") => thousands(usize::try_from(*count).map_err(|_| unknown())?),
            (Self::Whole(count), "#04x") => format!("{count:#04x}"),
            (Self::List(_), "hex") => hex(&self.bytes().ok_or_else(unknown)?),
            (Self::List(_), "ascii") => {
                self.bytes().ok_or_else(unknown)?.escape_ascii().to_string()
            }
            (Self::List(items), _) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| item.show(form)).collect();
                items?.join(", ")
            }
            (Self::Float(number), _) => format!("{number:.0$}", digits.ok_or_else(unknown)?),
            (Self::Flag(flag), "") => flag.to_string(),
            (Self::Flag(flag), _) => {
                let (yes, no) = form.split_once('|').ok_or_else(unknown)?;
                if *flag { yes.into() } else { no.into() }
            }
            (Self::Time(time), _) => {
                let seconds = time.as_secs_f64();
                let digits = digits.unwrap_or(0);
                match unit {
                    "" => format!("{time:.digits$?}"),
                    "ns" => format!("{:.digits$} ns", seconds * 1e9),
                    "µs" => format!("{:.digits$} µs", seconds * 1e6),
                    "ms" => format!("{:.digits$} ms", seconds * 1e3),
                    "s" => format!("{seconds:.digits$} s"),
                    _ => return Err(unknown()),
                }
            }
            _ => return Err(unknown()),
        })
    }
}

/// The lines that the templates make of the values. A line with a value that is not known is left
/// out.
///
/// # Errors
/// If a template names a value that there is not, or no template names one that there is.
pub(crate) fn render(templates: &[(String, String)], values: &Values) -> Result<Lines, String> {
    let (mut lines, mut named) = (Vec::new(), Vec::new());
    for (name, value) in templates {
        let filled = [name, value].map(|template| fill(template, values, &mut named));
        if let [Some(name), Some(value)] = [filled[0].clone()?, filled[1].clone()?] {
            lines.push((name, value));
        }
    }
    match values.iter().find(|(name, _)| !named.contains(name)) {
        Some((name, _)) => Err(format!("no line under Measured names {{{name}}}")),
        None => Ok(lines),
    }
}

/// A template with its values; nothing if one is not known.
fn fill(
    template: &str,
    values: &Values,
    named: &mut Vec<&'static str>,
) -> Result<Option<String>, String> {
    let (mut text, mut rest, mut known) = (String::new(), template, true);
    while let Some((before, after)) = rest.split_once(['{', '}']) {
        text += before;
        let bracket = &rest[before.len()..=before.len()];
        if let Some(after) = after.strip_prefix(bracket) {
            text += bracket; // doubled: it stands for itself
            rest = after;
            continue;
        }
        let wrong = || format!("a bracket too many in {template:?}");
        let (inner, after) = after
            .split_once('}')
            .filter(|_| bracket == "{")
            .ok_or_else(wrong)?;
        let (name, form) = inner.split_once(':').unwrap_or((inner, ""));
        let unknown = || format!("there is no value {name}");
        let (name, places) = name.split_once('.').unwrap_or((name, ""));
        let found = values.iter().find(|(other, _)| *other == name);
        let (name, mut value) = found
            .map(|(name, value)| (name, value))
            .ok_or_else(unknown)?;
        named.push(name);
        for place in places.split_terminator('.') {
            let Value::List(items) = value else {
                return Err(unknown());
            };
            let place: usize = place.parse().map_err(|_| unknown())?;
            value = items.get(place).ok_or_else(unknown)?;
        }
        match value {
            Value::Nothing => known = false,
            value => {
                let _ = write!(text, "{}", value.show(form)?);
            }
        }
        rest = after;
    }
    Ok(known.then_some(text + rest))
}
