//! The examples of README: each command of a `console` block is run, and must print what README shows.

use std::{collections::HashMap, fs, path::Path};

use tokio::process::Command;

use crate::{
    cases,
    harness::{Context, Service},
};

cases![the_examples_print_what_readme_shows];

/// A command and what README shows as its output.
struct Example<'a> {
    command: &'a str,
    output: String,
}

/// Returns the examples of all `console` blocks, in order.
fn examples(text: &str) -> Vec<Example<'_>> {
    let mut examples: Vec<Example<'_>> = Vec::new();
    let mut is_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if let (true, Some(command)) = (is_console, line.strip_prefix("$ ")) {
            examples.push(Example { command, output: String::new() });
        } else if let (true, Some(example)) = (is_console, examples.last_mut()) {
            example.output.push_str(line);
            example.output.push('\n');
        }
    }
    examples
}

/// Splits a text at each part that consists of these characters only.
fn words(text: &str, is_part: impl Fn(char) -> bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = is_part(first);
        let end = rest.find(|c| is_part(c) != is_word).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        words.push(word);
        rest = tail;
    }
    words
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36 && word.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

/// Replaces what differs from run to run: times everywhere, and every number of the pool.
fn normalize(output: &str, command: &str) -> String {
    let is_time = |word: &str| word.len() == 27 && word.as_bytes()[10] == b'T' && word.ends_with('Z');
    let of_time = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
    let output: String =
        words(output.trim(), of_time).into_iter().map(|word| if is_time(word) { "<time>" } else { word }).collect();
    if !command.contains("/pool") {
        return output;
    }
    words(&output, |c| c.is_ascii_digit())
        .into_iter()
        .map(|word| if word.starts_with(|c: char| c.is_ascii_digit()) { "<number>" } else { word })
        .collect()
}

/// Sorts the headers of a response, whose order varies.
fn sort_headers(output: &str) -> String {
    let Some((head, body)) = output.split_once("\n\n").filter(|_| output.starts_with("HTTP/")) else {
        return output.to_owned();
    };
    let (status, headers) = head.split_once('\n').unwrap_or_default();
    let mut headers: Vec<&str> = headers.lines().collect();
    headers.sort_unstable();
    format!("{status}\n{}\n\n{body}", headers.join("\n"))
}

/// Replaces every UUID by the one that stands for it here.
fn replace_uuids(text: &str, here: &HashMap<String, String>) -> String {
    words(text, |c| c.is_ascii_hexdigit() || c == '-')
        .into_iter()
        .map(|word| here.get(word).map_or(word, String::as_str))
        .collect()
}

fn uuids(text: &str) -> impl Iterator<Item = &str> {
    words(text, |c| c.is_ascii_hexdigit() || c == '-').into_iter().filter(|word| is_uuid(word))
}

async fn the_examples_print_what_readme_shows(context: Context) {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let examples = examples(&readme);
    assert!(examples.len() >= 7, "only {} examples", examples.len());
    let service = Service::start(context.folder(), &[]).await;
    let mut here = HashMap::new();
    for Example { command, output } in examples {
        let script = replace_uuids(command, &here)
            .replace("localhost:8080", &service.address.to_string())
            .replace("cargo run --release --", env!("CARGO_BIN_EXE_users-api"));
        let mut run = Command::new("sh");
        run.args(["-c", &script]).current_dir(context.folder()).kill_on_drop(true);
        let printed = run.output().await.unwrap();
        assert!(printed.status.success(), "{script}: {printed:?}");
        let printed = String::from_utf8(printed.stdout).unwrap().replace('\r', "");
        // README leaves out the date.
        let printed: String = printed.split_inclusive('\n').filter(|line| !line.starts_with("date: ")).collect();
        let (printed, output) = (sort_headers(&printed), sort_headers(&output));
        here.extend(uuids(&output).map(str::to_owned).zip(uuids(&printed).map(str::to_owned)));
        assert_eq!(normalize(&printed, command), normalize(&replace_uuids(&output, &here), command), "{command}");
    }
}
