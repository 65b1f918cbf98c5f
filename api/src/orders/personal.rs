//! The personal fields of an order: where it goes, and how to reach the customer. They are stored in one table; the
//! address is sent in the `ship` command.

use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr,
        schema::{AllOfBuilder, AnyOfBuilder, Schema, SchemaType},
    },
};

use super::request::text;
use crate::http::openapi::schema::{self, Country, EmailAddress, LOCALE_LONGEST, PhoneNumber, Text};

/// The longest e-mail address that a mail server takes (RFC 5321, 4.5.3.1.3, without the brackets).
const EMAIL_LONGEST: usize = 254;
/// Number of digits of a telephone number (ITU-T E.164).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// The shipping address of an order. It is sent in the `ship` command.
#[derive(Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub name: String,
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub line1: String,
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Text>)]
    pub line2: Option<String>,
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub city: String,
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Text>)]
    pub region: Option<String>,
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub postal_code: String,
    #[garde(custom(country_code))]
    #[schema(value_type = Country)]
    pub country: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(hidden)")
    }
}

/// How to reach the customer: by e-mail, by telephone, or both.
#[derive(Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[garde(custom(either))]
pub struct Contact {
    /// An e-mail address.
    #[garde(inner(custom(email_address)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EmailAddress>)]
    pub email: Option<String>,
    /// A telephone number by E.164.
    #[garde(inner(custom(phone_number)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PhoneNumber>)]
    pub phone: Option<String>,
}

/// A contact as it is sent: at least one of its fields is a text.
pub(super) struct ContactRequest;

impl PartialSchema for ContactRequest {
    fn schema() -> RefOr<Schema> {
        let given = |field: &str| {
            let any = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
            any.property(field, schema::string()).required(field)
        };
        let either = AnyOfBuilder::new().item(given("email")).item(given("phone"));
        AllOfBuilder::new().item(Contact::schema()).item(either).into()
    }
}

impl ToSchema for ContactRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Contact::schemas(schemas);
    }
}

impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contact(hidden)")
    }
}

fn either(contact: &Contact, (): &()) -> garde::Result {
    match contact {
        Contact { email: None, phone: None } => Err(garde::Error::new("must have email, phone, or both")),
        _ => Ok(()),
    }
}

fn email_address(text: &str, (): &()) -> garde::Result {
    if text.len() <= EMAIL_LONGEST && garde::rules::email::parse_email(text).is_ok() {
        return Ok(());
    }
    Err(garde::Error::new(format!("must be an e-mail address of at most {EMAIL_LONGEST} characters")))
}

fn phone_number(text: &str, (): &()) -> garde::Result {
    let digits = text.strip_prefix('+').filter(|digits| PHONE_DIGITS.contains(&digits.len()));
    if digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0')) {
        return Ok(());
    }
    Err(garde::Error::new("must be a telephone number by E.164, such as +4366412345678"))
}

/// Validates a language: `de`, `de-AT`.
pub(super) fn language(tag: &str, (): &()) -> garde::Result {
    let mut parts = tag.split('-');
    let is_language = parts.next().is_some_and(|language| {
        (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_alphabetic())
    });
    let mut is_part =
        |part: &str| (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_language && tag.len() <= LOCALE_LONGEST && parts.all(&mut is_part) {
        return Ok(());
    }
    Err(garde::Error::new("must be a language by BCP 47, such as de or de-AT"))
}

fn country_code(code: &str, (): &()) -> garde::Result {
    let upper = code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    match rust_iso3166::from_alpha2(code) {
        Some(_) if upper => Ok(()),
        _ => Err(garde::Error::new("must be an ISO 3166-1 alpha-2 code in upper case")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(contact: Value) -> Vec<String> {
        let contact: Contact = serde_json::from_value(contact).unwrap();
        match contact.validate() {
            Ok(()) => Vec::new(),
            Err(report) => report.iter().map(|(path, _)| path.to_string()).collect(),
        }
    }

    #[test]
    fn a_contact_is_a_mail_address_or_a_number_or_both() {
        for good in [
            json!({"email": "a.b+c@example.org"}),
            json!({"phone": "+4366412345678"}),
            json!({"email": "a@b.co", "phone": "+14155550100"}),
        ] {
            assert_eq!(faults(good.clone()), Vec::<String>::new(), "{good}");
        }
    }

    #[test]
    fn what_reaches_nobody_is_refused_at_its_place() {
        let long = format!("{}@example.org", "a".repeat(250));
        for (bad, at) in [
            (json!({}), ""),
            (json!({"email": ""}), "email"),
            (json!({"email": "nobody"}), "email"),
            (json!({"email": "a@b@c"}), "email"),
            (json!({"email": "a@b.co\r\nBcc: all@b.co"}), "email"),
            (json!({ "email": long }), "email"),
            (json!({"phone": "066412345678"}), "phone"),
            (json!({"phone": "+43 664 12345678"}), "phone"),
            (json!({"phone": "+0"}), "phone"),
            (json!({"phone": "+1234567890123456"}), "phone"),
        ] {
            assert_eq!(faults(bad.clone()), [at], "{bad}");
        }
    }

    #[test]
    fn a_language_is_two_or_three_letters_perhaps_with_more_parts() {
        for good in ["de", "en-GB", "de-AT", "zh-Hant-TW", "gsw"] {
            assert!(language(good, &()).is_ok(), "{good}");
        }
        let long = format!("de{}", "-abcdefgh".repeat(4));
        for bad in ["", "d", "deutsch", "de_AT", "de-", "-de", "d\u{e4}", "de-AT ", "de\r\nBcc", "12", &long]
        {
            assert!(language(bad, &()).is_err(), "{bad}");
        }
    }

    #[test]
    fn neither_an_address_nor_a_contact_shows_in_debug() {
        let contact = Contact { email: Some("a@b.co".into()), phone: None };
        assert_eq!(format!("{contact:?}"), "Contact(hidden)");
    }
}
