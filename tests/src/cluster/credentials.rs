//! Who may talk to an API server of a test: tokens, the key that service accounts' tokens are signed with, and
//! kubeconfig files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use pem::Pem;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::sweep;

/// The user that may do everything.
pub(super) const ADMIN: &str = "admin";
/// Users that every API server knows, with their groups. Kubernetes itself grants the role of kube-proxy to the second;
/// the last two may do only what a test grants them.
const USERS: [(&str, &str); 4] =
    [(ADMIN, "system:masters"), ("system:kube-proxy", ""), ("shunt", ""), ("nobody", "")];

/// The file of the key that signs service accounts' tokens.
pub(super) const PRIVATE_KEY: &str = "service-accounts.key";
/// The file of the key that they are checked with.
pub(super) const PUBLIC_KEY: &str = "service-accounts.pub";
/// What stands before the point of a P-256 public key in a SubjectPublicKeyInfo (RFC 5480, section 2): the lengths, the
/// identifiers `id-ecPublicKey` and `secp256r1`, and the head of the bit string.
const PUBLIC_KEY_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A directory with what authenticates; removed on drop.
#[derive(Debug)]
pub(super) struct Credentials {
    dir: PathBuf,
}

impl Credentials {
    /// Makes users, tokens and the key.
    pub(super) fn create() -> Result<Self> {
        let credentials = Self { dir: sweep::scratch_dir("credentials").context("make a directory")? };
        let lines = USERS.map(|(user, groups)| format!("{},{user},{user},\"{groups}\"\n", token(user)));
        credentials.write("tokens.csv", &lines.concat())?;
        credentials.write_keys()?;
        // What requests did, but not what was in them.
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
        credentials.write("audit-policy.yaml", policy)?;
        Ok(credentials)
    }

    /// Writes the key pair of service accounts' tokens: the API server reads either half from a file of its own.
    fn write_keys(&self) -> Result<()> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
            .map_err(|_| anyhow!("the system gave no random numbers for a key"))?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random)
            .map_err(|reason| anyhow!("the key that was just made: {reason}"))?;
        let public = [&PUBLIC_KEY_HEAD, pair.public_key().as_ref()].concat();
        self.write(PRIVATE_KEY, &pem::encode(&Pem::new("PRIVATE KEY", private.as_ref())))?;
        self.write(PUBLIC_KEY, &pem::encode(&Pem::new("PUBLIC KEY", public))).map(drop)
    }

    /// The file `name` among them.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The certificate of the API server, which makes it itself when it first starts, with that of its issuer.
    pub(super) fn certificate(&self) -> PathBuf {
        self.path("apiserver.crt")
    }

    /// Takes certificate and key of the API server away, which then makes others when it starts.
    pub(super) fn remove_certificate(&self) -> Result<()> {
        for name in ["apiserver.crt", "apiserver.key"] {
            fs::remove_file(self.path(name)).with_context(|| format!("remove {name}"))?;
        }
        Ok(())
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a kubeconfig for the holder of `token`; `name` is that of the file.
    pub(super) fn kubeconfig(&self, name: &str, token: &str, server: &str) -> Result<PathBuf> {
        let certificate = self.certificate();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster: {{server: \"{server}\", certificate-authority: \"{}\"}}\n\
             users:\n- name: test\n  user: {{token: \"{token}\"}}\n\
             contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n",
            certificate.display()
        );
        self.write(&format!("{}.kubeconfig", name.replace(':', "-")), &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("write {name}"))?;
        Ok(path)
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("directory {} stays: {error}", self.dir.display());
        }
    }
}

/// The token of a user. It opens nothing but an API server that no one outside the test's namespaces can reach.
pub(super) fn token(user: &str) -> String {
    format!("token-of-{}", user.replace(':', "-"))
}
