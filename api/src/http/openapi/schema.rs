//! The types that the api knows by words alone: kinds of strings, and documents of others. Each stands in the document by its name; in a type, name it by
//! `#[schema(value_type = Text)]`.

pub use amends_http::text::Text;
use amends_orders::webhook_deliveries;
use amends_webhooks::target::URL_LONGEST;
use amends_workflows::order_fulfilment::STATUSES;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, SchemaFormat,
        schema::{ArrayBuilder, OneOfBuilder, Schema, SchemaType, Type},
    },
};

/// The longest name of a language, as BCP 47 recommends it (4.4.1).
pub const LOCALE_LONGEST: usize = 35;

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
    /// The id of a product.
    ProductId => string().pattern(Some("^[A-Za-z0-9._-]{1,64}$"));
    /// A currency by ISO 4217, in upper case.
    Currency => string().enum_values(Some(currencies()));
    /// A country by ISO 3166-1 alpha-2, in upper case.
    Country => string().enum_values(Some(rust_iso3166::ALL_ALPHA2.iter().copied()));
    /// An e-mail address.
    EmailAddress => string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Email))).max_length(Some(254));
    /// A telephone number by E.164.
    PhoneNumber => string().pattern(Some("^\\+[1-9][0-9]{6,14}$"));
    /// A language by BCP 47, perhaps with a region.
    Locale => string().max_length(Some(LOCALE_LONGEST)).pattern(Some("^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"));
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

/// Returns the codes of all currencies.
fn currencies() -> Vec<String> {
    let letters = || 'A'..='Z';
    let pairs = letters().flat_map(|first| letters().map(move |second| [first, second]));
    let codes = pairs
        .flat_map(|[first, second]| letters().map(move |third| String::from_iter([first, second, third])));
    codes.filter(|code| iso_currency::Currency::from_code(code).is_some()).collect()
}

/// A kind of body by the value of one field: the value, the texts that the kind needs, and the fields that it does
/// not have.
pub type Kind<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

/// Returns a schema that demands of each kind of body its own fields: derived schemas cannot say that.
pub fn kinds(field: &str, kinds: &[Kind<'_>]) -> OneOfBuilder {
    let absent = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
    kinds.iter().fold(OneOfBuilder::new(), |all, (value, needed, without)| {
        let kind = ObjectBuilder::new().schema_type(SchemaType::AnyValue).property(field, one_of(&[*value]));
        // The body's own schema says that they may be null.
        let text = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::String));
        let kind = needed.iter().fold(kind, |kind, field| kind.required(*field).property(*field, text()));
        all.item(without.iter().fold(kind, |kind, other| kind.property(*other, absent())))
    })
}

/// A field of which a body has one of several, and the fields that are needed with it.
pub type Alternative<'a> = (&'a str, &'a [&'a str]);

/// Returns a schema that demands exactly one of these fields, with what it needs: derived schemas cannot say that.
pub fn exactly_one_of(alternatives: &[Alternative<'_>]) -> OneOfBuilder {
    let any = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
    // The body's own schema says that they are never null: so they are absent.
    let absent = || ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
    alternatives.iter().fold(OneOfBuilder::new(), |one_of, (field, needed)| {
        let others = alternatives.iter().filter(|(other, _)| other != field);
        let without = others.fold(any(), |schema, (other, _)| schema.property(*other, absent()));
        one_of.item(needed.iter().copied().fold(without.required(*field), ObjectBuilder::required))
    })
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
pub fn integer(least: i64, largest: i64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(least))
        .maximum(Some(largest))
}

/// Returns the schema of a page's size.
pub fn limit(usual: u32, largest: u32) -> ObjectBuilder {
    integer(1, largest.into()).default(Some(usual.into()))
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
        let phone = serde_json::to_value(PhoneNumber::schema()).unwrap();
        assert_eq!(phone["description"], "A telephone number by E.164.");
        assert_eq!(PhoneNumber::name(), "PhoneNumber");
        let text = serde_json::to_value(Text::schema()).unwrap();
        assert_eq!((&text["minLength"], &text["maxLength"]), (&1.into(), &200.into()));
    }

    #[test]
    fn codes_of_currencies_and_countries_are_listed_one_by_one() {
        let codes = |schema: RefOr<Schema>| -> Vec<String> {
            serde_json::from_value(serde_json::to_value(schema).unwrap()["enum"].take()).unwrap()
        };
        let (currencies, countries) = (codes(Currency::schema()), codes(Country::schema()));
        assert!(currencies.iter().any(|code| code == "EUR") && !currencies.iter().any(|code| code == "ABC"));
        assert!(countries.iter().any(|code| code == "AT") && !countries.iter().any(|code| code == "XX"));
    }
}
