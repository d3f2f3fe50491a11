//! Where values come from: layers that are checked one by one, then read as one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Error;
use super::key;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable(String),
    /// Nowhere: it should have been.
    Nowhere,
}

/// What one source says: a value for each key that it names.
pub(super) struct Layer {
    values: BTreeMap<&'static str, Written>,
    /// The lists of tables, each under its name.
    lists: BTreeMap<&'static str, Vec<BTreeMap<&'static str, Written>>>,
}

/// A value and where it was written.
#[derive(Clone)]
struct Written {
    value: Value,
    origin: Origin,
}

/// All layers as one; a later one wins.
pub(super) struct Values {
    values: BTreeMap<&'static str, Written>,
    /// The lists of tables, each under its name.
    lists: BTreeMap<&'static str, Vec<BTreeMap<&'static str, Written>>>,
}

const PREFIX: &str = "THROTTLEPROXY__";

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

// === impl Layer ===

impl Layer {
    /// Reads a TOML file. All its keys are known and available.
    pub(super) fn of_file(path: &Path) -> Result<Self, Error> {
        let origin = Origin::File(path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        // The parser's own message quotes the line, and a line may hold a secret.
        let sections: Table = text.parse().map_err(|err: toml::de::Error| Error::Syntax {
            origin: origin.clone(),
            message: match err.span() {
                Some(span) => format!("line {}: {}", line_of(&text, span.start), err.message()),
                None => err.message().to_owned(),
            },
        })?;

        let mut layer = Self {
            values: BTreeMap::new(),
            lists: BTreeMap::new(),
        };
        for (section, value) in sections {
            if let Some(list) = key::list(&section) {
                let Value::Array(entries) = value else {
                    return Err(wrong(&origin, list.name, list.expected, &value));
                };
                let tables = layer.lists.entry(list.name).or_default();
                for entry in entries {
                    let Value::Table(keys) = entry else {
                        return Err(wrong(&origin, list.name, list.expected, &entry));
                    };
                    tables.push(checked(list.name, keys, &origin)?);
                }
                continue;
            }
            match value {
                Value::Table(keys) if key::is_section(&section) => {
                    layer.values.extend(checked(&section, keys, &origin)?);
                }
                Value::Table(keys) => {
                    let inner = keys.keys().next().map(|name| format!("{section}.{name}"));
                    return Err(unknown(&origin, inner.unwrap_or(section)));
                }
                _ => return Err(unknown(&origin, section)),
            }
        }
        Ok(layer)
    }

    /// Reads the variables that begin with `THROTTLEPROXY__`. A value is text; what it
    /// must be is decided by the key.
    pub(super) fn of_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let path = rest.to_lowercase().replace("__", ".");
            let origin = Origin::Variable(name);
            let section = path.split_once('.').map_or(path.as_str(), |(it, _)| it);
            if let Some(list) = key::list(section) {
                return Err(Error::FileOnly {
                    origin,
                    list: list.name,
                });
            }
            let key = known(&origin, path)?;
            let Ok(text) = value.into_string() else {
                return Err(Error::Wrong {
                    origin,
                    key: key.to_owned(),
                    expected: "text in UTF-8",
                    found: "other bytes".to_owned(),
                });
            };
            let value = Value::String(text);
            values.insert(key, Written { value, origin });
        }
        Ok(Self {
            values,
            lists: BTreeMap::new(),
        })
    }
}

// === impl Values ===

impl Values {
    /// Lays the layers over each other. A value and its `_file` are one thing: the later
    /// source's choice takes both places.
    pub(super) fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let mut all = Self {
            values: BTreeMap::new(),
            lists: BTreeMap::new(),
        };
        for layer in layers {
            for key in layer.values.keys() {
                let twin = match key.strip_suffix("_file") {
                    Some(plain) => plain.to_owned(),
                    None => format!("{key}_file"),
                };
                all.values.remove(twin.as_str());
            }
            all.values.extend(layer.values);
            all.lists.extend(layer.lists);
        }
        all
    }

    /// Each entry of a list of tables by itself.
    pub(super) fn list_of_tables(&self, name: &str) -> Vec<Self> {
        self.lists
            .get(name)
            .into_iter()
            .flatten()
            .map(|values| Self {
                values: values.clone(),
                lists: BTreeMap::new(),
            })
            .collect()
    }

    /// Whether any source says something of `key`.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Where `key` was written, or where its neighbours were.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        self.values
            .get(key)
            .or_else(|| self.values.values().next())
            .map_or(Origin::Nowhere, |written| written.origin.clone())
    }

    /// Text that `parse` accepts.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.get(key, expected, |value| parse(value.as_str()?))
    }

    /// An address and a port.
    pub(super) fn address(&self, key: &'static str) -> Result<Option<SocketAddr>, Error> {
        const EXPECTED: &str = "an IP address and a port such as 127.0.0.1:7070";
        self.parsed(key, EXPECTED, |text| text.parse().ok())
    }

    /// A path that is not empty.
    pub(super) fn path(&self, key: &'static str) -> Result<Option<PathBuf>, Error> {
        self.parsed(key, "a path", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })
    }

    /// A whole number from 0 to `max`.
    pub(super) fn count(
        &self,
        key: &'static str,
        expected: &'static str,
        max: u64,
    ) -> Result<Option<u64>, Error> {
        self.get(key, expected, |value| {
            let count = match value {
                Value::Integer(number) => u64::try_from(*number).ok()?,
                Value::String(text) if self.is_variable(key) => text.parse().ok()?,
                _ => return None,
            };
            (count <= max).then_some(count)
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, Error> {
        self.get(key, "true or false", |value| match value {
            Value::Boolean(flag) => Some(*flag),
            Value::String(text) if self.is_variable(key) => text.parse().ok(),
            _ => None,
        })
    }

    /// A list of text that `parse` accepts; in a variable, with commas between.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.get(key, expected, |value| match value {
            Value::Array(items) => items.iter().map(|item| parse(item.as_str()?)).collect(),
            Value::String(text) if self.is_variable(key) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(parse)
                .collect(),
            _ => None,
        })
    }

    /// Text that may hold a secret: given as `key`, or as `key_file`, the file that
    /// holds it. No error shows it.
    pub(super) fn secret(
        &self,
        key: &'static str,
        expected: &'static str,
        accept: impl FnOnce(&str) -> bool,
    ) -> Result<Option<String>, Error> {
        let file_key = format!("{key}_file");
        let plain = self.values.get(key);
        let file = self.values.get(file_key.as_str());
        let (written, named, place, text) = match (plain, file) {
            (None, None) => return Ok(None),
            (Some(plain), Some(_)) => {
                return Err(Error::Both {
                    origin: plain.origin.clone(),
                    key: key.to_owned(),
                });
            }
            (Some(plain), None) => {
                let text = plain.value.as_str().map(str::to_owned);
                (plain, key.to_owned(), "there", text)
            }
            (None, Some(file)) => {
                let Some(path) = file.value.as_str() else {
                    return Err(wrong(&file.origin, &file_key, "a path", &file.value));
                };
                let text =
                    std::fs::read_to_string(path).map_err(|source| Error::UnreadableValue {
                        origin: file.origin.clone(),
                        key: file_key.clone(),
                        path: path.to_owned(),
                        source,
                    })?;
                (file, file_key, "in that file", Some(text.trim().to_owned()))
            }
        };
        match text {
            Some(text) if accept(&text) => Ok(Some(text)),
            found => Err(Error::Wrong {
                origin: written.origin.clone(),
                key: named,
                expected,
                found: match found {
                    Some(_) => format!("what is written {place}"),
                    None => type_of(&written.value).to_owned(),
                },
            }),
        }
    }

    fn get<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(written) = self.values.get(key) else {
            return Ok(None);
        };
        match read(&written.value) {
            Some(value) => Ok(Some(value)),
            None => Err(wrong(&written.origin, key, expected, &written.value)),
        }
    }

    /// A variable holds text only, which may stand for a number or a flag; in a file
    /// the text `"5"` where a number belongs is a mistake.
    fn is_variable(&self, key: &str) -> bool {
        matches!(self.origin_of(key), Origin::Variable(_))
    }
}

/// The values of one section under their dotted keys, all of them known and available.
fn checked(
    section: &str,
    keys: Table,
    origin: &Origin,
) -> Result<BTreeMap<&'static str, Written>, Error> {
    keys.into_iter()
        .map(|(name, value)| {
            let key = known(origin, format!("{section}.{name}"))?;
            let origin = origin.clone();
            Ok((key, Written { value, origin }))
        })
        .collect()
}

fn known(origin: &Origin, path: String) -> Result<&'static str, Error> {
    match key::find(&path) {
        Some(key) if key.available => Ok(key.path),
        Some(key) => Err(Error::NotAvailable {
            origin: origin.clone(),
            key: key.path,
        }),
        None => Err(unknown(origin, path)),
    }
}

fn unknown(origin: &Origin, key: String) -> Error {
    Error::Unknown {
        origin: origin.clone(),
        nearest: key::nearest(&key),
        key,
    }
}

fn wrong(origin: &Origin, key: &str, expected: &'static str, found: &Value) -> Error {
    Error::Wrong {
        origin: origin.clone(),
        key: key.to_owned(),
        expected,
        found: match found {
            Value::String(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            other => type_of(other).to_owned(),
        },
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|it| *it == b'\n').count() + 1
}
