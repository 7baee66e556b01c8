//! What the pages say, in English and in Chinese.

mod advice;
mod texts;

pub(crate) use self::advice::{advice, check_rule};
pub(crate) use self::texts::{EN, Texts, ZH};

/// A language that the pages speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Chinese,
}

impl Language {
    pub(crate) const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// As HTML calls it.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh-Hans",
        }
    }

    /// As a link and a cookie call it.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }

    /// Its own name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Chinese => "中文",
        }
    }

    pub(crate) fn texts(self) -> &'static Texts {
        match self {
            Self::English => &EN,
            Self::Chinese => &ZH,
        }
    }

    pub(crate) fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }

    /// The first of the languages that a browser asks for that is spoken here
    /// (<https://www.rfc-editor.org/rfc/rfc9110#section-12.5.4>).
    pub(crate) fn wanted(accept: &str) -> Self {
        let mut wanted: Vec<(f64, Self)> = accept.split(',').filter_map(weighed).collect();
        // Stable: of two that are wanted as much the first.
        wanted.sort_by(|one, other| other.0.total_cmp(&one.0));
        wanted.first().map_or(Self::English, |(_, language)| *language)
    }
}

fn weighed(range: &str) -> Option<(f64, Language)> {
    let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
    let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.trim().parse().ok())?;
    let primary = tag.trim().split('-').next()?.to_ascii_lowercase();
    Some((weight, Language::parse(&primary)?)).filter(|(weight, _)| *weight > 0.0)
}

/// The text with each `{}` in turn replaced by a value.
pub(crate) fn fill(text: &str, values: &[&dyn std::fmt::Display]) -> String {
    let mut parts = text.split("{}");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    let mut values = values.iter();
    for part in parts {
        if let Some(value) = values.next() {
            filled += &value.to_string();
        }
        filled += part;
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_chooses_the_language() {
        for (accept, language) in [
            ("", Language::English),
            ("zh-CN,zh;q=0.9,en;q=0.8", Language::Chinese),
            ("en-GB, zh;q=0.5", Language::English),
            ("fr, zh-Hant;q=0.3", Language::Chinese),
            ("zh;q=0, en", Language::English),
            ("de;q=1, en;q=0.1, zh;q=0.2", Language::Chinese),
        ] {
            assert_eq!(Language::wanted(accept), language, "{accept}");
        }
    }

    #[test]
    fn values_stand_where_the_text_wants_them() {
        assert_eq!(fill("{} of {} done", &[&3, &"7"]), "3 of 7 done");
        assert_eq!(fill("nothing", &[&3]), "nothing");
    }

    #[test]
    fn both_languages_say_everything_and_take_the_same_values() {
        for ((name, english), (_, chinese)) in EN.all().into_iter().zip(ZH.all()) {
            assert!(!english.is_empty() && !chinese.is_empty(), "{name}");
            assert_eq!(english.matches("{}").count(), chinese.matches("{}").count(), "{name}");
            let is_chinese = chinese.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
            assert!(is_chinese, "{name} is not Chinese: {chinese}");
        }
    }
}
