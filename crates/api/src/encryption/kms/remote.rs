//! What is asked of the plug-in.

use bytes::Bytes;
use knarr_grpc::{
    Channel,
    proto::{Fields, Message},
};
use ring::hkdf;

use super::{CARRIED_BYTES_MAX, Carried, SEED, SEED_BYTES, Settings, Writing};

/// Where the plug-in is, and how long it may take.
pub(super) struct Remote {
    pub(super) settings: Settings,
    /// its own: who seals and opens values isn't asynchronous
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Remote {
    pub(super) fn ask(&self, method: &str, message: &Message) -> Result<Bytes, String> {
        let Settings {
            socket, timeout, ..
        } = &self.settings;
        let exchange = async {
            let stream = tokio::net::UnixStream::connect(socket)
                .await
                .map_err(|e| e.to_string())?;
            let channel = Channel::open(stream).await.map_err(|e| e.to_string())?;
            let method = format!("/v2.KeyManagementService/{method}");
            channel
                .call(&method, message)
                .await
                .map_err(|e| e.to_string())
        };
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(*timeout, exchange).await });
        answer
            .unwrap_or_else(|_| Err(format!("no answer in {timeout:?}")))
            .map_err(|why| {
                format!(
                    "the KMS plug-in {:?} at {} fails to {}: {why}",
                    self.settings.name,
                    socket.display(),
                    method.to_lowercase()
                )
            })
    }

    /// The id of the plug-in's key.
    pub(super) fn key_id(&self) -> Result<String, String> {
        let answer = self.ask("Status", &Message::default())?;
        let (mut version, mut health, mut key_id) = Default::default();
        for (field, value) in Fields(&answer) {
            match field {
                1 => version = value.text(),
                2 => health = value.text(),
                3 => key_id = value.text(),
                _ => {}
            }
        }
        let name = &self.settings.name;
        if !["v2", "v2beta1"].contains(&version.as_str()) {
            return Err(format!(
                "the KMS plug-in {name:?} speaks version {version:?}, not v2"
            ));
        }
        if health != "ok" {
            return Err(format!("the KMS plug-in {name:?} isn't well: {health}"));
        }
        if key_id.is_empty() {
            return Err(format!("the KMS plug-in {name:?} names no key"));
        }
        Ok(key_id)
    }

    /// A new seed, sealed.
    pub(super) fn writing(&self) -> Result<Writing, String> {
        let seed: [u8; SEED_BYTES] = rand::random();
        let uid = uuid::Uuid::new_v4().to_string();
        let answer = self.ask("Encrypt", &Message::default().data(1, &seed).text(2, &uid))?;
        let mut carried = Carried {
            kind: SEED,
            ..Carried::default()
        };
        for (field, value) in Fields(&answer) {
            match field {
                1 => carried.sealed = value.bytes().to_vec(),
                2 => carried.key_id = value.text(),
                3 => carried.annotations.push(Carried::pair(value)),
                _ => {}
            }
        }
        let bytes = carried.write(&[]).as_bytes().len();
        let name = &self.settings.name;
        if carried.sealed.is_empty() || carried.key_id.is_empty() {
            return Err(format!(
                "the KMS plug-in {name:?} answers without a ciphertext or without its key's id"
            ));
        }
        if bytes > CARRIED_BYTES_MAX {
            return Err(format!(
                "the KMS plug-in {name:?} wants {bytes} bytes beside every value: at most {CARRIED_BYTES_MAX} are kept"
            ));
        }
        Ok(Writing {
            key_id: carried.key_id.clone(),
            seed: hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &seed),
            carried,
        })
    }
}
