//! The routes, with the rights that they need and their descriptions. Routes are added by [`Routes::on`] only, and each
//! states its right and its [`Operation`]: so no route can be forgotten. The OpenAPI document is made from these, and
//! the tests of all routes × all callers, and of bad input on all routes, are made from the document.
//! [`crate::http::openapi`] shows how a route is described.

use std::sync::Arc;

use amends_http::{Fault, ProblemDetails};
use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    handler::Handler,
    http::Method,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

use super::{caller::Caller, roles::Right};
use crate::{
    http::{etag, openapi::Operation},
    problem::{Problem, problem_types},
};

/// The challenge for a caller whose role does not suffice, by RFC 6750.
const INSUFFICIENT: &str = "Bearer realm=\"amends\", error=\"insufficient_scope\"";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without a token.
    Open,
    /// Callers with this right.
    Needs(Right),
}

/// A route, who may call it, and its description.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, as the router knows it.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Its description.
    pub operation: Operation,
}

/// Routes with the rights that they need.
pub struct Routes<S> {
    router: Router<S>,
    listed: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self { router: Router::new(), listed: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// Adds a route, with who may call it, and its description.
    #[must_use]
    pub fn on<H, T>(
        mut self,
        method: Method,
        path: &'static str,
        access: Access,
        handler: H,
        operation: Operation,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = match method {
            Method::GET => MethodFilter::GET,
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::PATCH => MethodFilter::PATCH,
            Method::DELETE => MethodFilter::DELETE,
            ref other => unreachable!("no route of ours answers {other}"),
        };
        let mut handled = on(filter, handler);
        if method != Method::GET && !operation.compares_tags() {
            handled = handled.route_layer(from_fn(etag::without_tag));
        }
        self.listed.push(Route { method, path, access, operation });
        Self { router: self.router.route(path, handled), ..self }
    }

    /// Applies something to the routes that were added so far.
    #[must_use]
    pub fn each(self, apply: impl FnOnce(Router<S>) -> Router<S>) -> Self {
        Self { router: apply(self.router), ..self }
    }

    /// Adds other routes.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.listed.extend(other.listed);
        Self { router: self.router.merge(other.router), ..self }
    }

    /// Returns the list of the routes.
    pub fn listed(&self) -> &[Route] {
        &self.listed
    }

    /// Returns the router of routes that everyone may call.
    pub fn unchecked(self) -> Router<S> {
        self.router
    }

    /// Returns the router, in which each route is served only to callers with its right.
    pub fn checked(self) -> Router<S> {
        let rights = self.listed.into_iter().filter_map(|route| match route.access {
            Access::Open => None,
            Access::Needs(right) => Some((route.method, route.path, right)),
        });
        self.router.route_layer(from_fn_with_state(Arc::new(Rights(rights.collect())), check))
    }
}

/// The right that each method of each path needs.
struct Rights(Vec<(Method, &'static str, Right)>);

async fn check(State(rights): State<Arc<Rights>>, request: Request, next: Next) -> Response {
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    // Without an entry it is an open route, or a method that the path does not have: 405.
    let needed = rights.0.iter().find(|(of, at, _)| *of == method && *at == path);
    if let Some((_, _, needed)) = needed {
        let caller = request.extensions().get::<Caller>();
        if !caller.is_some_and(|caller| caller.may(*needed)) {
            return forbidden().into_response();
        }
    }
    next.run(request).await
}

/// The caller's roles do not suffice.
pub fn forbidden() -> Problem {
    refused("No role of this token may do this.").into()
}

/// The caller's roles do not suffice for some fields of the request.
pub fn forbidden_at(faults: Vec<Fault>) -> Problem {
    refused("No role of this token may set these fields; see `errors`. Nothing was changed.")
        .at(faults)
        .into()
}

fn refused(detail: &'static str) -> ProblemDetails {
    ProblemDetails::new(problem_types::FORBIDDEN, detail).challenge(INSUFFICIENT)
}
