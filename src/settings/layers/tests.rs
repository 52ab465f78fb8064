use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let process = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment { process, ..Environment::default() }
}

fn refused(variables: &[(&str, &str)]) -> String {
    Settings::load(None, &environment(variables)).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_the_contract() {
    let settings = Settings::load(None, &Environment::default()).unwrap();
    assert_eq!((settings.server.host.to_string().as_str(), settings.server.port), ("127.0.0.1", 8080));
    assert_eq!(settings.pool, orm_pool::PoolOptions::default().application_name("users-api"));
    assert_eq!(settings.database.url().unwrap().to_string(), "sqlite://users.db?mode=rwc");
    assert_eq!(settings.database.migrate, super::super::Migrate::Auto);
}

#[test]
fn later_layers_win() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users.toml");
    std::fs::write(&file, "[pool]\nmax = 3\nmin = 3\nqueue_limit = 7\n").unwrap();
    let mut environment = environment(&[("USERS_API__POOL__MAX", "5")]);
    environment.dot_env.insert("USERS_API__POOL__MAX".into(), "4".into());
    environment.dot_env.insert("USERS_API__POOL__MIN".into(), "4".into());
    let layers = Layers::read(Some(&file), &environment).unwrap();
    let pool = layers.settings().unwrap().pool;
    assert_eq!((pool.max, pool.min, pool.queue_limit), (5, 4, 7));
    let origin = |key| layers.shown().find(|(shown, _, _)| *shown == key).unwrap().2;
    assert_eq!(origin("pool.max"), Origin::Environment);
    assert_eq!(origin("pool.min"), Origin::DotEnv);
    assert_eq!(origin("pool.queue_limit"), Origin::File);
    assert_eq!(origin("pool.wait"), Origin::Default);
}

#[test]
fn a_list_is_an_array_or_a_text_with_commas() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    let read = |file: &str, variables: &[_]| {
        std::fs::write(&path, file).unwrap();
        Layers::read(Some(&path), &environment(variables)).unwrap()
    };
    let origins = ["https://a.example", "https://b.example"];
    let in_file = read("[cors]\norigins = ['https://a.example', 'https://b.example']", &[]);
    let in_environment = read("", &[("USERS_API__CORS__ORIGINS", "https://a.example, https://b.example")]);
    for layers in [&in_file, &in_environment] {
        assert_eq!(*layers.settings().unwrap().cors.origins, origins);
    }
    let shown = in_file.shown().find(|(key, ..)| *key == "cors.origins").unwrap();
    assert_eq!(shown.1, origins.join(","));
    let other = read("[cors]\norigins = ['https://a.example']", &[]);
    assert_eq!(in_file.differences(&other), ["cors.origins"]);
    assert_eq!(*read("", &[]).settings().unwrap().auth.jwt.algorithms, ["EdDSA", "ES256", "RS256"]);
    for invalid in ["['https://a.example,https://b.example']", "[['https://a.example']]", "[1]", "true"] {
        let refusal = read(&format!("[cors]\norigins = {invalid}"), &[]).settings().unwrap_err().to_string();
        assert!(refusal.starts_with("cors.origins"), "{invalid}: {refusal}");
    }
    // Only a list may be an array.
    assert!(read("[server]\nhost = ['127.0.0.1']", &[]).settings().is_err());
}

#[test]
fn the_short_names_yield_to_the_long_ones() {
    let url = |variables: &[_]| Settings::load(None, &environment(variables)).unwrap().database.url().unwrap();
    assert_eq!(url(&[("DATABASE_URL", "postgres://a@h/d")]).to_string(), "postgres://a@h/d");
    let both = [("DATABASE_URL", "postgres://a@h/d"), ("USERS_API__DATABASE__URL", "mysql://b@h/d")];
    assert_eq!(url(&both).to_string(), "mysql://b@h/d");
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    for (name, value, message) in [
        (
            "USERS_API__POOL__MAX",
            "abc",
            "USERS_API__POOL__MAX: must be a whole number from 1 to 10000 (from environment)",
        ),
        (
            "USERS_API__POOL__MAX",
            "0",
            "USERS_API__POOL__MAX=0: must be a whole number from 1 to 10000 (from environment)",
        ),
        (
            "USERS_API__POOL__MIN",
            "11",
            "USERS_API__POOL__MIN=11: must be a whole number from 0 to pool.max (10) (from environment)",
        ),
        (
            "USERS_API__POOL__ACQUIRE",
            "5",
            "USERS_API__POOL__ACQUIRE=5: must be a duration from 1ms to 1h, such as 250ms, 5s or 10m (from environment)",
        ),
        (
            "USERS_API__POOL__ACQUIRE",
            "0s",
            "USERS_API__POOL__ACQUIRE=0s: must be a duration from 1ms to 1h, such as 250ms, 5s or 10m (from environment)",
        ),
        ("USERS_API__POOL__WAIT", "maybe", "USERS_API__POOL__WAIT: must be true or false (from environment)"),
        (
            "USERS_API__SERVER__PORT",
            "65536",
            "USERS_API__SERVER__PORT=65536: must be a whole number from 0 to 65535 (from environment)",
        ),
        (
            "USERS_API__SERVER__HOST",
            "localhost",
            "USERS_API__SERVER__HOST: must be an IP address such as 127.0.0.1 or :: (from environment)",
        ),
        (
            "USERS_API__DATABASE__MIGRATE",
            "yes",
            "USERS_API__DATABASE__MIGRATE: must be auto, check or off (from environment)",
        ),
        ("USERS_API__POOL__MAXX", "1", "USERS_API__POOL__MAXX: unknown setting; did you mean USERS_API__POOL__MAX?"),
        ("USERS_API__COLOUR", "1", "USERS_API__COLOUR: unknown setting"),
        (
            "USERS_API__TELEMETRY__OTLP_ENDPOINT",
            "here",
            "USERS_API__TELEMETRY__OTLP_ENDPOINT: must be empty, or the http:// URL of a nearby OTLP receiver (from environment)",
        ),
    ] {
        assert_eq!(refused(&[(name, value)]), message);
    }
}

#[test]
fn secrets_are_not_shown() {
    let refusal = refused(&[("DATABASE_URL", "mongodb://ann:hunter2@h/d")]);
    assert!(!refusal.contains("hunter2") && refusal.starts_with("DATABASE_URL: unknown scheme"), "{refusal}");
    let variables = [("DATABASE_URL", "postgres://ann:hunter2@h/d"), ("USERS_API__USERS__CURSOR_KEY", "hunter2")];
    let layers = Layers::read(None, &environment(&variables)).unwrap();
    assert!(layers.shown().all(|(_, value, _)| !value.contains("hunter2")));
    assert!(!format!("{:?}", layers.settings().unwrap()).contains("hunter2"));
}
