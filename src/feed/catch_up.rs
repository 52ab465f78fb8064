//! Reading of events that are no longer in memory: in pages that clients share.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use super::{Epoch, Event};
use crate::service::{Error, FeedStore};

/// How many pages are read from the database at the same time, so that they leave the pool to requests.
const MAX_READS: usize = 2;
/// How many pages are kept: clients that have been disconnected together read the same ones.
const MAX_PAGES: usize = 16;

/// Pages of events from the database. They begin at multiples of the page size, so that clients at different positions
/// share them.
pub(super) struct CatchUp {
    reads: Semaphore,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// Complete pages, the oldest first.
    recent: VecDeque<Page>,
    /// Increased when pages become invalid, also those that are being read.
    generation: u64,
}

#[derive(Clone)]
struct Page {
    epoch: Epoch,
    begin: u64,
    events: Arc<[Event]>,
}

impl CatchUp {
    pub(super) fn new() -> Self {
        Self { reads: Semaphore::new(MAX_READS), pages: Mutex::default() }
    }

    /// Returns a page with the events after a position, and possibly earlier ones. It ends before the first gap.
    pub(super) async fn page(&self, store: &FeedStore, epoch: &Epoch, after: u64) -> Result<Arc<[Event]>, Error> {
        let begin = after - after % FeedStore::PAGE_SIZE;
        if let Some(events) = self.find(epoch, begin) {
            return Ok(events);
        }
        // Never closed. Without a permit the read would only be less limited.
        let _permit = self.reads.acquire().await.ok();
        if let Some(events) = self.find(epoch, begin) {
            return Ok(events);
        }
        let generation = self.pages().generation;
        let entries = store.page(begin.cast_signed()).await?;
        let events: Arc<[Event]> = entries.iter().map(|entry| Event::new(epoch, entry)).collect();
        let is_complete = events.len() as u64 == FeedStore::PAGE_SIZE && events[0].number() == begin + 1;
        let mut pages = self.pages();
        if is_complete && pages.generation == generation {
            pages.recent.push_back(Page { epoch: epoch.clone(), begin, events: Arc::clone(&events) });
            if pages.recent.len() > MAX_PAGES {
                pages.recent.pop_front();
            }
        }
        Ok(events)
    }

    /// Forgets all pages, because a user was deleted whose values they may have.
    pub(super) fn forget(&self) {
        let mut pages = self.pages();
        pages.recent.clear();
        pages.generation += 1;
    }

    fn find(&self, epoch: &Epoch, begin: u64) -> Option<Arc<[Event]>> {
        let pages = self.pages();
        let page = pages.recent.iter().find(|page| page.begin == begin && page.epoch == *epoch)?;
        Some(Arc::clone(&page.events))
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
