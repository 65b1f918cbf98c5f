//! A cache of single products' stock. It never shows less than what its reader may know already.
//!
//! ```text
//! reader                                   worker, or a change by hand
//! look: the value, or a ticket             change the stock, commit
//! read Postgres                            forget the products      (the tickets are void)
//! keep the value, if the ticket holds      reply, or answer
//! ```
//!
//! A value that was read before a commit is therefore gone before a status or an answer shows the commit. Where a product cannot be forgotten, because Redis is away, the writer waits until every older value has
//! expired. So without Redis everything is right, and slower.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use amends_redis::{Redis, Script};

/// How long after its product was looked up a value may be shown.
const VALUE_LIFETIME: Duration = Duration::from_secs(1);
/// How long a writer waits for values to expire that it cannot have forgotten: clocks may differ in speed.
const EXPIRY_WAIT: Duration = Duration::from_millis(1_250);
/// Number of products that the cache within a process has at most.
const PRODUCTS_MOST: usize = 10_000;

/// The cache that the readers and the writers of a deployment share.
#[derive(Debug, Clone, Default)]
pub enum StockCache {
    /// None: every read goes to Postgres.
    #[default]
    Off,
    /// Within this process, in which all readers and writers run.
    Process(Arc<ProcessCache>),
    /// In Redis.
    Redis(RedisCache),
}

/// The result of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// The stock, as JSON.
    Found(String),
    /// It must be read; it may then be kept with this ticket.
    Absent(Ticket),
    /// It must be read, and cannot be kept.
    Unknown,
}

/// The right to keep what is read from now on, unless the product changes meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket(Mark);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    Process {
        at_change: u64,
        looked_at: Instant,
    },
    /// The product's marker, and when a value that is read now expires by the clock of Redis, in milliseconds.
    Redis {
        marker: String,
        expires_at: u64,
    },
}

impl StockCache {
    /// Creates a cache within this process.
    pub fn within_process() -> Self {
        Self::Process(Arc::default())
    }

    /// Creates a cache in Redis.
    pub fn in_redis(redis: Redis) -> Self {
        Self::Redis(RedisCache { redis })
    }

    /// Looks a product up.
    pub async fn look(&self, product: &str) -> Looked {
        match self {
            Self::Off => Looked::Unknown,
            Self::Process(cache) => cache.look(product, Instant::now()),
            Self::Redis(cache) => cache.look(product).await,
        }
    }

    /// Keeps what was read after the ticket was given, unless the product has changed since.
    pub async fn keep(&self, product: &str, ticket: Ticket, stock: &str) {
        match (self, ticket.0) {
            (Self::Process(cache), Mark::Process { at_change, looked_at }) => {
                cache.keep(product, at_change, looked_at, stock);
            }
            (Self::Redis(cache), Mark::Redis { marker, expires_at }) => {
                cache.keep(product, &marker, expires_at, stock).await;
            }
            _ => {}
        }
    }

    /// Forgets products whose change is committed. When it returns, no older value is shown to anyone.
    pub async fn forget(&self, products: &[&str]) {
        if products.is_empty() {
            return;
        }
        match self {
            Self::Off => {}
            Self::Process(cache) => cache.forget(products),
            Self::Redis(cache) => cache.forget(products).await,
        }
    }
}

/// A cache within a process.
#[derive(Debug, Default)]
pub struct ProcessCache(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    values: HashMap<String, Value>,
    /// Counts the changes.
    changes: u64,
    /// When each product changed last; of those that are missing it is known that they did not after `all_before`.
    changed: HashMap<String, u64>,
    all_before: u64,
}

#[derive(Debug)]
struct Value {
    stock: String,
    expires_at: Instant,
}

impl ProcessCache {
    fn locked(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, product: &str, now: Instant) -> Looked {
        let contents = self.locked();
        match contents.values.get(product) {
            Some(value) if now < value.expires_at => Looked::Found(value.stock.clone()),
            _ => Looked::Absent(Ticket(Mark::Process { at_change: contents.changes, looked_at: now })),
        }
    }

    fn keep(&self, product: &str, at_change: u64, looked_at: Instant, stock: &str) {
        let mut contents = self.locked();
        let changed = contents.changed.get(product).copied().unwrap_or(contents.all_before);
        if changed > at_change {
            return;
        }
        if contents.values.len() >= PRODUCTS_MOST {
            contents.values.clear();
        }
        let value = Value { stock: stock.to_owned(), expires_at: looked_at + VALUE_LIFETIME };
        contents.values.insert(product.to_owned(), value);
    }

    fn forget(&self, products: &[&str]) {
        let mut contents = self.locked();
        contents.changes += 1;
        let changes = contents.changes;
        if contents.changed.len() + products.len() > PRODUCTS_MOST {
            contents.changed.clear();
            contents.all_before = changes;
        }
        for product in products {
            contents.values.remove(*product);
            contents.changed.insert((*product).to_owned(), changes);
        }
    }
}

/// A cache in Redis, which every process of a deployment shares. A product's key has a value (`=…`) or a marker (`!…`); a
/// value takes the place of the marker that its reader has found, and of no other.
#[derive(Debug, Clone)]
pub struct RedisCache {
    redis: Redis,
}

/// How long a marker stays. A value that was looked up before it has expired by then.
const MARKER_LIFETIME: Duration = Duration::from_secs(10);

/// Returns the value or the marker, and the time; sets a marker if there is neither.
const LOOK: &str = "
    local found = redis.call('GET', KEYS[1])
    if not found then
        found = ARGV[1]
        redis.call('SET', KEYS[1], found, 'PX', ARGV[2])
    end
    local time = redis.call('TIME')
    return {found, time[1] * 1000 + math.floor(time[2] / 1000)}";
const KEEP: &str = "
    if redis.call('GET', KEYS[1]) == ARGV[1] then
        redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
    end
    return 0";
const FORGET: &str = "
    for _, key in ipairs(KEYS) do
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    end
    return 0";

impl RedisCache {
    async fn look(&self, product: &str) -> Looked {
        let looked = self.redis.run(&Script::new(LOOK), &[key(product)], &[new_marker(), lifetime()]).await;
        let (found, now): (String, u64) = match looked {
            Ok(looked) => looked,
            Err(_) => return Looked::Unknown,
        };
        match found.strip_prefix('=') {
            Some(stock) => Looked::Found(stock.to_owned()),
            None => Looked::Absent(Ticket(Mark::Redis {
                marker: found,
                expires_at: now + VALUE_LIFETIME.as_secs() * 1000,
            })),
        }
    }

    async fn keep(&self, product: &str, marker: &str, expires_at: u64, stock: &str) {
        let arguments = [marker.to_owned(), format!("={stock}"), expires_at.to_string()];
        // If it is away, the value is not kept.
        let _ = self.redis.run::<i64>(&Script::new(KEEP), &[key(product)], &arguments).await;
    }

    async fn forget(&self, products: &[&str]) {
        let keys: Vec<String> = products.iter().map(|product| key(product)).collect();
        let forgotten = self.redis.run::<i64>(&Script::new(FORGET), &keys, &[new_marker(), lifetime()]).await;
        if forgotten.is_err() {
            metrics::counter!("amends_inventory_cache_waits_total").increment(1);
            tokio::time::sleep(EXPIRY_WAIT).await;
        }
    }
}

fn key(product: &str) -> String {
    format!("amends:stock:{product}")
}

fn new_marker() -> String {
    format!("!{}", uuid::Uuid::now_v7().simple())
}

fn lifetime() -> String {
    MARKER_LIFETIME.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(looked: Looked) -> (u64, Instant) {
        match looked {
            Looked::Absent(Ticket(Mark::Process { at_change, looked_at })) => (at_change, looked_at),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_looked_up_before_a_change_is_not_kept_after_it() {
        let (cache, now) = (ProcessCache::default(), Instant::now());
        let (of_mug, at) = ticket(cache.look("mug", now));
        cache.forget(&["hat"]);
        cache.keep("mug", of_mug, at, "5");
        assert_eq!(cache.look("mug", now), Looked::Found("5".into()), "only the hat has changed");
        let (of_hat, at) = ticket(cache.look("hat", now));
        cache.forget(&["mug", "hat"]);
        cache.keep("hat", of_hat, at, "7");
        assert!(matches!(cache.look("hat", now), Looked::Absent(_)));
        assert!(matches!(cache.look("mug", now), Looked::Absent(_)));
    }

    #[test]
    fn a_value_expires_a_while_after_its_product_was_looked_up() {
        let (cache, now) = (ProcessCache::default(), Instant::now());
        let (ticket, at) = ticket(cache.look("mug", now));
        cache.keep("mug", ticket, at, "5");
        assert!(matches!(cache.look("mug", now + VALUE_LIFETIME / 2), Looked::Found(_)));
        assert!(matches!(cache.look("mug", now + VALUE_LIFETIME), Looked::Absent(_)));
    }

    #[test]
    fn a_cache_of_a_process_is_bounded_and_forgets_no_change_by_that() {
        let (cache, now) = (ProcessCache::default(), Instant::now());
        let (early, at) = ticket(cache.look("mug", now));
        cache.forget(&["mug"]);
        for n in 0..PRODUCTS_MOST * 2 {
            let name = n.to_string();
            let (ticket, at) = ticket(cache.look(&name, now));
            cache.keep(&name, ticket, at, "1");
            cache.forget(&[&name]);
        }
        cache.keep("mug", early, at, "old");
        assert!(matches!(cache.look("mug", now), Looked::Absent(_)));
        let contents = cache.locked();
        assert!(contents.changed.len() <= PRODUCTS_MOST && contents.values.len() <= PRODUCTS_MOST);
    }
}
