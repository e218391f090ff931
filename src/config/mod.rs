//! Daemon settings (toml) and component configuration (layered yaml).

pub mod settings;
