//! The fake execution service on its own, for people and for tests out of process.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt;

#[path = "mod.rs"]
mod support;

use support::uws_service::{Options, UwsService};

const HELP: &str = "\
A stand-in for the UWS execution service, on 127.0.0.1

Usage: cargo run --example uws-service -- [OPTIONS]

  --port N         port to listen on [default: 8910]
  --duration S     seconds that a job runs unless it defines that itself [default: 5]
  --pending S      seconds in phase pending [default: 0.5]
  --queued S       seconds in phase queued [default: 0.5]
  --latency S      seconds added to every request [default: 0]
  --serial         one request at a time, as the genuine service works
  --state FILE     keep the jobs there, so that a restarted service has them
  --help           this text

A job defines how it runs in its data_query: 'dur=2.5' (seconds), 'files=3' (result files), the word 'fail'.
Faults: curl -d '{\"on\":\"put\",\"times\":1,\"what\":\"close\"}' http://127.0.0.1:8910/control
        on: put, get, delete, list, any; times 0: always; what: close, {\"hang\":5}, {\"latency\":1}, done_then_close,
        {\"done_then_hang\":5}, {\"status\":{\"code\":503,\"content_type\":\"text/html\",\"body\":\"x\"}}, {\"done_then_status\":{...}},
        not_found_page, not_json, empty_object, other_job_id, other_run_id, no_phase, huge_body, endless_body,
        truncated, files_gone, stuck, {\"list_lag\":12}
State:  curl http://127.0.0.1:8910/control; curl -X DELETE http://127.0.0.1:8910/control forgets the faults";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("uws-service: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let Some(options) = parse().map_err(|e| format!("{e}; try --help"))? else {
        println!("{HELP}");
        return Ok(());
    };
    let port = options.port;
    let service = UwsService::try_start(options).map_err(|e| format!("cannot start on port {port}: {e}"))?;
    println!("the execution service is at {}", service.url());
    println!(
        "for the component configuration (_init.yaml):\n\n  url: {}\n  poll_interval: 1.0\n",
        service.url()
    );
    loop {
        thread::park();
    }
}

/// The options; none for `--help`.
fn parse() -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options { port: 8910, control: true, ..Options::default() };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("port") => options.port = arguments.value()?.parse()?,
            Long("duration") => options.timing.duration = seconds(&mut arguments)?,
            Long("pending") => options.timing.pending = seconds(&mut arguments)?,
            Long("queued") => options.timing.queued = seconds(&mut arguments)?,
            Long("latency") => options.latency = Duration::from_secs_f64(seconds(&mut arguments)?),
            Long("serial") => options.serial = true,
            Long("state") => options.state = Some(arguments.value()?.into()),
            Long("help") | Short('h') => return Ok(None),
            Long(_) | Short(_) | Value(_) => return Err(argument.unexpected()),
        }
    }
    Ok(Some(options))
}

/// A number of seconds from 0 to a day.
fn seconds(arguments: &mut lexopt::Parser) -> Result<f64, lexopt::Error> {
    let number: f64 = arguments.value()?.parse()?;
    if (0.0..=86_400.0).contains(&number) {
        Ok(number)
    } else {
        Err("seconds: a number from 0 to 86400".into())
    }
}
