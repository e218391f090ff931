//! The settings of a core that does all it can; a test changes what it is about.

use std::sync::Arc;
use std::time::Duration;

use ocps::config::settings::Uws;
use ocps::csc::Settings;
use ocps::csc::configuration::Polling;
use ocps::csc::id::SalIndex;

pub fn core_settings() -> Settings {
    Settings {
        index: SalIndex::Latiss,
        simulated: false,
        log_level: 20,
        payload: Arc::new(Uws::default()),
        submit_timeout: Duration::from_secs(60),
        settle_time: Duration::from_secs(15),
        outage_limit: Duration::from_secs(300),
        resubmit_limit: Duration::from_secs(1800),
        history: Duration::from_secs(30 * 86_400),
        uptime: None,
        journal: true,
        joins: false,
        polling: Polling::Each,
        connections: 8,
        max_jobs: 10,
    }
}
