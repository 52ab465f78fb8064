use std::{net::SocketAddr, path::Path};

use tempfile::TempDir;

use test_support::{ManagedProcess, Owner, free_port, program};

/// A reverse proxy with the default configuration of its package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    HaProxy,
}

/// A reverse proxy process in front of a service.
pub struct ReverseProxy {
    pub address: SocketAddr,
    _process: ManagedProcess,
    _folder: TempDir,
}

impl ReverseProxy {
    /// Starts one with extra configuration lines, for nginx's `location /` or for HAProxy's frontend.
    pub async fn before(kind: Kind, service: SocketAddr, more: &str) -> Self {
        let server = match kind {
            Kind::Nginx => String::new(),
            Kind::HaProxy => format!("  server one {service}\n"),
        };
        Self::start(kind, &server, &service.to_string(), more).await
    }

    /// Starts one in front of several processes: HAProxy checks the readiness of each every 200 ms, nginx tries the next
    /// one if a connection is refused.
    pub async fn balancing(kind: Kind, services: &[SocketAddr]) -> Self {
        let servers = services.iter().enumerate().map(|(number, service)| match kind {
            Kind::Nginx => format!("server {service} max_fails=0;"),
            Kind::HaProxy => format!("  server s{number} {service} check inter 200ms fall 2 rise 1\n"),
        });
        let servers: String = servers.collect();
        match kind {
            Kind::Nginx => {
                let upstream = format!("upstream back {{ {servers} }}\n");
                Self::start(kind, &upstream, "back", "proxy_set_header Host $http_host;").await
            }
            Kind::HaProxy => {
                let checks =
                    "  timeout check 2s\n  option httpchk GET /health/ready\n  http-check send hdr Host localhost\n";
                Self::start(kind, &format!("{checks}{servers}"), "", "").await
            }
        }
    }

    /// Starts HAProxy with the configuration of `deploy/compose`, in front of a cluster. It prefers the first node.
    pub async fn haproxy_for_galera(nodes: &[SocketAddr]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut text = include_str!("../../../deploy/compose/haproxy.cfg").to_owned();
        let mut replace = |from: &str, to: String| {
            assert!(text.contains(from), "{text}");
            text = text.replace(from, &to);
        };
        replace("bind :3306", format!("bind {address}"));
        for (name, node) in ["galera1", "galera2", "galera3"].iter().zip(nodes) {
            replace(&format!("{name}:3306"), node.to_string());
        }
        Self::run(Kind::HaProxy, address, |_| text).await
    }

    /// `target` is what nginx forwards to: an address, or the upstream that `servers` defines.
    async fn start(kind: Kind, servers: &str, target: &str, more: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let text = |at: &Path| {
            let at = at.display();
            match kind {
                Kind::Nginx => {
                    // Debian's nginx.conf, except for the paths that only root can write.
                    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                        .map(|path| format!("{path}_temp_path {at}/{path};"))
                        .concat();
                    format!(
                        "daemon off; pid {at}/pid; error_log {at}/log;\nevents {{ worker_connections 768; }}\nhttp {{\n\
                     access_log off; sendfile on; tcp_nopush on; types_hash_max_size 2048; gzip on; {paths}\n\
                     {servers}\
                     server {{ listen {address};\nlocation / {{ proxy_pass http://{target};\n{more}\n}} }} }}\n"
                    )
                }
                // As in Debian's haproxy.cfg.
                Kind::HaProxy => format!(
                    "defaults\n  mode http\n  option httplog\n  timeout connect 5000\n  timeout client 50000\n  \
                 timeout server 50000\nfrontend front\n  bind {address}\n  default_backend back\n  {more}\n\
                 backend back\n{servers}"
                ),
            }
        };
        Self::run(kind, address, text).await
    }

    /// Runs one that listens at this address, with a configuration for its folder.
    async fn run(kind: Kind, address: SocketAddr, text: impl FnOnce(&Path) -> String) -> Self {
        let (name, user, signal) = match kind {
            Kind::Nginx => ("nginx", "www-data", "QUIT"),
            Kind::HaProxy => ("haproxy", "haproxy", "TERM"),
        };
        let program = program(name).unwrap_or_else(|| panic!("no {name} found; install its package"));
        let owner = Owner::named(user);
        let folder = owner.folder();
        let configuration = folder.path().join("configuration");
        owner.write(&configuration, &text(folder.path()));
        let mut command = owner.managed_command(&program, folder.path(), signal);
        match kind {
            Kind::Nginx => command.args(["-p", ".", "-e"]).arg(folder.path().join("log")).arg("-c").arg(&configuration),
            Kind::HaProxy => command.arg("-db").arg("-f").arg(&configuration),
        };
        let process = ManagedProcess::start(command);
        super::eventually("the proxy listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Self { address, _process: process, _folder: folder }
    }
}
