//! Looks parameters up in the tables of known ones, and shows those that are safe to show.

use super::{
    invalid::InvalidUrl,
    parameter_tables::{Meaning, Table},
    text::{Parameter, key, one_of},
};

/// Looks up the parameters. Refuses unknown, unsupported and duplicate ones.
pub(super) fn known(table: Table, parameters: Vec<Parameter>) -> Result<Vec<(Parameter, Meaning)>, InvalidUrl> {
    let mut known: Vec<(Parameter, Meaning)> = Vec::new();
    for parameter in parameters {
        let meaning = meaning(table, &parameter)?;
        let is_duplicate = |(other, other_meaning): &&(Parameter, Meaning)| {
            other.key == parameter.key || (*other_meaning == meaning && meaning.is_unique())
        };
        if let Some((other, _)) = known.iter().find(is_duplicate) {
            let reason = if other.name == parameter.name {
                "is given twice".to_owned()
            } else {
                format!("means the same as {}; remove one", other.label)
            };
            return Err(parameter.refused(&reason));
        }
        known.push((parameter, meaning));
    }
    Ok(known)
}

impl Meaning {
    /// Whether two spellings of it are a duplicate.
    fn is_unique(self) -> bool {
        !matches!(
            self,
            Self::Only(_) | Self::Label | Self::SessionOption | Self::VerifyCertificate | Self::VerifyIdentity
        )
    }
}

/// Looks up one parameter.
fn meaning(table: Table, parameter: &Parameter) -> Result<Meaning, InvalidUrl> {
    match find(table, parameter) {
        None => Err(InvalidUrl::part(format!(
            "unknown {}{}",
            parameter.label,
            nearest(table, &parameter.key).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
        ))),
        Some(Meaning::Refused(reason)) => Err(parameter.refused(reason)),
        Some(Meaning::Only(words)) if !words.iter().any(|word| parameter.value.eq_ignore_ascii_case(word)) => {
            Err(parameter.refused(&format!("must be {}; other values are not supported", one_of(words))))
        }
        Some(meaning) => Ok(meaning),
    }
}

/// Returns the table's entry for a parameter.
pub(super) fn find(table: Table, parameter: &Parameter) -> Option<Meaning> {
    let is_session_option = parameter.name.starts_with("options[") && parameter.name.ends_with(']');
    if is_session_option && table.iter().any(|(_, meaning)| *meaning == Meaning::SessionOptions) {
        return Some(Meaning::SessionOption);
    }
    table.iter().find(|(name, _)| key(name) == parameter.key).map(|(_, meaning)| *meaning)
}

/// Returns the known parameter whose name is closest to an unknown one, if any is close.
fn nearest(table: Table, unknown: &str) -> Option<&'static str> {
    table
        .iter()
        .filter(|(_, meaning)| !matches!(meaning, Meaning::Refused(_)))
        .map(|(name, _)| (strsim::damerau_levenshtein(&key(name), unknown), *name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name)
}

/// Parameters as they may be shown: names, and values from closed sets.
#[derive(Default)]
pub(super) struct RedactedParameters(Vec<String>);

impl RedactedParameters {
    pub(super) fn push(&mut self, parameter: &Parameter, is_closed: bool) {
        let value = if is_closed { parameter.value.as_str() } else { "***" };
        self.0.push(format!("{}={value}", parameter.name));
    }

    /// Returns the query with its `?`; empty without parameters.
    pub(super) fn into_query(self) -> String {
        if self.0.is_empty() { String::new() } else { format!("?{}", self.0.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::url::parameter_tables::{MYSQL, POSTGRES, POSTGRES_VARIABLES, SQLITE};

    #[test]
    fn parameter_names_are_unique() {
        for table in [POSTGRES, MYSQL, SQLITE] {
            let mut keys: Vec<String> = table.iter().map(|(name, _)| key(name)).collect();
            keys.sort();
            let all = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), all, "{keys:?}");
        }
        for (variable, name) in POSTGRES_VARIABLES {
            assert!(POSTGRES.iter().any(|(known, _)| known == name), "{variable}");
        }
    }
}
