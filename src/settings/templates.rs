//! `config/default.toml` and `.env.example`, written from the declarations.

use std::fmt::Write as _;

use super::{all, environment::variable};

const TOML_HEADER: &str = "\
# The defaults of users-api, and a template for your own settings file (`users-api --config FILE`).
# Every key can also be set from the environment: pool.max is USERS_API__POOL__MAX.
# Durations are written as 250ms, 5s, 10m, 1h or 7d, always with a unit; sizes as 64MiB or 1GiB.
";

const ENV_HEADER: &str = "\
# Every setting with its default. Copy this file to .env and uncomment the lines that you change.
# Quote a value with $, # or white space in single quotes. Only the .env of the working directory is read.
# Precedence, lowest first: defaults, --config FILE, .env, environment, `serve --host --port`. `users-api config` shows the
# effective values and their origin.

# Short names that other tools use. The long names below take precedence over them in the same place.
";

/// Returns a settings file with every default.
#[must_use]
pub fn default_toml() -> String {
    let mut text = TOML_HEADER.to_owned();
    let mut last_section = "";
    for setting in all() {
        let (section, name) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if section != last_section {
            // Writing into a String does not fail.
            let _ = write!(text, "\n[{section}]\n");
            last_section = section;
        }
        for line in setting.comment() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "{name} = {}", setting.toml_default());
    }
    text
}

/// Returns a `.env` file with every default, commented out.
#[must_use]
pub fn env_example() -> String {
    let mut text = ENV_HEADER.to_owned();
    for (alias, setting) in all().filter_map(|setting| Some((setting.alias?, setting))) {
        let _ = writeln!(text, "#{alias}={}", setting.env_default());
    }
    let mut last_section = "";
    for setting in all() {
        let section = setting.key.rsplit_once('.').map_or("", |(section, _)| section);
        if section != last_section {
            let _ = write!(text, "\n## {section}\n");
            last_section = section;
        }
        for line in setting.comment() {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "#{}={}", variable(setting.key), setting.env_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_the_repository_are_up_to_date() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        for (path, template, text) in
            [("config/default.toml", "toml", default_toml()), (".env.example", "env", env_example())]
        {
            let written = std::fs::read_to_string(format!("{root}{path}")).unwrap();
            assert!(written == text, "{path} is out of date: users-api config --template {template} > {path}");
        }
    }
}
