//! The types that the api knows by words alone: kinds of strings, and documents of others. Each stands in the document by its name; in a type, name it by
//! `#[schema(value_type = Text)]`.

use amends_orders::webhook_deliveries;
use amends_webhooks::target::URL_LONGEST;
use amends_workflows::order_fulfilment::STATUSES;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, SchemaFormat,
        schema::{ArrayBuilder, Schema, SchemaType, Type},
    },
};

/// Characters that no text contains: control characters, and those that make a text look different from what it is
/// (`amends_http::text`), as ranges of a regular expression.
const NEVER: &str = "\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u180E\\u200B\\u200E\\u200F\\u2028-\\u202E\\u2060\\u2066-\\u2069\\uFEFF";
/// Characters that show nothing.
const INVISIBLE: &str = "\\u0020\\u00A0\\u00AD\\u034F\\u115F\\u1160\\u1680\\u17B4\\u17B5\\u180B-\\u180F\\u2000-\\u200F\\u202F\\u205F-\\u206F\\u2800\\u3000\\u3164\\uFE00-\\uFE0F\\uFFA0\\uFFF0-\\uFFFB\u{1BCA0}-\u{1BCA3}\u{1D173}-\u{1D17A}\u{E0000}-\u{E0FFF}";

macro_rules! types {
    ($($(#[doc = $about:literal])+ $name:ident => $schema:expr;)*) => {$(
        $(#[doc = $about])+
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.description(Some(concat!($($about),+).trim())).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

types! {
    /// Text that people write: 1-200 characters, without control characters, bidi controls and zero-width spaces, and
    /// with something visible.
    Text => string().min_length(Some(1)).max_length(Some(200))
        .pattern(Some(format!("^[^{NEVER}]*[^{NEVER}{INVISIBLE}][^{NEVER}]*$")));
    /// The id of a product.
    ProductId => string().pattern(Some("^[A-Za-z0-9._-]{1,64}$"));
    /// A currency by ISO 4217, in upper case.
    Currency => string().pattern(Some("^[A-Z]{3}$"));
    /// A country by ISO 3166-1 alpha-2, in upper case.
    Country => string().pattern(Some("^[A-Z]{2}$"));
    /// An e-mail address.
    EmailAddress => string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Email))).max_length(Some(254));
    /// A telephone number by E.164.
    PhoneNumber => string().pattern(Some("^\\+[1-9][0-9]{6,14}$"));
    /// A time by RFC 3339 in UTC.
    Instant => string().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    /// The status of an order.
    OrderStatus => string().enum_values(Some(STATUSES));
    /// A type of event, or a group of them with a trailing `.*`: `order.*`.
    EventType => string().pattern(Some("^[a-z]+(\\.[a-z]+)*(\\.\\*)?$"));
    /// Where events are sent: HTTPS to a public host, on port 443 or a port from 1024 on. A setting allows more.
    WebhookUrl => string().max_length(Some(URL_LONGEST)).pattern(Some("^https?://[!-~]+$"));
    /// What is sent: the event, or the order as it is when it is sent.
    WebhookFormat => string().enum_values(Some(["event", "snapshot"]));
    /// A secret by Standard Webhooks.
    WebhookSecret => string().pattern(Some("^whsec_[A-Za-z0-9+/=]+$"));
    /// How far a delivery is. `SKIPPED`: its webhook was disabled when the event happened.
    DeliveryStatus => string().enum_values(Some(webhook_deliveries::DeliveryStatus::ALL.map(|status| status.as_str())));
    /// Something that a saga holds: `money_captured` in minor units of a currency, `stock_reserved` of a product,
    /// `label_bought`.
    Holding => ObjectBuilder::new()
        .property("kind", string())
        .property("unit", string())
        .property("amount", ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)))
        .required("kind")
        .required("unit")
        .required("amount");
    /// An OpenAPI document.
    OpenApiDocument => ObjectBuilder::new();
    /// A set of public keys (RFC 7517).
    KeySet => ObjectBuilder::new().property("keys", several(ObjectBuilder::new())).required("keys");
}

/// Returns the schema of any string.
pub fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
}

/// Returns the schema of a UUID.
pub fn uuid() -> ObjectBuilder {
    string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

/// Returns the schema of one of these strings.
pub fn one_of(values: &[&str]) -> ObjectBuilder {
    string().enum_values(Some(values.iter().copied()))
}

/// Returns the schema of a whole number.
pub fn integer(least: u32, largest: u32) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(least))
        .maximum(Some(largest))
}

/// Returns the schema of a page's size.
pub fn limit(usual: u32, largest: u32) -> ObjectBuilder {
    integer(1, largest).default(Some(usual.into()))
}

/// Returns the schema of a list of strings.
pub fn several(of: impl Into<RefOr<Schema>>) -> ArrayBuilder {
    ArrayBuilder::new().items(of.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_described_by_its_own_words() {
        let text = serde_json::to_value(Text::schema()).unwrap();
        assert_eq!((&text["minLength"], &text["maxLength"]), (&1.into(), &200.into()));
        assert!(text["description"].as_str().unwrap().starts_with("Text that people write"), "{text}");
        assert_eq!(Text::name(), "Text");
    }
}
