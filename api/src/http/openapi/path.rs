//! The parameters of paths.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{
    PartialSchema,
    openapi::{RefOr, Required, Schema},
};

use super::schema::{self, ProductId, Text};

/// Returns the parameters of a path, in its order.
pub(super) fn parameters(path: &str) -> Vec<Parameter> {
    names(path).map(|name| parameter(path, name)).collect()
}

/// Returns the path as the document writes it: the router's wildcard is a parameter like any other.
pub(super) fn documented(path: &str) -> String {
    path.replace("{*", "{")
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter(path: &str, name: &str) -> Parameter {
    let name = name.trim_start_matches('*');
    let (about, example, schema): (_, _, RefOr<Schema>) = match name {
        "id" if path.starts_with("/admin/sagas") => ("The saga's id.", SAGA, schema::uuid().into()),
        "id" if path.starts_with("/api/webhooks") => ("The webhook's id.", WEBHOOK, schema::uuid().into()),
        "deliveryId" => ("The delivery's id.", DELIVERY, schema::uuid().into()),
        "id" if path.starts_with("/api/notifications") => {
            ("The notification's id.", NOTIFICATION, schema::uuid().into())
        }
        "id" => ("The order's id.", ORDER, schema::uuid().into()),
        "customerId" => ("The customer's id.", "c-1001", Text::schema()),
        "productId" => ("The product's id.", "mug-blue", ProductId::schema()),
        "plan" => ("The plan's hash.", PLAN, schema::string().into()),
        "name" => ("The name of a service.", "inventory", schema::string().into()),
        "slug" => ("The last part of a problem's `type`.", "invalid-request", schema::string().into()),
        "file" => ("A file of the page.", "swagger-ui.css", schema::string().into()),
        other => {
            panic!("the path parameter `{other}` of {path} is not described (api/src/http/openapi/path.rs)")
        }
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(about))
        .schema(Some(schema))
        .example(Some(example.into()))
        .build()
}

const ORDER: &str = "01a20191-dc04-70a7-b9de-b92999bc7f56";
const WEBHOOK: &str = "01a20191-dc04-7bd1-8b51-16b4e85a0b1c";
const DELIVERY: &str = "01a20191-dc04-7001-9f0e-3c1d6a2b5e77";
const SAGA: &str = "01a20191-dc04-70a7-b9de-b92aad419056";
const PLAN: &str = "5d3a0c6e2b1f4a7d9e8c0b1a2f3e4d5c6b7a8990a1b2c3d4e5f60718293a4b5c";
const NOTIFICATION: &str = "01a20191-dc3f-7b1e-8f0a-5d4c1a7be922";
