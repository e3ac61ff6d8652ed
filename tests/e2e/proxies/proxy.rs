//! A real nginx or Caddy in front of a world's service, with the configuration that `docs/operations.md` shows,
//! and a client of it. Only addresses, ports and paths are replaced, and limits lowered.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unionlink::simulator::SealedCallback;

use crate::harness::{PATIENCE, World};
use crate::peers::peer;

/// The host name in the document.
pub const HOST: &str = "callback.example.com";

/// A fenced block of a document.
pub fn block(document: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, from) = text.split_once(&format!("\n```{language}\n")).expect(language);
    from.split_once("\n```\n").unwrap().0.to_owned()
}

/// The text after these replacements, each of which must change something.
fn replaced(text: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        text.replace(from, to)
    })
}

/// Loopback addresses that only this process uses, so that no other program takes a free port of them.
#[derive(Clone, Copy)]
pub enum Address {
    Flood = 0,
    Nginx = 1,
    Caddy = 2,
    Attacker = 3,
}

impl Address {
    pub fn ip(self) -> Ipv4Addr {
        // A process id has at most 22 bits.
        Ipv4Addr::from_bits((127 << 24) | ((self as u32) << 22) | (std::process::id() & 0x3f_ffff))
    }
}

/// Where a proxy runs and what it passes requests on to.
pub struct Place<'a> {
    folder: &'a Path,
    ip: Ipv4Addr,
    http: u16,
    https: u16,
    /// Address and port of the public listener.
    upstream: &'a str,
}

/// Writes nginx's configuration. Returns its arguments.
pub fn configure_nginx(place: &Place<'_>) -> Vec<String> {
    let Place { folder, ip, http, https, upstream } = place;
    let prefix = format!("{}/", folder.display());
    let site = replaced(
        block("docs/operations.md", "nginx"),
        &[
            ("listen 80;", &format!("listen {ip}:{http};")),
            ("listen 443 ", &format!("listen {ip}:{https} ")),
            ("/etc/nginx/tls/callback.example.com/", &prefix),
            ("/var/log/nginx/", &prefix),
            ("http://127.0.0.1:8080;", &format!("http://{upstream};")),
            // So few that a slow machine reaches them.
            (" rate=200r/s;", " rate=6r/m;"),
            (" burst=1000 ", " burst=20 "),
            ("limit_conn callback_connections 200;", "limit_conn callback_connections 2;"),
        ],
    );
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("{module}_temp_path {prefix}{module};"))
        .concat();
    // One process, so that it ends when it is killed.
    let main = format!(
        "daemon off;\nmaster_process off;\npid {prefix}nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\n{temporary}\n{site}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), main).unwrap();
    ["-e", "stderr", "-p", &prefix, "-c", "nginx.conf"].map(str::to_owned).into()
}

/// Writes Caddy's configuration. Returns its arguments.
pub fn configure_caddy(place: &Place<'_>) -> Vec<String> {
    let Place { folder, ip, http, https, upstream } = place;
    let options =
        format!("{{\n\tadmin off\n\thttp_port {http}\n\thttps_port {https}\n\tdefault_bind {ip}\n\tservers ");
    let site = replaced(
        block("docs/operations.md", "caddyfile"),
        &[
            ("{\n\tservers ", &options),
            // Reached by address too, which needs no name server.
            ("http://callback.example.com {", &format!("http://callback.example.com, http://{ip} {{")),
            ("\ncallback.example.com {", &format!("\ncallback.example.com, {ip} {{")),
            ("/etc/caddy/tls/", &format!("{}/", folder.display())),
            ("127.0.0.1:8080", upstream),
        ],
    );
    let file = folder.join("Caddyfile");
    std::fs::write(&file, site).unwrap();
    ["run", "--adapter", "caddyfile", "--config", &file.display().to_string()].map(str::to_owned).into()
}

/// A proxy, and a client that trusts its certificate.
pub struct Proxy {
    pub ip: Ipv4Addr,
    pub http: u16,
    pub https: u16,
    trusted: Arc<RootCertStore>,
    folder: TempDir,
    process: Option<Child>,
}

impl Proxy {
    /// `None` where it is not installed.
    pub async fn start(
        name: &str,
        address: Address,
        configure: fn(&Place<'_>) -> Vec<String>,
        world: &World,
    ) -> Option<Self> {
        let program = peer(name)?;
        let folder = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(vec![HOST.to_owned(), address.ip().to_string()]).unwrap();
        std::fs::write(folder.path().join("fullchain.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("privkey.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut trusted = RootCertStore::empty();
        trusted.add(made.cert.der().clone()).unwrap();
        let trusted = Arc::new(trusted);
        let mut proxy = Self { ip: address.ip(), http: 0, https: 0, trusted, folder, process: None };
        // Again where a port was taken after all.
        for _ in 0..10 {
            proxy.launch(&program, configure, world);
            if proxy.is_ready().await {
                return Some(proxy);
            }
        }
        panic!("{name} finds no free ports: {}", proxy.log());
    }

    /// Starts it on two free ports.
    fn launch(&mut self, program: &Path, configure: fn(&Place<'_>) -> Vec<String>, world: &World) {
        let free = [0; 2].map(|port| std::net::TcpListener::bind((self.ip, port)).unwrap());
        [self.http, self.https] = free.each_ref().map(|listener| listener.local_addr().unwrap().port());
        drop(free);
        let (folder, upstream) = (self.folder.path(), world.public.trim_start_matches("http://"));
        let place = Place { folder, ip: self.ip, http: self.http, https: self.https, upstream };
        let output = std::fs::File::create(folder.join("output.log")).unwrap();
        let mut command = Command::new(program);
        command.args(configure(&place)).current_dir(folder).env_clear().env("HOME", folder);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).kill_on_drop(true);
        self.process = Some(command.spawn().unwrap());
    }

    /// Waits until it accepts connections. `false` if it has ended because a port was taken.
    async fn is_ready(&mut self) -> bool {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let speaks_tls = self.connect(self.ip, &TLS13).await.is_ok();
            if speaks_tls && TcpStream::connect((self.ip, self.http)).await.is_ok() {
                return true;
            }
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                let log = self.log();
                assert!(log.to_lowercase().contains("address already in use"), "{status}: {log}");
                return false;
            }
            assert!(Instant::now() < give_up, "not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The file of its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("fullchain.pem")
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        ["callbacks.log", "callbacks-error.log", "output.log"]
            .map(|name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// A TLS connection from this source address.
    pub async fn connect(
        &self,
        from: Ipv4Addr,
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(Arc::clone(&self.trusted))
            .with_no_client_auth();
        let stream = self.tcp(from, self.https).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST).unwrap(), stream).await
    }

    pub async fn tcp(&self, from: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(from, 0).into())?;
        socket.connect(SocketAddrV4::new(self.ip, port).into()).await
    }

    /// Sends a request over a connection of its own. Returns the status and the body of the response.
    pub async fn exchange(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect(self.ip, &TLS13).await.unwrap();
        // Fails where the answer comes early, and with it the end of the connection.
        let _ = stream.write_all(request.as_bytes()).await;
        answer(&rest_of(&mut stream).await)
    }

    /// Posts a callback as WeCom does.
    pub async fn post(&self, callback: &SealedCallback) -> (u16, String) {
        let line = format!("POST /callback/brand?{}", callback.query);
        self.exchange(&request(&line, &callback.body)).await
    }
}

/// A request that is the last of its connection.
pub fn request(line: &str, body: &str) -> String {
    let length = body.len();
    format!("{line} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The status and the body of a response.
pub fn answer(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// What arrives until the end of the connection, however that comes.
pub async fn rest_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "still open after {:?}", String::from_utf8_lossy(&bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}
