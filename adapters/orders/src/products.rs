//! Table `products`: what is sold, and at which price. Orders keep the prices that they were placed at.

use std::collections::HashMap;

use amends_pool::Pool;
use amends_postgres::{Error, error};
use chrono::{DateTime, Utc};
use sqlx::FromRow;

/// A product.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Product {
    /// Its id: 1–64 of `A-Z a-z 0-9 . _ -`.
    pub product_id: String,
    /// Its name, for people.
    pub name: String,
    /// The price of one unit, in minor units of its currency.
    pub unit_price: i64,
    /// ISO 4217.
    pub currency: String,
    /// The number of times that it was set.
    pub revision: i32,
    /// When it was set last.
    pub updated_at: DateTime<Utc>,
}

/// What a product is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProduct {
    /// Its id.
    pub product_id: String,
    /// Its name.
    pub name: String,
    /// The price of one unit, in minor units of its currency.
    pub unit_price: i64,
    /// ISO 4217.
    pub currency: String,
}

/// The price of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// In minor units of the currency.
    pub unit_price: i64,
    /// ISO 4217.
    pub currency: String,
}

/// A page of products, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProductPage {
    /// The products.
    pub items: Vec<Product>,
    /// The id behind which the next page begins; `None` if this is the last.
    pub next: Option<String>,
}

/// The products in the engine's database.
#[derive(Debug, Clone)]
pub struct ProductStore(Pool);

/// The columns of [`Product`].
macro_rules! product_columns {
    () => {
        "product_id, name, unit_price, currency, revision, updated_at"
    };
}

impl ProductStore {
    /// Creates a store over this pool.
    pub fn new(pool: impl Into<Pool>) -> Self {
        Self(pool.into())
    }

    /// Reads a product.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, product_id: &str) -> Result<Option<Product>, Error> {
        sqlx::query_as(concat!("SELECT ", product_columns!(), " FROM products WHERE product_id = $1"))
            .bind(product_id)
            .fetch_optional(&self.0)
            .await
            .map_err(error::of)
    }

    /// Reads the prices of these products; those that have none are left out.
    ///
    /// # Errors
    /// The database's.
    pub async fn prices(&self, product_ids: &[&str]) -> Result<HashMap<String, Price>, Error> {
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT product_id, unit_price, currency FROM products WHERE product_id = ANY($1)",
        )
        .bind(product_ids)
        .fetch_all(&self.0)
        .await
        .map_err(error::of)?;
        let price = |(id, unit_price, currency)| (id, Price { unit_price, currency });
        Ok(rows.into_iter().map(price).collect())
    }

    /// Creates a product, or replaces it; returns it with its new revision, which is 1 if it was created.
    ///
    /// # Errors
    /// The database's.
    pub async fn put(&self, product: &NewProduct) -> Result<Product, Error> {
        sqlx::query_as(concat!(
            "INSERT INTO products AS p (product_id, name, unit_price, currency) VALUES ($1, $2, $3, $4)
             ON CONFLICT (product_id) DO UPDATE
             SET name = EXCLUDED.name, unit_price = EXCLUDED.unit_price, currency = EXCLUDED.currency,
                 revision = p.revision + 1, updated_at = EXCLUDED.updated_at
             RETURNING ",
            product_columns!()
        ))
        .bind(&product.product_id)
        .bind(&product.name)
        .bind(product.unit_price)
        .bind(&product.currency)
        .fetch_one(&self.0)
        .await
        .map_err(error::of)
    }

    /// Replaces a product if it still has this revision; `None` if it has another, or does not exist.
    ///
    /// # Errors
    /// The database's.
    pub async fn replace(&self, product: &NewProduct, revision: i32) -> Result<Option<Product>, Error> {
        sqlx::query_as(concat!(
            "UPDATE products SET name = $2, unit_price = $3, currency = $4, revision = revision + 1,
                                 updated_at = now()
             WHERE product_id = $1 AND revision = $5
             RETURNING ",
            product_columns!()
        ))
        .bind(&product.product_id)
        .bind(&product.name)
        .bind(product.unit_price)
        .bind(&product.currency)
        .bind(revision)
        .fetch_optional(&self.0)
        .await
        .map_err(error::of)
    }

    /// Reads the products behind this id, in the order of their ids.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, after: &str, limit: u32) -> Result<ProductPage, Error> {
        let limit = limit.max(1);
        let mut items: Vec<Product> = sqlx::query_as(concat!(
            "SELECT ",
            product_columns!(),
            " FROM products WHERE product_id > $1 ORDER BY product_id LIMIT $2"
        ))
        .bind(after)
        // One row more than is shown is read: it shows whether there are more.
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0)
        .await
        .map_err(error::of)?;
        let is_last = items.len() <= limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| !is_last).map(|product| product.product_id.clone());
        Ok(ProductPage { items, next })
    }
}
