//! A Pod with nginx that serves `/small` and `/large`, and a client that reads as fast as it can.

use super::{Platform, Result, ready::Pods, run};
use serde_json::json;
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

pub const PORT: u16 = 8080;
/// Bytes of `/large`.
pub const LARGE: usize = 512 << 20;

const SETTINGS: &str = "daemon off; master_process off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr error;\n\
    events { worker_connections 1024; }\n\
    http { access_log off; sendfile on; keepalive_requests 1000000000; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;\n\
    fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n\
    server { listen 8080; root /www; default_type text/plain; } }\n";

/// Packs the machine's nginx as `web:1`.
pub fn pack(platform: &Platform) -> Result<()> {
    let settings = platform.data.path().join("nginx.conf");
    fs::write(&settings, SETTINGS)?;
    let nginx = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
    let nginx = nginx
        .into_iter()
        .find(|path| fs::metadata(path).is_ok())
        .ok_or("nginx is not here (Debian: apt-get install nginx-light)")?;
    run(platform.knarr().args([
        "image",
        "pack",
        nginx,
        "--name",
        "web:1",
        "--add",
        &format!("{}:/etc/web.conf", settings.display()),
        "--cmd",
        nginx,
        "--cmd",
        "-c",
        "--cmd",
        "/etc/web.conf",
    ]))?;
    Ok(())
}

/// Starts the Pod `web`; gives its address.
pub async fn start(platform: &Platform, pods: &Pods) -> Result<String> {
    let www = platform.data.path().join("www");
    fs::create_dir_all(&www)?;
    fs::write(www.join("small"), "hello\n".repeat(20))?;
    let large = fs::File::create(www.join("large"))?;
    large.set_len(LARGE as u64)?;
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "web",
            "image": "web:1",
            "imagePullPolicy": "IfNotPresent",
            "readinessProbe": { "tcpSocket": { "port": PORT }, "periodSeconds": 1 },
            "volumeMounts": [
                { "name": "www", "mountPath": "/www" },
                { "name": "tmp", "mountPath": "/tmp" },
                { "name": "log", "mountPath": "/var/log/nginx" },
            ],
        }],
        "volumes": [
            { "name": "www", "hostPath": { "path": www } },
            { "name": "tmp", "emptyDir": {} },
            { "name": "log", "emptyDir": {} },
        ],
    });
    let (_, pod) = pods.start("web", spec).await?;
    let address = pod.status.and_then(|s| s.pod_ip);
    address.ok_or_else(|| "the Pod has no address".into())
}

/// Waits until there is an answer.
pub fn until_there(at: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        match request(at, "/small") {
            Ok(_) => return Ok(()),
            Err(e) if begin.elapsed() > Duration::from_secs(20) => {
                return Err(format!("{at}: {e}").into());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Bytes of an answer, with its head, on a connection of its own.
pub fn request(at: &str, path: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: web\r\n\r\n")?;
    let mut buf = vec![0u8; 1 << 20];
    let mut total = 0;
    loop {
        match stream.read(&mut buf)? {
            0 if total == 0 => return Err("it closed the connection".into()),
            0 => return Ok(total),
            n => total += n as u64,
        }
    }
}

/// Megabytes a second.
pub fn download(at: &str, path: &str) -> Result<f64> {
    let begin = Instant::now();
    let bytes = request(at, path)?;
    let took = begin.elapsed().as_secs_f64();
    if bytes < LARGE as u64 && path == "/large" {
        return Err(format!("only {bytes} bytes came").into());
    }
    Ok(bytes as f64 / 1e6 / took)
}
