//! What is wrong with a configuration, and where.

use crate::position::Position;
use std::fmt;

/// Names and values from a file are shown at most this long.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// The first thing wrong with a `userconfig.xml`.
#[derive(Debug, thiserror::Error)]
#[error("line {}, column {}: {problem}", at.line, at.column)]
pub struct ConfigError {
    /// Where.
    pub at: Position,
    /// What.
    pub problem: Problem,
}

/// What is wrong. The text names the allowed words and, after a slip, the nearest one.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Not XML.
    #[error("not well-formed XML: {0}")]
    Malformed(Malformed),
    /// A document type or entity declaration.
    #[error("DOCTYPE and entity declarations are refused: a configuration is self-contained")]
    Doctype,
    /// A processing instruction such as `<?xml-stylesheet?>`.
    #[error("processing instruction is refused: remove it")]
    Instruction,
    /// Any encoding but UTF-8.
    #[error(
        "encoding \"{}\" is not supported: save the file as UTF-8",
        Shown(found)
    )]
    Encoding {
        /// The encoding that the file declares.
        found: String,
    },
    /// An entity that XML itself does not define.
    #[error(
        "unknown entity in a value; allowed: &lt; &gt; &amp; &apos; &quot; and numbers such as &#65;"
    )]
    Entity,
    /// A limit of the reader.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What is too large, too many or too deep.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
    /// The root element is not `<safe>`.
    #[error("root element is <{}>, expected <safe>", Shown(found))]
    Root {
        /// The element found.
        found: String,
    },
    /// Nothing but white space and comments.
    #[error("the file holds no element, expected <safe>")]
    Empty,
    /// Text where only elements belong.
    #[error("unexpected text \"{}\" within <{within}>", Shown(text))]
    Text {
        /// The text.
        text: String,
        /// The element around it.
        within: String,
    },
    /// An element the language does not have there.
    #[error("unknown element <{}> within <{within}>; {}", Shown(name), Allowed { words: allowed, nearest: *nearest })]
    UnknownElement {
        /// The element found.
        name: String,
        /// The element around it.
        within: String,
        /// What may stand there.
        allowed: Vec<&'static str>,
        /// The allowed word that was probably meant.
        nearest: Option<&'static str>,
    },
    /// An attribute the element does not have.
    #[error("unknown attribute \"{}\" of <{element}>; {}", Shown(name), Allowed { words: allowed, nearest: *nearest })]
    UnknownAttribute {
        /// The attribute found.
        name: String,
        /// Its element.
        element: String,
        /// The attributes of that element.
        allowed: Vec<&'static str>,
        /// The allowed word that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value outside a closed list of words.
    #[error("{attribute}=\"{}\" of <{element}>; {}", Shown(value), Allowed { words: allowed, nearest: *nearest })]
    Word {
        /// The element.
        element: String,
        /// The attribute.
        attribute: String,
        /// The value found.
        value: String,
        /// The words that may stand there.
        allowed: Vec<&'static str>,
        /// The allowed word that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong form or range.
    #[error("{attribute}=\"{}\" of <{element}>: expected {expected}", Shown(value))]
    Value {
        /// The element.
        element: String,
        /// The attribute.
        attribute: String,
        /// The value found.
        value: String,
        /// What should stand there.
        expected: String,
    },
    /// A required attribute is not there.
    #[error("<{element}> needs the attribute \"{attribute}\"")]
    MissingAttribute {
        /// The element.
        element: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// A required element is not there.
    #[error("<{within}> needs an element <{name}>")]
    MissingElement {
        /// The element that is missing.
        name: &'static str,
        /// The element around it.
        within: String,
    },
    /// An element that may stand once stands twice.
    #[error("<{name}> stands twice within <{within}>; the first one is in line {first_line}")]
    Repeated {
        /// The element.
        name: String,
        /// The element around it.
        within: String,
        /// The line of the first.
        first_line: u32,
    },
    /// Two things that must differ are called the same.
    #[error(
        "{what} \"{}\" is used twice; the first one is in line {first_line}",
        Shown(name)
    )]
    Duplicate {
        /// The kind of thing.
        what: &'static str,
        /// The common name.
        name: String,
        /// The line of the first.
        first_line: u32,
    },
    /// Two replicated directories where one holds the other.
    #[error(
        "directory {} overlaps {}, line {first_line}: a file would be replicated twice",
        Shown(one),
        Shown(other)
    )]
    Overlap {
        /// The later one.
        one: String,
        /// The earlier one.
        other: String,
        /// The line of the earlier one.
        first_line: u32,
    },
    /// Part of the language, but Sidekick does not do it yet. Accepting it would promise what is not kept.
    #[error("not yet: {what} ({because})")]
    NotYet {
        /// The element, attribute or value.
        what: String,
        /// What is missing, or what to do instead.
        because: &'static str,
    },
    /// `%NAME%` without a `<macro>`.
    #[error("macro %{}% is not defined{}", Shown(name), DidYouMean(nearest.as_deref()))]
    UnknownMacro {
        /// The name.
        name: String,
        /// The macro that was probably meant.
        nearest: Option<String>,
    },
}

/// The ways in which a file is not XML.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Tags, comments or references.
    #[error("{0}")]
    Syntax(#[from] quick_xml::Error),
    /// Attributes.
    #[error("attribute without a name")]
    NamelessAttribute,
    /// `<a b>`.
    #[error("attribute without a value: write name=\"value\"")]
    NoValue,
    /// `<a b=c>`.
    #[error("attribute value without quotes: write name=\"value\"")]
    Unquoted,
    /// `<a b="c>`.
    #[error("attribute value is not closed")]
    Unclosed,
    /// `<a b="1" b="2">`.
    #[error("attribute is given twice")]
    Twice,
    /// A `<` within a value.
    #[error("\"<\" within an attribute value: write &lt;")]
    Less,
    /// The end of the file within an element.
    #[error("<{0}> is not closed")]
    OpenElement(String),
    /// An element or text after `</safe>`.
    #[error("content after the root element")]
    Trailing,
    /// The XML declaration is not at the start.
    #[error("the XML declaration must stand at the start of the file")]
    LateDeclaration,
    /// A character that XML does not allow.
    #[error("control character U+{0:04X}")]
    Control(u32),
}

/// Text from a file, shortened and with control characters made visible: it goes to a terminal.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(SHOWN_CHARACTERS_MAX) {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        if characters.next().is_some() {
            write!(f, "...")
        } else {
            Ok(())
        }
    }
}

struct Allowed<'a> {
    words: &'a [&'static str],
    nearest: Option<&'static str>,
}

impl fmt::Display for Allowed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.words.is_empty() {
            write!(f, "nothing may stand there")?;
        } else {
            write!(f, "allowed: {}", self.words.join(", "))?;
        }
        DidYouMean(self.nearest).fmt(f)
    }
}

struct DidYouMean<'a>(Option<&'a str>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(word) => write!(f, "; did you mean \"{}\"?", Shown(word)),
            None => Ok(()),
        }
    }
}
