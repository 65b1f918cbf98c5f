//! What a message says: a file a template and locale under `templates/`, compiled in. An e-mail's file is its subject, an
//! empty line, and its text; its HTML is the same text in `email/layout.html`, escaped. A message contains nothing
//! personal: its address is all that it needs of that kind.

use std::sync::LazyLock;

use iso_currency::Currency;
use minijinja::{Environment, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::{
    event::{Channel, TOPICS},
    list::MessageText,
};

/// The locales of the templates.
pub const LOCALES: [&str; 2] = ["en", "de"];
/// The locale of messages about orders that ask for one without templates.
const FALLBACK_LOCALE: &str = "en";
/// The layout of an e-mail's HTML.
const LAYOUT: &str = "email/layout.html";

/// The name of a file under `templates/`, and its content.
macro_rules! files {
    ($($event:literal)*) => {
        [$(
            (concat!("email/", $event, ".en.txt"), include_str!(concat!("../templates/email/", $event, ".en.txt"))),
            (concat!("email/", $event, ".de.txt"), include_str!(concat!("../templates/email/", $event, ".de.txt"))),
            (concat!("sms/", $event, ".en.txt"), include_str!(concat!("../templates/sms/", $event, ".en.txt"))),
            (concat!("sms/", $event, ".de.txt"), include_str!(concat!("../templates/sms/", $event, ".de.txt"))),
        )*]
    };
}

static FILES: [(&str, &str); 28] = files!(
    "order.created" "order.fulfilled" "order.cancelled" "order.failed" "order.return.requested" "order.returned"
    "order.refunded"
);

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters differ"));
    environment.add_filter("money", money);
    let layout = (LAYOUT, include_str!("../templates/email/layout.html"));
    for (name, source) in FILES.iter().copied().chain([layout]) {
        environment.add_template(name, source).expect("a test reads every template");
    }
    environment
});

/// A message cannot be written: the api's answer lacks what its template needs.
#[derive(Debug, thiserror::Error)]
#[error("the template {name}: {why}")]
pub struct Unwritable {
    name: String,
    why: String,
}

/// What was paid back, in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refunded {
    /// How much.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
}

/// Returns the locale of the templates for an order that asks for this one: its language, whatever the region.
pub(crate) fn locale_for(asked: &str) -> &'static str {
    let language = asked.split('-').next().unwrap_or_default();
    let known = LOCALES.into_iter().find(|locale| locale.eq_ignore_ascii_case(language));
    known.unwrap_or(FALLBACK_LOCALE)
}

/// Writes a message about an event of an order.
///
/// # Errors
/// There is no such template, or the order lacks what it needs.
pub fn written(
    event_type: &str,
    channel: Channel,
    locale: &str,
    order: &serde_json::Value,
    refunded: Option<&Refunded>,
) -> Result<MessageText, Unwritable> {
    let name = format!("{}/{event_type}.{locale}.txt", channel.as_str());
    let unwritable = |why: minijinja::Error| Unwritable { name: name.clone(), why: why.to_string() };
    let template = TEMPLATES.get_template(&name).map_err(unwritable)?;
    let (order, refunded) = (Value::from(Serde(order)), Value::from(Serde(refunded)));
    let context = context! { order, refunded, locale };
    let text = template.render(context).map_err(unwritable)?;
    if channel == Channel::Sms {
        return Ok(MessageText { subject: None, text: one_line(&text), html: None });
    }
    let (subject, body) = text.split_once('\n').unwrap_or((&text, ""));
    let body = body.trim();
    let lines = |part: &str| part.lines().map(str::to_owned).collect();
    let paragraphs: Vec<Vec<String>> = body.split("\n\n").map(lines).collect();
    let subject = one_line(subject);
    let layout = TEMPLATES.get_template(LAYOUT).map_err(unwritable)?;
    let html =
        layout.render(context! { subject => subject.as_str(), paragraphs, locale }).map_err(unwritable)?;
    Ok(MessageText { subject: Some(subject), text: format!("{body}\n"), html: Some(html) })
}

/// Writes a message about an order of an example, for people who change the templates.
///
/// # Errors
/// There is no such template.
pub fn preview(event_type: &str, channel: Channel, locale: &str) -> Result<MessageText, Unwritable> {
    let refunded = Refunded { amount: 1250, currency: "EUR".to_owned() };
    written(event_type, channel, locale, &EXAMPLE, Some(&refunded))
}

/// Returns whether messages are written about events of this type.
pub fn has_template(event_type: &str) -> bool {
    TOPICS.contains(&event_type)
}

/// An order, as the api shows it to its customer.
static EXAMPLE: LazyLock<serde_json::Value> = LazyLock::new(|| {
    serde_json::json!({
        "id": "01a20191-dc04-70a7-b9de-b92999bc7f56", "status": "FULFILLED", "currency": "EUR", "total": 3200,
        "lines": [
            { "lineId": "1", "productId": "mug-blue", "quantity": 2, "unitPrice": 1250 },
            { "lineId": "2", "productId": "tea-green", "quantity": 1, "unitPrice": 700 },
        ],
        "shipments": [{ "trackingNumber": "AM123456789AT" }],
    })
});

/// Whatever stands in a template or an order: a header is one line.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Formats an amount in minor units: `25.00 EUR`, and in German `25,00 EUR`.
fn money(amount: i64, currency: String, locale: String) -> String {
    let digits = Currency::from_code(&currency).and_then(|known| known.exponent()).unwrap_or(2);
    let unit = 10_u64.pow(u32::from(digits));
    let (sign, amount) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    let point = if locale == "de" { ',' } else { '.' };
    match digits {
        0 => format!("{sign}{amount} {currency}"),
        _ => format!(
            "{sign}{}{point}{:0width$} {currency}",
            amount / unit,
            amount % unit,
            width = digits.into()
        ),
    }
}
