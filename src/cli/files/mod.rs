//! `ocps results` and `ocps logs`: the files of a job, straight from its service.
//!
//! The daemon reports the URL of the service. Proxy, user name and password are in the files of the daemon's configuration, if
//! this user may read them.

mod folder;

use std::collections::HashSet;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use self::folder::{Folder, Part};
use super::client::{Client, JOBS, STATUS, Target, too_old};
use super::find::find;
use super::flags::Line;
use super::output::{Output, complain};
use super::table::{bytes, table};
use super::{Failure, Task, failed};
use crate::backend::Backend;
use crate::backend::uws::{Contents, JobFile, Uws};
use crate::config::component::{Reader, directory, site};
use crate::config::settings::Settings;
use crate::csc::id::{JobId, SalIndex};
use crate::csc::request::StatusAnswer;
use crate::display::text::{UNKNOWN, clean, value};
use crate::url::Url;

/// Number of attempts to read a file whose number changes meanwhile: the service numbers the files of a running job anew.
const ATTEMPTS: usize = 3;
/// Maximum number of files that are tried one by one.
const UNLISTED_MAX: usize = 1000;
/// Time between two requests for a log that grows.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of bytes of a log that are read at once.
const PIECE: usize = 64 << 10;

/// Which job, and the configuration of the daemon.
#[derive(Debug)]
struct Args {
    target: Target,
    id: String,
    config: Option<PathBuf>,
    config_dir: Option<PathBuf>,
}

impl Args {
    fn of(line: &Line) -> Result<Self, String> {
        let [id] = *line.words(1)? else {
            return Err("no ID: the beginning of a job id or run id, as in ocps jobs".to_owned());
        };
        let (config, config_dir) = (line.path("config")?, line.path("configdir")?);
        Ok(Self { target: line.target()?, id: id.to_owned(), config, config_dir })
    }
}

/// A job at its service.
struct JobAt {
    uws: Uws,
    base: Url,
    job_id: JobId,
}

impl JobAt {
    fn find(args: &Args) -> Result<Self, Failure> {
        let mut client = Client::connect(&args.target)?;
        let jobs = client.query(JOBS)?;
        let status = client.query(STATUS)?;
        let job = find(&jobs, &args.id)?;
        let Some(address) = job.get("service_url").and_then(Value::as_str) else {
            return Err(failed(too_old()));
        };
        let Some(job_id) = job.get("job_id").and_then(Value::as_str) else {
            let stage = value(job, "stage").unwrap_or_default();
            return Err(failed(format!(
                "{} has no files: it is not at the service ({stage})",
                clean(&args.id)
            )));
        };
        if address.is_empty() {
            return Err(failed(format!("job {} has no files: it is simulated", clean(job_id))));
        }
        let settings = Settings::load(args.config.as_deref());
        // The usual toml may be unreadable for this user: it is only needed for a proxy.
        let settings =
            if args.config.is_some() { settings.map_err(failed)? } else { settings.unwrap_or_default() };
        let index = status.get("index").and_then(Value::as_u64).unwrap_or_default().to_string();
        let base =
            SalIndex::parse(&index).ok().and_then(|index| with_credentials(args, &settings, index, address));
        Ok(Self {
            uws: Uws::new(&settings.uws).map_err(failed)?,
            base: base.unwrap_or_else(|| address.into()),
            job_id: JobId::parse(job_id).map_err(failed)?,
        })
    }

    /// The files of the job. If the service has forgotten the job, its files still exist, but have to be tried by number.
    fn files(&self) -> Result<Vec<JobFile>, Failure> {
        if let Some(files) = self.uws.files(&self.base, &self.job_id).map_err(failed)? {
            return Ok(files);
        }
        let mut files = Vec::new();
        while files.len() < UNLISTED_MAX {
            let file = JobFile { id: files.len().to_string(), uri: None, size: None };
            let Some(contents) = self.open(&file, 0)? else { break };
            files.push(JobFile { size: contents.size, ..file });
        }
        Ok(files)
    }

    fn open(&self, file: &JobFile, from: u64) -> Result<Option<Contents>, Failure> {
        self.uws.file(&self.base, &self.job_id, file, from).map_err(failed)
    }

    /// Whether the number of a file still means the same file.
    fn is_still(&self, file: &JobFile) -> Result<bool, Failure> {
        let files = self.uws.files(&self.base, &self.job_id).map_err(failed)?;
        Ok(files.is_none_or(|files| files.iter().any(|other| other.id == file.id && other.uri == file.uri)))
    }

    /// Whether the job has not ended, according to the service.
    fn is_running(&self) -> Result<bool, Failure> {
        match self.uws.status(&self.base, &self.job_id, None).map_err(failed)? {
            StatusAnswer::Job(job) => Ok(job.phase.exit_code().is_none()),
            StatusAnswer::Gone | StatusAnswer::Broken { .. } => Ok(false),
        }
    }

    /// The files with their names. If several have the same name, each file gets its number before its name.
    fn named(&self, files: Vec<JobFile>) -> Vec<(String, JobFile)> {
        let names: Vec<String> = files.iter().map(|file| self.name(file)).collect();
        let is_unique = names.iter().collect::<HashSet<_>>().len() == names.len();
        let name = |(n, name): (usize, String)| if is_unique { name } else { format!("{n}-{name}") };
        names.into_iter().enumerate().map(name).zip(files).collect()
    }

    /// The name of a file below the folder of the job. It comes from the service and may be hostile.
    fn name(&self, file: &JobFile) -> String {
        let Some(uri) = &file.uri else { return format!("result-{}", file.id) };
        let folder = format!("/{}/out/", self.job_id);
        let name = uri.rsplit_once(&folder).map(|(_, name)| name);
        name.or_else(|| uri.rsplit('/').next()).unwrap_or(uri).to_owned()
    }
}

/// The URL of the service with the user name and password in the component configuration, if it is the one there.
fn with_credentials(args: &Args, settings: &Settings, index: SalIndex, address: &str) -> Option<Url> {
    let env = &|name: &str| std::env::var_os(name);
    let dir = Some(directory(args.config_dir.as_deref(), settings, env)?);
    let reader = Reader { dir, site: site(settings, env), index, simulated: false };
    let url = reader.read("").ok()?.service.url;
    (url.address() == address).then_some(url)
}

/// `ocps results`.
pub(super) fn results(line: &Line) -> Result<Task, String> {
    let (args, json, folder) = (Args::of(line)?, line.has("json"), line.path("download")?);
    Ok(Box::new(move |out| {
        let job = JobAt::find(&args)?;
        let files = job.named(job.files()?);
        match folder {
            Some(path) => download(&job, &files, &path, out),
            None if json => {
                let file = |(name, file): &(String, JobFile)| json!({"id": file.id, "name": name, "uri": file.uri, "size": file.size});
                out.line(&files.iter().map(file).collect::<Value>().to_string())
            }
            None if files.is_empty() => out.line("no files"),
            None => {
                let column = |heading: &str, cell: &dyn Fn(&(String, JobFile)) -> String| {
                    [heading.to_owned()].into_iter().chain(files.iter().map(cell)).collect::<Vec<_>>()
                };
                let size =
                    |(_, file): &(String, JobFile)| file.size.map_or_else(|| UNKNOWN.to_owned(), bytes);
                out.text(&table(&[column("SIZE", &size), column("NAME", &|(name, _)| clean(name))]))
            }
        }
    }))
}

/// Downloads all files; after one that fails it continues with the others.
fn download(job: &JobAt, files: &[(String, JobFile)], path: &Path, out: &mut Output) -> Result<(), Failure> {
    if job.is_running()? {
        let id = &job.job_id;
        return Err(failed(format!(
            "job {id} is running: its files are not complete; wait for it: ocps wait {id}"
        )));
    }
    let folder = Folder::open(path)
        .map_err(|error| failed(format!("cannot use the directory {}: {error}", path.display())))?;
    let mut failures = 0;
    for (name, file) in files {
        let shown = clean(name);
        match fetch(job, file, name, &folder) {
            Ok(Some(size)) => out.line(&format!("{shown}  {}", bytes(size)))?,
            Ok(None) => out.line(&format!("{shown}  is there already: kept"))?,
            Err(Failure::Failed(reason)) => {
                complain(&format!("{shown}: {reason}"));
                failures += 1;
            }
            Err(other) => return Err(other),
        }
    }
    match failures {
        0 => Ok(()),
        count => Err(failed(format!("not downloaded: {count} of {} files", files.len()))),
    }
}

/// Downloads one file and gives its size; none if it exists already.
fn fetch(job: &JobAt, file: &JobFile, name: &str, folder: &Folder) -> Result<Option<u64>, Failure> {
    let mut file = file.clone();
    for _ in 0..ATTEMPTS {
        let Some(mut part) = folder.part(name).map_err(failed)? else { return Ok(None) };
        let size = fill(job, &file, name, &mut part)?;
        if job.is_still(&file)? {
            part.finish().map_err(failed)?;
            return Ok(Some(size));
        }
        // The part may contain bytes of another file.
        part.remove().map_err(failed)?;
        let now = job.files()?.into_iter().find(|other| other.uri == file.uri);
        file = now.ok_or_else(|| failed("the service no longer has it"))?;
    }
    Err(failed("the job keeps changing its files: try again when it has ended"))
}

/// Completes the part, and gives its size.
fn fill(job: &JobAt, file: &JobFile, name: &str, part: &mut Part) -> Result<u64, Failure> {
    let open = |from| job.open(file, from)?.ok_or_else(|| failed("the service no longer has it"));
    let mut contents = open(part.overlap_at())?;
    if !part.goes_on_with(&mut contents.body).map_err(failed)? {
        part.restart().map_err(failed)?;
        contents = open(0)?;
    }
    let copied = copy(contents.body, part, contents.size, name);
    let is_whole = contents.size.is_none_or(|size| size == part.len());
    match copied {
        Ok(_) if is_whole => Ok(part.len()),
        Ok(_) => Err("the service sent less than it said".to_owned()),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|reason| {
        failed(format!("stopped after {}: {reason}; the same command continues there", bytes(part.len())))
    })
}

/// Copies the rest of a file, with a progress bar on a terminal.
#[cfg(feature = "terminal")]
fn copy(rest: impl Read, part: &mut Part, size: Option<u64>, name: &str) -> io::Result<u64> {
    use indicatif::{ProgressBar, ProgressStyle};
    let template = match size {
        Some(_) => "{msg:24!} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg:24!} {bytes} {bytes_per_sec}",
    };
    let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new).with_position(part.len());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar.with_style(style.progress_chars("=> ")).with_message(clean(name));
    let copied = io::copy(&mut bar.wrap_read(rest), &mut part.file);
    bar.finish_and_clear();
    copied
}

/// Copies the rest of a file.
#[cfg(not(feature = "terminal"))]
fn copy(mut rest: impl Read, part: &mut Part, _: Option<u64>, _: &str) -> io::Result<u64> {
    io::copy(&mut rest, &mut part.file)
}

/// `ocps logs`.
pub(super) fn logs(line: &Line) -> Result<Task, String> {
    let (args, follow) = (Args::of(line)?, line.has("follow"));
    Ok(Box::new(move |out| {
        let job = JobAt::find(&args)?;
        let mut end = 0;
        loop {
            // Asked before the log is read, so that the last lines are not missed.
            let is_last = !follow || !job.is_running()?;
            match log_contents(&job, end)? {
                Some(contents) => end += print(contents, out)?,
                None if is_last => return Err(failed(format!("job {} has no log", job.job_id))),
                None => {}
            }
            if is_last {
                return Ok(());
            }
            out.expect_reader()?;
            thread::sleep(FOLLOW_INTERVAL);
        }
    }))
}

/// The log from a byte on; none if the job has no log.
fn log_contents(job: &JobAt, from: u64) -> Result<Option<Contents>, Failure> {
    for _ in 0..ATTEMPTS {
        let Some(file) = log_file(job)? else { return Ok(None) };
        let contents = job.open(&file, from)?;
        if job.is_still(&file)? {
            return Ok(contents);
        }
    }
    Err(failed("the job keeps changing its files: try again"))
}

/// The log: `ocps.log`, or the only file whose name ends in `.log`, or the only file if its name is unknown.
fn log_file(job: &JobAt) -> Result<Option<JobFile>, Failure> {
    let files = job.files()?;
    let logs: Vec<_> = files.iter().filter(|file| job.name(file).ends_with(".log")).collect();
    let main = logs.iter().find(|file| job.name(file) == "ocps.log");
    match (main, logs.as_slice(), files.as_slice()) {
        (Some(file), _, _) | (None, [file], _) => Ok(Some((*file).clone())),
        (None, [], [JobFile { uri: None, .. }]) => Ok(files.into_iter().next()),
        (None, [], _) => Ok(None),
        (None, several, _) => {
            let names: Vec<_> = several.iter().map(|file| clean(&job.name(file))).collect();
            Err(failed(format!(
                "the job has several logs: {}; see ocps results --download",
                names.join(", ")
            )))
        }
    }
}

/// Prints a log, and gives the number of bytes.
fn print(mut contents: Contents, out: &mut Output) -> Result<u64, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let (mut total, mut piece) = (0, vec![0; PIECE]);
    loop {
        let count = match contents.body.read(&mut piece) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) => return Err(failed(format!("the log broke off: {error}"))),
        };
        total += count as u64;
        let piece = piece.get(..count).unwrap_or_default();
        if is_terminal { out.text(&fit_for_terminal(piece))? } else { out.bytes(piece)? }
    }
}

/// The text without control characters other than line breaks and tabs.
fn fit_for_terminal(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let fit =
        |c: char| if matches!(c, '\n' | '\t') { c.to_string() } else { clean(c.encode_utf8(&mut [0; 4])) };
    text.chars().map(fit).collect()
}
