use std::error::Error;

/// An error and its causes in one sentence. A cause that the sentence ends with already is not repeated: many errors of
/// libraries print their source, and many do not.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut sentence = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !sentence.ends_with(&text) {
            sentence = format!("{sentence}: {text}");
        }
        next = cause.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn every_cause_is_told_once() {
        let refused = Layer("connection refused", None);
        let silent = Layer("error connecting to server", Some(Box::new(refused)));
        assert_eq!(causes(&silent), "error connecting to server: connection refused");
        let refused = Layer("connection refused", None);
        let talkative = Layer("cannot connect: connection refused", Some(Box::new(refused)));
        assert_eq!(causes(&talkative), "cannot connect: connection refused");
    }
}
