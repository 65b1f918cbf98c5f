//! The order book, in the engine's database: orders beside their sagas.
//!
//! | module | contains |
//! | --- | --- |
//! | [`OrderStore`] | placing orders, in one transaction with their sagas, and reading them |
//! | `order` | the types of an order: [`NewOrder`], [`OrderRow`], [`OrderView`] |
//! | `list` | lists of orders, page by page: [`OrderFilter`], [`OrderPage`] |
//! | `personal` | a customer's personal data, exported and erased: [`PersonalDataPage`], [`Erasure`] |
//! | `published` | what happened to orders before some place in their slots: [`EarlierEntry`] |
//! | `returns` | adds a return or a refund to an order: [`NewOrderSaga`], [`Added`] |
//! | `placing`, `claims` | placing orders in a database with several homes, where a key is taken before its order is placed |
//! | `newest` | the newest state of many orders at once: [`Newest`] |
//! | [`answers`] | table `idempotent_answers` |
//! | [`keys`] | table `idempotency_keys` |
//! | [`products`] | table `products`: names and prices |
#![warn(missing_docs)]

pub mod answers;
mod claims;
pub mod keys;
mod list;
mod newest;
mod order;
mod personal;
mod placing;
pub mod products;
mod published;
mod returns;
mod store;
pub mod webhook_deliveries;
pub mod webhooks;

pub use claims::CLAIM_SETTLES;
pub use list::{OrderFilter, OrderPage, Sort};
pub use newest::Newest;
pub use order::{NewOrder, OrderRow, OrderSaga, OrderView, Placed};
pub use personal::{Erasure, PersonalData, PersonalDataPage};
pub use published::EarlierEntry;
pub use returns::{Added, Asked, KeyedRequest, NewOrderSaga};
pub use store::{OrderStore, SAGAS_OF_CUSTOMERS};
