//! Roles, and the one table that says what each may do.

use std::str::FromStr;

/// A role, as the claim of a token names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Own orders.
    Customer,
    /// A shop's backend: the orders of any customer.
    Storefront,
    /// Reads everything; personal fields are masked.
    Viewer,
    /// A viewer who acts.
    Operator,
    /// An operator who may also erase, and approve.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Customer, Self::Storefront, Self::Viewer, Self::Operator, Self::Admin];

    /// Returns its name in a token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Storefront => "storefront",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Returns whether it has this right: by the table, or because an admin may all that an operator may.
    fn may(self, right: Right) -> bool {
        self.rights().contains(&right) || (self == Self::Admin && Self::Operator.may(right))
    }

    /// The table of rights.
    fn rights(self) -> &'static [Right] {
        use Right::{
            ActOnSagas, AdminArea, CancelAnyOrder, CancelOrders, DecideReturns, HandlePersonalData,
            HoldBreakers, ManageWebhooks, PlaceOrders, QuoteRefunds, ReadAnyOrder, ReadMessages, ReadOrders,
            ReadProducts, ReadSagas, ReadStock, ReadWebhooks, RefundOrders, ReturnOrders, SetProducts,
            SetStock, StateCustomer,
        };
        match self {
            Self::Customer => &[PlaceOrders, ReadOrders, CancelOrders, ReturnOrders, ReadProducts],
            Self::Storefront => &[
                PlaceOrders,
                StateCustomer,
                ReadOrders,
                ReadAnyOrder,
                CancelOrders,
                CancelAnyOrder,
                ReturnOrders,
                QuoteRefunds,
                ReadProducts,
            ],
            Self::Viewer => {
                &[ReadOrders, ReadAnyOrder, ReadProducts, ReadStock, ReadWebhooks, AdminArea, ReadSagas]
            }
            Self::Operator => &[
                ReadOrders,
                ReadAnyOrder,
                CancelOrders,
                CancelAnyOrder,
                DecideReturns,
                RefundOrders,
                QuoteRefunds,
                ReadProducts,
                SetProducts,
                ReadStock,
                SetStock,
                ReadWebhooks,
                ManageWebhooks,
                AdminArea,
                ReadSagas,
                ActOnSagas,
                ReadMessages,
            ],
            Self::Admin => &[HandlePersonalData, HoldBreakers],
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or(())
    }
}

/// What a route needs of its caller, or what a handler lets some callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Place orders, for oneself or for the customer that one may state.
    PlaceOrders,
    /// State the customer and the prices of an order. Without it, the customer is the caller.
    StateCustomer,
    /// Read orders: one's own.
    ReadOrders,
    /// Read orders of every customer.
    ReadAnyOrder,
    /// Cancel orders: one's own.
    CancelOrders,
    /// Cancel orders of every customer.
    CancelAnyOrder,
    /// Ask to return orders: one's own, or those that one may cancel.
    ReturnOrders,
    /// Approve and reject returns.
    DecideReturns,
    /// Refund orders without a return.
    RefundOrders,
    /// Ask what a refund would be.
    QuoteRefunds,
    /// Read products and their prices.
    ReadProducts,
    /// Set names and prices of products.
    SetProducts,
    /// Read the stock of products.
    ReadStock,
    /// Set the stock of products.
    SetStock,
    /// Read webhooks and their deliveries.
    ReadWebhooks,
    /// Create, change and delete webhooks, and send deliveries again.
    ManageWebhooks,
    /// Enter `/admin` at all.
    AdminArea,
    /// Read sagas, with their internals.
    ReadSagas,
    /// Act on sagas: retry, resend, cancel, resolve.
    ActOnSagas,
    /// Read the text of a message to a customer that `dev` has kept.
    ReadMessages,
    /// Export and erase customers' personal data.
    HandlePersonalData,
    /// Open and close circuit breakers by hand.
    HoldBreakers,
}

/// A set of roles. Their rights add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// Every role.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Returns whether one of them is this one.
    pub fn has(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }

    /// Returns whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether one of them has this right.
    pub fn may(self, right: Right) -> bool {
        Role::ALL.into_iter().any(|role| self.has(role) && role.may(right))
    }
}

fn bit(role: Role) -> u8 {
    1 << role as u8
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | bit(role)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_of_several_roles_add_up() {
        let roles: Roles = [Role::Customer, Role::Viewer].into_iter().collect();
        assert!(roles.may(Right::PlaceOrders) && roles.may(Right::ReadSagas));
        assert!(roles.may(Right::ReadAnyOrder) && !roles.may(Right::CancelAnyOrder));
        assert!(!roles.may(Right::ActOnSagas) && !roles.may(Right::StateCustomer));
        assert!(!Roles::default().may(Right::ReadOrders));
    }

    #[test]
    fn an_operator_may_all_that_a_viewer_may_and_an_admin_all_that_an_operator_may() {
        for (less, more) in [(Role::Viewer, Role::Operator), (Role::Operator, Role::Admin)] {
            assert!(less.rights().iter().all(|right| more.may(*right)), "{less:?} {more:?}");
            assert!(more.rights().iter().any(|right| !less.may(*right)), "{less:?} {more:?}");
        }
    }
}
