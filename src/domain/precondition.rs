//! Preconditions on a user's version (optimistic concurrency control).

use super::Version;

/// The versions that a client names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Every version.
    Any,
    /// One of these.
    OneOf(Vec<Version>),
}

impl Versions {
    /// Returns whether this version is among them.
    #[must_use]
    pub fn contain(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

/// A precondition on a user's version; the default holds for every version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The version must be one of these.
    pub is: Option<Versions>,
    /// The version must be none of these.
    pub is_not: Option<Versions>,
}

impl Precondition {
    /// Holds for every version.
    pub const NONE: Self = Self { is: None, is_not: None };

    /// Returns whether it holds for this version.
    #[must_use]
    pub fn holds(&self, version: Version) -> bool {
        self.is.as_ref().is_none_or(|versions| versions.contain(version))
            && !self.is_not.as_ref().is_some_and(|versions| versions.contain(version))
    }
}

impl From<Version> for Precondition {
    /// A precondition that holds for this version only.
    fn from(version: Version) -> Self {
        Self { is: Some(Versions::OneOf(vec![version])), is_not: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_conditions_must_hold() {
        let version = Version::from_stored;
        let is = |numbers: &[i64]| Some(Versions::OneOf(numbers.iter().copied().map(version).collect()));
        for (precondition, holds) in [
            (Precondition::NONE, true),
            (version(2).into(), true),
            (version(1).into(), false),
            (Precondition { is: is(&[1, 2]), is_not: None }, true),
            (Precondition { is: is(&[]), is_not: None }, false),
            (Precondition { is: Some(Versions::Any), is_not: None }, true),
            (Precondition { is: Some(Versions::Any), is_not: is(&[2]) }, false),
            (Precondition { is: None, is_not: is(&[1, 3]) }, true),
            (Precondition { is: None, is_not: Some(Versions::Any) }, false),
        ] {
            assert_eq!(precondition.holds(version(2)), holds, "{precondition:?}");
        }
    }
}
