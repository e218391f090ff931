//! `ocps --version`: version, commit, features and libraries of this build.

/// The first line; `ocps -V` prints only this.
pub(super) const NAME: &str = concat!("ocps ", env!("CARGO_PKG_VERSION"));

/// The features, and whether this build has each.
const FEATURES: &[(&str, bool)] = &[
    ("kafka", cfg!(feature = "kafka")),
    ("kafka-sasl", cfg!(feature = "kafka-sasl")),
    ("redis", cfg!(feature = "redis")),
    ("terminal", cfg!(feature = "terminal")),
    ("tls", cfg!(feature = "tls")),
];

/// Version, commit, features and libraries, one line each.
pub(super) fn text() -> String {
    let features: Vec<&str> = FEATURES.iter().filter(|(_, is_in)| *is_in).map(|(name, _)| *name).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let libraries = [
        #[cfg(feature = "kafka")]
        format!("librdkafka {}", rdkafka::util::get_rdkafka_version().1),
        #[cfg(feature = "kafka-sasl")]
        openssl::version::version().split(' ').take(2).collect::<Vec<_>>().join(" "),
        format!("SQLite {}", rusqlite::version()),
    ];
    format!(
        "{NAME}\ncommit     {}\nfeatures   {features}\nlibraries  {}\n",
        option_env!("OCPS_COMMIT").unwrap_or("unknown"),
        libraries.join(", ")
    )
}
