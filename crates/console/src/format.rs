//! Values as the pages show them.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::text::Language;

/// What stands in a segment of a path as it is (<https://www.rfc-editor.org/rfc/rfc3986#section-2.3>).
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const SHORT: &[FormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// A moment, for machines and in UTC.
pub(crate) struct Moment {
    /// As RFC 3339 has it, to the millisecond.
    pub(crate) machine: String,
    /// `2026-12-01 05:58:02`.
    pub(crate) utc: String,
    /// How far it is from now.
    pub(crate) distance: Duration,
    /// Whether it lies ahead.
    pub(crate) is_ahead: bool,
}

impl Moment {
    pub(crate) fn of(at: OffsetDateTime, now: OffsetDateTime) -> Self {
        let at = at.to_offset(time::UtcOffset::UTC);
        let whole = at.replace_millisecond(at.millisecond()).unwrap_or(at);
        let distance = Duration::try_from((now - at).abs()).unwrap_or_default();
        Self {
            machine: whole.format(&Rfc3339).unwrap_or_default(),
            utc: at.format(SHORT).unwrap_or_default(),
            distance,
            is_ahead: at > now,
        }
    }
}

/// `950 ms`, `12 s`, `3 min`, `5 h`, `4 d`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 if duration.subsec_millis() >= 100 => format!("{:.1} s", duration.as_secs_f64()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The same in a language.
pub(crate) fn duration_in(span: Duration, language: Language) -> String {
    let text = duration(span);
    if language == Language::English {
        return text;
    }
    let (value, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let unit = match unit {
        "ms" => "毫秒",
        "s" => "秒",
        "min" => "分钟",
        "h" => "小时",
        "d" => "天",
        other => other,
    };
    format!("{value} {unit}")
}

/// `1,234,567`.
pub(crate) fn number(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0 { format!("-{grouped}") } else { grouped }
}

/// Money, given in the smallest unit of its currency. ISO 4217 has most currencies with two digits after the point
/// (<https://www.six-group.com/en/products-services/financial-information/data-standards.html>).
pub(crate) fn money(minor: i64, currency: &str) -> String {
    let digits = match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND"
        | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    };
    let unit = 10_i128.pow(digits);
    let (whole, rest) = (i128::from(minor) / unit, (i128::from(minor) % unit).abs());
    let sign = if minor < 0 && whole == 0 { "-" } else { "" };
    let whole = number(whole);
    match digits {
        0 => format!("{whole} {currency}"),
        digits => format!("{sign}{whole}.{rest:0width$} {currency}", width = digits as usize),
    }
}

/// A segment of a path, or a value of a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, &UNRESERVED).to_string()
}

/// Where an order's story is. A browser takes a segment of one or two dots for a way up, in whatever form.
pub(crate) fn order_path(id: &str) -> String {
    match id {
        "" | "." | ".." => format!("/console/orders?id={}", encode(id)),
        id => format!("/console/orders/{}", encode(id)),
    }
}

/// A text of others, without what would change how the rest of the line is read.
pub(crate) fn plain(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let shown = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() || hidden(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// Bytes, sixteen a line: place, hexadecimal, and as text.
pub(crate) fn hex_dump(bytes: &[u8]) -> String {
    let line = |(place, line): (usize, &[u8])| {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let visible = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
        let text: String = line.iter().map(visible).collect();
        format!("{:06x}  {:<47}  {text}\n", place * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit() {
        assert_eq!(number(i64::MAX), "9,223,372,036,854,775,807");
        assert_eq!([number(0), number(999), number(1_000), number(-12_345)], ["0", "999", "1,000", "-12,345"]);
        assert_eq!(money(i64::MAX, "CNY"), "92,233,720,368,547,758.07 CNY");
        assert_eq!([money(5, "CNY"), money(-5, "EUR"), money(1_999, "JPY")], ["0.05 CNY", "-0.05 EUR", "1,999 JPY"]);
        assert_eq!(money(1_234_567, "KWD"), "1,234.567 KWD");
    }

    #[test]
    fn whatever_an_id_has_in_it_leads_to_its_story() {
        assert_eq!(order_path("A-1"), "/console/orders/A-1");
        assert_eq!(order_path("SO/2024/001"), "/console/orders/SO%2F2024%2F001");
        assert_eq!(order_path("a.b:c"), "/console/orders/a.b%3Ac");
        assert_eq!([order_path("."), order_path("..")], ["/console/orders?id=.", "/console/orders?id=.."]);
        assert_eq!(order_path("订单 1"), "/console/orders/%E8%AE%A2%E5%8D%95%201");
    }

    #[test]
    fn times_are_told_in_utc_with_their_distance() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let past = Moment::of(now - Duration::from_secs(200), now);
        assert_eq!(
            (past.utc.as_str(), duration(past.distance).as_str(), past.is_ahead),
            ("2023-11-14 22:10:00", "3 min", false)
        );
        assert_eq!(past.machine, "2023-11-14T22:10:00.123Z");
        assert!(Moment::of(now + Duration::from_secs(1), now).is_ahead);
        let spans =
            [5, 1_500, 90_000, 7_199_000, 90_000_000, 800_000_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(duration_in(Duration::from_secs(200), Language::Chinese), "3 分钟");
        assert_eq!(spans, ["5 ms", "1.5 s", "90 s", "119 min", "25 h", "9 d"]);
    }

    #[test]
    fn bytes_are_shown_with_their_places() {
        assert_eq!(hex_dump(b"{\"v\":1}\x00"), "000000  7b 22 76 22 3a 31 7d 00                          {\"v\":1}.\n");
        assert_eq!(hex_dump(&[0; 17]).lines().count(), 2);
        assert_eq!(plain("a\u{202e}b\u{0}c\nd"), "a\\u{202e}b\\u{0}c\nd");
    }
}
