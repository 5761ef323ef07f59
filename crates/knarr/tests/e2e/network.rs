//! What the network does for containers goes on when the platform is dead.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::crew::{crew, eventually};

/// Says something and hears it again.
fn echo(stream: &mut TcpStream, word: &str) -> Result<(), String> {
    stream
        .write_all(word.as_bytes())
        .map_err(|e| e.to_string())?;
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).map_err(|e| e.to_string())?;
    match heard == word.as_bytes() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&heard).into_owned()),
    }
}

#[test]
fn connections_outlive_the_platform() {
    crew(|crew| {
        crew.busybox();
        crew.file(
            "app/compose.yaml",
            "name: app
services:
  echo:
    image: busybox:1
    command: [nc, -ll, -p, '9000', -e, cat]
    expose: ['9000']
    stop_grace_period: 1s
",
        );
        crew.serve();
        crew.ok(&["up", "app"]);
        let address = crew.kube("-n app get service echo -o jsonpath={.spec.clusterIP}");
        let address = (address.as_str(), 9000);
        let mut before = eventually("the service answers", || {
            let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
            let limit = Some(crate::crew::DEADLINE);
            stream.set_read_timeout(limit).unwrap();
            echo(&mut stream, "hello")?;
            Ok(stream)
        });
        crew.kill();
        echo(&mut before, "still here").expect("the connection lasts without the platform");
        let mut meanwhile = TcpStream::connect(address).expect("new ones are made without it");
        echo(&mut meanwhile, "new").unwrap();
        crew.serve();
        for stream in [&mut before, &mut meanwhile] {
            echo(stream, "after the start").expect("the start breaks none");
        }
        // Also after the network has been brought in line with all that the API says.
        crew.kube("-n app scale deployment echo --replicas=2");
        crew.kube("-n app rollout status deployment/echo --timeout=180s");
        for stream in [&mut before, &mut meanwhile] {
            echo(stream, "after a change").expect("a change breaks none");
        }
    });
}
