//! What `ocps doctor` asks brokers and registry. It only reads: no topic, schema or message is made.

use std::sync::Arc;

use super::Shared;
use super::client::{self, Reader};
use super::registry::Failure;
use super::topics::{self, Survey};
use super::wire::Topic;
use crate::broker::{Role, reason};
use crate::clock;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;
use crate::lease::Lease;
use crate::sal::topic::EventName;
use crate::transport::KafkaFindings;

/// Most topics that are named in one finding.
const NAMED_MAX: usize = 5;

/// Looks at brokers, topics, registry and schemas, in this order, as far as one leads to the next.
pub(super) fn examine(options: Options, index: SalIndex) -> KafkaFindings {
    let mut found = KafkaFindings::default();
    let shared = Arc::new(Shared::for_reading(options, index));
    let survey = client::create::<Reader>(&shared, Role::Consumer)
        .and_then(|asker| topics::survey(&shared, &asker).map(|survey| (asker, survey)));
    let (asker, survey) = match survey {
        Ok(survey) => survey,
        Err(problem) => {
            // librdkafka knows more than that nothing was answered.
            let why = shared.troubles.current().map(|why| format!(": {why}")).unwrap_or_default();
            found.list.push(("brokers", Err(format!("{problem}{why}"))));
            return found;
        }
    };
    found.list.push(("brokers", Ok(format!("{} answer", shared.options.brokers))));
    found.list.push(("topics", topics_found(&shared, &survey)));
    found.list.extend(schemas_found(&shared));
    let stamps = topics::last_stamps(&shared, &asker, &survey.ranges);
    match stamps {
        Ok(stamps) => {
            let stamp = stamps.get(&Topic::Event(EventName::Heartbeat));
            found.heartbeat_age_s = stamp.map(|stamp| clock::now().0 - stamp);
        }
        Err(error) => found.list.push(("topics", Err(format!("cannot be read: {}", reason(&error))))),
    }
    found
}

fn topics_found(shared: &Shared, survey: &Survey) -> Result<String, String> {
    let unusable = survey.unusable().map(|(topic, why)| format!("{}: {why}", shared.name(topic)));
    let unusable: Vec<String> = unusable.collect();
    if !unusable.is_empty() {
        return Err(format!(
            "{}; give the user of ocps the right to read, write and describe them",
            some(&unusable)
        ));
    }
    let (all, missing) = (Topic::all().count(), survey.missing().len());
    let missing = if missing > 0 {
        format!(", of which {missing} are to be created at the start")
    } else {
        String::new()
    };
    Ok(format!("{all} of lsst.{}{missing}", shared.options.topic_subname))
}

/// The findings about the registry and its schemas.
fn schemas_found(shared: &Shared) -> Vec<(&'static str, Result<String, String>)> {
    let (mut unfit, mut missing) = (Vec::new(), 0);
    for topic in Topic::all() {
        match shared.schemas.registry.fits(topic, &shared.subject(topic)) {
            Ok(Some(())) => {}
            Ok(None) => missing += 1,
            Err(Failure::Refused(reason)) => unfit.push(reason),
            Err(Failure::NoAnswer(reason)) => return vec![("registry", Err(reason))],
        }
    }
    let schemas = if unfit.is_empty() {
        Ok(format!("all fit, {missing} are to be registered at the start"))
    } else {
        Err(some(&unfit))
    };
    vec![("registry", Ok("answers".to_owned())), ("schemas", schemas)]
}

/// The first of these, and how many more there are.
fn some(all: &[String]) -> String {
    let first = all.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = all.len().saturating_sub(NAMED_MAX);
    if more > 0 { format!("{first}; and {more} more") } else { first }
}

impl Shared {
    /// For one who reads, and hears of nothing.
    fn for_reading(options: Options, index: SalIndex) -> Self {
        let (inputs, _) = crossbeam_channel::bounded(0);
        let (outbox, _) = super::Outbox::new();
        let (wake_upkeep, _) = crossbeam_channel::bounded(0);
        Self::new(options, index, Lease::default(), inputs, outbox, wake_upkeep)
    }
}
