//! What `ocps doctor` asks brokers and registry. It makes no topic, schema or message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use rdkafka::admin::{AdminClient, OwnedResourceSpecifier, ResourceSpecifier};

use super::Shared;
use super::client::{self, Context, Reader};
use super::outbox::Outbox;
use super::registry::Failure;
use super::topics::{self, Survey};
use super::wire::Topic;
use crate::broker::{self, Role, reason};
use crate::clock;
use crate::config::kafka::Options;
use crate::csc::id::SalIndex;
use crate::lease::Lease;
use crate::sal::topic::EventName;
use crate::transport::KafkaFindings;

/// Longest wait for the settings of all topics; without them the finding is "not known".
const DESCRIPTION: Duration = Duration::from_secs(2);
/// Most topics that are named in one finding.
const NAMED_MAX: usize = 5;

/// Looks at brokers, topics, registry and schemas, in this order, as far as each can be reached. Takes some seconds.
pub fn examine(options: Options, index: SalIndex) -> KafkaFindings {
    let mut found = KafkaFindings::default();
    if let Err(problem) = super::check(&options, index) {
        found.list.push(("brokers", Err(problem)));
        return found;
    }
    // Nothing is received or published.
    let ((inputs, _), (outbox, _), (wake_upkeep, _)) = (bounded(0), Outbox::new(), bounded(0));
    let shared = Arc::new(Shared::new(options, index, Lease::default(), inputs, outbox, wake_upkeep));
    let survey = client::create::<Reader>(&shared, Role::Consumer)
        .and_then(|asker| topics::survey(&shared, &asker).map(|survey| (asker, survey)));
    let (asker, survey) = match survey {
        Ok(survey) => survey,
        Err(problem) => {
            // librdkafka may have reported why there is no answer.
            let why = shared.troubles.current().map(|why| format!(": {why}")).unwrap_or_default();
            found.list.push(("brokers", Err(format!("{problem}{why}"))));
            return found;
        }
    };
    // The survey has the ends of the topics: all heartbeats that are read below are older than this.
    let surveyed = clock::now();
    found.list.push(("brokers", Ok(format!("{} answer", shared.options.brokers))));
    found.list.push(("topics", topics_found(&shared, &asker, &survey)));
    found.list.push(("compaction", compaction_found(&shared, &survey)));
    found.list.extend(schemas_found(&shared));
    let stamps = topics::last_stamps(&shared, &asker, &survey.ranges);
    match stamps {
        Ok(stamps) => {
            let stamp = stamps.get(&Topic::Event(EventName::Heartbeat));
            found.heartbeat_age_s = stamp.map(|stamp| surveyed.0 - stamp);
        }
        Err(error) => found.list.push(("topics", Err(format!("cannot be read: {}", reason(&error))))),
    }
    found
}

/// The finding about the topics. Whether we may write to a topic would show only when we do.
fn topics_found(shared: &Arc<Shared>, asker: &Reader, survey: &Survey) -> Result<String, String> {
    let unusable = survey.unready.iter().filter(|(_, error)| !broker::is_missing(error));
    let unusable = unusable.map(|(topic, error)| format!("{}: {}", shared.name(*topic), reason(error)));
    let unreadable = topics::unreadable(shared, asker, &survey.ranges);
    let unreadable = unreadable.map_err(|error| format!("cannot be read: {}", reason(&error)))?;
    let unreadable =
        unreadable.into_iter().map(|topic| format!("{}: it may not be read", shared.name(topic)));
    let unusable: Vec<String> = unusable.chain(unreadable).collect();
    if !unusable.is_empty() {
        return Err(format!(
            "{}; give the user of ocps the right to read, write and describe them",
            some(&unusable)
        ));
    }
    let missing = survey.missing();
    topics::create(shared, &missing, &broker::admin_options().validate_only(true))?;
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!(", of which {} are to be created at the start", missing.len())
    };
    let (all, partitions) = (Topic::all().count(), survey.ranges.len());
    Ok(format!(
        "{all} of lsst.{} with {partitions} partitions{missing}; they may be read, and whether they may be written cannot \
         be asked",
        shared.options.topic_subname
    ))
}

/// Whether all commands and acks are kept, and the latest of each event.
fn compaction_found(shared: &Arc<Shared>, survey: &Survey) -> Result<String, String> {
    let there: BTreeMap<String, Topic> =
        survey.ranges.keys().map(|(topic, _)| (shared.name(*topic), *topic)).collect();
    let asked: Vec<ResourceSpecifier<'_>> = there.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
    let admin: AdminClient<Context> = client::create(shared, Role::Admin)?;
    let options = broker::admin_options().request_timeout(Some(DESCRIPTION));
    let described = match pollster::block_on(admin.describe_configs(&asked, &options)) {
        Ok(described) => described,
        Err(error) => return Ok(format!("not known: the broker does not say: {}", reason(&error))),
    };
    let (mut wrong, mut fleeting, mut hidden) = (Vec::new(), 0, 0);
    for described in described {
        let policy = described.as_ref().ok().and_then(|found| {
            let OwnedResourceSpecifier::Topic(name) = &found.specifier else { return None };
            Some((name, there.get(name)?, found.get("cleanup.policy")?.value.as_ref()?.contains("compact")))
        });
        match policy {
            None => hidden += 1,
            Some((_, Topic::Event(_), false)) => fleeting += 1,
            Some((_, Topic::Event(_), true) | (_, Topic::Command(_) | Topic::Ack, false)) => {}
            Some((name, Topic::Command(_) | Topic::Ack, true)) => wrong.push(name.clone()),
        }
    }
    if !wrong.is_empty() {
        return Err(format!(
            "compacted, so that only the last message of each index is kept: {}; set cleanup.policy=delete (kafka-configs \
             --alter)",
            some(&wrong)
        ));
    }
    let parts = [
        (fleeting, "events are not compacted: who begins to read after retention.ms misses their latest"),
        (hidden, "topics are not shown: that needs the right DescribeConfigs"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    Ok(if parts.is_empty() { "of events alone, as it should be".to_owned() } else { parts.join("; ") })
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
