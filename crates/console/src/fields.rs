use url::form_urlencoded::parse;

/// The fields of a form or of a query, in their order. A name may stand there several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(text: &[u8]) -> Self {
        // No text of PostgreSQL's has a zero, and nobody types one.
        Self(parse(text).map(|(name, value)| (name.into_owned(), value.replace('\0', ""))).collect())
    }

    /// The first value of this name, without blanks around it; empty if there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim())
    }

    /// As it was sent, blanks and all.
    pub(crate) fn exact(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `None`: there is none, or it is empty.
    pub(crate) fn optional(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }

    /// The numbers of this name. Whatever else stands there is left out.
    pub(crate) fn numbers(&self, name: &str) -> Vec<i64> {
        self.0.iter().filter(|(known, _)| known == name).filter_map(|(_, value)| value.trim().parse().ok()).collect()
    }

    /// The same as a query, with one value replaced, or added; an empty one is left out.
    pub(crate) fn with(&self, name: &str, value: &str) -> String {
        let kept =
            self.0.iter().filter(|(known, _)| known != name).map(|(known, value)| (known.as_str(), value.as_str()));
        let all = kept.chain(Some((name, value)).filter(|(_, value)| !value.is_empty()));
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written_again() {
        let fields = Fields::parse(b"id=1&id=2&id=x&note=+a%20%00b+&empty=");
        assert_eq!((fields.numbers("id"), fields.get("note"), fields.optional("empty")), (vec![1, 2], "a b", None));
        assert_eq!(fields.exact("note"), Some(" a b "));
        assert_eq!(fields.with("note", "c/d"), "id=1&id=2&id=x&empty=&note=c%2Fd");
        assert_eq!(fields.with("id", ""), "note=+a+b+&empty=");
    }
}
