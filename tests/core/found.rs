//! What the simulation (`tests/simulation`) found, in few steps.

use ocps::csc::command::{Sender, Via};
use ocps::csc::id::SeqNum;
use ocps::csc::record::Recovered;
use ocps::csc::{Input, Settings};

use super::world::{World, execute, secs, settings, time};

#[test]
fn a_repeated_command_of_a_previous_run_is_not_answered_even_before_joining() {
    let mut world = World::with(Settings { joins: true, ..settings() }, 1);
    let sender = Sender {
        via: Via::Kafka,
        identity: "root@host".to_owned(),
        origin: 7,
        seq_num: SeqNum(5),
        sent: time(secs(0)).tai,
    };
    let seen = vec![sender.clone()];
    world.input(Input::Recovered(Recovered { seen, ..Recovered::default() }));
    world.take();
    world.command(&sender, execute(""));
    // It would fail a command that this run continues.
    world.expect(&[]);
}
