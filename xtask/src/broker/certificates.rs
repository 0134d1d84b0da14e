//! A certificate authority of one run, with a broker and a client that it vouches for.

use std::path::Path;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The name in the client's certificate, which is the user that it logs in as.
pub(crate) const CLIENT_USER: &str = "certified-client";

/// PEM texts by file name: `ca.pem`, `stranger.pem` (an authority that signed nothing), `broker.pem` and
/// `broker.key` (for `localhost` only), `client.pem` and `client.key`.
pub(crate) struct Certificates([(&'static str, String); 6]);

impl Certificates {
    /// Makes new ones.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let (ca_pem, ca) = authority("lobby test authority")?;
        let (stranger_pem, _) = authority("stranger")?;
        let (broker_pem, broker_key) = signed(&ca, "broker", &["localhost"])?;
        let (client_pem, client_key) = signed(&ca, CLIENT_USER, &[])?;
        Ok(Self([
            ("ca.pem", ca_pem),
            ("stranger.pem", stranger_pem),
            ("broker.pem", broker_pem),
            ("broker.key", broker_key),
            ("client.pem", client_pem),
            ("client.key", client_key),
        ]))
    }

    /// Writes them into a directory that only this user may read.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        for (name, text) in &self.0 {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

fn authority(name: &str) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

fn signed(ca: &Issuer<'static, KeyPair>, name: &str, hosts: &[&str]) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}
