//! Query parameters, taken one by one; what is left over is unknown.

use std::str::FromStr;

use schemas::problem::{Code, FieldError};

use super::failure::Failure;

/// Rows of a page unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;

/// The query of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    errors: Vec<FieldError>,
}

// === impl Params ===

impl Params {
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let mut params = Self {
            pairs,
            errors: Vec::new(),
        };
        for at in 1..params.pairs.len() {
            let name = &params.pairs[at].0;
            if params.pairs[..at]
                .iter()
                .any(|(earlier, _)| earlier == name)
            {
                let error = FieldError::new(name.clone(), "validation", "given once");
                params.errors.push(error);
            }
        }
        Ok(params)
    }

    /// A parameter as text.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(it, _)| it == name)?;
        let text = self.pairs.remove(at).1;
        if text.chars().any(char::is_control) {
            self.refuse(name, "no control characters");
            return None;
        }
        Some(text)
    }

    /// A parameter of a type; `expected` says what would be right.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.refuse(name, expected);
        }
        parsed
    }

    /// The size of a page.
    pub(crate) fn limit(&mut self) -> u32 {
        let expected = format!("an integer from 1 to {LIMIT_MAX}");
        let limit = self.parsed("limit", &expected).unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            self.refuse("limit", expected);
        }
        limit
    }

    /// Where a page begins: after the row that the cursor names.
    pub(crate) fn cursor<T: FromStr>(&mut self) -> Result<Option<T>, Failure> {
        let Some(text) = self.text("cursor") else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Failure::new(
                Code::BadRequest,
                "cursor: expected the next_cursor of an earlier page",
            )
        })
    }

    pub(crate) fn refuse(&mut self, name: &str, expected: impl Into<String>) {
        self.refuse_as(Code::Validation, name, expected);
    }

    pub(crate) fn refuse_as(&mut self, code: Code, name: &str, expected: impl Into<String>) {
        self.errors
            .push(FieldError::new(name, code.as_str(), expected));
    }

    /// Everything was read and was right; what is left over is unknown.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        for (name, _) in &self.pairs {
            self.errors.push(FieldError::new(
                name.clone(),
                "validation",
                "there is no such parameter here",
            ));
        }
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Failure::fields(self.errors))
        }
    }
}
