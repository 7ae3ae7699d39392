//! Builds the tree from events, within limits.

use super::element::{Attribute, Element};
use crate::error::{ConfigError, Malformed, Problem};
use crate::position::{Lines, Position};
use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;
use quick_xml::events::attributes::AttrError;

/// Deepest nesting; the language itself needs seven.
const DEPTH_MAX: usize = 16;
/// Most elements in a file.
const ELEMENTS_MAX: usize = 10_000;
/// Most attributes of an element.
const ATTRIBUTES_MAX: usize = 64;
/// Longest name of an element or attribute.
const NAME_BYTES_MAX: usize = 128;
/// Longest value of an attribute.
const VALUE_BYTES_MAX: usize = 8192;

/// The elements that are open, outermost first, and the root once it is closed.
pub(super) struct Builder<'a> {
    lines: &'a Lines<'a>,
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(lines: &'a Lines<'a>) -> Builder<'a> {
        Builder {
            lines,
            open: Vec::new(),
            root: None,
            elements: 0,
        }
    }

    fn fail<T>(&self, offset: usize, problem: Problem) -> Result<T, ConfigError> {
        Err(ConfigError {
            at: self.lines.position(offset),
            problem,
        })
    }

    /// A start tag whose `<` stands at byte `start`.
    pub(super) fn open(&mut self, tag: &BytesStart<'_>, start: usize) -> Result<(), ConfigError> {
        if self.root.is_some() {
            return self.fail(start, Problem::Malformed(Malformed::Trailing));
        }
        self.elements += 1;
        check(self.elements, ELEMENTS_MAX, "the number of elements")
            .and_then(|()| check(self.open.len() + 1, DEPTH_MAX, "the depth of elements"))
            .and_then(|()| {
                check(
                    tag.name().as_ref().len(),
                    NAME_BYTES_MAX,
                    "the length of a name",
                )
            })
            .or_else(|problem| self.fail(start, problem))?;
        let at = self.lines.position(start);
        let attributes = self.attributes(tag, start, at)?;
        let name = tag.name().as_ref().to_owned();
        self.open.push(Element {
            name,
            at,
            attributes,
            children: Vec::new(),
            text: None,
        });
        Ok(())
    }

    fn attributes(
        &self,
        tag: &BytesStart<'_>,
        start: usize,
        at: Position,
    ) -> Result<Vec<Attribute>, ConfigError> {
        let mut read = Vec::new();
        for attribute in tag.attributes() {
            // Offsets in these errors count from the start of the name, one behind the `<`.
            let attribute = attribute.or_else(|error| {
                let (offset, malformed) = malformed(&error);
                self.fail(start + 1 + offset, Problem::Malformed(malformed))
            })?;
            let name = attribute.key.as_ref();
            let at = self.lines.position_of(name).unwrap_or(at);
            let fail = |problem| ConfigError { at, problem };
            if name.is_empty() {
                return Err(fail(Problem::Malformed(Malformed::NamelessAttribute)));
            }
            if attribute.value.contains('<') {
                return Err(fail(Problem::Malformed(Malformed::Less)));
            }
            check(read.len() + 1, ATTRIBUTES_MAX, "the number of attributes")
                .and_then(|()| check(name.len(), NAME_BYTES_MAX, "the length of a name"))
                .and_then(|()| {
                    check(
                        attribute.value.len(),
                        VALUE_BYTES_MAX,
                        "the length of a value in bytes",
                    )
                })
                .map_err(fail)?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|_| fail(Problem::Entity))?;
            read.push(Attribute {
                name: name.to_owned(),
                value: value.into_owned(),
                at,
            });
        }
        Ok(read)
    }

    /// Text at byte `start`; white space is dropped.
    pub(super) fn text(&mut self, text: &str, start: usize) -> Result<(), ConfigError> {
        let Some(skipped) = text.find(|c: char| !c.is_whitespace()) else {
            return Ok(());
        };
        let at = self.lines.position(start + skipped);
        match self.open.last_mut() {
            Some(element) => {
                element
                    .text
                    .get_or_insert_with(|| (text.trim().to_owned(), at));
                Ok(())
            }
            None if self.root.is_some() => Err(ConfigError {
                at,
                problem: Problem::Malformed(Malformed::Trailing),
            }),
            None => Err(ConfigError {
                at,
                problem: Problem::Empty,
            }),
        }
    }

    /// An end tag; quick-xml has checked that it fits.
    pub(super) fn close(&mut self) {
        if let Some(element) = self.open.pop() {
            match self.open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => self.root = Some(element),
            }
        }
    }

    /// The end of the text, at byte `end`.
    pub(super) fn finish(mut self, end: usize) -> Result<Element, ConfigError> {
        if let Some(element) = self.open.pop() {
            let problem = Problem::Malformed(Malformed::OpenElement(element.name));
            return Err(ConfigError {
                at: element.at,
                problem,
            });
        }
        match self.root.take() {
            Some(root) => Ok(root),
            None => self.fail(end, Problem::Empty),
        }
    }
}

fn check(count: usize, limit: usize, what: &'static str) -> Result<(), Problem> {
    if count > limit {
        Err(Problem::Limit {
            what,
            limit: limit.to_string(),
        })
    } else {
        Ok(())
    }
}

fn malformed(error: &AttrError) -> (usize, Malformed) {
    match error {
        AttrError::ExpectedEq(at) | AttrError::ExpectedValue(at) => (*at, Malformed::NoValue),
        AttrError::UnquotedValue(at) => (*at, Malformed::Unquoted),
        AttrError::ExpectedQuote(at, _) => (*at, Malformed::Unclosed),
        AttrError::Duplicated(at, _) => (*at, Malformed::Twice),
    }
}
