//! The pool of the database that the settings describe.

use std::{
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use orm_pool::{InvalidUrl, Pool, PoolBuilder, PoolOptions};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    process::Command,
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, timeout},
};

use crate::settings::{DatabaseSettings, PasswordSource, read_secret};

/// For how long the output of the command is used without running it again: connections that are opened together share
/// one run.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// For how long it is used at all, while the command runs again in the background: tokens are valid for 15 minutes or
/// more, and a connection should not wait for a slow command.
const MAX_AGE: Duration = Duration::from_mins(10);
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a builder for the pool.
///
/// # Errors
///
/// None once the settings have been validated.
pub(crate) fn pool_builder(database: &DatabaseSettings, options: &PoolOptions) -> Result<PoolBuilder, InvalidUrl> {
    let builder = Pool::builder(&database.url()?).options(options.clone());
    Ok(match database.password_source() {
        None => builder,
        Some(PasswordSource::File(path)) => builder.password(move || Box::pin(read_file(path.clone()))),
        Some(PasswordSource::Command(words)) => {
            let command = PasswordCommand::new(words);
            builder.password(move || {
                let command = Arc::clone(&command);
                Box::pin(async move { command.password().await })
            })
        }
    })
}

async fn read_file(path: PathBuf) -> io::Result<String> {
    let read = spawn_blocking(move || read_secret(&path.to_string_lossy())).await.map_err(io::Error::other)?;
    read.map_err(io::Error::other)
}

/// A command that prints the password, and its latest output.
struct PasswordCommand {
    words: Vec<SecretString>,
    latest: StdMutex<Option<(Instant, SecretString)>>,
    /// Held while the command runs.
    running: Mutex<()>,
}

impl PasswordCommand {
    fn new(words: Vec<SecretString>) -> Arc<Self> {
        Arc::new(Self { words, latest: StdMutex::default(), running: Mutex::default() })
    }

    /// Returns the latest output, if it is not older than this.
    fn latest(&self, age: Duration) -> Option<String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = latest.as_ref().filter(|(at, _)| at.elapsed() < age);
        latest.map(|(_, password)| password.expose_secret().to_owned())
    }

    async fn password(self: &Arc<Self>) -> io::Result<String> {
        if let Some(password) = self.latest(FRESH_FOR) {
            return Ok(password);
        }
        // A task, because a connection attempt that is abandoned must not end the command.
        let command = Arc::clone(self);
        let run = tokio::spawn(async move {
            let _running = command.running.lock().await;
            if let Some(password) = command.latest(FRESH_FOR) {
                return Ok(password);
            }
            let run = command.run().await;
            let password = run.inspect_err(|error| tracing::warn!(%error, "the password command failed"))?;
            let latest = Some((Instant::now(), password.as_str().into()));
            *command.latest.lock().unwrap_or_else(PoisonError::into_inner) = latest;
            Ok(password)
        });
        match self.latest(MAX_AGE) {
            Some(password) => Ok(password),
            None => run.await.map_err(io::Error::other)?,
        }
    }

    /// Runs the command. Errors do not repeat its arguments or its output, which may contain secrets; what it prints to
    /// standard error appears there.
    async fn run(&self) -> io::Result<String> {
        let mut words = self.words.iter().map(ExposeSecret::expose_secret);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let refused = |reason: String| io::Error::other(format!("database.password_command {reason}"));
        let output = match timeout(COMMAND_TIMEOUT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(refused(format!("cannot be run: {error}"))),
            Err(_) => return Err(refused(format!("took longer than {COMMAND_TIMEOUT:?}"))),
        };
        if !output.status.success() {
            return Err(refused(format!("failed: {}", output.status)));
        }
        let text =
            String::from_utf8(output.stdout).map_err(|_| refused("printed something other than UTF-8".to_owned()))?;
        match text.trim_end() {
            "" => Err(refused("printed nothing".to_owned())),
            password if password.contains('\n') => Err(refused("printed more than one line".to_owned())),
            password => Ok(password.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Arc<PasswordCommand> {
        PasswordCommand::new(text.split(' ').map(SecretString::from).collect())
    }

    #[tokio::test]
    async fn the_password_is_the_output_of_the_command() {
        assert_eq!(command("printf p%%s\\n").password().await.unwrap(), "p%s");
        for (text, reason) in [
            ("false", "failed: exit status: 1"),
            ("true", "printed nothing"),
            ("printf hunter2\\nhunter2\\n", "printed more than one line"),
            ("printf \\377", "something other than UTF-8"),
            ("/does/not/exist hunter2", "cannot be run: No such file or directory"),
        ] {
            let error = command(text).password().await.unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn connections_that_are_opened_together_share_a_run() {
        let command = command("cat /proc/sys/kernel/random/uuid");
        let (one, other) = tokio::join!(command.password(), command.password());
        assert_eq!(one.unwrap(), other.unwrap());
    }

    #[tokio::test]
    async fn an_output_that_is_not_new_is_used_until_there_is_another() {
        let command = command("cat /proc/sys/kernel/random/uuid");
        let first = command.password().await.unwrap();
        let age = |by| {
            let mut latest = command.latest.lock().unwrap();
            latest.as_mut().unwrap().0 -= by;
        };
        age(FRESH_FOR);
        assert_eq!(command.password().await.unwrap(), first);
        while command.latest(FRESH_FOR).is_none() {
            tokio::task::yield_now().await;
        }
        let second = command.password().await.unwrap();
        assert_ne!(second, first);
        age(MAX_AGE);
        assert_ne!(command.password().await.unwrap(), second);
    }
}
