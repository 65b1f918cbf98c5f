//! What a route is for, what it takes, and what it answers.

use amends_http::ProblemType;
use axum::http::StatusCode;
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
        link::LinkBuilder,
        path::{Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{AllOfBuilder, OneOfBuilder, Schema},
    },
};

use super::schema::{self, Alternative, Kind};
use crate::http::page::Page;

pub(super) const JSON: &str = "application/json";

/// The schemas that an operation refers to, by name.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// What a route is for, what it takes, and what it answers. The [module](super) shows how one is written.
#[derive(Clone)]
pub struct Operation {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) about: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) answers: Vec<Answer>,
    pub(super) problems: Vec<&'static ProblemType>,
    pub(super) schemas: Schemas,
    pub(super) key: Key,
    pub(super) compares_tags: bool,
}

/// Whether a request takes an `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// As its method says: every POST takes one, no other request does.
    ByMethod,
    /// It takes one, whatever its method.
    Taken,
    /// It is refused without one.
    Required,
}

/// An answer that is no problem.
#[derive(Clone)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) response: Response,
    schemas: Schemas,
}

impl Operation {
    /// Creates the description of a route, from an id that clients use as a name, and what it does in a few words.
    pub fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            about: "",
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
            schemas: Vec::new(),
            key: Key::ByMethod,
            compares_tags: false,
        }
    }

    /// Adds what else one needs to know, in Markdown.
    #[must_use]
    pub fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }

    /// Adds a parameter of the query, with an example that is valid; null if there is none.
    #[must_use]
    pub fn query(
        self,
        name: &'static str,
        about: &'static str,
        schema: impl Into<RefOr<Schema>>,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter(ParameterIn::Query, name, about, schema, example)
    }

    /// Adds a header of the request, likewise.
    #[must_use]
    pub fn header(
        self,
        name: &'static str,
        about: &'static str,
        schema: impl Into<RefOr<Schema>>,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter(ParameterIn::Header, name, about, schema, example)
    }

    fn parameter(
        mut self,
        at: ParameterIn,
        name: &'static str,
        about: &'static str,
        schema: impl Into<RefOr<Schema>>,
        example: impl Into<Value>,
    ) -> Self {
        let parameter = ParameterBuilder::new().name(name).parameter_in(at).required(Required::False);
        // Without an example it is null.
        let example = Some(example.into()).filter(|example| !example.is_null());
        let parameter = parameter.description(Some(about)).schema(Some(schema)).example(example);
        self.parameters.push(parameter.build());
        self
    }

    /// The request has a JSON body of this type. The example is a request that works.
    #[must_use]
    pub fn body<T: ToSchema>(self, example: Value) -> Self {
        self.with_body::<T>(example, Required::True)
    }

    /// The same, of a body that may be left out.
    #[must_use]
    pub fn optional_body<T: ToSchema>(self, example: Value) -> Self {
        self.with_body::<T>(example, Required::False)
    }

    /// The body has exactly one of these fields, with what it needs.
    #[must_use]
    pub fn exactly_one_of(self, alternatives: &[Alternative<'_>]) -> Self {
        self.with_body_that_is(schema::exactly_one_of(alternatives))
    }

    /// The body has the fields of its kind, which this field names.
    #[must_use]
    pub fn of_kinds(self, field: &str, kinds: &[Kind<'_>]) -> Self {
        self.with_body_that_is(schema::kinds(field, kinds))
    }

    /// The body has its own schema and this one.
    fn with_body_that_is(mut self, too: OneOfBuilder) -> Self {
        let content = self.body.as_mut().and_then(|body| body.content.get_mut(JSON));
        if let Some(RefOr::T(content)) = content
            && let Some(of_type) = content.schema.take()
        {
            content.schema = Some(AllOfBuilder::new().item(of_type).item(too).into());
        }
        self
    }

    fn with_body<T: ToSchema>(mut self, example: Value, required: Required) -> Self {
        let content = ContentBuilder::new().schema(Some(reference::<T>(&mut self.schemas)));
        let content = content.example(Some(example)).build();
        let body = RequestBodyBuilder::new().required(Some(required)).content(JSON, content);
        Self { body: Some(body.build()), ..self }
    }

    /// The handler compares `If-Match` with the entity tag of the resource: it changes something only in the state that
    /// the caller has seen. Without this, what changes has no tag, and no tag is the right one.
    #[must_use]
    pub fn if_match(self) -> Self {
        Self { compares_tags: true, ..self }
    }

    /// The request takes an `Idempotency-Key`, though it is no POST.
    #[must_use]
    pub fn key_taken(self) -> Self {
        Self { key: Key::Taken, ..self }
    }

    /// The request needs an `Idempotency-Key`.
    #[must_use]
    pub fn key_required(self) -> Self {
        Self { key: Key::Required, ..self }
    }

    /// Adds an answer.
    #[must_use]
    pub fn answer(mut self, mut answer: Answer) -> Self {
        self.schemas.append(&mut answer.schemas);
        self.answers.push(answer);
        self
    }

    /// Adds the problems that this route can answer, beside those that every such route can.
    #[must_use]
    pub fn problems(mut self, problems: &[&'static ProblemType]) -> Self {
        self.problems.extend(problems);
        self
    }

    /// Returns the id.
    pub fn id(&self) -> &'static str {
        self.id
    }

    /// Returns whether the handler compares `If-Match` with an entity tag.
    pub fn compares_tags(&self) -> bool {
        self.compares_tags
    }
}

impl Answer {
    /// An answer in JSON.
    pub fn json<T: ToSchema>(status: StatusCode, about: &'static str) -> Self {
        let mut schemas = Vec::new();
        let content = ContentBuilder::new().schema(Some(reference::<T>(&mut schemas))).build();
        let response = ResponseBuilder::new().description(about).content(JSON, content).build();
        Self { status, response, schemas }
    }

    /// A page of a list of these, which leads to the next one.
    pub fn page<T: ToSchema>() -> Self {
        Self::json::<Page<Vec<T>>>(StatusCode::OK, "A page.").next_link()
    }

    /// An answer of other media types.
    pub fn of(kinds: &[&'static str], status: StatusCode, about: &'static str) -> Self {
        let response = ResponseBuilder::new().description(about).build();
        Self { status, response, schemas: Vec::new() }.also(kinds)
    }

    /// Adds media types.
    #[must_use]
    pub fn also(mut self, kinds: &[&'static str]) -> Self {
        let content = || RefOr::T(ContentBuilder::new().schema(Some(schema::string())).build());
        self.response.content.extend(kinds.iter().map(|kind| ((*kind).to_owned(), content())));
        self
    }

    /// An answer without a body.
    pub fn empty(status: StatusCode, about: &'static str) -> Self {
        Self::of(&[], status, about)
    }

    /// Adds a header of the answer.
    #[must_use]
    pub fn header(mut self, name: &'static str, about: &'static str) -> Self {
        self.response.headers.insert(name.to_owned(), RefOr::T(header(about)));
        self
    }

    /// The answer carries the entity tag of the resource.
    #[must_use]
    pub fn etag(self) -> Self {
        self.header("ETag", "The strong tag of this state, for `If-None-Match` and `If-Match`.")
    }

    /// The answer is a page that leads to the next one.
    #[must_use]
    pub fn next_link(self) -> Self {
        self.header("Link", "The next page: `<…>; rel=\"next\"`, unless this is the last one.")
    }

    /// Something in the request or the answer is a parameter of another operation: a runtime expression of OpenAPI.
    #[must_use]
    pub fn link(mut self, operation: &'static str, parameter: &'static str, is: &'static str) -> Self {
        let link = LinkBuilder::new().operation_id(operation).parameter(parameter, is).build();
        self.response.links.insert(operation.to_owned(), RefOr::T(link));
        self
    }
}

/// Returns a header whose value is a string.
pub(super) fn header(about: &str) -> Header {
    HeaderBuilder::new().schema(Some(schema::string())).description(Some(about)).build()
}

/// Returns a reference to a type, and adds its schema and those that it refers to.
pub(super) fn reference<T: ToSchema>(schemas: &mut Schemas) -> Ref {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
    Ref::from_schema_name(T::name())
}
