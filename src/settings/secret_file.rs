//! Secrets in files, as Docker and Kubernetes provide them.

use std::{fs::File, io::Read as _};

/// More than any URL, password or key.
const LONGEST: u64 = 64 * 1024;

/// Returns the contents of the file, without the end of the line. The error is a reason without the contents.
pub(crate) fn read(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("names no file".to_owned());
    }
    let file = match shown_path(path) {
        Some(path) => format!("the file {path}"),
        None => "the file".to_owned(),
    };
    let refused = |reason: &str| format!("{file} {reason}");
    let cannot_be_read = |error: std::io::Error| refused(&format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot_be_read)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot_be_read)?;
    if bytes.len() as u64 > LONGEST {
        return Err(refused("is too large for a secret: 64 KiB at most"));
    }
    let text = String::from_utf8(bytes).map_err(|_| refused("is not UTF-8"))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(refused("is empty"));
    }
    if text.contains(['\n', '\r', '\0']) {
        return Err(refused("has more than one line"));
    }
    Ok(text.to_owned())
}

/// A path that looks like one: a secret may have been put where its file belongs.
fn shown_path(path: &str) -> Option<&str> {
    let is_path = path.starts_with(['/', '.']) && !path.contains("://") && !path.contains('@');
    is_path.then_some(path)
}
