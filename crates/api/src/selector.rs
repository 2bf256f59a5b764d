//! Label and field selectors: parsing, printing and matching.
//!
//! Invariant: what is parsed here prints back to a selector that matches the same sets. Deliberately absent: which
//! fields a kind can be selected by.

mod parse;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

/// What labels must look like. `nothing` is no requirement that labels could meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    /// `None` selects nothing.
    requirements: Option<Vec<Requirement>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Why a selector could not be understood, in the original's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl fmt::Display for SelectorError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

impl LabelSelector {
    /// Matches every set of labels.
    pub fn everything() -> Self {
        LabelSelector {
            requirements: Some(Vec::new()),
        }
    }

    /// Matches no set of labels.
    pub fn nothing() -> Self {
        LabelSelector { requirements: None }
    }

    /// The query form: `app=web,tier in (a, b),!old`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parse::requirements(text)?;
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(LabelSelector {
            requirements: Some(requirements),
        })
    }

    /// Exactly these labels; an empty set matches everything.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        LabelSelector {
            requirements: Some(labels.into_iter().map(equals).collect()),
        }
    }

    /// From `metav1.LabelSelector` as JSON; null selects nothing, an empty selector everything.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let typed: meta::LabelSelector = serde_json::from_value(selector.clone())
            .map_err(|error| SelectorError(error.to_string()))?;
        Self::from_typed(&typed)
    }

    pub fn from_typed(selector: &meta::LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements = Self::from_labels(selector.match_labels.iter().flatten())
            .requirements
            .unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(LabelSelector {
            requirements: Some(requirements),
        })
    }

    /// Matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// `get` returns the value of a label.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.as_ref().is_some_and(|all| {
            all.iter()
                .all(|requirement| requirement.matches(get(&requirement.key)))
        })
    }
}

impl Requirement {
    /// Checked as the original's `NewRequirement`.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        parse::check_key(key, "key")?;
        parse::check_values(key, operator, &values)?;
        Ok(Requirement {
            key: key.to_owned(),
            operator,
            values,
        })
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let wanted = self
                    .values
                    .first()
                    .and_then(|wanted| wanted.parse::<i64>().ok());
                match (value.and_then(|value| value.parse::<i64>().ok()), wanted) {
                    (Some(value), Some(wanted)) if self.operator == Operator::GreaterThan => {
                        value > wanted
                    }
                    (Some(value), Some(wanted)) => value < wanted,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements().iter().enumerate() {
            write!(out, "{}{requirement}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let mut sorted: Vec<&str> = self.values.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let values = sorted.join(",");
        match self.operator {
            Operator::Equals => write!(out, "{key}={values}"),
            Operator::DoubleEquals => write!(out, "{key}=={values}"),
            Operator::NotEquals => write!(out, "{key}!={values}"),
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
        }
    }
}

/// What fields must hold; all requirements apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub negated: bool,
    pub value: String,
}

impl FieldSelector {
    /// `metadata.name=web,status.phase!=Running`; `\` escapes `\`, `,` and `=` in values.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in parse::field_terms(text)
            .into_iter()
            .filter(|term| !term.is_empty())
        {
            let found = parse::split_field_term(&term);
            let Some((field, negated, value)) = found else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            requirements.push(FieldRequirement {
                field,
                negated,
                value: parse::unescape_field_value(&value)?,
            });
        }
        Ok(FieldSelector { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `field` must have, if the selector says so.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|requirement| requirement.field == field && !requirement.negated)
            .map(|requirement| requirement.value.as_str())
    }

    /// `get` returns the value of a field, "" for what is not there.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|requirement| {
            (get(&requirement.field) == requirement.value) != requirement.negated
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            FieldRequirement {
                field,
                negated,
                value,
            },
        ) in self.requirements.iter().enumerate()
        {
            let comma = if index > 0 { "," } else { "" };
            let operator = if *negated { "!=" } else { "=" };
            let value = value
                .replace('\\', r"\\")
                .replace(',', r"\,")
                .replace('=', r"\=");
            write!(out, "{comma}{field}{operator}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = LabelSelector::parse(text)
            .map_or_else(|error| error.to_string(), |selector| selector.to_string());
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn parses_and_prints() {
        check("", "");
        check("a=b", "a=b");
        check("b==c, a!=d", "a!=d,b==c");
        check("x in (b,a),!y,z", "x in (a,b),!y,z");
        check("x notin (a)", "x notin (a)");
        check("x>1,y<2", "x>1,y<2");
        check("x=", "x=");
        check("in in (in)", "in in (in)");
        check("a=b,", "found '', expected: identifier after ','");
        check(
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        );
        check(
            "x in a",
            "unable to parse requirement: found 'a', expected: '('",
        );
        check(
            "x in (a",
            "unable to parse requirement: found '', expected: ',' or ')'",
        );
        check(
            "=a",
            "unable to parse requirement: found '=', expected: identifier",
        );
        check("!a=b", "found '=', expected: ',' or 'end of string'");
        assert!(
            LabelSelector::parse("a=b c")
                .unwrap_err()
                .to_string()
                .contains("expected: ',' or 'end of string'")
        );
        assert!(LabelSelector::parse("-a=b").unwrap_err().to_string().starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"));
        assert!(LabelSelector::parse("a=-b").unwrap_err().to_string().starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be"));
    }

    #[track_caller]
    fn check_match(text: &str, labels: &[(&str, &str)], expected: bool) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(
            LabelSelector::parse(text).unwrap().matches(&labels),
            expected,
            "{text} {labels:?}"
        );
    }

    #[test]
    fn matching() {
        check_match("", &[], true);
        check_match("a=b", &[("a", "b"), ("c", "d")], true);
        check_match("a=b", &[("a", "c")], false);
        check_match("a!=b", &[], true);
        check_match("a notin (b)", &[("a", "b")], false);
        check_match("a", &[("a", "")], true);
        check_match("!a", &[("a", "")], false);
        check_match("a>1", &[("a", "2")], true);
        check_match("a>1", &[("a", "x")], false);
    }

    #[test]
    fn typed_selectors() {
        let parse = |value: Value| {
            LabelSelector::from_json(&value)
                .map_or_else(|error| error.to_string(), |selector| selector.to_string())
        };
        assert_eq!(
            parse(
                json!({"matchLabels": {"b": "c"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]})
            ),
            "a,b=c"
        );
        assert_eq!(
            parse(json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})),
            "\"Like\" is not a valid label selector operator"
        );
        assert!(
            !LabelSelector::from_json(&Value::Null)
                .unwrap()
                .matches(&BTreeMap::new())
        );
        assert!(
            LabelSelector::from_json(&json!({}))
                .unwrap()
                .matches(&BTreeMap::new())
        );
    }

    #[test]
    fn fields() {
        let selector =
            FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Running,x==y").unwrap();
        assert_eq!(
            selector.to_string(),
            r"metadata.name=a\,b,status.phase!=Running,x=y"
        );
        assert_eq!(selector.required_value("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| match field {
            "metadata.name" => "a,b",
            "x" => "y",
            _ => "",
        }));
        assert_eq!(
            FieldSelector::parse("a").unwrap_err().to_string(),
            "invalid selector: 'a'; can't understand 'a'"
        );
        assert_eq!(
            FieldSelector::parse(r"a=\b").unwrap_err().to_string(),
            r"invalid escape sequence: '\b'"
        );
    }
}
