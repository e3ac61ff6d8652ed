//! Reads a server's X.509 certificate: its expiry and its issuer.

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::domain::time::{DAY_MS, Timestamp};

/// What was read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// Until when it is valid.
    pub(crate) until: Timestamp,
    /// The distinguished name of the issuer, such as `CN=…,O=…`.
    pub(crate) issuer: String,
}

impl Read {
    /// Reads a certificate in DER.
    pub(crate) fn of_der(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let until = certificate.validity.not_after.to_unix_duration().as_secs();
        Some(Self {
            until: Timestamp::from_secs(i64::try_from(until).ok()?),
            issuer: certificate.issuer.to_string(),
        })
    }

    /// Reads the certificate of the server that has answered. The client has to be built with `tls_info`.
    pub(crate) fn of_answer(answer: &reqwest::Response) -> Option<Self> {
        let info = answer.extensions().get::<reqwest::tls::TlsInfo>()?;
        Self::of_der(info.peer_certificate()?)
    }

    /// For how many whole days it is still valid; negative if it is not any more.
    pub(crate) const fn days_left(&self, now: Timestamp) -> i64 {
        self.until.millis_since(now).div_euclid(DAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_until_when_and_by_whom() {
        let mut params = rcgen::CertificateParams::new(vec!["callback.example.com".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2027, 1, 31);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Invented CA");
        let key = rcgen::KeyPair::generate().unwrap();
        let read = Read::of_der(params.self_signed(&key).unwrap().der()).unwrap();
        assert!(read.issuer.contains("Invented CA"), "{read:?}");
        let now = Timestamp::from_secs(1_801_180_800); // 2027-01-29
        assert_eq!((read.days_left(now), read.days_left(now.plus_ms(3 * DAY_MS))), (2, -1));
        assert_eq!(Read::of_der(b"no certificate"), None);
    }
}
