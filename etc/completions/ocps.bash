# bash completion for ocps. A test compares it with the program's flags.
_ocps() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb='' i
  COMPREPLY=()
  [[ $word == = ]] && word=''
  [[ $before == = && $COMP_CWORD -ge 2 ]] && before=${COMP_WORDS[COMP_CWORD-2]}
  case $(basename -- "$1") in
    run_*) verb=run ;;
    *) for ((i = 1; i < COMP_CWORD; i++)); do
      [[ ${COMP_WORDS[i]} == -* ]] || { verb=${COMP_WORDS[i]}; break; }
    done ;;
  esac
  case $before in
    --state) COMPREPLY=($(compgen -W 'standby disabled enabled resume' -- "$word")); return ;;
    --override) return; return ;;
    --configdir) compopt -o default; return ;;
    --config) compopt -o default; return ;;
    --site) return; return ;;
    --timeout) return; return ;;
    --wait) return; return ;;
    --since) return; return ;;
    --until) return; return ;;
    --phase) COMPREPLY=($(compgen -W 'recording waiting submitting running aborting pending queued executing held suspended other completed failed vanished aborted refused' -- "$word")); return ;;
    --pipeline) return; return ;;
    --user) return; return ;;
    --limit) return; return ;;
    --socket) compopt -o default; return ;;
    --index) COMPREPLY=($(compgen -W '1 2 3 101 LATISS LSSTComCam LSSTCam RA' -- "$word")); return ;;
    --download) compopt -o default; return ;;
    --state-dir) compopt -o default; return ;;
    --loglevel) COMPREPLY=($(compgen -W 'debug info warning error' -- "$word")); return ;;
  esac
  case $verb in
    '') COMPREPLY=($(compgen -W 'run send state status jobs job wait abort results logs top metrics watch console check doctor help --help --version' -- "$word")) ;;
    run)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--simulate --state --override --configdir --config --socket --state-dir --loglevel --kafka --no-kafka --standby --help --version' -- "$word"))
      else COMPREPLY=($(compgen -W '1 2 3 101 LATISS LSSTComCam LSSTCam RA' -- "$word")); fi ;;
    send)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--timeout --no-wait --follow --socket --index --json --help --version' -- "$word"))
      else COMPREPLY=($(compgen -W 'abort_job disable enable execute exitControl setLogLevel standby start job_id= pipeline= version= config= data_query= prereq_jobs= output_dataset_types= level= subsystem= configurationOverride=' -- "$word")); fi ;;
    state)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--override --timeout --socket --index --help --version' -- "$word"))
      else COMPREPLY=($(compgen -W 'standby disabled enabled offline' -- "$word")); fi ;;
    status)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--alive --ready --socket --index --json --help --version' -- "$word"))
      else return; fi ;;
    jobs)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--all --since --until --phase --pipeline --user --failed --limit --utc --follow --socket --index --json --csv --help --version' -- "$word"))
      else return; fi ;;
    job)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--utc --socket --index --json --help --version' -- "$word"))
      else return; fi ;;
    wait)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--timeout --utc --socket --index --help --version' -- "$word"))
      else return; fi ;;
    abort)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--timeout --socket --index --help --version' -- "$word"))
      else return; fi ;;
    metrics)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--socket --index --help --version' -- "$word"))
      else return; fi ;;
    results)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--download --config --configdir --socket --index --json --help --version' -- "$word"))
      else return; fi ;;
    logs)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--follow --config --configdir --socket --index --help --version' -- "$word"))
      else return; fi ;;
    top)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--utc --socket --index --help --version' -- "$word"))
      else return; fi ;;
    watch)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--socket --index --json --help --version' -- "$word"))
      else COMPREPLY=($(compgen -W 'configurationApplied configurationsAvailable errorCode heartbeat job_id job_result largeFileObjectAvailable logLevel logMessage simulationMode softwareVersions summaryState' -- "$word")); fi ;;
    console)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--wait --socket --index --help --version' -- "$word"))
      else return; fi ;;
    check)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--simulate --state --override --configdir --config --site --socket --index --state-dir --loglevel --kafka --no-kafka --standby --json --help --version' -- "$word"))
      else compopt -o default; fi ;;
    doctor)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--simulate --state --override --configdir --config --socket --index --state-dir --loglevel --kafka --no-kafka --standby --json --help --version' -- "$word"))
      else return; fi ;;
    help)
      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '--help --version' -- "$word"))
      else COMPREPLY=($(compgen -W 'run send state status jobs job wait abort results logs top metrics watch console check doctor help' -- "$word")); fi ;;
  esac
  # A parameter goes on after its =.
  [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
}
complete -F _ocps ocps run_ocps run_OCPS.py
