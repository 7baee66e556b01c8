//! How Alipay writes things: forms, the text that is signed, amounts in yuan, Beijing's time.

use std::collections::BTreeMap;

use time::format_description::StaticFormatDescription;
use time::macros::{format_description, offset};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};
use url::form_urlencoded::{Serializer, parse};

use crate::GatewayFault;

/// What is signed: `name=value`, by name, joined by `&`; nothing of what is empty.
pub(super) fn text_to_sign(parameters: &BTreeMap<&str, &str>) -> String {
    let pairs = parameters.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

/// `application/x-www-form-urlencoded`.
pub(super) fn encoded(parameters: &BTreeMap<&str, &str>) -> String {
    Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// What a form says. A name that stands in it twice could be signed as one and read as the other.
pub(super) fn pairs(body: &[u8]) -> Result<BTreeMap<String, String>, GatewayFault> {
    let mut pairs = BTreeMap::new();
    for (name, value) in parse(body) {
        if pairs.insert(name.clone().into_owned(), value.into_owned()).is_some() {
            return Err(GatewayFault::Protocol(format!("{:?} stands in it twice", crate::gateway::shortened(&name))));
        }
    }
    Ok(pairs)
}

const BEIJING: UtcOffset = offset!(+8);
const TIME: StaticFormatDescription = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// `2014-07-24 03:07:50`.
pub(super) fn beijing_text(at: OffsetDateTime) -> String {
    at.to_offset(BEIJING).format(TIME).unwrap_or_default()
}

/// A time that may be missing, or empty where nothing has happened yet.
pub(super) fn instant(text: Option<&str>) -> Result<Option<OffsetDateTime>, GatewayFault> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let local = PrimitiveDateTime::parse(text, TIME)
        .map_err(|_| GatewayFault::Protocol("a time in it is not of the form 2014-07-24 03:07:50".to_owned()))?;
    Ok(Some(local.assume_offset(BEIJING).to_offset(UtcOffset::UTC)))
}

/// `19.99` for 1999.
pub(super) fn yuan(minor: i64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}

/// 1999 for `19.99`: to the cent, without a detour by floating point.
pub(super) fn minor(yuan: &str) -> Result<i64, GatewayFault> {
    let wrong = || GatewayFault::Protocol("an amount in it is not of the form 19.99".to_owned());
    let (whole, cents) = yuan.split_once('.').unwrap_or((yuan, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || cents.len() > 2 || !digits(whole) || !digits(cents) {
        return Err(wrong());
    }
    format!("{whole}{cents:0<2}").parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_both_ways() {
        for (text, amount) in
            [("0.01", 1), ("19.99", 1999), ("88.8", 8880), ("7", 700), ("90071992547409.93", 9_007_199_254_740_993)]
        {
            assert_eq!(minor(text).unwrap(), amount, "{text}");
        }
        for amount in [0, 1, 99, 100, 1999, 9_007_199_254_740_993] {
            assert_eq!(minor(&yuan(amount)).unwrap(), amount);
        }
        for wrong in ["", ".5", "-1.00", "1.999", "1e3", "1,000.00", " 1.00", "\u{661}.00", "99999999999999999999"] {
            assert!(minor(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_text_to_sign_is_sorted_and_leaves_out_what_is_empty() {
        let parameters =
            BTreeMap::from([("method", "m"), ("app_id", "a"), ("notify_url", ""), ("biz_content", "{\"a\":1}")]);
        assert_eq!(text_to_sign(&parameters), "app_id=a&biz_content={\"a\":1}&method=m");
        assert!(pairs(b"a=1&b=%E4%BD%A0+2").is_ok_and(|pairs| pairs["b"] == "\u{4f60} 2"));
        assert!(pairs(b"a=1&a=2").is_err());
    }
}
