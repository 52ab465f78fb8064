//! The file of an SQLite database: created once with the right permissions, and watched from then on.
//!
//! SQLite keeps writing to a file that was deleted or replaced underneath it, and everything that it acknowledges is
//! lost. So the file's identity is kept from its first opening, and compared before each write.

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
    /// Whether it may be created, at the first opening.
    may_create: bool,
    opened: OnceLock<Identity>,
}

impl DatabaseFile {
    pub(crate) fn new(path: &Path, may_create: bool) -> Self {
        Self { path: path.to_owned(), may_create, opened: OnceLock::new() }
    }

    /// Makes sure that the file to be opened is the right one. The first time it is created if need be, readable and
    /// writable for its owner alone; after that it must still be the same.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the file or its folder.
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
        // Two connections may be opened at once; both have seen the same file, or the next check says so.
        let _ = self.opened.set(identity);
        Ok(())
    }

    /// Compares the file with the one that was opened.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it was moved, deleted or replaced.
    pub(crate) fn check(&self) -> io::Result<()> {
        let Some(opened) = self.opened.get() else { return Ok(()) };
        let path = self.path.display();
        let gone = match identity(&self.path) {
            Ok(found) if found == *opened => return Ok(()),
            Ok(_) => {
                format!("the file {path} was replaced while it was in use; restart the service to use the new one")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!(
                    "the file {path} was deleted or moved while it was in use; move it back, or restart the service"
                )
            }
            // What cannot be looked at may still be there.
            Err(_) => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::NotFound, gone))
    }

    /// Adds to an error of opening what is wrong with the folder. SQLite itself says only that it cannot open the file.
    pub(crate) fn explain(&self, error: &io::Error) -> io::Error {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let (path, shown) = (self.path.display(), folder.display());
        let text = if !folder.is_dir() {
            format!("cannot open {path}: there is no folder {shown}")
        } else if access(folder, AccessFlags::W_OK).is_err() {
            let user = geteuid();
            format!(
                "cannot open {path}: the folder {shown} is not writable for uid {user}, and SQLite keeps its log beside the file"
            )
        } else if access(&self.path, AccessFlags::F_OK).is_ok()
            && access(&self.path, AccessFlags::R_OK | AccessFlags::W_OK).is_err()
        {
            format!("cannot open {path}: the file is not readable and writable for uid {}", geteuid())
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
