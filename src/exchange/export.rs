//! The export loop of `GET /users/export` and `users-api export`. The next page is read while the current one is
//! written.

use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use super::{CursorSigner, ExportQuery, Format, Writer};
use crate::{
    domain::User,
    service::{Edge, Error, Page, Position, Selection, UserService},
};

type UserPage = Page<(User, Edge)>;
type ReadPage = Result<UserPage, Error>;
type Reading = std::pin::Pin<Box<dyn Future<Output = ReadPage> + Send>>;

/// An export in progress.
pub struct Export<S> {
    service: UserService,
    selection: Arc<Selection>,
    signer: CursorSigner,
    writer: Writer,
    has_cursors: bool,
    page_size: u64,
    /// Spawns the task that reads the next page.
    spawn: S,
    /// The first page, and the text before it.
    first: Option<(UserPage, Vec<u8>)>,
    reading: Option<JoinHandle<ReadPage>>,
    position: Position,
}

/// A chunk of an export.
#[derive(Debug)]
pub struct Chunk {
    /// The text.
    pub text: Vec<u8>,
    /// The number of users in it.
    pub users: usize,
    /// The start of the chunk: an export from here on includes it.
    pub position: Position,
}

/// An error that interrupts an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The next page could not be read.
    #[error(transparent)]
    Service(#[from] Error),
    /// The task that read it panicked.
    #[error(transparent)]
    Task(#[from] JoinError),
}

impl<S: Fn(Reading) -> JoinHandle<ReadPage>> Export<S> {
    /// Reads the first page. `page_size` users are read at a time; `spawn` spawns a task for each further read.
    ///
    /// # Errors
    ///
    /// As [`UserService::export`].
    pub async fn start(
        service: UserService,
        query: ExportQuery,
        signer: CursorSigner,
        format: Format,
        page_size: u64,
        spawn: S,
    ) -> Result<Self, Error> {
        let ExportQuery { selection, position, fields, has_cursors } = query;
        let selection = Arc::new(selection);
        let writer = Writer::new(format, fields, has_cursors);
        let first = service.export(Arc::clone(&selection), position.clone(), page_size).await?;
        let mut header = Vec::new();
        writer.begin(&mut header);
        let first = Some((first, header));
        Ok(Self { service, selection, signer, writer, has_cursors, page_size, spawn, first, reading: None, position })
    }

    /// Returns the start of the next chunk.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Whether all users have been written.
    pub fn is_finished(&self) -> bool {
        self.first.is_none() && self.reading.is_none()
    }

    /// Writes the next chunk; `None` after the last one, and after an error.
    pub async fn next(&mut self) -> Option<Result<Chunk, ExportError>> {
        let (page, mut text) = if let Some(first) = self.first.take() {
            first
        } else {
            let read = self.reading.as_mut()?.await;
            self.reading = None;
            match read.map_err(ExportError::from).and_then(|page| page.map_err(ExportError::from)) {
                Ok(page) => (page, Vec::new()),
                Err(error) => return Some(Err(error)),
            }
        };
        let position = self.position.clone();
        if let Some(edge) = page.next {
            self.position = Position::After(edge);
            self.read_ahead();
            // Lets the read start before this page is written.
            tokio::task::yield_now().await;
        }
        for (user, edge) in &page.users {
            let cursor = self.has_cursors.then(|| self.signer.cursor(&self.selection, &Position::After(edge.clone())));
            self.writer.user(&mut text, user, cursor.flatten().as_deref());
        }
        Some(Ok(Chunk { text, users: page.users.len(), position }))
    }

    fn read_ahead(&mut self) {
        let (service, selection) = (self.service.clone(), Arc::clone(&self.selection));
        let (position, page_size) = (self.position.clone(), self.page_size);
        let reading = async move { service.export(selection, position, page_size).await };
        self.reading = Some((self.spawn)(Box::pin(reading)));
    }
}
