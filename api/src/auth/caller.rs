//! The caller of a request.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::roles::{Right, Roles};
use crate::problem::Problem;

/// The subject of requests without a token, where those are served.
pub const DEV_SUBJECT: &str = "dev";

/// Who sent a request, and their roles. Handlers receive it as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    subject: Arc<str>,
    roles: Roles,
}

impl Caller {
    /// Creates the caller that a token describes.
    pub fn new(subject: &str, roles: Roles) -> Self {
        Self { subject: subject.into(), roles }
    }

    /// The caller without a token, where those are served: every role.
    pub fn dev() -> Self {
        Self::new(DEV_SUBJECT, Roles::all())
    }

    /// Returns the subject: the scope of idempotency keys, a customer's id, an operator's name.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the roles.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// Returns whether the caller has this right.
    pub fn may(&self, right: Right) -> bool {
        self.roles.may(right)
    }

    /// Returns whether an order of this customer exists for the caller.
    pub fn sees_orders_of(&self, customer: &str) -> bool {
        self.may(Right::ReadAnyOrder) || (self.may(Right::ReadOrders) && customer == self.subject())
    }

    /// Returns whether the caller may ask to return an order of this customer.
    pub fn returns_orders_of(&self, customer: &str) -> bool {
        self.may(Right::ReturnOrders) && self.cancels_orders_of(customer)
    }

    /// Returns whether the caller may cancel an order of this customer.
    pub fn cancels_orders_of(&self, customer: &str) -> bool {
        self.may(Right::CancelAnyOrder) || (self.may(Right::CancelOrders) && customer == self.subject())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Problem> {
        request.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(path = request.uri.path(), "a route is served without authentication");
            Problem::Internal
        })
    }
}
