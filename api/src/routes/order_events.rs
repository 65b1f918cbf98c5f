//! `GET /api/orders/{id}/events`: what happens to an order, as server-sent events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use amends_engine::core::Entry;
use amends_http::{accept, body, query};
use amends_orders::OrderView;
use amends_postgres::timeline::SagaEntry;
use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::from_fn,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::order_read::view_of;
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::openapi::{Answer, Operation, schema},
    orders::{
        timeline::{Item, carries_status},
        view::Audience,
        watch::Watcher,
    },
    problem::{Fault, Problem, problem_types},
    state::Api,
};

/// Number of streams at once. Any further one is refused.
pub const STREAMS_MOST: usize = 1_000;
/// Interval between comments, by which both sides notice that the other is gone.
const COMMENTS_APART: Duration = Duration::from_secs(15);
/// How long a stream lasts. Then its client begins another, and its token and rights are checked again.
const STREAM_LONGEST: Duration = Duration::from_secs(15 * 60);

const LAST_EVENT_ID: &str = "Last-Event-ID";
/// A proxy that collects answers would keep events back.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
/// The framework only says that a cache must ask again.
const PRIVATE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

pub fn routes() -> Routes<Arc<Api>> {
    let (path, reads) = ("/api/orders/{id}/events", Access::Needs(Right::ReadOrders));
    let operation = Operation::new("followOrder", "Follow an order as a stream of events")
        .about(
            "Server-sent events: each is an entry of the timeline with the order's status after it. A comment comes every \
             15 s. A stream ends after 15 minutes; `Last-Event-ID` resumes it.",
        )
        .header(LAST_EVENT_ID, "The id of the last event that the caller has.", schema::string(), Value::Null)
        .answer(Answer::of(&["text/event-stream"], StatusCode::OK, "The events, from the first one that the caller lacks."))
        .problems(&[problem_types::BUSY]);
    Routes::default()
        .on(Method::GET, path, reads, follow, operation)
        .each(|routes| routes.route_layer(from_fn(query::none)).route_layer(from_fn(accept::event_stream)))
}

/// The place of an event in its order's history. It is the same for every reader and after every restart. After the
/// database was restored to an earlier state, new events have other ids than those that were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventId {
    saga: Uuid,
    revision: u32,
    epoch: u32,
}

impl EventId {
    fn text(self) -> String {
        match self.epoch {
            0 => format!("{}.{}", self.saga, self.revision),
            epoch => format!("{}.{}.{epoch}", self.saga, self.revision),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (saga, place) = text.split_once('.')?;
        let (revision, epoch) = place.split_once('.').unwrap_or((place, "0"));
        let (revision, epoch) = (revision.parse().ok()?, epoch.parse().ok()?);
        let id = Self { saga: Uuid::try_parse(saga).ok()?, revision, epoch };
        (id.text() == text).then_some(id)
    }
}

/// An event as it is sent: an entry of the timeline, and the order's status after it.
#[derive(Serialize)]
struct Happened {
    status: String,
    #[serde(flatten)]
    item: Item,
}

/// An order that a client follows.
struct Following {
    api: Arc<Api>,
    caller: Caller,
    watcher: Watcher,
    /// The order as it was last read.
    seen: OrderView,
    /// The last event that the client has, or that is queued for it.
    last: Option<EventId>,
    queue: VecDeque<Event>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

async fn follow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (id, last) = (body::id("id", &id)?, last_event_id(&headers)?);
    let Ok(place) = Arc::clone(&api.streams).try_acquire_owned() else {
        return Err(Problem::Busy("Too many clients follow orders. Try again later.".to_owned()));
    };
    let watcher = api.watches.watch(id);
    let seen = view_of(&api.order_lists, &caller, id).await?;
    let until = Instant::now() + STREAM_LONGEST;
    let mut following =
        Following { api, caller, watcher, seen, last, queue: VecDeque::new(), until, _place: place };
    following.enqueue().await?;
    let events = stream::unfold(following, |mut following| async {
        Some((Ok::<_, Infallible>(following.next().await?), following))
    });
    let comments = KeepAlive::new().interval(COMMENTS_APART);
    Ok(([UNBUFFERED, PRIVATE], Sse::new(events).keep_alive(comments)).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<EventId>, Problem> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    match (ids.next().map(|id| id.to_str().unwrap_or_default()), ids.next()) {
        (None, _) => Ok(None),
        (Some(id), None) => EventId::read(id).map(Some).ok_or_else(no_such_event),
        (Some(_), Some(_)) => Err(no_such_event()),
    }
}

fn no_such_event() -> Problem {
    let why = "must be the id of an event of this order";
    Problem::Invalid(vec![Fault::header(LAST_EVENT_ID, why)])
}

impl Following {
    /// Returns the next event; `None` ends the stream. The client then begins another behind its last event.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = self.watcher.differs_from(self.seen.newest()) => {}
                () = sleep_until(self.until) => return None,
                () = self.api.stop.cancelled() => return None,
            }
            let (orders, id) = (&self.api.order_lists, self.seen.order.id);
            self.seen = view_of(orders, &self.caller, id).await.ok()?;
            self.enqueue().await.ok()?;
        }
    }

    /// Queues the events that the client does not have.
    async fn enqueue(&mut self) -> Result<(), Problem> {
        let entries = self.api.order_lists.timeline(self.seen.order.id).await?.unwrap_or_default();
        let (audience, mut status) = (Audience::of(&self.caller), String::new());
        let id_of = |of: &SagaEntry| {
            let Entry { revision, epoch, .. } = of.entry;
            EventId { saga: of.saga_id, revision, epoch }
        };
        let next = match self.last {
            None => 0,
            Some(last) => match entries.iter().position(|entry| id_of(entry) == last) {
                Some(at) => at + 1,
                None => return Err(no_such_event()),
            },
        };
        for (at, entry) in entries.iter().enumerate() {
            if let Some(label) =
                entry.entry.did.label.as_ref().filter(|_| carries_status(&self.seen, entry.saga_id))
            {
                status.clone_from(label);
            }
            if at < next {
                continue;
            }
            let id = id_of(entry);
            self.last = Some(id);
            if let Some(item) = audience.item(&self.seen, entry) {
                let happened = Happened { status: status.clone(), item };
                let event = Event::default().id(id.text()).json_data(happened);
                self.queue.push_back(event.map_err(|_| Problem::Internal)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_id_has_one_spelling() {
        let id = EventId { saga: Uuid::from_u128(0xABC), revision: 10, epoch: 0 };
        let after_a_restore = EventId { epoch: 2, ..id };
        assert_eq!(id.text(), format!("{}.10", id.saga));
        for id in [id, after_a_restore] {
            assert_eq!(EventId::read(&id.text()), Some(id));
        }
        let others = ["+1", "10.0", "10.", "10.2.3"].map(|place| format!("{}.{place}", id.saga));
        for text in ["", "7", ".", &id.text().to_uppercase(), &format!("{} ", id.text())]
            .into_iter()
            .chain(others.iter().map(String::as_str))
        {
            assert_eq!(EventId::read(text), None, "{text}");
        }
    }
}
