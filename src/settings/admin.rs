//! The section `[admin]`.

use std::net::{IpAddr, SocketAddr};

use super::declaration::{Allowed, section};

section! {
    /// `admin.*`: a second listener, for operators.
    AdminSettings, SETTINGS: "admin" {
        /// IP address of the listener for operators.
        pub host: IpAddr = "127.0.0.1", Allowed::Described("an IP address such as 127.0.0.1 or ::");
        /// TCP port of the listener for operators; 0 = none: all paths are on server.port. Otherwise /pool, /metrics,
        /// /feed, /keys, /dashboard and /swagger are served on this port and not on server.port, so that clients of the
        /// API cannot reach them. /health is served on both ports.
        pub port: u16 = 0, Allowed::Integer { min: 0, max: 65_535 };
    }
}

impl AdminSettings {
    /// Returns the address of the listener; `None` if there is none.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        (self.port != 0).then(|| SocketAddr::new(self.host, self.port))
    }
}
