use super::*;

#[test]
fn a_server_url_may_have_several_hosts() {
    for (text, expected) in [
        ("postgres://u:p,q@a:1,b:2,[::1]/d", "a:1 b:2 [::1]:5432"),
        ("mysql://u@a,b/d", "a:3306 b:3306"),
        ("postgres://u@:7/d?host=a,b", "a:7 b:7"),
        ("postgres://u@/d?host=a,/run/pg&port=1,2", "a:1 /run/pg"),
        ("postgres://u@/d?hostaddr=127.0.0.1,::1&port=9", "127.0.0.1:9 [::1]:9"),
        ("postgres://u@a,b/d?port=9", "a:9 b:9"),
    ] {
        let address = server(text);
        assert_eq!(hosts(&address), expected, "{text}");
        assert!(address.target == TargetServer::ReadWrite && !address.is_random, "{text}");
    }
    let variables = [("PGHOST", "a,b"), ("PGPORT", "1,2"), ("PGLOADBALANCEHOSTS", "random")];
    let address = server_with("postgres://u@/d", &variables);
    assert_eq!((hosts(&address).as_str(), address.is_random), ("a:1 b:2", true));
    assert!(server("postgres://u@h/d").target == TargetServer::Any);
    for (value, target) in
        [("any", TargetServer::Any), ("read-write", TargetServer::ReadWrite), ("primary", TargetServer::ReadWrite)]
    {
        for text in [
            format!("postgres://u@a,b/d?target_session_attrs={value}"),
            format!("postgresql://u@a/d?targetServerType={value}"),
            format!("mysql://u@a,b/d?target_session_attrs={value}&load_balance_hosts=random"),
        ] {
            assert!(server(&text).target == target, "{text}");
            assert_eq!(shown(&text), text);
        }
    }
    for (text, part) in [
        ("postgres://u@a,,b/d", "empty host between commas"),
        ("postgres://u@a,/d", "empty host between commas"),
        ("postgres://u@a:1,b:x/d", "port must be a number"),
        ("postgres://u@a,b,c/d?port=1,2", "3 hosts and 2 ports"),
        ("postgres://u@a,b/d?host=c", "host is given twice"),
        ("postgres://u@a:1,b/d?port=2", "port is given twice"),
        ("postgres://u@/d?host=a,", "must be an ASCII host name"),
        ("postgres://u@/d?hostaddr=a,b", "must be an IP address"),
        ("mysql://u@a,b/d?host=c", "host is given twice"),
        ("mysql://u@a,b/d?socket=/s", "host is given twice"),
        ("postgres://u@a,b/d?host=/run/pg", "host is given twice"),
        ("postgres://u@a/d?host=/run/pg,b", "host is given twice"),
    ] {
        assert!(refusal(text).contains(part), "{text}: {}", refusal(text));
    }
    let url = |text| DatabaseUrl::parse(text).unwrap();
    assert!(url("postgres://u@a,b/d").differs_in_credentials_only(&url("postgres://v:p@a,b/d")));
    assert!(!url("postgres://u@a,b/d").differs_in_credentials_only(&url("postgres://u@b,a/d")));
    assert_eq!(url("postgres://u@localhost,b/d").unverified_host(), Some("b"));
}
