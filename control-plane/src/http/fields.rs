//! A request body, taken apart field by field, so that one answer names every field that
//! is wrong.

use std::collections::BTreeMap;

use events::Refusal;
use events::command::{LimitsPatch, MetadataPatch};
use schemas::problem::{Code, FieldError};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::failure::{Failure, to_error};
use super::json;

const INTEGER: &str = "null or an integer from 0 to 9007199254740991";

/// The members of a JSON object that have not been read yet.
#[derive(Debug)]
pub(crate) struct Fields {
    members: Map<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

// === impl Fields ===

impl Fields {
    /// Reads a body; none at all is an empty object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Failure> {
        let members = if body.is_empty() {
            Map::new()
        } else {
            match json::parse(body) {
                Ok(Value::Object(members)) => members,
                Ok(_) => {
                    return Err(Failure::new(
                        Code::BadRequest,
                        "the body must be a JSON object",
                    ));
                }
                Err(error) => {
                    let (line, column) = (error.line(), error.column());
                    return Err(Failure::new(
                        Code::BadRequest,
                        format!(
                            "the body is not JSON whose members have names of their own: line \
                             {line}, column {column}"
                        ),
                    ));
                }
            }
        };
        Ok(Self {
            members,
            known: Vec::new(),
            errors: Vec::new(),
        })
    }

    /// Reads the body of a form; each field is a text and stands once.
    pub(crate) fn of_form(body: &[u8]) -> Result<Self, Failure> {
        let mut members = Map::new();
        for (name, value) in url::form_urlencoded::parse(body) {
            let value = Value::String(value.into_owned());
            if members.insert(name.into_owned(), value).is_some() {
                return Err(Failure::new(
                    Code::BadRequest,
                    "a field of the form stands twice",
                ));
            }
        }
        Ok(Self {
            members,
            known: Vec::new(),
            errors: Vec::new(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A field: absent, null, or a value; `expected` says what would be right.
    pub(crate) fn optional<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Option<Option<T>> {
        match self.take(name)? {
            Value::Null => Some(None),
            value => match serde_json::from_value(value) {
                Ok(value) => Some(Some(value)),
                Err(_) => {
                    self.refuse(name, expected);
                    None
                }
            },
        }
    }

    /// A field that may be left out but not be null.
    pub(crate) fn value<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Option<T> {
        match self.optional(name, expected)? {
            Some(value) => Some(value),
            None => {
                self.refuse(name, expected);
                None
            }
        }
    }

    /// A field that must be there.
    pub(crate) fn required_as<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Option<T> {
        let value = self.take(name).unwrap_or(Value::Null);
        let value = serde_json::from_value(value).ok();
        if value.is_none() {
            self.refuse(name, expected);
        }
        value
    }

    /// A text that must be there.
    pub(crate) fn required_text(&mut self, name: &'static str) -> String {
        let expected = "a text, required";
        match self.take(name) {
            Some(Value::String(text)) => text,
            _ => {
                self.refuse(name, expected);
                String::new()
            }
        }
    }

    /// Whether a field was refused already, and needs no second word.
    pub(crate) fn is_refused(&self, name: &str) -> bool {
        self.errors.iter().any(|it| it.field == name)
    }

    /// `limits` and its like: an object of rates, each null or an integer.
    pub(crate) fn limits(&mut self, name: &'static str) -> Option<LimitsPatch> {
        match self.members_of(name, INTEGER)? {
            None => Some(LimitsPatch::Clear),
            Some(members) => Some(LimitsPatch::Merge(members)),
        }
    }

    /// `metadata`: an object of texts.
    pub(crate) fn metadata(&mut self, name: &'static str) -> Option<MetadataPatch> {
        match self.members_of(name, "null or a text")? {
            None => Some(MetadataPatch::Clear),
            Some(members) => Some(MetadataPatch::Merge(members)),
        }
    }

    /// An object whose members are all of one type, or null.
    pub(crate) fn members_of<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Option<Option<BTreeMap<String, Option<T>>>> {
        let members = match self.take(name)? {
            Value::Null => return Some(None),
            Value::Object(members) => members,
            _ => {
                self.refuse(name, "an object or null");
                return None;
            }
        };
        let mut read = BTreeMap::new();
        for (member, value) in members {
            match serde_json::from_value::<Option<T>>(value) {
                Ok(value) => {
                    read.insert(member, value);
                }
                Err(_) => self.refuse_named(format!("{name}.{member}"), expected),
            }
        }
        Some(Some(read))
    }

    /// Fields whose meaning is not enforced yet: null is what they are, anything else is
    /// refused rather than stored and ignored.
    pub(crate) fn not_available(&mut self, names: &[&'static str]) {
        for name in names {
            if self.take(name).is_some_and(|value| !is_unset(&value)) {
                self.refuse_as(
                    Code::NotAvailable,
                    name,
                    "not enforced yet, so it cannot be set",
                );
            }
        }
    }

    /// A field that is known but may not be changed by this call.
    pub(crate) fn fixed(&mut self, names: &[&'static str]) {
        for name in names {
            if self.take(name).is_some() {
                self.refuse_as(Code::Validation, name, "this field cannot be changed");
            }
        }
    }

    /// A field that is known and has no say here, whatever it holds.
    pub(crate) fn ignored(&mut self, name: &'static str) {
        drop(self.take(name));
    }

    /// A field that is missing, unless it is there and was refused already.
    pub(crate) fn refuse_missing(&mut self, name: &str, expected: &str) {
        if self.errors.iter().all(|it| it.field != name) {
            self.refuse(name, &format!("{expected}, required"));
        }
    }

    pub(crate) fn refuse(&mut self, name: &str, expected: &str) {
        self.refuse_named(name.to_owned(), expected);
    }

    pub(crate) fn refuse_as(&mut self, code: Code, name: &str, detail: &str) {
        self.errors
            .push(FieldError::new(name, code.as_str(), detail));
    }

    fn refuse_named(&mut self, name: String, expected: &str) {
        self.errors.push(FieldError::new(
            name,
            Code::Validation.as_str(),
            format!("expected {expected}"),
        ));
    }

    /// Like [`finish`](Self::finish), and where it fails, what the rules of the domain say
    /// of the other fields is in the same answer.
    pub(crate) fn finish_with(
        mut self,
        judge: impl FnOnce() -> Option<Refusal>,
    ) -> Result<(), Failure> {
        if (!self.errors.is_empty() || !self.members.is_empty())
            && let Some(Refusal::Fields(refused)) = judge()
        {
            for refusal in refused {
                if self.errors.iter().all(|it| it.field != refusal.field) {
                    self.errors.push(to_error(refusal));
                }
            }
        }
        self.finish()
    }

    /// Everything was read and was right; what is left over is unknown.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let members = std::mem::take(&mut self.members);
        for name in members.keys() {
            let detail = match nearest(name, &self.known) {
                Some(known) => format!("there is no such field; did you mean `{known}`?"),
                None => "there is no such field".to_owned(),
            };
            self.errors.push(FieldError::new(
                name.clone(),
                Code::Validation.as_str(),
                detail,
            ));
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Failure::fields(self.errors))
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.members.remove(name)
    }
}

/// Null, and an object in which nothing is set.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.values().all(is_unset),
        _ => false,
    }
}

/// The known name that differs least, if it differs little.
fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let (distance, nearest) = known
        .iter()
        .map(|it| (strsim::damerau_levenshtein(name, it), *it))
        .min()?;
    (distance <= 2.max(name.chars().count() / 3)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named_in_one_answer() {
        let body =
            br#"{"name": 7, "limits": {"rpm": -1, "rps": 3}, "nmae": "x", "queue": {"size": 1}}"#;
        let mut fields = Fields::parse(body).ok().unwrap();
        fields.required_text("name");
        fields.limits("limits");
        fields.not_available(&["queue"]);
        let failure = fields.finish().unwrap_err();
        let text = format!("{failure:?}");
        for expected in [
            "\"name\"",
            "limits.rpm",
            "did you mean `name`",
            "not_available",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn an_object_with_nothing_set_is_unset() {
        let mut fields = Fields::parse(br#"{"quotas": {"daily": null}}"#)
            .ok()
            .unwrap();
        fields.not_available(&["quotas"]);
        assert_eq!(fields.finish(), Ok(()));
    }
}
