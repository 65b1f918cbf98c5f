//! The executor SDK against the protocol: the decision table by itself, and both kinds of worker over a real Postgres,
//! with a transport and a gateway controlled by the test.

mod books;
mod external;
mod gateway;
mod instance;
mod ledger;
mod messages;
mod recovery;
mod rows;
mod settled_by_hand;
mod signatures;
mod table;
mod transactional;
mod traps;
mod upkeep;
mod wire;
