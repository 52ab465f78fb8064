use std::net::SocketAddr;

use tempfile::TempDir;

use test_support::{Kept, Owner, free_port, program};

/// Reverse proxies as their packages configure them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    HaProxy,
}

/// A reverse proxy of the case's own, before a service.
pub struct ReverseProxy {
    pub address: SocketAddr,
    _kept: Kept,
    _folder: TempDir,
}

impl ReverseProxy {
    /// Starts one with these further lines: of nginx's `location /`, or of HAProxy's frontend.
    pub async fn before(kind: Kind, service: SocketAddr, more: &str) -> Self {
        let (name, user, signal) = match kind {
            Kind::Nginx => ("nginx", "www-data", "QUIT"),
            Kind::HaProxy => ("haproxy", "haproxy", "TERM"),
        };
        let program = program(name).unwrap_or_else(|| panic!("no {name} found; install its package"));
        let owner = Owner::named(user);
        let folder = owner.folder();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let configuration = folder.path().join("configuration");
        let at = folder.path().display();
        let text = match kind {
            Kind::Nginx => {
                // Debian's nginx.conf, but for the paths that belong to root.
                let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|path| format!("{path}_temp_path {at}/{path};"))
                    .concat();
                format!(
                    "daemon off; pid {at}/pid; error_log {at}/log;\nevents {{ worker_connections 768; }}\nhttp {{\n\
                     access_log off; sendfile on; tcp_nopush on; types_hash_max_size 2048; gzip on; {own}\n\
                     server {{ listen {address};\nlocation / {{ proxy_pass http://{service};\n{more}\n}} }} }}\n"
                )
            }
            // Debian's haproxy.cfg.
            Kind::HaProxy => format!(
                "defaults\n  mode http\n  option httplog\n  timeout connect 5000\n  timeout client 50000\n  \
                 timeout server 50000\nfrontend front\n  bind {address}\n  default_backend back\n  {more}\n\
                 backend back\n  server one {service}\n"
            ),
        };
        owner.write(&configuration, &text);
        let mut command = owner.kept(&program, folder.path(), signal);
        match kind {
            Kind::Nginx => command.args(["-p", ".", "-e"]).arg(folder.path().join("log")).arg("-c").arg(&configuration),
            Kind::HaProxy => command.arg("-db").arg("-f").arg(&configuration),
        };
        let kept = Kept::start(command);
        super::eventually("the proxy listens", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
        Self { address, _kept: kept, _folder: folder }
    }
}
