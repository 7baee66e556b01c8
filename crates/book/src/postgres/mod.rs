//! The order book in PostgreSQL. No SQL type leaves this folder.

mod error;
mod keep_back;
mod load;
mod lock;
mod note;
mod one;
mod overdue;
mod pay;
mod ready;
mod set_aside;
mod settle;
mod unfinished;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use database::{Client, ServerTime};
use order::OrderId;
use trace::TraceParent;

pub(crate) use self::error::is_bad;
use self::lock::UnderLock;
pub(crate) use self::one::one;
pub(crate) use self::ready::time;
pub(crate) use self::settle::with_announcement;
use crate::{
    Actor, BookError, BookResult, Closed, Closing, Credited, KeptBack, Loaded, MoneyAside, OrderBook, OverduePage,
    PageRequest, Payment, TradeNote,
};

/// Orders in PostgreSQL, in tables of ours or in views over a shop's own.
#[derive(Clone)]
pub struct PostgresBook {
    client: Client,
    under_lock: Arc<UnderLock>,
}

impl PostgresBook {
    /// The book in this database.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { under_lock: Arc::new(UnderLock::new(client.clone())), client }
    }
}

#[async_trait]
impl OrderBook for PostgresBook {
    async fn load(&self, ids: &[OrderId], gateway: Option<&str>) -> BookResult<Loaded> {
        load::load(&self.client, ids, gateway).await
    }

    async fn settle(&self, closings: &[Closing], by: &Actor, trace: Option<&TraceParent>) -> BookResult<Closed> {
        let columns = settle::columns(by, trace);
        let (rows, held) = self.under_lock.run(closings, |closing| &closing.id, &settle::SQL, columns).await?;
        settle::reply(&rows, held)
    }

    async fn pay(&self, payments: &[Payment], by: &Actor, trace: Option<&TraceParent>) -> BookResult<Credited> {
        let columns = pay::columns(by, trace);
        let (rows, held) = self.under_lock.run(payments, |payment| &payment.id, &pay::SQL, columns).await?;
        pay::reply(&rows, held)
    }

    async fn note(&self, notes: &[TradeNote]) -> Result<(), BookError> {
        note::note(&self.client, notes).await
    }

    async fn set_aside(&self, money: &[MoneyAside]) -> Result<(), BookError> {
        set_aside::set_aside(&self.client, money).await
    }

    async fn ready(&self) -> Result<ServerTime, BookError> {
        ready::ready(&self.client, &self.under_lock).await
    }

    async fn moved(&self, ids: &[OrderId]) -> Result<HashSet<OrderId>, BookError> {
        overdue::moved(&self.client, ids).await
    }

    async fn keep_back(&self, timeouts: &[KeptBack]) -> Result<Option<ServerTime>, BookError> {
        keep_back::keep_back(&self.client, timeouts).await.map(Some)
    }

    async fn unfinished(&self, orders_max: usize) -> Result<Vec<OrderId>, BookError> {
        unfinished::unfinished(&self.client, orders_max).await
    }

    async fn overdue(&self, page: &PageRequest) -> Result<Option<OverduePage>, BookError> {
        overdue::page(&self.client, page).await.map(Some)
    }
}
