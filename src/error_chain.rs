//! Error messages together with their causes.

/// Returns an error and its causes in one line, separated by `: `.
#[must_use]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut links: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors repeat their cause in their own text.
        if links.last().is_none_or(|last| !last.ends_with(&text)) {
            links.push(text);
        }
        next = error.source();
    }
    links.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot be served")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("query failed: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn each_cause_appears_once() {
        let error = Outer(Middle(std::io::Error::other("connection reset")));
        assert_eq!(chain(&error), "cannot be served: query failed: connection reset");
    }
}
