//! The load: what is ordered, at what pace, and what is under way.
//!
//! | module | is |
//! | --- | --- |
//! | [`shop`] | what is ordered |
//! | [`pace`] | when: so many at once, or so many a second |
//! | [`births`] | sagas started in batches, straight into the store |
//! | [`http`] | orders over HTTP |
//! | [`ledger`] | what was begun, what has ended, and when |

pub mod births;
pub mod http;
pub mod ledger;
pub mod pace;
pub mod shop;

use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{births::Births, http::Http, ledger::Ledger, pace::Pace, shop::Shop};

/// How sagas come into the world.
#[derive(Clone)]
pub enum Entrance {
    /// In batches, as the api does it behind its door.
    Births(Arc<Births>),
    /// Over HTTP.
    Http(Arc<Http>),
}

/// A load that is running.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Begins to start sagas at this pace.
    pub fn start(entrance: &Entrance, shop: Shop, pace: Pace, ledger: &Arc<Ledger>) -> Self {
        let (stop, ledger) = (CancellationToken::new(), Arc::clone(ledger));
        let (entrance, stopped) = (entrance.clone(), stop.clone());
        let pacer = pace.begin(&ledger);
        let task = tokio::spawn(async move {
            match entrance {
                Entrance::Births(births) => births.run(shop, pacer, ledger, stopped).await,
                Entrance::Http(http) => http.run(shop, pacer, ledger, stopped).await,
            }
        });
        Self { stop, task }
    }

    /// Starts no more, and waits for what is being started. What is under way goes on.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}
