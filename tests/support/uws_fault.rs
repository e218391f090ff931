//! What can go wrong at the fake execution service.

use serde::{Deserialize, Serialize};

/// Something that goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub on: On,
    /// For how many requests; 0: for all that come.
    #[serde(default = "once")]
    pub times: u32,
    pub what: What,
}

fn once() -> u32 {
    1
}

/// Which requests a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    Put,
    /// GET of one job.
    Get,
    /// GET of a file of a job.
    File,
    Delete,
    /// GET of the list.
    List,
    Any,
}

/// What goes wrong. Unless stated otherwise, the request is carried out and its answer spoilt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Seconds before the request is carried out; then all is well.
    Latency(f64),
    /// The connection is closed; nothing is carried out.
    Close,
    /// Nothing for so many seconds, then the connection is closed; nothing is carried out.
    Hang(f64),
    /// This answer; nothing is carried out.
    Status {
        code: u16,
        content_type: String,
        body: String,
    },
    /// This answer of a gateway; nothing is carried out.
    Gateway {
        code: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// A proxy's or wrong base URL's 404; nothing is carried out.
    NotFoundPage,
    /// Carried out, then the connection is closed.
    DoneThenClose,
    /// Carried out, then nothing for so many seconds.
    DoneThenHang(f64),
    /// Carried out, then this answer.
    DoneThenStatus {
        code: u16,
        content_type: String,
        body: String,
    },
    /// A login page with status 200.
    NotJson,
    /// `{}`, which the genuine service answers when it cannot build the object.
    EmptyObject,
    OtherJobId,
    OtherRunId,
    NoPhase,
    /// The job object and 20 MB of blanks.
    HugeBody,
    /// A body that does not end.
    EndlessBody,
    /// Half of the body, then the connection is closed.
    Truncated,
    /// DELETE: the cluster refuses with 500; the job stays, its files go.
    FilesGone,
    /// DELETE: the job goes, its files cannot be removed: 500, also for every later DELETE of it.
    Stuck,
    /// A gateway sends it twice, and shows the second answer.
    Twice,
    /// PUT: the job is listed only after so many seconds.
    ListLag(f64),
}
