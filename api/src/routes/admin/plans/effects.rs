//! A plan as operators see it.

use amends_engine::operate::Effects;
use amends_protocol::Exposure;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::openapi::schema::{Holding, Instant},
    orders::view::instant,
};

/// A plan: what an action would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanView {
    /// The hash by which the plan is known and applied.
    pub(super) plan: String,
    pub(super) saga: Uuid,
    /// The revision at which it is applied.
    pub(super) revision: u32,
    pub(super) effects: EffectsView,
    /// Whether somebody else must approve it first.
    pub(super) needs_approval: bool,
    /// Until when it can be applied.
    #[schema(value_type = Instant)]
    pub(super) expires_at: String,
}

/// What a plan would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanEffects)]
pub(super) struct EffectsView {
    /// The commands that are sent at once: `pay compensate`.
    pub(super) commands: Vec<String>,
    /// The saga's label before and after.
    pub(super) label: [String; 2],
    /// How the money that the saga holds changes, until it ends or waits again: a negative amount is given back.
    #[schema(value_type = Vec<Holding>)]
    pub(super) money: Vec<Exposure>,
    /// The same of stock.
    #[schema(value_type = Vec<Holding>)]
    pub(super) stock: Vec<Exposure>,
    /// The same of all else.
    #[schema(value_type = Vec<Holding>)]
    pub(super) other: Vec<Exposure>,
    /// What the engine does next by itself.
    pub(super) timers: Vec<TimerView>,
    /// Whether the saga can still go the way that it goes now.
    pub(super) reversible: bool,
}

/// What the engine will do by itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanTimer)]
pub(super) struct TimerView {
    #[schema(value_type = Instant)]
    pub(super) at: String,
    /// `probe`, `retry`, `compensate`, `cancel` or `giveUp`.
    pub(super) what: &'static str,
}

impl From<Effects> for EffectsView {
    fn from(effects: Effects) -> Self {
        let Effects { commands, label, held, timers, is_reversible } = effects;
        let (money, rest): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|exposure| exposure.kind.starts_with("money"));
        let (stock, other) = rest.into_iter().partition(|exposure| exposure.kind.starts_with("stock"));
        let timers = timers.into_iter().map(|next| TimerView { at: instant(next.at), what: next.what });
        Self {
            commands,
            label: [label.0, label.1],
            money,
            stock,
            other,
            timers: timers.collect(),
            reversible: is_reversible,
        }
    }
}
