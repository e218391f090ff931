#compdef ocps run_ocps run_OCPS.py
# A test compares this with the program's flags.
_ocps() {
  local curcontext=$curcontext state line verb
  local -a commands
  commands=(
    'run:Run the daemon'
    'send:Send one command to the daemon and show its acks'
    'state:Print the summary state, or change it'
    'status:Show what the daemon is doing'
    'jobs:List the jobs'
    'job:Show one job'
    'wait:Wait until jobs have ended'
    'abort:Abort jobs'
    'metrics:Print the metrics of the daemon'
    'results:List or download the files of a job'
    'logs:Print the log of a job'
    'top:Show all that happens on a live screen'
    'watch:Print events as they come'
    'console:Type commands at a prompt, see acks and events'
    'check:Check the configuration without a daemon'
    'doctor:Check all that the daemon needs, and the daemon'
    'help:Explain a command'
  )
  if [[ $service == run_* ]]; then
    verb=run
  else
    _arguments -C '--help[Print help]' '--version[Print version, commit, features and library versions]' '1:command:->command' '*::argument:->argument' && return
    if [[ $state == command ]]; then _describe command commands; return; fi
    verb=$words[1]
  fi
  case $verb in
    run)
      _arguments \
        '--simulate[Simulate the jobs]' \
        '--state=[Go to this state at start]:STATE:(standby disabled enabled resume)' \
        '--override=[Override file for the start command, and git ref of the configuration]:FILE\[\:REF\]: ' \
        '--configdir=[Directory of the component configuration]:DIR:_files' \
        '--config=[The daemon'\''s settings file]:FILE:_files' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--state-dir=[State directory; holds the journal]:DIR:_files' \
        '--loglevel=[Minimum log level]:LEVEL:(debug info warning error)' \
        '--kafka[Use Kafka]' \
        '--no-kafka[Do not use Kafka]' \
        '--standby[Stand by while another instance is running]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:\[INDEX\]:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' ;;
    send)
      _arguments \
        '--timeout=[Give up if no ack arrives for S seconds]:S: ' \
        '--no-wait[Do not wait for the end of an execute]' \
        '--follow[Print what changes as it comes]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:COMMAND \[NAME=VALUE ...\]:{compadd -S "" -- abort_job disable enable execute exitControl setLogLevel standby start job_id= pipeline= version= config= data_query= prereq_jobs= output_dataset_types= level= subsystem= configurationOverride=}' ;;
    state)
      _arguments \
        '--override=[Override file for the start command, and git ref of the configuration]:FILE\[\:REF\]: ' \
        '--timeout=[Give up if no ack arrives for S seconds]:S: ' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:\[TARGET\]:(standby disabled enabled offline)' ;;
    status)
      _arguments \
        '--alive[Exit 0 if the main loop of the daemon answers]' \
        '--ready[Exit 0 if the daemon takes commands]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    jobs)
      _arguments \
        '--all[Also list finished jobs]' \
        '--since=[Jobs that ended after this time or have not ended]:TIME: ' \
        '--until=[Jobs that were accepted before this time]:TIME: ' \
        '--phase=[Jobs in this state]:STATE:(recording waiting submitting running aborting pending queued executing held suspended other completed failed vanished aborted refused)' \
        '--pipeline=[Jobs of pipelines that match]:GLOB: ' \
        '--user=[Jobs whose sender matches]:GLOB: ' \
        '--failed[Jobs that failed, vanished or were refused]' \
        '--limit=[The last N of them]:N: ' \
        '--utc[Times are UTC]' \
        '--follow[Print what changes as it comes]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--csv[Print comma-separated values]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    job)
      _arguments \
        '--utc[Times are UTC]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:ID: ' ;;
    wait)
      _arguments \
        '--timeout=[Give up after S seconds]:S: ' \
        '--utc[Times are UTC]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:ID: ' ;;
    abort)
      _arguments \
        '--timeout=[Give up after S seconds]:S: ' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:ID: ' ;;
    metrics)
      _arguments \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    results)
      _arguments \
        '--download=[Download the files into this directory]:DIR:_files' \
        '--config=[The daemon'\''s settings file]:FILE:_files' \
        '--configdir=[Directory of the component configuration]:DIR:_files' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:ID: ' ;;
    logs)
      _arguments \
        '--follow[Print what comes until the job ends]' \
        '--config=[The daemon'\''s settings file]:FILE:_files' \
        '--configdir=[Directory of the component configuration]:DIR:_files' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:ID: ' ;;
    top)
      _arguments \
        '--utc[Times are UTC]' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    watch)
      _arguments \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:\[TOPIC ...\]:(configurationApplied configurationsAvailable errorCode heartbeat job_id job_result largeFileObjectAvailable logLevel logMessage simulationMode softwareVersions summaryState)' ;;
    console)
      _arguments \
        '--wait=[Wait up to S seconds for a daemon that is still starting]:S: ' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    check)
      _arguments \
        '--simulate[Simulate the jobs]' \
        '--state=[Go to this state at start]:STATE:(standby disabled enabled resume)' \
        '--override=[Override file for the start command, and git ref of the configuration]:FILE\[\:REF\]: ' \
        '--configdir=[Directory of the component configuration]:DIR:_files' \
        '--config=[The daemon'\''s settings file]:FILE:_files' \
        '--site=[Site whose layer is included in the check]:SITE: ' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--state-dir=[State directory; holds the journal]:DIR:_files' \
        '--loglevel=[Minimum log level]:LEVEL:(debug info warning error)' \
        '--kafka[Use Kafka]' \
        '--no-kafka[Do not use Kafka]' \
        '--standby[Stand by while another instance is running]' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:\[PATH ...\]:_files' ;;
    doctor)
      _arguments \
        '--simulate[Simulate the jobs]' \
        '--state=[Go to this state at start]:STATE:(standby disabled enabled resume)' \
        '--override=[Override file for the start command, and git ref of the configuration]:FILE\[\:REF\]: ' \
        '--configdir=[Directory of the component configuration]:DIR:_files' \
        '--config=[The daemon'\''s settings file]:FILE:_files' \
        '--socket=[Path of the daemon'\''s socket]:PATH:_files' \
        '--index=[Which OCPS]:INDEX:(1 2 3 101 LATISS LSSTComCam LSSTCam RA)' \
        '--state-dir=[State directory; holds the journal]:DIR:_files' \
        '--loglevel=[Minimum log level]:LEVEL:(debug info warning error)' \
        '--kafka[Use Kafka]' \
        '--no-kafka[Do not use Kafka]' \
        '--standby[Stand by while another instance is running]' \
        '--json[Print JSON, for scripts]' \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' ;;
    help)
      _arguments \
        '--help[Print help]' \
        '--version[Print version, commit, features and library versions]' \
        '*:\[COMMAND\]:(run send state status jobs job wait abort results logs top metrics watch console check doctor help)' ;;
  esac
}
_ocps "$@"
