//! The tools with which every section reads itself: strict about words, with macros expanded and notices kept.

use super::value::Value;
use crate::error::{ConfigError, Problem};
use crate::nearest::nearest;
use crate::notice::Notice;
use crate::position::Position;
use crate::xml::{Attribute, Element};
use std::collections::BTreeMap;

/// Longest value after the macros are expanded.
const EXPANDED_BYTES_MAX: usize = 8192;

/// What is known beyond the element at hand.
#[derive(Default)]
pub(super) struct Reading {
    macros: BTreeMap<String, (String, Position)>,
    notices: Vec<Notice>,
}

impl Reading {
    /// Refuses attributes that are not in `known`.
    pub(super) fn attributes(
        &self,
        element: &Element,
        known: &[&'static str],
    ) -> Result<(), ConfigError> {
        let unknown = element
            .attributes
            .iter()
            .find(|attribute| !known.contains(&attribute.name.as_str()));
        let Some(attribute) = unknown else {
            return Ok(());
        };
        let problem = Problem::UnknownAttribute {
            name: attribute.name.clone(),
            element: element.name.clone(),
            allowed: known.to_vec(),
            nearest: nearest(&attribute.name, known),
        };
        Err(ConfigError {
            at: attribute.at,
            problem,
        })
    }

    /// Refuses text, elements that are not in `known`, and, with their reason, those in `later`.
    pub(super) fn children(
        &self,
        element: &Element,
        known: &[&'static str],
        later: &[(&'static str, &'static str)],
    ) -> Result<(), ConfigError> {
        let within = || element.name.clone();
        if let Some((text, at)) = &element.text {
            return Err(ConfigError {
                at: *at,
                problem: Problem::Text {
                    text: text.clone(),
                    within: within(),
                },
            });
        }
        for child in &element.children {
            if known.contains(&child.name.as_str()) {
                continue;
            }
            if let Some((name, because)) = later.iter().find(|(name, _)| *name == child.name) {
                return Err(not_yet(child.at, format!("<{name}>"), because));
            }
            let words: Vec<&'static str> = known
                .iter()
                .chain(later.iter().map(|(name, _)| name))
                .copied()
                .collect();
            let problem = Problem::UnknownElement {
                name: child.name.clone(),
                within: within(),
                allowed: known.to_vec(),
                nearest: nearest(&child.name, &words),
            };
            return Err(ConfigError {
                at: child.at,
                problem,
            });
        }
        Ok(())
    }

    /// Refuses anything within the element.
    pub(super) fn childless(&self, element: &Element) -> Result<(), ConfigError> {
        self.children(element, &[], &[])
    }

    /// The children called `name`, in order.
    pub(super) fn all<'e>(&self, element: &'e Element, name: &str) -> Vec<&'e Element> {
        element
            .children
            .iter()
            .filter(|child| child.name == name)
            .collect()
    }

    /// The only child called `name`, if there is one.
    pub(super) fn optional<'e>(
        &self,
        element: &'e Element,
        name: &str,
    ) -> Result<Option<&'e Element>, ConfigError> {
        let mut found = element.children.iter().filter(|child| child.name == name);
        let first = found.next();
        match (first, found.next()) {
            (Some(first), Some(second)) => Err(ConfigError {
                at: second.at,
                problem: Problem::Repeated {
                    name: name.to_owned(),
                    within: element.name.clone(),
                    first_line: first.at.line,
                },
            }),
            (first, _) => Ok(first),
        }
    }

    /// The only child called `name`.
    pub(super) fn required<'e>(
        &self,
        element: &'e Element,
        name: &'static str,
    ) -> Result<&'e Element, ConfigError> {
        self.optional(element, name)?.ok_or_else(|| ConfigError {
            at: element.at,
            problem: Problem::MissingElement {
                name,
                within: element.name.clone(),
            },
        })
    }

    /// The value of an attribute, macros expanded.
    pub(super) fn value(
        &self,
        element: &Element,
        name: &str,
    ) -> Result<Option<Value>, ConfigError> {
        let Some(attribute) = element
            .attributes
            .iter()
            .find(|attribute| attribute.name == name)
        else {
            return Ok(None);
        };
        let text = self.expand(attribute)?;
        Ok(Some(Value {
            text,
            element: element.name.clone(),
            attribute: attribute.name.clone(),
            at: attribute.at,
        }))
    }

    /// The value of an attribute that must be there.
    pub(super) fn needed(
        &self,
        element: &Element,
        name: &'static str,
    ) -> Result<Value, ConfigError> {
        self.value(element, name)?.ok_or_else(|| ConfigError {
            at: element.at,
            problem: Problem::MissingAttribute {
                element: element.name.clone(),
                attribute: name,
            },
        })
    }

    /// Reads one `<macro name value/>`.
    pub(super) fn define(&mut self, element: &Element) -> Result<(), ConfigError> {
        self.attributes(element, &["name", "value"])?;
        self.childless(element)?;
        let name = self.needed(element, "name")?;
        if !is_macro_name(&name.text) {
            return Err(name.wrong("a name of letters, digits and _, not starting with a digit"));
        }
        let value = self.needed(element, "value")?;
        if let Some((_, first)) = self.macros.get(&name.text) {
            let problem = Problem::Duplicate {
                what: "macro",
                name: name.text.clone(),
                first_line: first.line,
            };
            return Err(ConfigError {
                at: name.at,
                problem,
            });
        }
        self.macros.insert(name.text, (value.text, name.at));
        Ok(())
    }

    /// Replaces `%NAME%`; a `%` that does not start such a word stands for itself.
    fn expand(&self, attribute: &Attribute) -> Result<String, ConfigError> {
        let fail = |problem| ConfigError {
            at: attribute.at,
            problem,
        };
        let mut text = String::new();
        let mut rest = attribute.value.as_str();
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            match after
                .split_once('%')
                .filter(|(name, _)| is_macro_name(name))
            {
                Some((name, behind)) => {
                    let (value, _) = self
                        .macros
                        .get(name)
                        .ok_or_else(|| fail(self.unknown_macro(name)))?;
                    text.push_str(value);
                    rest = behind;
                }
                None => {
                    text.push('%');
                    rest = after;
                }
            }
            // Checked on the way: sixty macros of sixty uses each would otherwise grow without bound.
            if text.len() > EXPANDED_BYTES_MAX {
                let limit = format!("{EXPANDED_BYTES_MAX} bytes");
                return Err(fail(Problem::Limit {
                    what: "the value with its macros expanded",
                    limit,
                }));
            }
        }
        text.push_str(rest);
        Ok(text)
    }

    fn unknown_macro(&self, name: &str) -> Problem {
        let names: Vec<&str> = self.macros.keys().map(String::as_str).collect();
        Problem::UnknownMacro {
            name: name.to_owned(),
            nearest: nearest(name, &names).map(str::to_owned),
        }
    }

    /// Keeps a notice.
    pub(super) fn notice(&mut self, at: Position, text: impl Into<String>) {
        self.notices.push(Notice {
            at,
            text: text.into(),
        });
    }

    /// A notice that this attribute has no effect, when it is there.
    pub(super) fn without_effect(&mut self, element: &Element, name: &str, because: &str) {
        if let Some(attribute) = element
            .attributes
            .iter()
            .find(|attribute| attribute.name == name)
        {
            let text = format!("{name} of <{}> has no effect: {because}", element.name);
            self.notice(attribute.at, text);
        }
    }

    /// All notices, in the order of the file.
    pub(super) fn notices(mut self) -> Vec<Notice> {
        self.notices.sort_by_key(|notice| notice.at);
        self.notices
    }
}

/// The refusal of a word that Sidekick knows but does not serve yet.
pub(super) fn not_yet(at: Position, what: String, because: &'static str) -> ConfigError {
    ConfigError {
        at,
        problem: Problem::NotYet { what, because },
    }
}

/// A name usable as `%NAME%`, and as a variable of a script.
pub(super) fn is_macro_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
