//! The file of an SQLite database: created with the right permissions, and checked from then on.
//!
//! SQLite keeps writing to a file that was deleted or replaced, and every write it acknowledges is lost. So the
//! identity of the file is recorded when it is first opened, and compared before each write.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::unistd::{AccessFlags, access, geteuid};

/// Device and inode.
type Identity = (u64, u64);

#[derive(Debug)]
pub(crate) struct DatabaseFile {
    path: PathBuf,
    /// Whether the first opening may create it.
    may_create: bool,
    opened: OnceLock<Identity>,
}

impl DatabaseFile {
    pub(crate) fn new(path: &Path, may_create: bool) -> Self {
        Self { path: path.to_owned(), may_create, opened: OnceLock::new() }
    }

    /// Prepares the file for opening. The first call creates it if necessary and allowed, readable and writable only by
    /// its owner; later calls check that it is still the same file.
    ///
    /// # Errors
    ///
    /// Describes the problem with the file or its directory.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if self.opened.get().is_some() {
            return self.check();
        }
        if self.may_create {
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(self.explain(&error)),
                Ok(_) | Err(_) => {}
            }
        }
        let identity = identity(&self.path).map_err(|error| self.explain(&error))?;
        // Two connections may be opened concurrently; if they saw different files, the next check fails.
        let _ = self.opened.set(identity);
        Ok(())
    }

    /// Checks that the file is still the one that was opened.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it was moved, deleted or replaced.
    pub(crate) fn check(&self) -> io::Result<()> {
        let Some(opened) = self.opened.get() else { return Ok(()) };
        let path = self.path.display();
        let reason = match identity(&self.path) {
            Ok(found) if found == *opened => return Ok(()),
            Ok(_) => {
                format!("the file {path} was replaced while it was in use; restart the service to use the new one")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!(
                    "the file {path} was deleted or moved while it was in use; move it back, or restart the service"
                )
            }
            // The file may still exist although its metadata cannot be read.
            Err(_) => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::NotFound, reason))
    }

    /// Adds the cause to an error of opening the file: SQLite itself reports only that it cannot open it.
    pub(crate) fn explain(&self, error: &io::Error) -> io::Error {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let (path, directory) = (self.path.display(), parent.display());
        let text = if !parent.is_dir() {
            format!("cannot open {path}: the directory {directory} does not exist")
        } else if access(parent, AccessFlags::W_OK).is_err() {
            let user = geteuid();
            format!(
                "cannot open {path}: the directory {directory} is not writable by uid {user}, and SQLite creates its \
                 log there"
            )
        } else if access(&self.path, AccessFlags::F_OK).is_ok()
            && access(&self.path, AccessFlags::R_OK | AccessFlags::W_OK).is_err()
        {
            format!("cannot open {path}: the file is not readable and writable by uid {}", geteuid())
        } else {
            format!("cannot open {path}: {error}")
        };
        io::Error::new(error.kind(), text)
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
