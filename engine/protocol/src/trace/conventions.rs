//! The names of attributes: OpenTelemetry's semantic conventions, as of the version of [`SCHEMA_URL`], and ours.
//!
//! No attribute contains personal data: no customer, address, query, body, or text of a person.

/// The version of the conventions that these names follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

/// `kafka`.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// Value of [`MESSAGING_SYSTEM`].
pub const KAFKA: &str = "kafka";
/// The operation, as the client calls it; a span's name begins with it.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// The kind of the operation: `send`, `process`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// A message is handed to the broker.
pub const SEND: &str = "send";
/// A received message is processed.
pub const PROCESS: &str = "process";
/// The topic.
pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// The partition, as a text.
pub const MESSAGING_DESTINATION_PARTITION_ID: &str = "messaging.destination.partition.id";
/// The offset in the partition.
pub const MESSAGING_KAFKA_OFFSET: &str = "messaging.kafka.offset";
/// The id of a command, or of a domain event.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// What belongs together: the saga's id.
pub const MESSAGING_MESSAGE_CONVERSATION_ID: &str = "messaging.message.conversation_id";
/// Number of messages that were processed together.
pub const MESSAGING_BATCH_MESSAGE_COUNT: &str = "messaging.batch.message_count";

/// `GET`, `POST`.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// The status of the answer.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// The route, with the names of its parameters in place of their values.
pub const HTTP_ROUTE: &str = "http.route";
/// The path. A path may name a customer, so this is the route.
pub const URL_PATH: &str = "url.path";
/// `http` or `https`.
pub const URL_SCHEME: &str = "url.scheme";
/// The server of a request that is made.
pub const SERVER_ADDRESS: &str = "server.address";
/// Why a span failed: one word of few.
pub const ERROR_TYPE: &str = "error.type";
/// `postgresql`.
pub const DB_SYSTEM_NAME: &str = "db.system.name";
/// Value of [`DB_SYSTEM_NAME`].
pub const POSTGRESQL: &str = "postgresql";
/// Name of the resource's service.
pub const SERVICE_NAME: &str = "service.name";
/// What all services of a deployment belong to.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// The program's version.
pub const SERVICE_VERSION: &str = "service.version";
/// The process.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// The saga.
pub const SAGA: &str = "amends.saga.id";
/// The name of the saga's workflow.
pub const WORKFLOW: &str = "amends.workflow";
/// The step of a command.
pub const STEP: &str = "amends.step";
/// The kind of a command: `execute`, `compensate`, `probe`, `fence`.
pub const COMMAND_KIND: &str = "amends.command.kind";
/// The attempt of a command.
pub const ATTEMPT: &str = "amends.attempt";
/// The outcome of a command.
pub const OUTCOME: &str = "amends.outcome";
/// The order's new status.
pub const LABEL: &str = "amends.label";
/// The order.
pub const ORDER: &str = "amends.order.id";
/// What was decided about a saga from outside: `cancel`, `retry`.
pub const EVENT: &str = "amends.event";
/// The webhook of a delivery.
pub const WEBHOOK: &str = "amends.webhook.id";
/// The channel of a notification.
pub const CHANNEL: &str = "amends.channel";

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is sent.
    Send,
    /// It is processed.
    Process,
}

impl Operation {
    /// Returns the operation's name, which is also its type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => SEND,
            Self::Process => PROCESS,
        }
    }

    /// Returns the kind of its spans.
    pub const fn kind(self) -> super::SpanKind {
        match self {
            Self::Send => super::SpanKind::Producer,
            Self::Process => super::SpanKind::Consumer,
        }
    }
}

/// Begins a span of a message: `send payment.commands`. `None` if the trace is not sampled, or nothing is recorded.
pub fn message(
    service: impl Into<std::borrow::Cow<'static, str>>,
    operation: Operation,
    topic: &str,
    parent: super::TraceContext,
) -> Option<super::OpenSpan> {
    if !parent.is_sampled() || !super::is_recording() {
        return None;
    }
    let name = operation.as_str();
    let span = super::begin(service, format!("{name} {topic}"), operation.kind(), parent)?;
    Some(
        span.with(MESSAGING_SYSTEM, KAFKA)
            .with(MESSAGING_OPERATION_NAME, name)
            .with(MESSAGING_OPERATION_TYPE, name)
            .with(MESSAGING_DESTINATION_NAME, topic.to_owned()),
    )
}
