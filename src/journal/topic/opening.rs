//! The topic at a real broker: found or made, checked, and read.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::error::OpenError;
use super::super::rows::{CLOSED, PART};
use super::super::{Identity, Limits, lock};
use super::producer::{Context, Transactions};
use super::{Broker, Take, Unopened, restore};
use crate::broker::{self, ANSWER, Role, is_missing};
use crate::config::kafka::Options;
use crate::lease::TERM;

/// How long a new topic may take until it has a leader, and the broker to end the transaction of an earlier writer.
const CREATION: Duration = Duration::from_secs(10);
/// Time between two looks for a new topic.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the broker keeps a transaction of ours open while it does not hear from us: the most that it allows by
/// default. With a transaction the broker gives up its writer too. An instance that fences us does not wait for this.
const TRANSACTION_MS: &str = "900000";
/// Time between two questions for the end of the topic, and the longest wait for the answer.
const LOOK: Duration = Duration::from_secs(1);
/// The settings of a topic that we make: it is compacted soon, so that a start reads little.
const TOPIC: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "16777216"), ("min.cleanable.dirty.ratio", "0.1")];
/// What a message takes besides its value, at most.
const OVERHEAD: usize = 1024;

/// A topic at its brokers, and the instance that owns it.
#[derive(Clone, Debug)]
pub struct Address {
    /// How to reach the brokers.
    pub options: Options,
    /// The name of the topic.
    pub name: String,
    /// The transactional id of the writer. It follows from the index, whatever the topic: an instance that opens the topic
    /// of another index by mistake fences nobody.
    writer: String,
    /// The instance that owns the journal.
    pub identity: Identity,
    /// How much is kept.
    pub limits: Limits,
}

impl Address {
    /// The journal of an instance: in the topic of the settings, or else the default one of its index.
    pub fn new(options: Options, identity: Identity, limits: Limits) -> Self {
        let simulated = if identity.simulated { ".simulated" } else { "" };
        let writer = format!("ocps.{}.journal.{}{simulated}", options.topic_subname, identity.index.number());
        let name = options.journal_topic.clone().unwrap_or_else(|| writer.clone());
        Self { options, name, writer, identity, limits }
    }

    /// Finds the topic, or makes it, and checks that it can hold a journal; to be called before
    /// [`Topic::open`](super::Topic).
    ///
    /// # Errors
    /// See [`Unopened`].
    pub fn prepare(&self) -> Result<(), Unopened> {
        let replicas = self.find(&self.reader("read_committed")?)?;
        self.check_settings(replicas).map(drop)
    }

    /// Waits for messages of another instance: one that is alive writes every 2 s.
    ///
    /// # Errors
    /// Another instance writes to the topic, or see [`Unopened`].
    pub fn await_silence(&self) -> Result<(), Unopened> {
        let mut follower = Follower::new(self)?;
        let end = follower.next;
        follower.read(TERM);
        if follower.next == end || follower.is_handed_over {
            return Ok(());
        }
        Err(Unopened::Away(format!("another instance writes to the journal topic {}", self.name)))
    }

    /// Looks at the topic as the next run would, and changes nothing; gives its state in one line.
    ///
    /// # Errors
    /// One line: why the next run could not use it, and what to do.
    pub fn examine(&self) -> Result<String, String> {
        let look = || {
            let reader = self.reader("read_committed")?;
            let partitions = match broker::partitions(&reader, &self.name) {
                Err(error) if is_missing(&error) => {
                    return Ok(format!("the topic {} is to be made at the start", self.name));
                }
                found => self.answer(reader.client(), found)?,
            };
            let replicas = self.check_partitions(&partitions)?;
            let in_sync = self.check_settings(replicas)?;
            restore(self)?;
            Ok(format!(
                "the topic {} is sound: compacted, of {replicas} replicas, of which min.insync.replicas={in_sync} must \
                 be there; whether it and its transactional id may be written cannot be asked",
                self.name
            ))
        };
        look().map_err(|unopened: Unopened| unopened.to_string())
    }

    fn client<T: FromClientConfigAndContext<Context>>(&self, config: &ClientConfig) -> Result<T, Unopened> {
        let client = config.create_with_context(Context::default());
        client.map_err(|error| Unopened::Refused(OpenError::Refused(broker::wrong(&error))))
    }

    /// Waits for a connection: librdkafka repeats a question that it asks without one only half a second later.
    fn connect(&self, client: &Client<Context>) -> Result<(), Unopened> {
        self.answer(client, client.fetch_metadata(Some(&self.name), ANSWER)).map(drop)
    }

    /// A consumer that reads with this `isolation.level`.
    fn reader(&self, isolation: &str) -> Result<BaseConsumer<Context>, Unopened> {
        let mut config = broker::config(&self.options, self.identity.index, Role::Consumer);
        config
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            // The end of the topic is reported after so long.
            .set("fetch.wait.max.ms", "20");
        self.client(&config)
    }

    /// Lets a consumer read the topic from this offset on.
    fn assign(&self, reader: &BaseConsumer<Context>, from: Offset) -> Result<(), Unopened> {
        let mut place = TopicPartitionList::new();
        let assigned = place.add_partition_offset(&self.name, 0, from).and_then(|()| reader.assign(&place));
        self.answer(reader.client(), assigned)
    }

    /// The offset behind the last message that this consumer can read.
    fn end(&self, reader: &BaseConsumer<Context>) -> Result<i64, Unopened> {
        self.answer(reader.client(), reader.fetch_watermarks(&self.name, 0, ANSWER)).map(|(_, end)| end)
    }

    /// Finds the topic, or makes it; gives how many replicas it has.
    fn find(&self, reader: &BaseConsumer<Context>) -> Result<usize, Unopened> {
        let until = Instant::now() + CREATION;
        let mut is_made = false;
        loop {
            let error = match broker::partitions(reader, &self.name) {
                Ok(partitions) => return self.check_partitions(&partitions),
                Err(error) => error,
            };
            if is_missing(&error) && !is_made {
                self.create()?;
                is_made = true;
            } else if Instant::now() >= until
                || !(is_missing(&error) || error.rdkafka_error_code() == Some(Code::LeaderNotAvailable))
            {
                return Err(self.meaning(&error, reader.client()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn check_partitions(&self, partitions: &[(i32, usize)]) -> Result<usize, Unopened> {
        let asked = usize::try_from(self.options.replication_factor).unwrap_or(1);
        match partitions {
            [(_, replicas)] if *replicas >= asked => Ok(*replicas),
            [(_, replicas)] => Err(self.refused(&format!(
                "has {replicas} replicas, and kafka.replication_factor asks for {asked}: give it more (kafka-reassign-partitions), \
                 or lower kafka.replication_factor"
            ))),
            more => Err(self.refused(&format!(
                "has {} partitions, and a journal has one: delete the topic, so that ocps makes it, or name another with \
                 kafka.journal_topic",
                more.len()
            ))),
        }
    }

    fn create(&self) -> Result<(), Unopened> {
        let replication = TopicReplication::Fixed(self.options.replication_factor);
        let mut new = NewTopic::new(&self.name, 1, replication);
        for (setting, value) in TOPIC {
            new = new.set(setting, value);
        }
        let admin = self.admin()?;
        match broker::create(&admin, &[new], &broker::admin_options()) {
            Ok(None) => {
                log::info!("made the journal topic {}", self.name);
                Ok(())
            }
            Ok(Some((_, Code::InvalidReplicationFactor))) => Err(self.refused(&format!(
                "cannot be made: kafka.replication_factor is {}, and there are not so many brokers",
                self.options.replication_factor
            ))),
            Ok(Some((_, code))) => Err(self.meaning(&KafkaError::AdminOp(code), admin.inner())),
            Err(error) => Err(self.meaning(&error, admin.inner())),
        }
    }

    fn admin(&self) -> Result<AdminClient<Context>, Unopened> {
        self.client(&broker::config(&self.options, self.identity.index, Role::Admin))
    }

    /// Checks that a topic with so many replicas keeps what is written, and takes values of our length; gives how many
    /// replicas a write needs.
    fn check_settings(&self, replicas: usize) -> Result<usize, Unopened> {
        let admin = self.admin()?;
        let topic = [ResourceSpecifier::Topic(&self.name)];
        let described = pollster::block_on(admin.describe_configs(&topic, &broker::admin_options()));
        let first = |results: Vec<Result<_, Code>>| results.into_iter().next().transpose();
        let described = described.and_then(|results| first(results).map_err(KafkaError::AdminOp));
        let described = self.answer(admin.inner(), described)?;
        let setting = |name: &str| described.as_ref().and_then(|found| found.get(name)?.value.as_deref());
        let Some(policy) = setting("cleanup.policy") else {
            // The broker shows no setting to a user who may not see them.
            let error = KafkaError::AdminOp(Code::TopicAuthorizationFailed);
            return Err(self.meaning(&error, admin.inner()));
        };
        if policy != "compact" {
            return Err(self.refused(&format!(
                "has cleanup.policy={policy}, with which it forgets jobs: set cleanup.policy=compact (kafka-configs --alter \
                 --entity-type topics --entity-name {} --add-config cleanup.policy=compact)",
                self.name
            )));
        }
        let number = |name: &str| setting(name).and_then(|text| text.parse::<usize>().ok());
        let in_sync = number("min.insync.replicas").unwrap_or(1);
        if in_sync > replicas {
            return Err(self.refused(&format!(
                "has {replicas} replicas and min.insync.replicas={in_sync}, with which nothing can be written: give it more \
                 replicas (kafka-reassign-partitions), or lower min.insync.replicas"
            )));
        }
        match number("max.message.bytes") {
            Some(most) if most < PART + OVERHEAD => Err(self.refused(&format!(
                "has max.message.bytes={most}, and a journal needs at least {}: raise it",
                PART + OVERHEAD
            ))),
            Some(_) | None => Ok(in_sync),
        }
    }

    /// Checks that no transaction is still open: the messages behind it could not be read. Ours have ended by now.
    fn check_end(&self, reader: &BaseConsumer<Context>) -> Result<(), Unopened> {
        let readable = self.end(reader)?;
        if readable == self.end(&self.reader("read_uncommitted")?)? {
            return Ok(());
        }
        Err(Unopened::Away(format!(
            "the journal topic {} cannot be read to its end: a transaction is open from offset {readable} on; if the start of \
             ocps does not end it, it is that of another program, which must not write there",
            self.name
        )))
    }

    fn refused(&self, reason: &str) -> Unopened {
        Unopened::refused(&self.name, reason)
    }

    /// An answer of the broker, or what its error means for the start.
    fn answer<T>(&self, client: &Client<Context>, answer: KafkaResult<T>) -> Result<T, Unopened> {
        answer.map_err(|error| self.meaning(&error, client))
    }

    /// What an error of the broker means for the start.
    pub(super) fn meaning(&self, error: &KafkaError, client: &Client<Context>) -> Unopened {
        let problem = lock(&client.context().problem).clone();
        let codes = [broker::code(error), problem.as_ref().and_then(|(_, code)| *code)];
        let reason = broker::reason(error);
        match codes.into_iter().flatten().find_map(|code| self.remedy(code)) {
            Some(remedy) => self.refused(&format!("cannot be used: {reason}: {remedy}")),
            None => {
                let reason = problem.map_or(reason, |(text, _)| text);
                Unopened::Away(format!("the journal topic {} cannot be opened: {reason}", self.name))
            }
        }
    }

    /// What an operator can do about an error that does not pass by itself.
    #[allow(clippy::wildcard_enum_match_arm, reason = "librdkafka has hundreds")]
    fn remedy(&self, code: Code) -> Option<String> {
        Some(match code {
            Code::TopicAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed => format!(
                "allow our user Create, Describe, DescribeConfigs, Read and Write on this topic, and Describe and Write on \
                 the transactional id {}",
                self.writer
            ),
            Code::UnsupportedFeature | Code::UnsupportedVersion => {
                "the broker has no transactions: use a newer one, or journal = \"on\"".to_owned()
            }
            Code::InvalidTransactionTimeout => {
                "set transaction.timeout.ms, in the file that kafka.producer_configuration names, to what the broker's \
                 transaction.max.timeout.ms allows"
                    .to_owned()
            }
            Code::PolicyViolation | Code::InvalidTopic => {
                "make it yourself, with one partition and cleanup.policy=compact, or name another with kafka.journal_topic"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

impl Broker for Address {
    type Producer = Transactions;

    fn topic(&self) -> (&str, Identity, Limits) {
        (&self.name, self.identity, self.limits)
    }

    fn fence(&self) -> Result<Transactions, Unopened> {
        let mut config = broker::config(&self.options, self.identity.index, Role::Producer);
        if config.get("transaction.timeout.ms").is_none() {
            config.set("transaction.timeout.ms", TRANSACTION_MS);
        }
        config
            .remove("message.timeout.ms")
            .set("transactional.id", &self.writer)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // No batch is longer than the longest message.
            .set("batch.size", PART.to_string());
        let producer: ThreadedProducer<Context> = self.client(&config)?;
        self.connect(producer.client())?;
        self.answer(producer.client(), producer.init_transactions(CREATION))?;
        Ok(Transactions { producer, address: self.clone() })
    }

    fn read(&self, take: Take<'_>) -> Result<(), Unopened> {
        let reader = self.reader("read_committed")?;
        self.connect(reader.client())?;
        self.assign(&reader, Offset::Beginning)?;
        let mut until = Instant::now() + ANSWER;
        loop {
            match reader.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => {
                    take(message.offset(), message.key(), message.payload())?;
                    until = Instant::now() + ANSWER;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return self.check_end(&reader),
                Some(Err(error)) => {
                    if error.rdkafka_error_code() == Some(Code::BadMessage) {
                        return Err(Unopened::of(&self.name, "a message has a wrong checksum".into()));
                    }
                    let unopened = self.meaning(&error, reader.client());
                    if matches!(unopened, Unopened::Refused(_)) {
                        return Err(unopened);
                    }
                }
                None => {}
            }
            if Instant::now() >= until {
                let error = KafkaError::MessageConsumption(Code::OperationTimedOut);
                return Err(self.meaning(&error, reader.client()));
            }
        }
    }
}

/// Reads along what another instance writes to the topic.
pub struct Follower {
    name: String,
    reader: BaseConsumer<Context>,
    /// The offset behind the last message that was read.
    next: i64,
    is_at_end: bool,
    /// When the broker was last asked for the end of the topic.
    asked: Instant,
    /// How many messages were not read then, if that is known.
    pub behind: Option<i64>,
    /// Whether the last message says that the other instance has ended.
    pub is_handed_over: bool,
}

impl Follower {
    /// Reads from the end of the topic on.
    ///
    /// # Errors
    /// See [`Unopened`].
    pub fn new(address: &Address) -> Result<Self, Unopened> {
        let reader = address.reader("read_committed")?;
        let next = address.end(&reader)?;
        address.assign(&reader, Offset::Offset(next))?;
        let (name, asked) = (address.name.clone(), Instant::now());
        Ok(Self { name, reader, next, is_at_end: false, asked, behind: None, is_handed_over: false })
    }

    /// Reads the messages that come within this time.
    pub fn read(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(message) = self.reader.poll(until.saturating_duration_since(Instant::now())) {
            match message {
                Ok(message) => {
                    self.next = message.offset() + 1;
                    self.is_at_end = false;
                    self.is_handed_over = message.key() == Some(CLOSED.as_bytes());
                }
                Err(KafkaError::PartitionEOF(_)) => self.is_at_end = true,
                Err(error) => {
                    log::debug!("the journal topic cannot be read: {}", broker::reason(&error))
                }
            }
        }
        if self.asked.elapsed() >= LOOK {
            self.asked = Instant::now();
            let ends = self.reader.fetch_watermarks(&self.name, 0, LOOK);
            // The offsets behind the last message mark the ends of transactions.
            let left = |end: i64| if self.is_at_end { 0 } else { end.saturating_sub(self.next) };
            self.behind = ends.ok().map(|(_, end)| left(end));
        }
    }
}
