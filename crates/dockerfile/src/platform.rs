//! `os/architecture/variant` (image-spec, "Platform variants"; containerd's `platforms`).

/// What an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v8`; "" for none.
    pub variant: String,
}

/// Not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: a platform is os/architecture or os/architecture/variant, e.g. linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// Of this machine.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: String::new(),
        }
    }

    /// Reads `linux/arm64/v8`, `arm64`, `linux`.
    ///
    /// # Errors
    /// Other text.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let bad = || PlatformError(text.to_owned());
        let of = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let parts: Vec<String> = text.split('/').map(str::to_lowercase).collect();
        if !parts.iter().all(|p| !p.is_empty() && p.chars().all(of)) {
            return Err(bad());
        }
        let host = Platform::host();
        let (os, architecture, variant) = match parts.as_slice() {
            [one] if is_os(one) => (one.clone(), host.architecture, host.variant),
            [one] => {
                let (architecture, variant) = normal(one, "");
                if !is_architecture(&architecture) {
                    return Err(bad());
                }
                (host.os, architecture, variant)
            }
            [os, architecture] => {
                let (architecture, variant) = normal(architecture, "");
                (os.clone(), architecture, variant)
            }
            [os, architecture, variant] => {
                let (architecture, variant) = normal(architecture, variant);
                (os.clone(), architecture, variant)
            }
            _ => return Err(bad()),
        };
        Ok(Platform {
            os: if os == "macos" { "darwin".into() } else { os },
            architecture,
            variant,
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

fn is_os(name: &str) -> bool {
    matches!(
        name,
        "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd" | "solaris"
    )
}

fn is_architecture(name: &str) -> bool {
    matches!(
        name,
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

/// One name for each.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", v) => ("386", v),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}
