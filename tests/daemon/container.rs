//! Where there is no login session and no service manager, as in a container.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crossbeam_channel::bounded;
use ocps::transport::socket::{NoSocket, listen};
use ocps::transport::socket_path::Place;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Home, Killed, QUICK, eventually, run};
use crate::support::skip::skip;

/// The user of the observatory's containers.
const UID: u32 = 73006;

/// A home that is theirs, where we may give it away; else it and the user are our own.
struct Theirs {
    home: Home,
    uid: u32,
    program: PathBuf,
}

impl Theirs {
    fn new() -> Self {
        let home = Home::with_toml(QUICK);
        let program = home.path("ocps");
        // They may not be allowed to go where it was built.
        fs::copy(env!("CARGO_BIN_EXE_ocps"), &program).unwrap();
        fs::create_dir(home.path("tmp")).unwrap();
        let own = rustix::process::geteuid();
        let uid = if own.is_root() { UID } else { own.as_raw() };
        for path in ["", "tmp"].map(|name| home.path(name)) {
            chown(path, Some(uid), None).unwrap();
        }
        Self { home, uid, program }
    }

    fn ocps(&self, args: &[&str]) -> Command {
        let mut command = self.home.program(&self.program);
        command.env("TMPDIR", self.home.path("tmp")).args(args).uid(self.uid);
        command
    }
}

#[test]
fn without_a_runtime_directory_daemon_and_client_meet_in_a_private_one() {
    let theirs = Theirs::new();
    // A read-only root has no place for it either.
    for runtime in [None, Some("/proc/no/such")] {
        let with_runtime = |mut command: Command| {
            command.envs(runtime.map(|dir| ("XDG_RUNTIME_DIR", dir)));
            command
        };
        let mut daemon = with_runtime(theirs.ocps(&["run", "1", "--simulate", "--config", "ocps.toml"]));
        let log = theirs.home.path("log");
        let daemon = daemon.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut daemon = Killed(daemon.spawn().unwrap());
        let dir = theirs.home.path(&format!("tmp/ocps-{}", theirs.uid));
        eventually("it listens", || {
            assert_eq!(daemon.0.try_wait().unwrap(), None, "{}", fs::read_to_string(&log).unwrap());
            UnixStream::connect(dir.join("ocps.sock")).is_ok()
        });
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let state = run(&mut with_runtime(theirs.ocps(&["state"])));
        assert_eq!((state.code, state.stdout.as_str()), (Some(0), "STANDBY\n"), "{state:?}");
    }
    // The socket that the killed daemon left is named.
    let state = run(&mut theirs.ocps(&["state"]));
    let line = state.one_line(4);
    assert!(line.contains("/ocps.sock (connection refused"), "{line}");
    // What another user could have put there is not even asked.
    let dir = theirs.home.path(&format!("tmp/ocps-{}", theirs.uid));
    fs::rename(&dir, theirs.home.path("elsewhere")).unwrap();
    symlink(theirs.home.path("elsewhere"), &dir).unwrap();
    let state = run(&mut theirs.ocps(&["state"]));
    assert!(state.one_line(4).contains("/ocps.sock (it is no directory)"), "{state:?}");
}

#[test]
fn the_next_place_is_taken_where_one_cannot_be_had() {
    let home = Home::new();
    fs::create_dir(home.path("theirs")).unwrap();
    symlink(home.path("theirs"), home.path("link")).unwrap();
    let open = home.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let unusable = [
        Place::Runtime(home.path("ocps.toml/no/ocps.sock")),
        Place::Temporary(home.path("link/ocps.sock")),
        Place::Temporary(open.join("ocps.sock")),
        Place::Temporary(home.path("no/such/ocps.sock")),
    ];
    let (sender, _inputs) = bounded(16);
    let nowhere = listen(&unusable, sender.clone());
    let Err(NoSocket::Nowhere(reason)) = nowhere else { panic!("{nowhere:?}") };
    for part in ["Not a directory", "it is no directory", "others may use it", "No such file", "--socket"] {
        assert!(reason.contains(part), "{reason}");
    }
    let private = home.path("private/ocps.sock");
    let mut places = unusable.to_vec();
    places.push(Place::Temporary(private.clone()));
    let hub = listen(&places, sender.clone()).unwrap();
    assert_eq!(hub.path(), Some(private.as_path()));
    // Another instance is no reason to go elsewhere.
    places.push(Place::Temporary(home.path("another/ocps.sock")));
    let refused = listen(&places, sender);
    assert!(matches!(&refused, Err(NoSocket::Refused(reason)) if reason.contains("in use")), "{refused:?}");
    hub.close();
    assert!(!private.exists());
}

/// A state directory in memory, where there is such a file system.
#[test]
fn a_state_directory_that_ends_with_the_container_is_warned_about() {
    let home = Home::new();
    let kind = |path: &Path| rustix::fs::statfs(path).map(|found| found.f_type).ok();
    if kind("/dev/shm".as_ref()) != Some(0x0102_1994) {
        return skip("/dev/shm is no tmpfs");
    }
    let memory = TempDir::with_prefix_in("ocps-test-", "/dev/shm").unwrap();
    let dir = memory.path().join("state");
    let args = ["1", "--state-dir", dir.to_str().unwrap()];
    let daemon = home.start(&args);
    let problem =
        "it is in memory: its jobs survive neither the container nor a reboot; mount a volume there";
    let warning = format!("[WARN] the state directory {}: {problem}", dir.display());
    eventually("it is logged", || daemon.stderr().contains(&warning));
    let document = daemon.connect().query("status");
    assert!(document["state_dir_problem"] == problem, "{document}");
    let status = home.client(&["status"]);
    assert!(status.stdout.contains(&format!("state dir      {}, {problem}\n", dir.display())), "{status:?}");
    drop(daemon);
    // Nothing is reported where nothing has to last, nor on a disk.
    let daemon = home.start(&["1", "--simulate", "--state-dir", dir.to_str().unwrap()]);
    assert_eq!(daemon.connect().query("status")["state_dir_problem"], json!(null));
    drop(daemon);
    let disk = env!("CARGO_TARGET_TMPDIR");
    if [Some(0x0102_1994), Some(0x794c_7630)].contains(&kind(disk.as_ref())) {
        return;
    }
    let disk = TempDir::with_prefix_in("ocps-test-", disk).unwrap();
    let daemon = home.start(&["1", "--state-dir", disk.path().to_str().unwrap()]);
    assert_eq!(daemon.connect().query("status")["state_dir_problem"], json!(null));
}
