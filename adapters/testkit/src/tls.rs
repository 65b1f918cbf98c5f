//! Authorities and certificates made for one test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    file: PathBuf,
}

/// What is wrong with a certificate, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing: it is for `localhost` and 127.0.0.1.
    None,
    /// It was valid in the past.
    Expired,
    /// It is for another host.
    OtherHost,
}

/// A certificate and its key, in files (PEM).
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The key and the certificate in one file, as Java wants them.
    pub both: PathBuf,
}

impl Authority {
    /// Makes an authority of this name, with its files in the directory.
    ///
    /// # Panics
    /// The files cannot be written.
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("it can sign itself");
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, certificate.pem()).expect("the directory can be written");
        Self { issuer: Issuer::new(params, key), directory: directory.to_owned(), file }
    }

    /// Returns the file with its own certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Signs a certificate.
    ///
    /// # Panics
    /// The files cannot be written.
    pub fn issue(&self, name: &str, flaw: Flaw) -> Issued {
        let hosts = match flaw {
            Flaw::OtherHost => vec!["elsewhere.example".to_owned()],
            _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(hosts).expect("the hosts are names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(if flaw == Flaw::Expired { 2021 } else { 2120 }, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority can sign").pem();
        let key = key.serialize_pem();
        let write = |extension: &str, content: String| {
            let path = self.directory.join(format!("{name}.{extension}"));
            fs::write(&path, content).expect("the directory can be written");
            path
        };
        Issued {
            both: write("both", format!("{key}{certificate}")),
            certificate: write("crt", certificate),
            key: write("key", key),
        }
    }
}
