//! Names of things. Each is parsed once, where it enters, and trusted from there on.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use strum::{IntoStaticStr, VariantArray};

/// Longest job id and run id, in characters: both are Kubernetes label values at the service.
const LABEL_MAX: usize = 63;

/// What stands before the index in a run id.
const OURS: &str = "ocps";

/// 1 to 63 characters of `[A-Za-z0-9._-]`, alphanumeric at both ends.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= LABEL_MAX
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// The id that the execution service gave to a job.
///
/// Only ids of a safe form can be expressed: the service joins the id to a path
/// and removes what it finds there, so `../x` or an empty id would destroy the files of others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    text: Arc<str>,
    fingerprint: Fingerprint,
}

/// A hash of a job id, which stands for it where many are compared: to look at the texts costs much more. Of ten thousand
/// ids, two have the same once in 10^11 times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// That of the job id with this text. Another build may give another one.
    pub fn of(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl JobId {
    /// Parses an id: 1 to 63 characters of `[A-Za-z0-9._-]`, alphanumeric at both ends.
    ///
    /// # Errors
    /// The reason for an ack, `Invalid job id: …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_label(text) {
            return Ok(Self { text: text.into(), fingerprint: Fingerprint::of(text) });
        }
        let shown: String = text.chars().take(LABEL_MAX + 1).collect();
        Err(format!(
            "Invalid job id: {shown:?} (1 to {LABEL_MAX} letters, digits, '.', '_' or '-', \
             a letter or digit first and last)"
        ))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobId").field(&self.text).finish()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Our own unique key of a submission, by which a job is found again after an unclear answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(Arc<str>);

impl RunId {
    /// Makes the run id of a command: its sequence number, our index and 80 random bits, for example
    /// `17-ocps3-4k0q…`.
    pub fn new(seq_num: SeqNum, index: SalIndex, rng: &mut fastrand::Rng) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = format!("{}-{OURS}{}-", seq_num.0.unsigned_abs(), index.number());
        for _ in 0..16 {
            text.push(char::from(*rng.choice(ALPHABET).unwrap_or(&b'0')));
        }
        Self(text.into())
    }

    /// Parses a run id that we made earlier (same form as a job id).
    pub fn parse(text: &str) -> Option<Self> {
        is_label(text).then(|| Self(text.into()))
    }

    /// The command and the index that this run id was made for, if it has the form of ours.
    pub fn made_for(&self) -> Option<(SeqNum, SalIndex)> {
        let mut parts = self.0.splitn(3, '-');
        let (seq_num, index) = (parts.next()?, parts.next()?.strip_prefix(OURS)?);
        parts.next()?;
        let seq_num = seq_num.parse().ok().filter(|number| *number >= 0)?;
        let index = SalIndex::ALL.iter().find(|known| known.number().to_string() == index)?;
        Some((SeqNum(seq_num), *index))
    }

    /// The run id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RunId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Our own number of an execute or abort_job that was accepted, from 1 in their order; the next run counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey(pub u64);

/// The sequence number that the sender gave to a command (`private_seqNum`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNum(pub i32);

/// A client of the local socket, numbered from 1 in the order of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// A client of a previous run, which gets no acks any more.
    pub const GONE: Self = Self(0);
}

/// Which of the observatory's OCPS instances we are: the `salIndex` of everything we read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, VariantArray)]
pub enum SalIndex {
    /// 1: the Auxiliary Telescope's spectrograph.
    #[strum(serialize = "LATISS")]
    Latiss = 1,
    /// 2: the commissioning camera.
    #[strum(serialize = "LSSTComCam")]
    LsstComCam = 2,
    /// 3: the main camera.
    #[strum(serialize = "LSSTCam")]
    LsstCam = 3,
    /// 101: Rapid Analysis, driven over Redis.
    #[strum(serialize = "RA")]
    Ra = 101,
}

impl SalIndex {
    /// All indices, ascending.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The number in `salIndex`.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The name used in `instances:` of the component configuration.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Parses a number or a name in any case.
    ///
    /// # Errors
    /// One line that names what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_it = |i: &&Self| i.name().eq_ignore_ascii_case(text) || i.number().to_string() == text;
        Self::ALL.iter().find(is_it).copied().ok_or_else(|| {
            format!("unknown index {text:?}: 1 (LATISS), 2 (LSSTComCam), 3 (LSSTCam) or 101 (RA)")
        })
    }
}

impl fmt::Display for SalIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_that_could_reach_other_files_cannot_be_expressed() {
        for good in ["a", "0123456789abcdef0123456789abcdef", "true.yaml-1795369818.934519", &"x".repeat(63)]
        {
            assert!(JobId::parse(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            "a-",
            "_a",
            "a b",
            "a\n",
            "%2e",
            "é",
            "a\0",
            &"x".repeat(64),
        ];
        for bad in bad {
            let error = JobId::parse(bad).unwrap_err();
            assert!(error.starts_with("Invalid job id: "), "{error}");
        }
    }

    #[test]
    fn run_ids_are_unique_labels_that_start_with_the_sequence_number() {
        let mut rng = fastrand::Rng::with_seed(1);
        let ids: std::collections::BTreeSet<_> =
            (0..1000).map(|_| RunId::new(SeqNum(i32::MAX), SalIndex::Ra, &mut rng)).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            assert!(id.as_str().starts_with("2147483647-ocps101-"));
            assert_eq!(id.made_for(), Some((SeqNum(i32::MAX), SalIndex::Ra)));
            assert_eq!(RunId::parse(id.as_str()), Some(id));
        }
        for other in ["17", "17-0123456789abcdef", "17-ocps4-0", "x-ocps1-0", "17-ocps1", "17-ocps01-0"] {
            assert_eq!(RunId::parse(other).unwrap().made_for(), None, "{other}");
        }
    }

    #[test]
    fn an_index_is_a_number_or_a_name_in_any_case() {
        for (text, index) in
            [("1", 1), ("latiss", 1), ("LSSTCOMCAM", 2), ("lsstcam", 3), ("ra", 101), ("101", 101)]
        {
            assert_eq!(SalIndex::parse(text).unwrap().number(), index);
        }
        for bad in ["", "0", "4", "01", "camera"] {
            assert!(SalIndex::parse(bad).unwrap_err().contains("101 (RA)"));
        }
    }
}
