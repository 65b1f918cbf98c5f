//! `/api/webhooks`: where events are sent. Their deliveries are in `webhook_deliveries`.

use std::sync::Arc;

use amends_http::{body, query};
use amends_orders::webhooks::{NewWebhook, WEBHOOKS_MOST, Webhook, WebhookChange};
use amends_webhooks::SigningSecret;
use axum::{
    body::Bytes,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::{self, IfMatch, Representation},
        openapi::{Answer, Operation, schema},
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_PARAMETERS, PAGE_USUAL, PageRequest},
    },
    problem::{Problem, problem_types},
    state::Api,
    webhooks::{
        request::{EVENT, WebhookPatch, WebhookRequest, check_url},
        secret_place,
        view::{WebhookView, WebhookWithSecret},
    },
};

const LIST: &str = "/api/webhooks";
const ONE: &str = "/api/webhooks/{id}";
/// The routes whose answers contain a secret.
pub const SHOW_SECRETS: [&str; 2] = [LIST, ROTATE];
const ROTATE: &str = "/api/webhooks/{id}/rotate-secret";
/// How often a change is tried again that meets another one.
const CHANGE_TRIES: usize = 3;

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, manages) = (Access::Needs(Right::ReadWebhooks), Access::Needs(Right::ManageWebhooks));
    let example =
        json!({ "url": "https://hooks.shop.example/amends", "types": ["order.*"], "format": "event" });
    Routes::default()
        .on(
            Method::POST,
            LIST,
            manages,
            create,
            Operation::new("createWebhook", "Create a webhook")
                .about(
                    "Every event of these types that happens after the answer is sent to the URL, signed by Standard \
                     Webhooks. The secret is shown this once.",
                )
                .body::<WebhookRequest>(example)
                .answer(
                    Answer::json::<WebhookWithSecret>(StatusCode::CREATED, "The webhook, with its secret.")
                        .etag()
                        .header("Location", "The path of the webhook."),
                )
                .problems(&[problem_types::WEBHOOKS_NOT_CONFIGURED, problem_types::TOO_MANY_WEBHOOKS]),
        )
        .on(
            Method::GET,
            ONE,
            reads,
            read,
            Operation::new("readWebhook", "Read a webhook")
                .header(
                    "If-None-Match",
                    "Entity tags of states that the caller has.",
                    schema::string(),
                    Value::Null,
                )
                .answer(Answer::json::<WebhookView>(StatusCode::OK, "The webhook.").etag())
                .answer(Answer::empty(StatusCode::NOT_MODIFIED, "The caller has this state.").etag()),
        )
        .on(
            Method::PATCH,
            ONE,
            manages,
            change,
            Operation::new("changeWebhook", "Change, enable or disable a webhook")
                .about(
                    "What is left out stays. While it is disabled, its events are noted (`SKIPPED`); they are sent if \
                     you ask for it.",
                )
                .if_match()
                .body::<WebhookPatch>(json!({
                    "enabled": true, "url": "https://hooks.shop.example/amends", "types": ["order.*"],
                    "format": "snapshot",
                }))
                .answer(Answer::json::<WebhookView>(StatusCode::OK, "The webhook as it is now.").etag()),
        )
        .on(
            Method::DELETE,
            ONE,
            manages,
            delete,
            Operation::new("deleteWebhook", "Delete a webhook")
                .about("Nothing is sent to it any more, and its deliveries are deleted.")
                .if_match()
                .answer(Answer::empty(StatusCode::NO_CONTENT, "The webhook is deleted.")),
        )
        .on(
            Method::POST,
            ROTATE,
            manages,
            rotate,
            Operation::new("rotateWebhookSecret", "Give a webhook another secret")
                .about(
                    "The present secret goes on signing beside the new one until `previousSecretUntil`. The new one is \
                     shown this once.",
                )
                .if_match()
                .answer(
                    Answer::json::<WebhookWithSecret>(StatusCode::OK, "The webhook, with its new secret.").etag(),
                )
                .problems(&[problem_types::WEBHOOKS_NOT_CONFIGURED]),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(
            Method::GET,
            LIST,
            reads,
            list,
            Operation::new("listWebhooks", "List webhooks, page by page")
                .query(LIMIT, "Largest number of webhooks.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
                .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
                .answer(Answer::page::<WebhookView>()),
        )
}

async fn create(State(api): State<Arc<Api>>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let webhooks = &api.webhooks;
    let WebhookRequest { url, types, format } = body::read(&headers, &body)?;
    check_url(&url, webhooks.reach)?;
    let (keys, secret, id) = (webhooks.keys()?, SigningSecret::draw(), Uuid::now_v7());
    let new = NewWebhook {
        id,
        url,
        types,
        format: format.unwrap_or_else(|| EVENT.to_owned()),
        secret: keys.seal(&secret_place(id), secret.show()),
    };
    let created = webhooks.store.create(&new).await?.ok_or_else(|| {
        let detail = format!("There are {WEBHOOKS_MOST} webhooks. Nothing was changed.");
        Problem::Refused(problem_types::TOO_MANY_WEBHOOKS, detail)
    })?;
    let mut response = with_secret(&created, &secret, StatusCode::CREATED)?;
    let location = HeaderValue::try_from(format!("{LIST}/{id}")).map_err(|_| Problem::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Shows a webhook with its secret. Its tag is that of the webhook without it, as it is read from now on.
fn with_secret(webhook: &Webhook, secret: &SigningSecret, status: StatusCode) -> Result<Response, Problem> {
    let tag = Representation::of(&WebhookView::from(webhook))?.tag;
    let shown = Representation::of(&WebhookWithSecret::new(webhook, secret))?;
    shown.tagged(tag).written(status)
}

async fn read(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let webhook = found(&api, webhook_id(&id)?).await?;
    Representation::of(&WebhookView::from(&webhook))?.read(&headers)
}

async fn change(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (webhook_id(&id)?, IfMatch::read(&headers)?);
    let WebhookPatch { enabled, url, types, format } = body::read(&headers, &body)?;
    if let Some(url) = &url {
        check_url(url, api.webhooks.reach)?;
    }
    let change = WebhookChange { url, types, format, is_enabled: enabled };
    let store = &api.webhooks.store;
    let changed = conditionally(&api, id, condition, |seen| store.change(id, seen.revision, &change)).await?;
    Representation::of(&WebhookView::from(&changed))?.written(StatusCode::OK)
}

async fn rotate(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (id, condition) = (webhook_id(&id)?, IfMatch::read(&headers)?);
    let (webhooks, secret) = (&api.webhooks, SigningSecret::draw());
    let sealed = webhooks.keys()?.seal(&secret_place(id), secret.show());
    let rotated = conditionally(&api, id, condition, |seen| {
        webhooks.store.rotate(id, seen.revision, &sealed, webhooks.overlap)
    });
    with_secret(&rotated.await?, &secret, StatusCode::OK)
}

async fn delete(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (id, condition) = (webhook_id(&id)?, IfMatch::read(&headers)?);
    let store = &api.webhooks.store;
    let delete = async |seen: Webhook| Ok(store.delete(id, seen.revision).await?.then_some(seen));
    conditionally(&api, id, condition, delete).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Changes a webhook in the state that the request is meant for. Without such a state it tries again when it meets another
/// change.
async fn conditionally<F>(
    api: &Api,
    id: Uuid,
    condition: Option<IfMatch>,
    change: impl Fn(Webhook) -> F,
) -> Result<Webhook, Problem>
where
    F: Future<Output = Result<Option<Webhook>, amends_postgres::Error>>,
{
    for _ in 0..CHANGE_TRIES {
        let seen = found_as_seen(api, id, condition.as_ref()).await?;
        if let Some(changed) = change(seen).await? {
            return Ok(changed);
        }
        if matches!(condition, Some(IfMatch::Tags(_))) {
            return Err(etag::precondition_failed());
        }
    }
    Err(Problem::Busy("The webhook is being changed by others. Try again later.".to_owned()))
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = query::read(&uri, &PAGE_PARAMETERS)?;
    let page = PageRequest::<Uuid>::read(&caller, &api.engine.key, LIST, query)?;
    let found = api.webhooks.store.list(page.after.unwrap_or_default(), page.limit).await?;
    let items: Vec<WebhookView> = found.items.iter().map(WebhookView::from).collect();
    Ok(page.answer(&api.engine.key, items, found.next.as_ref()))
}

/// Reads the id of a webhook in a path.
pub(super) fn webhook_id(id: &str) -> Result<Uuid, Problem> {
    Ok(body::id("id", id)?)
}

/// Reads a webhook that must exist, and be in the state that the request is meant for.
pub(super) async fn found_as_seen(
    api: &Api,
    id: Uuid,
    condition: Option<&IfMatch>,
) -> Result<Webhook, Problem> {
    let seen = found(api, id).await?;
    if let Some(condition) = condition {
        condition.check(&Representation::of(&WebhookView::from(&seen))?.tag)?;
    }
    Ok(seen)
}

/// Reads a webhook that must exist.
pub(super) async fn found(api: &Api, id: Uuid) -> Result<Webhook, Problem> {
    let webhook = api.webhooks.store.get(id).await?;
    webhook.ok_or_else(|| Problem::NotFound("There is no such webhook.".to_owned()))
}
